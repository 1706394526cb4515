//! Checkpoints: how a job's state is made durable.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;
use crate::{
    defaults,
    duration::HumanDuration,
    rules::{MAX_TEXT_LENGTH, at_most_one},
};

/// When checkpoints are taken, where they go and how long they stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation =
    Rule::new(
        "!(has(self.unaligned) && has(self.unaligned.enabled) && self.unaligned.enabled) \
         || (!has(self.mode) || self.mode == 'ExactlyOnce') && (!has(self.maxConcurrent) || self.maxConcurrent == 1)"
    )
    .message("unaligned checkpoints need mode: ExactlyOnce and maxConcurrent: 1")
)]
pub struct CheckpointPolicy {
    /// From one trigger to the next.
    #[schemars(extend("default" = defaults::CHECKPOINT_INTERVAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<HumanDuration>,
    #[schemars(extend("default" = defaults::CHECKPOINT_MODE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<CheckpointMode>,
    /// From the end of one attempt, failed or not, to the next trigger.
    #[schemars(extend("default" = defaults::CHECKPOINT_MIN_PAUSE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_pause: Option<HumanDuration>,
    /// A checkpoint that takes longer is aborted.
    #[schemars(extend("default" = defaults::CHECKPOINT_TIMEOUT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    #[schemars(extend("default" = defaults::CHECKPOINT_MAX_CONCURRENT))]
    #[schemars(range(min = 1, max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Checkpoints that may fail one after the other before the job does.
    #[schemars(extend("default" = defaults::CHECKPOINT_TOLERABLE_FAILURES))]
    #[schemars(range(max = 1000000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerable_failures: Option<u32>,
    /// Barriers that overtake records in flight, which then become part of the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unaligned: Option<UnalignedPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<CheckpointStorage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<CheckpointRetention>,
    /// What becomes of checkpoints when the job is cancelled or its resource deleted.
    #[schemars(extend("default" = defaults::CHECKPOINT_ON_DELETE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<DeletionPolicy>,
}

/// What a checkpoint guarantees for the job's own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointMode {
    /// Barriers are aligned: each record has changed the state exactly once.
    ExactlyOnce,
    /// No alignment, and so no waiting: after a failure some records change the state twice.
    AtLeastOnce,
}

/// Unaligned checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct UnalignedPolicy {
    #[schemars(extend("default" = defaults::UNALIGNED_ENABLED))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// A checkpoint begins aligned and becomes unaligned this long after its trigger. 0s: at once.
    #[schemars(extend("default" = defaults::UNALIGNED_ALIGNED_TIMEOUT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aligned_timeout: Option<HumanDuration>,
}

/// The schemes a storage URI may have.
pub const STORAGE_SCHEMES: [&str; 7] = ["file", "s3", "gs", "az", "abfss", "hdfs", "memory"];

/// Where checkpoints go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStorage {
    /// `file:///path` (`file://./path` from where a local job is started), `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix`, `abfss://container@account.dfs.core.windows.net/prefix`, `hdfs://namenode:port/path`, or
    /// `memory://` (development only: gone with the process).
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH), regex(pattern = "^(file|s3|gs|az|abfss|hdfs|memory)://.*$"))]
    pub uri: String,
    /// Another service address, for S3-compatible and other services: `http://minio:9000`.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH), regex(pattern = "^https?://.+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region, where the service has any.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// S3: the bucket stands in the path instead of the host name. With an endpoint `true` if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Of the service account and the environment if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StorageCredentials>,
}

/// Credentials for the storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = at_most_one(&["secretRef", "env"]))]
pub struct StorageCredentials {
    /// A Secret with the keys `accessKeyId` and `secretAccessKey` (S3; `sessionToken` if there is one),
    /// `serviceAccountKey` (GCS), or `accountKey` (Azure; `accountName` if the address names none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Prefix of environment variables with the same, for local runs: `BACKUP` for `BACKUP_ACCESS_KEY_ID`.
    #[schemars(length(min = 1, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// How many completed checkpoints stay. What a rollback needs or a Checkpoint resource pins stays beyond that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointRetention {
    #[schemars(extend("default" = defaults::CHECKPOINT_RETAIN_COUNT))]
    #[schemars(range(min = 1, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Older ones go, except for the latest. No limit if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<HumanDuration>,
}

/// What becomes of stored data whose owner goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    Retain,
    Delete,
}
