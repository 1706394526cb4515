//! What a running job shows of itself.

use crate::metrics::NodeMetrics;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_state_rocksdb::{Figures, RocksDb};

/// Checkpoints kept for display.
const SHOWN_CHECKPOINTS: usize = 100;

/// Shared between the runner, which writes it, and whoever shows progress.
#[derive(Clone, Default)]
pub struct StatusHandle(Arc<Mutex<JobStatus>>);

impl StatusHandle {
    pub fn lock(&self) -> MutexGuard<'_, JobStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub struct JobStatus {
    /// In a word: `Deploying`, `Running`, `Restarting`, `Finished`, ...
    pub phase: String,
    pub epoch: u64,
    pub attempt: u32,
    /// What the attempt needs before it can be deployed.
    pub waits_for: Option<String>,
    /// Where this attempt started from, in words.
    pub restored_from: Option<String>,
    pub nodes: Vec<NodeStatus>,
    /// Ended attempts at checkpoints, oldest first, numbered from 0 over the whole run.
    pub checkpoints: VecDeque<CheckpointLine>,
    /// How many there were before the first in `checkpoints`.
    pub checkpoints_before: usize,
    /// That of this attempt, or of the next if none runs.
    pub parallelism: u32,
    pub restarts: u64,
    pub last_restart: Option<String>,
    /// The state backend, if it is RocksDB.
    pub(crate) rocksdb: Option<Arc<RocksDb>>,
}

impl JobStatus {
    /// What RocksDB is doing, if state is kept there.
    pub fn rocksdb(&self) -> Option<Figures> {
        self.rocksdb.as_ref().map(|rocksdb| rocksdb.figures())
    }

    pub(crate) fn checkpoint(&mut self, line: CheckpointLine) {
        if self.checkpoints.len() == SHOWN_CHECKPOINTS {
            self.checkpoints.pop_front();
            self.checkpoints_before += 1;
        }
        self.checkpoints.push_back(line);
    }
}

/// One node, over all its subtasks.
#[derive(Clone)]
pub struct NodeStatus {
    pub uid: String,
    pub step: String,
    pub is_source: bool,
    pub is_sink: bool,
    pub has_event_time: bool,
    pub subtasks: Vec<Arc<NodeMetrics>>,
}

impl NodeStatus {
    pub fn records_in(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.records_in.get()).sum()
    }

    pub fn records_out(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.records_out.get()).sum()
    }

    pub fn late_records(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.late_records.get()).sum()
    }

    pub fn bad_records(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.bad_records.get()).sum()
    }

    /// The least of the subtasks', microseconds; `i64::MIN` while one has none, `i64::MAX` at the end of input.
    pub fn watermark_us(&self) -> i64 {
        self.subtasks.iter().map(|subtask| subtask.watermark_us.get()).min().unwrap_or(i64::MIN)
    }
}

/// An attempt at a checkpoint that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointLine {
    pub checkpoint: u64,
    pub kind: String,
    pub triggered_ms: u64,
    pub duration_ms: u64,
    pub new_bytes: u64,
    pub full_bytes: u64,
    /// None: it completed.
    pub failure: Option<String>,
}
