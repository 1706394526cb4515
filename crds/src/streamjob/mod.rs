//! The StreamJob: what a user writes (`spec`) and what they read back (`status`).
//!
//! A choice between several things is a set of optional fields of which exactly one stands, as in Kubernetes' own
//! resources; a method such as [`Source::connector`] turns it into an enum to match on.

mod checkpoint;
mod connector;
mod effective;
mod format;
mod generator;
mod iceberg;
mod kinesis;
mod pods;
mod restart;
mod secret;
mod sink;
mod source;
mod state;
mod status;
mod transform;
mod upgrade;

pub use checkpoint::*;
pub use connector::*;
pub use effective::*;
pub use format::*;
pub use generator::*;
pub use iceberg::*;
pub use kinesis::*;
pub use pods::*;
pub use restart::*;
pub use secret::*;
pub use sink::*;
pub use source::*;
pub use state::*;
pub use status::*;
pub use transform::*;
pub use upgrade::*;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::schema::NoOptions;
use crate::{
    defaults,
    rules::{MAX_SINKS, MAX_SOURCES, MAX_TEXT_LENGTH, MAX_TRANSFORMS},
};

/// What a stream job reads, computes and writes, and how it is kept alive.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "StreamJob",
    plural = "streamjobs",
    shortname = "sj",
    category = "weir",
    namespaced,
    derive = "PartialEq",
    status = "StreamJobStatus",
    validation = crate::rules::job_name(),
    doc = "A stream processing job: sources, SQL and operators, sinks, and how its state is kept.",
    scale(
        spec_replicas_path = ".spec.parallelism",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Parallelism", type_ = "integer", json_path = ".spec.parallelism"),
    printcolumn(
        name = "Last Checkpoint",
        type_ = "date",
        json_path = ".status.checkpoints.lastCompleted.completedAt",
        description = "How long ago the latest checkpoint completed"
    ),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts.count"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!has(self.parallelism) || !has(self.maxParallelism) || self.parallelism <= self.maxParallelism")
        .message("parallelism may not exceed maxParallelism")
        .field_path(".parallelism"),
    validation = Rule::new("has(self.maxParallelism) == has(oldSelf.maxParallelism)")
        .message("maxParallelism is the number of key groups; it is immutable, and cannot be removed or added later"),
)]
pub struct StreamJobSpec {
    /// Subtasks of each step that says nothing else. `kubectl scale` and autoscalers change it.
    #[schemars(extend("default" = defaults::PARALLELISM))]
    #[schemars(range(min = 1, max = 32768))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// The number of key groups, and so the upper bound of the parallelism. Fixed once the job exists.
    #[schemars(extend("default" = defaults::MAX_PARALLELISM))]
    #[schemars(range(min = 1, max = 32768))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("maxParallelism is the number of key groups and is immutable"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallelism: Option<u32>,
    /// Whether the job should run. A suspended job keeps its restore point and no pods.
    #[schemars(extend("default" = defaults::STATE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// The image with operators, sources and sinks of one's own; without it, Weir's own image.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Sources, transforms and sinks.
    pub pipeline: Pipeline,
    /// How the job's state is made durable. Without this section nothing is: a restart begins again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointPolicy>,
    /// Where keyed state is kept while the job runs: `heap: {}` if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_backend: Option<StateBackend>,
    /// What happens after a failure: `exponentialDelay` with checkpoints, `none` without, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStrategy>,
    /// How a change of this spec is rolled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradePolicy>,
    /// Savepoints taken by the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub savepoints: Option<SavepointPolicy>,
    /// What the job starts from when it first starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestorePolicy>,
    /// The pods of the coordinator and the workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodPolicy>,
}

/// Whether the job should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobState {
    Running,
    Suspended,
}

/// The steps of a job. Each step's name is its operator UID: state is matched by it across upgrades.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.transforms) || self.sources.all(s, !self.transforms.exists(t, t.name == s.name))")
        .message("a source and a transform have the same name; the names of all steps are unique"),
    validation = Rule::new("self.sources.all(s, !self.sinks.exists(k, k.name == s.name))")
        .message("a source and a sink have the same name; the names of all steps are unique"),
    validation = Rule::new("!has(self.transforms) || self.transforms.all(t, !self.sinks.exists(k, k.name == t.name))")
        .message("a transform and a sink have the same name; the names of all steps are unique"),
)]
pub struct Pipeline {
    /// Where records come from.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = MAX_SOURCES))]
    pub sources: Vec<Source>,
    /// What is computed from them: SQL, or an operator of one's own. A job may just copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = MAX_TRANSFORMS))]
    pub transforms: Vec<Transform>,
    /// Where results go.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = MAX_SINKS))]
    pub sinks: Vec<Sink>,
}
