//! What stands of an attempt beside its tasks, for the coordinator that takes it over.

use super::Attempt;
use crate::messages::WorkerWord;
use std::collections::BTreeSet;
use weir_coordinator::RunningAttempt;
use weir_model::{CheckpointId, Fence, SubtaskId, WorkerId};

/// What a coordinator has to know of the attempt that was not there when the worker said it; as the node keeps it.
pub(super) struct Standing {
    /// By which the coordinator knows the attempt; its tasks go on under the one with which they began.
    pub(super) outer: Fence,
    pub(super) opening: u64,
    pub(super) own: WorkerId,
    pub(super) failure: Option<String>,
    pub(super) ended: BTreeSet<SubtaskId>,
    pub(super) under_way: BTreeSet<CheckpointId>,
    pub(super) highest: Option<CheckpointId>,
}

impl Attempt {
    /// What the next coordinator may go on with.
    pub(super) fn running(&self) -> Option<RunningAttempt> {
        let Standing { outer, opening, own, failure, .. } = &self.standing;
        let (slots, parallelism) = (self.deployment.slots.clone(), self.deployment.parallelism);
        let is_whole = self.is_started && failure.is_none();
        is_whole.then_some(RunningAttempt { fence: *outer, opening: *opening, slots, own: *own, parallelism })
    }

    /// Notes what a word says for good, and puts it under the attempt's present fence.
    pub(super) fn pass(&mut self, mut word: WorkerWord) -> WorkerWord {
        let (inner, standing) = (self.deployment.fence, &mut self.standing);
        match &mut word {
            WorkerWord::Acknowledged { fence, .. }
            | WorkerWord::Declined { fence, .. }
            | WorkerWord::EndOfInput { fence, .. }
            | WorkerWord::Committed { fence, .. }
            | WorkerWord::TaskFailed { fence, .. }
            | WorkerWord::AttemptFailed { fence, .. }
                if *fence == inner =>
            {
                *fence = standing.outer;
            }
            // Of another attempt, or what the worker itself says of the fence that it was told.
            _ => return word,
        }
        match &word {
            WorkerWord::EndOfInput { task, .. } => {
                standing.ended.insert(task.clone());
            }
            WorkerWord::TaskFailed { reason, .. } | WorkerWord::AttemptFailed { reason, .. } => {
                standing.failure.get_or_insert_with(|| reason.clone());
            }
            _ => {}
        }
        word
    }
}

impl Standing {
    pub(super) fn new(fence: Fence, own: WorkerId) -> Self {
        Standing {
            outer: fence,
            opening: 0,
            own,
            failure: None,
            ended: BTreeSet::new(),
            under_way: BTreeSet::new(),
            highest: None,
        }
    }
}
