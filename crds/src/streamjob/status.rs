//! What a user reads back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::HumanDuration;

/// How many upgrades are remembered in status.
pub const MAX_UPGRADE_HISTORY: usize = 10;

/// What the operator last saw and did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct StreamJobStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<JobPhase>,
    /// The version that was last started, written down before it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// The current or last attempt of that run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptStatus>,
    /// What the current run started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<RestorePointRef>,
    /// What the job would start from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_restore: Option<RestorePointRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointsStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<RestartsStatus>,
    /// The latest upgrades, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub upgrades: Vec<UpgradeRecord>,
    /// An act whose repetition would hurt, written down before it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intention: Option<Intention>,
    /// When the schedule last asked for a savepoint: the time that it named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scheduled_savepoint: Option<Time>,
    /// What the running job said to the spec that is to follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightStatus>,
    /// The certificates of the job's pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// The generation of the last spec that completed its checkpoints, which a rollback returns to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good_generation: Option<i64>,
    /// Subtasks running of each step, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The label selector of the workers' pods, for the scale subresource.
    #[schemars(length(max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    /// Seen, nothing started.
    Pending,
    /// Pods are coming up, state is restored.
    Starting,
    Running,
    /// A failure is being recovered from.
    Restarting,
    /// Between two versions or two parallelisms.
    Upgrading,
    /// On the way to a stop.
    Stopping,
    Suspended,
    /// All sources ended, everything is committed.
    Finished,
    /// Given up; a newer spec starts it again.
    Failed,
    Deleting,
}

/// One version of the spec on its way from start to stop. A pod that is lost within it is replaced; a change of the spec
/// begins the next one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Rises with every start of another version.
    pub number: u64,
    /// The generation whose spec runs; its text is in the ConfigMap `<job>-spec-<generation>`.
    pub generation: i64,
    /// Of what the pods run with: the same for specs that need no restart between them.
    #[schemars(length(max = 64))]
    pub hash: String,
    /// The same without the parallelism.
    #[schemars(length(max = 64))]
    pub rescale_hash: String,
    /// The folder of its checkpoints on the storage.
    #[schemars(length(max = 512))]
    pub storage_id: String,
    pub since: Time,
    /// Where its coordinator begins, once, although the job has checkpoints: it was set back, or upgraded without state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beginning: Option<Beginning>,
    /// The last `restore.nonce` that was acted upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_nonce: Option<u32>,
    /// It has completed a checkpoint (or, without checkpoints, has run).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
    /// It was suspended, and everything of it has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// The last version that was verified before this one: what a rollback returns to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<SpecVersion>,
}

/// A start that does not go on from the latest checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Beginning {
    /// By which the job's commit log knows whether it was made.
    #[schemars(length(max = 100))]
    pub once: String,
    pub from: BeginningFrom,
    /// The checkpoint's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
}

/// Where a job begins that does not go on from its latest checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BeginningFrom {
    /// Empty.
    Nothing,
    /// What `spec.restore` names, where that is no checkpoint.
    Spec,
    /// One of the job's own that is retained.
    Checkpoint,
}

/// A version of the spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpecVersion {
    pub generation: i64,
    #[schemars(length(max = 64))]
    pub hash: String,
    #[schemars(length(max = 64))]
    pub rescale_hash: String,
}

/// One run of the tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct AttemptStatus {
    /// The coordinator's term: rises with every takeover of the job's commit log.
    pub epoch: u64,
    /// Rises with every restart of the tasks within the term.
    pub number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// A restore point, and why it is the one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePointRef {
    pub kind: RestorePointKind,
    /// The Checkpoint's or Savepoint's name.
    #[schemars(length(max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[schemars(length(max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// One word in CamelCase.
    #[schemars(length(max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a job can start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestorePointKind {
    Checkpoint,
    Savepoint,
    /// A path that no resource stands for.
    Path,
    /// Nothing: the job began empty.
    Empty,
}

/// The checkpoints of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointsStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_completed: Option<CompletedCheckpoint>,
    pub failed_in_a_row: u32,
    /// Why the last failed one did.
    #[schemars(length(max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// A completed checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompletedCheckpoint {
    pub id: u64,
    pub completed_at: Time,
    pub duration: HumanDuration,
    /// Bytes written for it.
    pub size: u64,
    /// Bytes it refers to in all.
    pub state_size: u64,
}

/// The restarts of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct RestartsStatus {
    pub count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<RestartRecord>,
}

/// One restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartRecord {
    pub at: Time,
    /// One word in CamelCase.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// What failed, where.
    #[schemars(length(max = 4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One upgrade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeRecord {
    /// The generation it went to.
    pub generation: i64,
    pub mode: super::UpgradeMode,
    pub result: UpgradeResult,
    /// The generation it came from.
    pub from: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// The address of the savepoint that was taken for it.
    #[schemars(length(max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took: Option<HumanDuration>,
    #[schemars(length(max = 4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How an upgrade went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeResult {
    InProgress,
    Verified,
    RolledBack,
    Held,
    /// A newer spec came before it was done.
    Superseded,
}

/// Whether the running job's state fits a spec that is to follow, asked before anything is stopped for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreflightStatus {
    /// The generation that it is about.
    pub generation: i64,
    pub fits: bool,
    pub at: Time,
    /// Why it does not fit: fields, reasons and remedies. Else what would change.
    #[schemars(length(max = 4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The certificates by which the job's pods know each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesStatus {
    /// Tells the CA that signed them from another one.
    #[schemars(length(max = 64))]
    pub authority: String,
    pub issued_at: Time,
    /// They are replaced well before.
    pub not_after: Time,
}

/// An act whose repetition would hurt, written down before it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intention {
    /// One word in CamelCase: `TakeSavepoint`, `Stop`, `Start`.
    #[schemars(length(max = 64))]
    pub action: String,
    /// The same id makes a second attempt at the act the same act.
    #[schemars(length(max = 253))]
    pub id: String,
    pub generation: i64,
    pub since: Time,
}
