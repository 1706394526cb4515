//! What a running job shows of itself.

use crate::job::Job;
use crate::metrics::{CheckpointFigures, NodeMetrics};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_coordinator::RestartRecord;
use weir_model::{CheckpointKind, SubtaskId, WorkerId};
use weir_state_rocksdb::{Figures, RocksDb};

/// Checkpoints kept for display.
const SHOWN_CHECKPOINTS: usize = 100;
/// Of these, with what each subtask did.
const DETAILED_CHECKPOINTS: usize = 20;
/// Distinct reasons of restarts that are counted apart.
const RESTART_REASONS: usize = 20;
/// Longest reason kept: one may quote a record.
const REASON_CHARS: usize = 2000;

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
    /// Distinct reasons of restarts, the most recent first.
    pub restart_reasons: Vec<CountedReason>,
    pub completed_checkpoints: u64,
    pub failed_checkpoints: u64,
    pub checkpoints_failed_in_a_row: u32,
    pub under_way: Vec<UnderWay>,
    /// What runs; none before the first deployment.
    pub job: Option<Arc<Job>>,
    /// The worker of each slot.
    pub slots: Vec<WorkerId>,
    /// Those registered, with where others reach them.
    pub workers: BTreeMap<WorkerId, Option<String>>,
    /// When this coordinator took the job over.
    pub started_ms: u64,
    /// Since when the attempt's tasks run.
    pub running_since_ms: Option<u64>,
    /// How the job ended, in words.
    pub outcome: Option<String>,
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
        if let Some(older) = self.checkpoints.len().checked_sub(DETAILED_CHECKPOINTS + 1) {
            self.checkpoints[older].subtasks = vec![];
        }
    }

    pub(crate) fn restarted(&mut self, restart: &RestartRecord) {
        let reason: String = restart.reason.chars().take(REASON_CHARS).collect();
        let known = self.restart_reasons.iter().position(|known| known.reason == reason);
        let before = known.map_or(0, |at| self.restart_reasons.remove(at).count);
        self.restart_reasons.insert(0, CountedReason { reason, count: before + 1, last_ms: restart.at_ms });
        self.restart_reasons.truncate(RESTART_REASONS);
    }
}

/// Why attempts failed, and how often for this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedReason {
    pub reason: String,
    pub count: u64,
    pub last_ms: u64,
}

/// A checkpoint that is triggered and not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    pub checkpoint: u64,
    pub kind: CheckpointKind,
    pub triggered_ms: u64,
    /// Its barriers overtake records by now.
    pub is_unaligned: bool,
    /// When they begin to, if it is not complete before.
    pub turns_unaligned_ms: Option<u64>,
    /// Those whose part is not there yet.
    pub awaited: Vec<SubtaskId>,
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
    pub kind: CheckpointKind,
    pub triggered_ms: u64,
    pub duration_ms: u64,
    pub new_bytes: u64,
    pub full_bytes: u64,
    /// Its barriers overtook records, from the start or after `alignedTimeout`.
    #[serde(default)]
    pub is_unaligned: bool,
    /// Of both sizes, what those overtook.
    #[serde(default)]
    pub in_flight_bytes: u64,
    /// None: it completed.
    pub failure: Option<String>,
    /// What subtasks did for it; kept of the last few.
    #[serde(skip)]
    pub subtasks: Vec<(SubtaskId, CheckpointFigures)>,
}
