//! Upgrades, savepoints by the clock, and what a job starts from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    duration::HumanDuration,
    rules::{DNS_SUBDOMAIN_PATTERN, MAX_TEXT_LENGTH, exactly_one},
};

/// How a change of the spec is rolled out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct UpgradePolicy {
    #[schemars(extend("default" = defaults::UPGRADE_MODE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<UpgradeMode>,
    /// Manual waits for the annotation `weir.dev/approve: <generation>`.
    #[schemars(extend("default" = defaults::UPGRADE_APPROVAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalMode>,
    /// When the new version counts as good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<UpgradeVerification>,
    /// What happens when it does not become good in time.
    #[schemars(extend("default" = defaults::UPGRADE_ON_FAILURE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnUpgradeFailure>,
    /// Start even where state has no step to go to; that state is dropped.
    #[schemars(extend("default" = defaults::ALLOW_NON_RESTORED_STATE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_non_restored_state: Option<bool>,
}

/// What a new version starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeMode {
    /// A savepoint taken just before the old version stops.
    Savepoint,
    /// The latest completed checkpoint.
    LastCheckpoint,
    /// Nothing.
    Stateless,
}

/// Whether an upgrade waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalMode {
    Automatic,
    Manual,
}

/// When a new version counts as good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeVerification {
    /// It has completed this many checkpoints.
    #[schemars(extend("default" = defaults::UPGRADE_VERIFY_CHECKPOINTS))]
    #[schemars(range(min = 1, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<u32>,
    /// Within this time.
    #[schemars(extend("default" = defaults::UPGRADE_VERIFY_DEADLINE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<HumanDuration>,
}

/// What happens when a new version does not become good in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUpgradeFailure {
    /// Back to the last good spec and its restore point.
    Rollback,
    /// Stop, and wait for a person.
    Hold,
}

/// Savepoints taken by the clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SavepointPolicy {
    /// Five fields as in cron: minute, hour, day of month, month, day of week.
    #[schemars(length(min = 9, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// A name of the IANA time zone database.
    #[schemars(extend("default" = defaults::SAVEPOINT_TIME_ZONE))]
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Which savepoints of the clock stay, and likewise which of upgrades. Those taken by hand always do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<SavepointRetention>,
}

/// Which automatic savepoints stay: so many of the clock's, and so many of upgrades'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SavepointRetention {
    #[schemars(extend("default" = defaults::SAVEPOINT_RETAIN_COUNT))]
    #[schemars(range(min = 1, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// No limit if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<HumanDuration>,
}

/// What the job starts from when it first starts, or is set back. Other starts go on from its own latest checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct RestorePolicy {
    /// The job's own latest checkpoint or savepoint if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<RestoreFrom>,
    #[schemars(extend("default" = defaults::RESTORE_IF_MISSING))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_missing: Option<IfMissing>,
    /// A job of a cluster that has begun goes back to `from` when this number changes, and when it is first given. What the
    /// job has done since is not gone on with, and its checkpoints go by retention.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<u32>,
    #[schemars(extend("default" = defaults::RESTORE_IF_BROKEN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_broken: Option<IfBroken>,
}

/// A restore point: exactly one way to name it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&["latest", "checkpoint", "savepoint", "path"]))]
pub struct RestoreFrom {
    /// The job's own latest checkpoint or savepoint; with `of`, the latest savepoint of another job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestOf>,
    /// A Checkpoint resource of this namespace, by name. Another job's is copied before this job begins. Not with `weir run`,
    /// which takes numbers with `--from`.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// A Savepoint resource of this namespace, by name; with `weir run`, one of those beside the checkpoints.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
    /// The URI of a savepoint's directory, or of a checkpoint: that of a job's checkpoints, and `/chk-<number>`. A path
    /// without a scheme is relative to the job file.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// The latest restore point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct LatestOf {
    /// Another StreamJob of this namespace, also one that was deleted: of its completed Savepoint resources the latest.
    /// Not with `weir run`.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// What happens when there is nothing to restore from although there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IfMissing {
    Fail,
    /// Start with empty state. Safe only for a job that may forget.
    StartEmpty,
}

/// What happens when an object of the restore point is missing or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IfBroken {
    Fail,
    /// Use the next older retained checkpoint, and say so. What sinks made visible since stays, and is written again.
    OlderCheckpoint,
}

/// A named restore point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RestoreOrigin<'a> {
    Latest,
    /// The latest savepoint of the job of that name.
    LatestOf(&'a str),
    Checkpoint(&'a str),
    Savepoint(&'a str),
    Path(&'a str),
}

impl RestoreFrom {
    /// The restore point. `None` unless exactly one is named, which validation refuses.
    pub fn origin(&self) -> Option<RestoreOrigin<'_>> {
        let Self { latest, checkpoint, savepoint, path } = self;
        super::only(vec![
            latest.as_ref().map(|latest| latest.of.as_deref().map_or(RestoreOrigin::Latest, RestoreOrigin::LatestOf)),
            checkpoint.as_deref().map(RestoreOrigin::Checkpoint),
            savepoint.as_deref().map(RestoreOrigin::Savepoint),
            path.as_deref().map(RestoreOrigin::Path),
        ])
    }
}
