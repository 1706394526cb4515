//! `savepoint.json`, format version 1.

use super::{SAVEPOINT_FILE, SavepointError};
use crate::envelope;
use crate::manifest::SubtaskManifest;
use crate::storage::{ObjectPath, Storage};
use serde::{Deserialize, Serialize};
use weir_model::{CheckpointId, KeyGroupRange, OperatorUid, StateSchema};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavepointManifest {
    /// Of the job that it was taken of; another job may start from it.
    pub job_uid: String,
    pub job_name: String,
    /// The checkpoint that it was made from.
    pub checkpoint: CheckpointId,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    pub max_parallelism: u32,
    pub operators: Vec<SavepointOperator>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavepointOperator {
    pub uid: OperatorUid,
    /// At which it was taken; it restores at any other.
    pub parallelism: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<SavepointState>,
    /// What isn't keyed: positions of splits, committables, writers. By subtask at the old parallelism, `keyed` empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subtasks: Vec<SubtaskManifest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavepointState {
    pub schema: StateSchema,
    /// The columns of its files, in order.
    pub columns: Vec<String>,
    pub rows: u64,
    pub files: Vec<SavepointFile>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavepointFile {
    /// In the savepoint's folder.
    pub path: ObjectPath,
    pub rows: u64,
    /// Bytes.
    pub length: u64,
    /// Of the whole file.
    pub crc32c: u32,
    pub key_groups: KeyGroupRange,
    /// The file in pieces that follow one another: one per row group, in order, ..
    pub row_groups: Vec<FileChunk>,
    /// .. and the rest, in which Parquet says where everything is.
    pub footer: FileChunk,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileChunk {
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    pub crc32c: u32,
    /// Of its rows; `None` for a footer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_groups: Option<KeyGroupRange>,
}

impl SavepointManifest {
    pub fn operator(&self, uid: &OperatorUid) -> Option<&SavepointOperator> {
        self.operators.iter().find(|operator| operator.uid == *uid)
    }
}

impl SavepointOperator {
    pub fn state(&self, name: &str) -> Option<&SavepointState> {
        self.states.iter().find(|state| state.schema.name == name)
    }
}

/// Reads what a folder says of itself.
pub async fn read_savepoint_manifest(
    storage: &dyn Storage,
    folder: &ObjectPath,
) -> Result<SavepointManifest, SavepointError> {
    let path = folder.join(&savepoint_file());
    let file = match storage.get(&path).await {
        Err(error) if error.is_not_found() => {
            return Err(SavepointError::NotASavepoint { folder: storage.address(folder) });
        }
        other => other?,
    };
    envelope::open(&file)
        .map_err(|error| SavepointError::Damaged { object: storage.address(&path), reason: error.to_string() })
}

pub(super) fn savepoint_file() -> ObjectPath {
    ObjectPath::parse(SAVEPOINT_FILE).expect("a valid path")
}
