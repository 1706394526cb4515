//! The Savepoint: a restore point that the user owns.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    duration::HumanDuration,
    rules::{MAX_TEXT_LENGTH, immutable},
    streamjob::DeletionPolicy,
};

/// A wish for a savepoint. Immutable: another savepoint is another resource.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "Savepoint",
    plural = "savepoints",
    shortname = "svp",
    category = "weir",
    namespaced,
    derive = "PartialEq",
    status = "SavepointStatus",
    doc = "A savepoint of a StreamJob: canonical, relocatable, owned by the user.",
    selectable = ".spec.job",
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job"),
    printcolumn(name = "Trigger", type_ = "string", json_path = ".spec.trigger"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.displaySize"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Path", type_ = "string", json_path = ".status.path", priority = 1)
)]
#[x_kube(validation = immutable("a savepoint's spec"))]
pub struct SavepointSpec {
    /// The StreamJob's name.
    #[schemars(length(min = 1, max = 253))]
    pub job: String,
    /// Why it is taken.
    #[schemars(extend("default" = SavepointTrigger::Manual))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<SavepointTrigger>,
    /// The URI of the directory under which it is written; `savepoints/` on the job's storage if nothing is said.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What becomes of the data when this resource is deleted.
    #[schemars(extend("default" = DeletionPolicy::Retain))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<DeletionPolicy>,
}

/// Why a savepoint is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SavepointTrigger {
    Manual,
    Scheduled,
    Upgrade,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SavepointStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<SavepointPhase>,
    /// The StreamJob's UID when it was taken.
    #[schemars(length(max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// The generation of the job's spec that it was taken of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_generation: Option<i64>,
    /// The number of the checkpoint that it was taken with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The URI of its directory.
    #[schemars(length(max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<HumanDuration>,
    /// Bytes written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The same for people: `1.2 MiB`.
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_size: Option<String>,
    /// Why it failed.
    #[schemars(length(max = 4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why it is kept: `Owned`, `RetainCount`, `Rollback`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub retained_because: Vec<String>,
}

/// Where a savepoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SavepointPhase {
    Pending,
    InProgress,
    Completed,
    Failed,
    Deleting,
}
