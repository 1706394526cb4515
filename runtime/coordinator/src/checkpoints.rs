//! The checkpoints under way: from trigger over acknowledgements to the append.

use crate::{AttemptRecord, AttemptResult, RequestId};
use std::collections::BTreeMap;
use weir_model::{CheckpointId, CheckpointKind, SubtaskId};

/// One checkpoint that was triggered and isn't decided.
#[derive(Clone, Debug)]
pub(crate) struct Pending<P> {
    pub(crate) checkpoint: CheckpointId,
    pub(crate) kind: CheckpointKind,
    pub(crate) triggered_ms: u64,
    /// When its barriers begin to overtake rows, unless it is complete before. `None`: they do, or never will.
    pub(crate) turns_unaligned_ms: Option<u64>,
    pub(crate) is_unaligned: bool,
    pub(crate) savepoint: Option<SavepointRequest>,
    /// Sources hold behind its barrier.
    pub(crate) holds: bool,
    pub(crate) acknowledged: BTreeMap<SubtaskId, P>,
    /// All have acknowledged, and the append is under way: it can't be given up any more, only fail.
    pub(crate) is_completing: bool,
}

/// What people are shown of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointUnderWay<'a> {
    pub checkpoint: CheckpointId,
    pub kind: CheckpointKind,
    pub triggered_ms: u64,
    /// Its barriers overtake rows by now.
    pub is_unaligned: bool,
    /// When they begin to, if it is not complete before.
    pub turns_unaligned_ms: Option<u64>,
    /// The tasks that haven't acknowledged; none is left while the log entry is being appended.
    pub awaited: Vec<&'a SubtaskId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavepointRequest {
    pub(crate) request: RequestId,
    pub(crate) stop: bool,
}

impl<P> Pending<P> {
    pub(crate) fn record(&self, now_ms: u64, result: AttemptResult) -> AttemptRecord {
        AttemptRecord {
            checkpoint: self.checkpoint,
            kind: self.kind,
            is_unaligned: self.is_unaligned,
            triggered_ms: self.triggered_ms,
            ended_ms: now_ms,
            result,
        }
    }
}
