//! Sources: splits, readers and positions.

use super::{ConnectorError, Probe, ProbeContext};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use weir_model::CheckpointId;

/// A configured source, shared by its subtasks.
pub trait Source: Send + Sync {
    fn schema(&self) -> SchemaRef;

    /// Whether rows can be taken back: batches then have the change kind behind the schema's columns.
    fn is_updating(&self) -> bool {
        false
    }

    /// Whether a reader can go back to a position in a checkpoint; one that can't (a socket) is at most once.
    fn is_replayable(&self) -> bool;

    /// Whether the source ends by itself.
    fn is_bounded(&self) -> bool;

    /// The reader of one subtask. `restored` holds the positions of ALL splits that any subtask of this source
    /// had in the restored checkpoint (empty on a fresh start); the reader keeps those it owns at this
    /// parallelism and passes over the others. Which subtask owns a split is a pure function of the split's id.
    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError>;

    /// Connects, and checks what the spec can't tell: that what is named is there, allowed, and takes what it would get.
    /// Changes nothing. `weir plan` asks for it; `weir validate` and a start don't. An error: it could not be asked.
    fn probe(&self, _context: &ProbeContext) -> Result<Probe, ConnectorError> {
        Ok(Probe::default())
    }
}

#[derive(Clone, Debug)]
pub struct SourceContext {
    /// The step's name.
    pub name: String,
    /// The job's UID: what tells what this job leaves on the other side from another's.
    pub job_uid: String,
    pub subtask: u32,
    pub parallelism: u32,
}

pub trait SourceReader: Send {
    /// Gives what is at hand, at most `max_rows` rows, without waiting for longer than a few milliseconds.
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError>;

    /// `snapshot` is asked for this checkpoint next.
    fn checkpoint_begins(&mut self, _checkpoint: CheckpointId) {}

    /// The position of every split this reader has had (finished ones too, so that they aren't read again),
    /// between two polls: everything returned by `poll` is before it, nothing else is.
    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError>;

    /// `checkpoint` is in the commit log: positions may be published (a consumer group's offsets). Best effort.
    fn checkpoint_completed(&mut self, _checkpoint: CheckpointId) {}

    /// These splits of this source, whichever subtask's they were, have been read to their end, and a completed checkpoint
    /// says so (`SplitState::is_ended`). Those that were told before are told again.
    fn splits_ended(&mut self, _splits: &[String]) {}

    /// Whether a split is this reader's that may still give records. Until its first record such a reader holds
    /// back the watermark: the others may be far ahead by then. One that has none holds back nobody.
    fn has_splits(&self) -> bool {
        true
    }

    /// Whether nothing is held back between two splits, either: those that come next say so by `Poll::SplitAdded`. Else the
    /// watermark stays where it is while no split is open.
    fn announces_splits(&self) -> bool {
        false
    }

    /// How many records wait on the other side to be read by this reader, as far as it knows. None: it can't tell.
    fn pending_records(&self) -> Option<u64> {
        None
    }

    /// How far behind the end of each of its splits this reader is, as far as it knows. Asked for now and then.
    fn split_lags(&self) -> Vec<SplitLag> {
        vec![]
    }

    /// How many bytes the other side keeps until completed checkpoints hold what is in them. None: it can't tell.
    fn pending_bytes(&self) -> Option<u64> {
        None
    }

    /// Records that `onBadRecord: Skip` passed over so far.
    fn skipped_records(&self) -> u64 {
        0
    }
}

/// How far a reader is behind the end of a split.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitLag {
    pub split: String,
    pub lag: Lag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lag {
    /// That wait to be read.
    Records(u64),
    /// Between the newest record and the last one that was read.
    Millis(u64),
}

#[derive(Debug)]
pub enum Poll {
    Batch {
        /// Without rows only when all that was read was rejected.
        batch: RecordBatch,
        /// Number of the split in this reader, from 0: watermarks are made per split and the least one counts.
        /// A finished split's number isn't used again; while no split is open the watermark stays where it is.
        split: u32,
        /// Records that could not be decoded (`dead_letter_schema`), where the spec sends them to a sink.
        rejected: Option<RecordBatch>,
    },
    /// From now on there is a split of this number, which holds back the watermark until its first record.
    SplitAdded { split: u32 },
    /// Nothing now; worth asking again after this long.
    Pending { retry_after: Duration },
    /// This split has no more records and must not hold back the watermark.
    SplitFinished { split: u32 },
    /// All splits are finished and no new one can appear. Every later poll says so again.
    End,
}

/// One split's position, as the source itself writes and reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitState {
    /// Stable over restarts: a file's path, a topic's partition.
    pub split: String,
    pub position: serde_json::Value,
}

impl SplitState {
    /// The field of a position that says, being true, that the split has no more records. A source whose splits follow one
    /// another writes it: all its readers then hear of it.
    pub const ENDED: &str = "ended";

    pub fn is_ended(&self) -> bool {
        self.position.get(Self::ENDED).and_then(serde_json::Value::as_bool) == Some(true)
    }
}

/// The columns of a dead-letter record: source, split, position, error, raw (bytes as text, lossy).
pub fn dead_letter_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![text("source"), text("split"), text("position"), text("error"), text("raw")]))
}
