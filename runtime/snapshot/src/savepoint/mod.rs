//! Savepoints: a job's state in a form that depends on no backend, no parallelism and no Weir, in a folder of the user's.
//!
//! ```text
//! <folder>/savepoint.json                                what it is; written last: without it there is no savepoint
//! <folder>/<operator uid>/<state>/part-00000.parquet     one table per state (names escaped as in a URL)
//! ```
//! The columns of a state's table are `key_group`, then key, namespace and value as in the state's schema. Rows are
//! sorted by key group within a file, and each row group's range of key groups stands in `savepoint.json`, with its
//! checksum: a reader fetches only what it owns, and checks what it fetches. All paths are relative to the folder.

mod columns;
mod manifest;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use columns::{KEY_GROUP_COLUMN, state_columns};
pub use manifest::{
    FileChunk, SavepointFile, SavepointManifest, SavepointOperator, SavepointState, read_savepoint_manifest,
};
pub use reader::{SavepointReader, StateRows};
pub use writer::{SavepointWriter, StateWriter};

use crate::storage::StorageError;
use weir_model::OperatorUid;

/// The file that makes a folder a savepoint.
pub const SAVEPOINT_FILE: &str = "savepoint.json";

#[derive(Debug, thiserror::Error)]
pub enum SavepointError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("`{folder}` is not a savepoint, or one that was never finished: it holds no `savepoint.json`")]
    NotASavepoint { folder: String },
    #[error("`{folder}` already holds a savepoint; savepoints are never overwritten")]
    AlreadyThere { folder: String },
    #[error("`{object}` is damaged: {reason}")]
    Damaged { object: String, reason: String },
    #[error("the savepoint holds no state `{state}` of `{operator}`; it holds {known}")]
    NoSuchState { operator: OperatorUid, state: String, known: String },
    /// What was to be written isn't what was announced.
    #[error("state `{state}` of `{operator}` can't be written: {reason}")]
    Unfit { operator: OperatorUid, state: String, reason: String },
}
