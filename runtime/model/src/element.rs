//! What flows through a channel between two subtasks, in order.

use crate::ids::CheckpointId;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

/// Rows a source puts into a batch when it has them at hand; a bound for everything sized per batch.
pub const BATCH_ROWS: usize = 8192;

/// "No event earlier than this is expected": microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Before any event.
    pub const MIN: Watermark = Watermark(i64::MIN);
    /// After all events: what a bounded source sends at its end.
    pub const MAX: Watermark = Watermark(i64::MAX);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckpointKind {
    /// A periodic checkpoint, owned by the job and its retention.
    Checkpoint,
    /// Owned by the user; always aligned.
    Savepoint,
    /// The last checkpoint of a bounded job, or of one that stops: no record follows the barrier.
    Final,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Barrier {
    pub checkpoint: CheckpointId,
    pub kind: CheckpointKind,
}

/// One element of a channel. Elements of one channel keep their order, but for unaligned barriers and cancellations.
#[derive(Clone, Debug)]
pub enum StreamElement {
    Batch(RecordBatch),
    Watermark(Watermark),
    /// The channel sends no watermarks for now: it must not hold back its reader's event time.
    Idle,
    Barrier(Barrier),
    /// A barrier that overtakes what waits in the channel: those rows are part of the checkpoint.
    UnalignedBarrier(Barrier),
    /// The attempt at this checkpoint was given up: who aligns for it stops waiting.
    CancelBarrier(CheckpointId),
    /// No element follows.
    End,
}
