//! The reader of the subtask that a table's changes belong to, and that of all others.

use super::batch::{Changes, CutFilter, Layout, with_kinds};
use super::position::{At, Cut, Position, Within};
use super::rows::SnapshotRows;
use super::server::KeyColumn;
use crate::replication::{Event, Feed, Lsn, Message, News};
use crate::source::columns::Columns;
use crate::table::Table;
use arrow::array::{Int8Array, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::{ConnectorError, Poll, SourceReader, SplitState};
use weir_model::change::change_kind_field;
use weir_model::{ChangeKind, CheckpointId};
use weir_postgres_client::{ConnectionUrl, Lazy};

/// How long `poll` waits for changes.
const WAIT: Duration = Duration::from_millis(2);
const RETRY_AFTER: Duration = Duration::from_millis(1);
/// Checkpoints whose positions wait for their completion; of more the oldest are let go: a later one tells the server more.
const MAX_WAITING_CHECKPOINTS: usize = 16;

/// What a reader is told of its table.
pub(super) struct Reads {
    pub(super) url: Arc<ConnectionUrl>,
    pub(super) purpose: String,
    pub(super) table: Table,
    /// Of the table, as it was found.
    pub(super) relation: u32,
    pub(super) columns: Columns,
    pub(super) schema: SchemaRef,
    pub(super) key: Vec<KeyColumn>,
}

pub(super) struct ChangesReader {
    reads: Reads,
    /// With the change kind.
    schema: SchemaRef,
    feed: Feed,
    position: Position,
    /// While rows are being read.
    rows: Option<SnapshotRows>,
    /// What has come and has not been looked at.
    events: VecDeque<Event>,
    layout: Option<Layout>,
    transaction: Option<Transaction>,
    changes: Changes,
    comparing: Lazy,
    at_checkpoints: VecDeque<(CheckpointId, Lsn)>,
    begun: Option<CheckpointId>,
}

/// The one whose changes are coming.
struct Transaction {
    commit: Lsn,
    /// Of our table.
    seen: u64,
    /// Of those, how many the restored checkpoint holds.
    skip: u64,
}

impl ChangesReader {
    pub(super) fn new(reads: Reads, feed: Feed, position: Position) -> Self {
        let fields = reads.schema.fields().iter().cloned().chain([Arc::new(change_kind_field())]);
        let schema = Arc::new(Schema::new(fields.collect::<Vec<Arc<Field>>>()));
        let changes = Changes::new(reads.schema.fields().len());
        let comparing = Lazy::new(Arc::clone(&reads.url), reads.purpose.clone());
        feed.flushed(position.flushed());
        ChangesReader {
            reads,
            schema,
            feed,
            position,
            rows: None,
            events: VecDeque::new(),
            layout: None,
            transaction: None,
            changes,
            comparing,
            at_checkpoints: VecDeque::new(),
            begun: None,
        }
    }

    /// The next rows of the snapshot.
    fn read_rows(&mut self, rows: &SnapshotRows, max_rows: usize) -> Result<RecordBatch, ConnectorError> {
        let At::Rows { cuts } = &mut self.position.at else { unreachable!("rows are read before changes") };
        let Reads { table, columns, key, .. } = &self.reads;
        let after = cuts.last().and_then(|cut| cut.upto.as_deref());
        let piece = rows.read(table, columns, key, after, max_rows)?;
        let is_last = piece.batch.num_rows() < max_rows;
        let upto = piece.key.filter(|_| !is_last);
        match cuts.last_mut() {
            Some(cut) if cut.lsn == rows.at => cut.upto = upto,
            _ => cuts.push(Cut { lsn: rows.at, upto }),
        }
        if is_last {
            let (first, is_one) = (cuts[0].lsn, cuts.len() == 1);
            let cuts = if is_one { vec![] } else { std::mem::take(cuts) };
            self.position.at = At::Changes { lsn: first, within: None, cuts };
            self.feed.flushed(first);
            self.feed.start_changes(first);
        }
        let kinds = Int8Array::from(vec![ChangeKind::Insert as i8; piece.batch.num_rows()]);
        with_kinds(&piece.batch, kinds, &self.schema)
    }

    /// Takes what has come, until there are enough rows. `Ok(true)`: there are.
    fn take(&mut self, max_rows: usize) -> Result<bool, ConnectorError> {
        while self.changes.rows() < max_rows {
            let Some(event) = self.events.pop_front() else { return Ok(false) };
            let At::Changes { lsn, within, cuts } = &mut self.position.at else {
                return Err(ConnectorError::Permanent("changes came before all rows were read".to_owned()));
            };
            match event {
                Event::UpTo(upto) if self.transaction.is_none() => *lsn = (*lsn).max(upto),
                Event::UpTo(_) | Event::Message(Message::Other) => {}
                Event::Message(Message::Begin { commit }) => {
                    let given = within.filter(|within| within.commit == commit);
                    let skip = given.map_or(0, |within| within.changes);
                    self.transaction = Some(Transaction { commit, seen: 0, skip });
                }
                Event::Message(Message::Commit { end }) => {
                    self.transaction = None;
                    *within = None;
                    *lsn = end;
                }
                Event::Message(Message::Relation(relation)) => {
                    let name = &self.reads.table.name;
                    if relation.id == self.reads.relation {
                        self.layout = Some(Layout::of(&relation, &self.reads.schema, &self.reads.key)?);
                    } else if relation.table == name.name && Some(&relation.schema) == name.schema.as_ref() {
                        return Err(ConnectorError::Permanent(format!(
                            "`{name}` was made anew: what was read is of a table that is gone; start the job afresh"
                        )));
                    }
                }
                Event::Message(Message::Truncate { relations }) if relations.contains(&self.reads.relation) => {
                    return Err(ConnectorError::Permanent(format!(
                        "`{}` was emptied by TRUNCATE, of which the server logs no rows that could be taken back; start \
                         the job afresh, and DELETE rows where changes are read",
                        self.reads.table.name
                    )));
                }
                Event::Message(Message::Truncate { .. }) => {}
                Event::Message(Message::Change(change)) => {
                    let Some(layout) = self.layout.as_ref().filter(|layout| layout.relation == change.relation) else {
                        continue;
                    };
                    let Some(transaction) = &mut self.transaction else {
                        return Err(ConnectorError::Permanent("a change came outside of a transaction".to_owned()));
                    };
                    transaction.seen += 1;
                    if transaction.seen <= transaction.skip {
                        continue;
                    }
                    self.changes.add(&change, layout, transaction.commit, cuts)?;
                    *within = Some(Within { commit: transaction.commit, changes: transaction.seen });
                }
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<RecordBatch, ConnectorError> {
        let At::Changes { lsn, cuts, .. } = &mut self.position.at else { unreachable!("changes are being read") };
        let Reads { table, key, columns, .. } = &self.reads;
        let mut filter = CutFilter { cuts, table, key, connection: &mut self.comparing };
        let batch = self.changes.finish(columns, &self.schema, &mut filter)?;
        if cuts.last().is_some_and(|last| *lsn >= last.lsn) {
            cuts.clear();
            self.comparing.close();
        }
        Ok(batch)
    }
}

impl SourceReader for ChangesReader {
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        let batch = |batch| Ok(Poll::Batch { batch, split: 0, rejected: None });
        if let Some(rows) = self.rows.take() {
            let read = self.read_rows(&rows, max_rows.max(1))?;
            if matches!(self.position.at, At::Rows { .. }) {
                self.rows = Some(rows);
            }
            return match read.num_rows() {
                0 => Ok(Poll::Pending { retry_after: Duration::ZERO }),
                _ => batch(read),
            };
        }
        loop {
            let is_enough = self.take(max_rows)?;
            if is_enough || self.changes.rows() > 0 {
                let changes = self.finish()?;
                if changes.num_rows() > 0 {
                    return batch(changes);
                }
            }
            match self.feed.next(WAIT) {
                None => return Ok(Poll::Pending { retry_after: RETRY_AFTER }),
                Some(News::Failed(error)) => return Err(error),
                Some(News::Piece(events)) => self.events.extend(events),
                Some(News::Snapshot { at, name }) => {
                    let rows = SnapshotRows::open(&self.reads.url, &self.reads.purpose, at, &name)?;
                    self.feed.snapshot_imported();
                    self.rows = Some(rows);
                    return Ok(Poll::Pending { retry_after: Duration::ZERO });
                }
            }
        }
    }

    fn checkpoint_begins(&mut self, checkpoint: CheckpointId) {
        self.begun = Some(checkpoint);
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        if matches!(&self.position.at, At::Rows { cuts } if cuts.is_empty()) {
            return Ok(vec![]);
        }
        if let Some(checkpoint) = self.begun.take() {
            self.at_checkpoints.push_back((checkpoint, self.position.flushed()));
            if self.at_checkpoints.len() > MAX_WAITING_CHECKPOINTS {
                self.at_checkpoints.pop_front();
            }
        }
        Ok(vec![self.position.state()])
    }

    fn checkpoint_completed(&mut self, checkpoint: CheckpointId) {
        while let Some((_, lsn)) = self.at_checkpoints.pop_front_if(|(of, _)| *of <= checkpoint) {
            self.feed.flushed(lsn);
        }
    }

    fn pending_bytes(&self) -> Option<u64> {
        self.feed.behind_bytes()
    }
}

/// Changes have one order, so one subtask reads them.
pub(super) struct NothingToRead;

impl SourceReader for NothingToRead {
    fn poll(&mut self, _max_rows: usize) -> Result<Poll, ConnectorError> {
        Ok(Poll::Pending { retry_after: Duration::from_secs(1) })
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        Ok(vec![])
    }

    fn has_splits(&self) -> bool {
        false
    }
}
