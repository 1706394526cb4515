//! The job as a whole.

use super::CheckpointView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The job as a whole: where it stands, since when, and what has gone wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    pub name: String,
    pub uid: String,
    pub phase: JobPhase,
    /// The term of this coordinator; a higher one in the commit log fences it.
    pub epoch: u64,
    /// Counts the starts of the job's tasks within the epoch.
    pub attempt: u32,
    /// When this coordinator took the job over.
    pub started_at_ms: u64,
    /// Since when the tasks of this attempt run; absent while they don't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since_ms: Option<u64>,
    /// How long that is by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// What the attempt needs before it can be deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What this attempt started from: `checkpoint 12`, a savepoint's address. Absent: it started empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
    /// That of this attempt, or of the next if none runs; steps may have one of their own.
    pub parallelism: u32,
    pub max_parallelism: u32,
    pub restarts: Restarts,
    pub checkpoints: CheckpointCounts,
    pub workers: Vec<WorkerView>,
    /// Where checkpoints stand.
    pub storage: String,
    /// Of the program that coordinates.
    pub version: String,
    /// Which version of the job's spec runs: the same text for the same spec.
    pub spec_hash: String,
    /// How the job ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    /// Workers or tasks are being waited for.
    Deploying,
    Running,
    /// An attempt has failed, and another one is to come.
    Restarting,
    /// Tasks are ending; no record is read any more.
    Ending,
    /// All input was read and everything is committed.
    Finished,
    /// Stopped on request, after a last checkpoint or with a savepoint.
    Stopped,
    Cancelled,
    Failed,
    /// Another coordinator has the job.
    Fenced,
}

impl JobPhase {
    /// Nothing follows.
    pub fn is_final(self) -> bool {
        match self {
            JobPhase::Deploying | JobPhase::Running | JobPhase::Restarting | JobPhase::Ending => false,
            JobPhase::Finished | JobPhase::Stopped | JobPhase::Cancelled | JobPhase::Failed | JobPhase::Fenced => true,
        }
    }
}

/// Restarts under this coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restarts {
    pub count: u64,
    /// Each distinct reason with how often, most recent first. Bounded: the rarest fall out of it.
    pub reasons: Vec<RestartReason>,
    /// Why the last failed attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartReason {
    pub reason: String,
    pub count: u64,
    pub last_at_ms: u64,
}

/// Checkpoints under this coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointCounts {
    pub completed: u64,
    pub failed: u64,
    /// Since the last that completed.
    pub failed_in_a_row: u32,
    pub under_way: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_completed: Option<CheckpointView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed: Option<CheckpointView>,
}

/// A worker that is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerView {
    pub id: u32,
    /// Where other workers reach it; absent for the one inside this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How many subtasks of each step it runs now.
    pub slots_in_use: u32,
}
