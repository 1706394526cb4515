//! What a checkpoint consists of.
//!
//! Parts that belong to others (keyed state, splits, committables) stand here as JSON that this crate passes on unread.

use crate::storage::ObjectPath;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_model::{AttemptNumber, CheckpointId, CheckpointKind, Epoch, Fence, OperatorUid, StateSchema};

/// Everything a restore needs; stands in the log entry that completes the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    pub job_uid: String,
    pub checkpoint: CheckpointId,
    pub kind: CheckpointKind,
    /// Its barriers overtook records; what they overtook is part of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unaligned: bool,
    pub epoch: Epoch,
    pub attempt: AttemptNumber,
    /// Milliseconds since the Unix epoch: the trigger.
    pub started_at_ms: u64,
    /// The last acknowledgement.
    pub completed_at_ms: u64,
    pub max_parallelism: u32,
    pub operators: Vec<OperatorManifest>,
    /// Every object that a restore reads, of earlier checkpoints too, each once.
    pub objects: Vec<ObjectRef>,
    pub sizes: CheckpointSizes,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorManifest {
    pub uid: OperatorUid,
    pub parallelism: u32,
    /// Schemas of the keyed states, by which compatibility is decided.
    pub states: Vec<StateSchema>,
    /// One per subtask, by index.
    pub subtasks: Vec<SubtaskManifest>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubtaskManifest {
    pub index: u32,
    /// The subtask had ended before the barrier.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
    /// Where the keyed state's segments stand, as the state crate writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyed: Option<Value>,
    /// Positions of a source's splits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<Value>,
    /// A sink's committables and writer state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Value>,
    /// State of an operator that belongs to no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Value>,
    /// Where the elements stand that an unaligned barrier overtook in the subtask's channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<Value>,
}

/// An object that a checkpoint needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// In the job's folder.
    pub path: ObjectPath,
    /// Bytes.
    pub length: u64,
    /// Of the whole object.
    pub crc32c: u32,
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentLocation {
    /// In the job's folder.
    pub object: ObjectPath,
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    pub crc32c: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSizes {
    /// Written for this checkpoint, bytes.
    pub new_bytes: u64,
    /// Read by a restore, bytes.
    pub full_bytes: u64,
    /// Of both, what was in flight at the barriers of an unaligned checkpoint.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_flight_bytes: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl CheckpointManifest {
    pub fn fence(&self) -> Fence {
        Fence { epoch: self.epoch, attempt: self.attempt }
    }

    pub fn duration_ms(&self) -> u64 {
        self.completed_at_ms.saturating_sub(self.started_at_ms)
    }

    pub fn operator(&self, uid: &OperatorUid) -> Option<&OperatorManifest> {
        self.operators.iter().find(|operator| operator.uid == *uid)
    }
}
