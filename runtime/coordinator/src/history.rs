//! What people are shown: the last attempts at checkpoints, and the last restarts.

use std::collections::VecDeque;
use weir_model::{CheckpointId, CheckpointKind};

/// Attempts kept for display.
const ATTEMPTS: usize = 100;
/// Restarts kept for display; all are counted.
const RESTARTS: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    pub checkpoint: CheckpointId,
    pub kind: CheckpointKind,
    /// Its barriers overtook rows, from the start or after a while.
    pub is_unaligned: bool,
    pub triggered_ms: u64,
    pub ended_ms: u64,
    pub result: AttemptResult,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    Completed,
    Failed { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRecord {
    pub at_ms: u64,
    pub reason: String,
    pub delay_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    attempts: VecDeque<AttemptRecord>,
    restarts: VecDeque<RestartRecord>,
    pub completed: u64,
    pub failed: u64,
    pub restart_count: u64,
    /// Changes of the parallelism while the job ran.
    pub rescaled: u64,
}

impl History {
    /// Oldest first.
    pub fn attempts(&self) -> impl DoubleEndedIterator<Item = &AttemptRecord> {
        self.attempts.iter()
    }

    /// Oldest first.
    pub fn restarts(&self) -> impl DoubleEndedIterator<Item = &RestartRecord> {
        self.restarts.iter()
    }

    pub(crate) fn attempt(&mut self, record: AttemptRecord) {
        match record.result {
            AttemptResult::Completed => self.completed += 1,
            AttemptResult::Failed { .. } => self.failed += 1,
        }
        if self.attempts.len() == ATTEMPTS {
            self.attempts.pop_front();
        }
        self.attempts.push_back(record);
    }

    pub(crate) fn restart(&mut self, record: RestartRecord) {
        self.restart_count += 1;
        if self.restarts.len() == RESTARTS {
            self.restarts.pop_front();
        }
        self.restarts.push_back(record);
    }
}
