//! Checkpoints: under way, ended, and what the job could be restored from.

use super::CheckpointCounts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The checkpoints of this coordinator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointsView {
    pub counts: CheckpointCounts,
    pub under_way: Vec<CheckpointUnderWay>,
    /// Over the completed ones in `history`.
    pub percentiles: CheckpointPercentiles,
    /// Ended attempts, the latest first. Bounded; `counts` has all.
    pub history: Vec<CheckpointView>,
}

/// An attempt at a checkpoint that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointView {
    pub id: u64,
    pub kind: CheckpointKind,
    pub state: CheckpointState,
    pub triggered_at_ms: u64,
    pub duration_ms: u64,
    /// Written for it.
    pub new_bytes: u64,
    /// Read by a restore from it.
    pub full_bytes: u64,
    /// Its barriers overtook records, from the start or after `alignedTimeout`.
    #[serde(default)]
    pub is_unaligned: bool,
    /// Of both sizes, what those overtook.
    #[serde(default)]
    pub in_flight_bytes: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointKind {
    Checkpoint,
    Savepoint,
    /// Of a job that ends.
    Final,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointState {
    Completed,
    Failed,
}

/// One that has been triggered and is not decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointUnderWay {
    pub id: u64,
    pub kind: CheckpointKind,
    pub triggered_at_ms: u64,
    /// Subtasks whose part is durable, of how many.
    pub acknowledged: u32,
    pub subtasks: u32,
    /// All parts are there, and the log entry is being written.
    pub is_completing: bool,
    /// Its barriers overtake records, from the start or since `alignedTimeout` was over.
    #[serde(default)]
    pub is_unaligned: bool,
    /// When they begin to, if it is not complete before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns_unaligned_at_ms: Option<u64>,
    /// Subtasks that hold it up: each has its barrier before it, and nobody else to wait for.
    pub held_up_by: Vec<HeldUpBy>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldUpBy {
    /// The operator UID of the task's first operator.
    pub task: String,
    pub subtask: u32,
    pub why: HoldUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HoldUp {
    /// Works off what stands before the barrier in its channels.
    Processing,
    /// Its barriers have come on some channels and not on others.
    Aligning,
    /// Its part is cut and being written to storage.
    Writing,
    /// It reads too slowly for a task before it, in which the barrier therefore waits.
    Backpressuring,
}

/// Nearest-rank percentiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointPercentiles {
    pub duration_ms: Percentiles,
    pub new_bytes: Percentiles,
    pub full_bytes: Percentiles,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

/// One ended attempt with what each subtask did for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointDetail {
    #[serde(flatten)]
    pub checkpoint: CheckpointView,
    /// Of those whose part came in.
    pub subtasks: Vec<SubtaskCheckpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubtaskCheckpoint {
    /// The operator UID of the task's first operator.
    pub task: String,
    pub subtask: u32,
    /// From the trigger to the first barrier, by the clocks of two machines.
    pub start_delay_ms: u64,
    /// From the first barrier to the last.
    pub alignment_us: u64,
    /// The cut: nothing is processed meanwhile.
    pub sync_us: u64,
    /// From the cut until its part was written, in the background.
    pub async_us: u64,
    /// Written of its state.
    pub bytes: u64,
}

/// What the job could be restored from, as storage has it now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePointsView {
    /// Where the next attempt would start: `checkpoint 12`, a savepoint's address. Absent: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Retained checkpoints, oldest first.
    pub checkpoints: Vec<RestorePoint>,
    /// Entries of the commit log that cannot be read: checkpoints may be missing from the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePoint {
    pub id: u64,
    pub kind: CheckpointKind,
    pub completed_at_ms: u64,
    pub duration_ms: u64,
    pub new_bytes: u64,
    pub full_bytes: u64,
    /// Its barriers overtook records, from the start or after `alignedTimeout`.
    #[serde(default)]
    pub is_unaligned: bool,
    /// Of both sizes, what those overtook.
    #[serde(default)]
    pub in_flight_bytes: u64,
    /// Kept beyond retention.
    pub is_pinned: bool,
    pub is_restorable: bool,
    /// What is missing or has another length than the manifest says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}
