//! Reading page ranges.

use super::columns::Columns;
use crate::table::Table;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio_postgres::types::Type;
use weir_connectors::api::{ConnectorError, Poll, SourceContext, SourceReader, SplitState};
use weir_postgres_client::{Connection, while_doing};
use xxhash_rust::xxh3::xxh3_64;

/// Of a split; 32 MiB with pages as they usually are. Part of what stands in checkpoints: a split's number counts in it.
const SPLIT_PAGES: u32 = 4096;
/// Read by one statement.
const READ_PAGES: u32 = 64;

/// Where a split's reader is, as it stands in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Position {
    /// The next page to read.
    page: u32,
    /// Rows from that page on that have been given.
    rows: u64,
}

pub(super) struct SnapshotReader {
    connection: Connection,
    table: Table,
    columns: Columns,
    /// By number, of those that are this reader's.
    splits: BTreeMap<u32, Position>,
    /// Of the split that is being read: what has been read from `page` on and not been given.
    rest: Option<RecordBatch>,
    /// To be told with the next poll.
    finished: Option<u32>,
    /// The reader's own number of each split.
    numbers: BTreeMap<u32, u32>,
}

impl SnapshotReader {
    pub(super) fn open(
        connection: Connection,
        table: Table,
        columns: Columns,
        context: &SourceContext,
        restored: &[SplitState],
    ) -> Result<Self, ConnectorError> {
        let size = connection.query_one(
            "SELECT (pg_catalog.pg_relation_size(pg_catalog.to_regclass($1)) \
             / pg_catalog.current_setting('block_size')::bigint)::bigint, \
             (SELECT relkind = 'r' FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1))",
            &[(&table.name.quoted(), Type::TEXT)],
        )?;
        let (pages, is_plain): (i64, bool) = (size.get(0), size.get(1));
        if !is_plain {
            return Err(ConnectorError::Permanent(format!(
                "`{}` is partitioned, and has no rows of its own; name one of its partitions",
                table.name
            )));
        }
        let total = u32::try_from(pages).unwrap_or(u32::MAX).div_ceil(SPLIT_PAGES);
        let mut splits = BTreeMap::new();
        for number in 0..total {
            splits.insert(number, begin(number));
        }
        for SplitState { split, position } in restored {
            let read = || Some((number_of(split)?, serde_json::from_value(position.clone()).ok()?));
            let (number, position) = read().ok_or_else(|| {
                ConnectorError::Permanent(format!("the checkpoint's position {position} of `{split}` cannot be read"))
            })?;
            splits.insert(number, position);
        }
        splits.retain(|number, _| owner(*number, context.parallelism) == context.subtask);
        let numbers = splits.keys().enumerate().map(|(own, number)| (*number, own as u32)).collect();
        Ok(SnapshotReader { connection, table, columns, splits, rest: None, finished: None, numbers })
    }

    fn read(&self, from: u32, to: u32) -> Result<RecordBatch, ConnectorError> {
        let (columns, table) = (self.columns.expressions(), self.table.name.quoted());
        let sql = format!("SELECT {columns} FROM {table} WHERE ctid >= '({from},0)'::tid AND ctid < '({to},0)'::tid");
        let rows = self.connection.query(&sql, &[])?;
        self.columns.batch(&rows)
    }
}

impl SourceReader for SnapshotReader {
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        if let Some(split) = self.finished.take() {
            return Ok(Poll::SplitFinished { split });
        }
        let unfinished = self.splits.iter().find(|(number, position)| position.page < end(**number));
        let Some((&number, &position)) = unfinished else { return Ok(Poll::End) };
        let to = (position.page + READ_PAGES).min(end(number));
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => {
                let read =
                    self.read(position.page, to).map_err(while_doing(format!("reading `{}`", self.table.name)))?;
                let given = usize::try_from(position.rows).unwrap_or(usize::MAX);
                if given > read.num_rows() {
                    return Err(ConnectorError::Permanent(format!(
                        "the pages of `{}` from {} on had {given} rows when the checkpoint was taken and have {} now: \
                         the table has changed, and what the job has read of it isn't what it would read again; start \
                         the job afresh",
                        self.table.name,
                        position.page,
                        read.num_rows()
                    )));
                }
                read.slice(given, read.num_rows() - given)
            }
        };
        let entry = self.splits.get_mut(&number).expect("found above");
        let split = self.numbers[&number];
        if batch.num_rows() > max_rows {
            entry.rows += max_rows as u64;
            self.rest = Some(batch.slice(max_rows, batch.num_rows() - max_rows));
            return Ok(Poll::Batch { batch: batch.slice(0, max_rows), split, rejected: None });
        }
        *entry = Position { page: to, rows: 0 };
        match (batch.num_rows(), to == end(number)) {
            (0, true) => Ok(Poll::SplitFinished { split }),
            (0, false) => Ok(Poll::Pending { retry_after: std::time::Duration::ZERO }),
            (_, is_last) => {
                self.finished = is_last.then_some(split);
                Ok(Poll::Batch { batch, split, rejected: None })
            }
        }
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        let state = |(number, position): (&u32, &Position)| SplitState {
            split: format!("pages-{number}"),
            position: serde_json::to_value(position).expect("two numbers"),
        };
        // Of one that hasn't been begun there is nothing to be said.
        let begun = self.splits.iter().filter(|(number, position)| **position != begin(**number));
        Ok(begun.map(state).collect())
    }

    fn has_splits(&self) -> bool {
        self.splits.iter().any(|(number, position)| position.page < end(*number))
    }
}

fn begin(number: u32) -> Position {
    Position { page: number.saturating_mul(SPLIT_PAGES), rows: 0 }
}

/// The page behind a split's last.
fn end(number: u32) -> u32 {
    number.saturating_add(1).saturating_mul(SPLIT_PAGES)
}

fn number_of(split: &str) -> Option<u32> {
    split.strip_prefix("pages-")?.parse().ok()
}

/// The subtask that reads a split: it depends on nothing but the split's number.
fn owner(number: u32, parallelism: u32) -> u32 {
    (xxh3_64(&number.to_be_bytes()) % u64::from(parallelism.max(1))) as u32
}
