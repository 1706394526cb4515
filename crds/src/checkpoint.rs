//! The Checkpoint: one for each retained checkpoint of a job, so that `kubectl get checkpoints` lists them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    duration::HumanDuration,
    rules::{MAX_TEXT_LENGTH, immutable},
};

/// A completed checkpoint on the job's storage. Made by the operator; a user may pin it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "Checkpoint",
    plural = "checkpoints",
    category = "weir",
    namespaced,
    derive = "PartialEq",
    status = "CheckpointStatus",
    doc = "A retained checkpoint of a StreamJob.",
    selectable = ".spec.job",
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job"),
    printcolumn(name = "ID", type_ = "integer", json_path = ".spec.id"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.displaySize"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".status.completedAt"),
    printcolumn(name = "Restorable", type_ = "string", json_path = ".status.restorable")
)]
pub struct CheckpointSpec {
    /// The StreamJob's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = immutable("job"))]
    pub job: String,
    /// The folder of the job's checkpoints on the storage.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = immutable("jobUid"))]
    pub job_uid: String,
    /// The checkpoint's number within the job.
    #[x_kube(validation = immutable("id"))]
    pub id: u64,
    #[x_kube(validation = immutable("kind"))]
    pub kind: CheckpointKind,
    /// The URI of its manifest.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[x_kube(validation = immutable("path"))]
    pub path: String,
    /// Keep it whatever the retention says; with `false` no longer. What is said once holds until the other is said.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
}

/// How the barriers of a checkpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointKind {
    Aligned,
    Unaligned,
    /// Without alignment, for at-least-once.
    AtLeastOnce,
    /// The last one of a job whose sources ended.
    Final,
}

/// What is known of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<CheckpointPhase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// From trigger to completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<HumanDuration>,
    /// Bytes written for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The same for people: `1.2 MiB`.
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_size: Option<String>,
    /// Bytes it refers to in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_size: Option<u64>,
    /// `True`, `False` or `Unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restorable: Option<TriState>,
    /// Why it is (not) restorable, for people.
    #[schemars(length(max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why it is kept: `Latest`, `RetainCount`, `Pinned`, `Rollback`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub retained_because: Vec<String>,
}

/// Where a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointPhase {
    Completed,
    /// Its objects are being removed.
    Deleting,
    /// Its manifest or one of its objects is missing or damaged.
    Broken,
}

/// Yes, no, or not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TriState {
    True,
    False,
    Unknown,
}
