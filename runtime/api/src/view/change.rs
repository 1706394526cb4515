//! What changes a job: savepoints, stop, cancel.

use crate::SavepointId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks for a savepoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavepointRequest {
    /// Chosen by the caller. Asked again with the same id, the answer is the same savepoint and not another one,
    /// also after the coordinator was started anew, where no folder is given.
    pub id: SavepointId,
    /// Where to; beside the checkpoints, in a folder named after the id, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// Removes a savepoint of this job from storage: all files that its manifest names, and that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoveSavepointRequest {
    /// Where it stands, as its `address` says.
    pub address: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemovedSavepoint {
    /// Objects that were removed; 0: there was none.
    pub objects: u64,
}

/// Keeps a checkpoint whatever the retention says, or lets it go again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinRequest {
    /// One that is retained.
    pub checkpoint: u64,
    pub is_pinned: bool,
}

/// How it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinView {
    pub checkpoint: u64,
    pub is_pinned: bool,
}

/// Stops the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StopRequest {
    /// With a savepoint; if that fails the job goes on. Without one: after a last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<SavepointRequest>,
}

/// A request that is carried out from here on; the job's phase tells how it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<SavepointView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SavepointsView {
    /// The latest first. Bounded.
    pub savepoints: Vec<SavepointView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SavepointView {
    pub id: SavepointId,
    pub state: SavepointState,
    /// The job stops with it.
    pub stop: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    pub requested_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// Where it stands, once it is complete: what `restore.from.path` or `--from` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The checkpoint that it was made from, once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// Of all its files, once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SavepointState {
    InProgress,
    Completed,
    Failed,
}

/// Asks for another parallelism. The job's processes stay, and what they hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RescaleRequest {
    pub parallelism: u32,
    /// Workers that are to go, by their addresses: where the others have slots enough, nothing is placed on these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RescaleView {
    /// Counts the rescales that this coordinator was asked for.
    pub id: u64,
    pub parallelism: u32,
    pub state: RescaleState,
    /// From the request until all tasks ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Why the job goes on as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RescaleState {
    InProgress,
    Completed,
    Failed,
}
