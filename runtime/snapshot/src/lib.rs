//! What stands on storage: the commit log, checkpoints, savepoints, and the one trait by which storage is reached.
//!
//! A job owns one folder, `<root>/<job uid>`:
//! ```text
//! log/00000000000000000042.json            commit log entries; the truth about checkpoints (`log`)
//! chk-<id>/e<epoch>-a<attempt>-worker-<n>.data   what one worker's subtasks snapshot, merged (`object`)
//! pinned/chk-<id>.json                     manifests kept beyond retention (`retention`)
//! ```
//! Everything in a manifest is relative to that folder, so that a copy of it elsewhere restores.
//! Savepoints live in folders of their own, owned by the user (`savepoint`).

mod envelope;
#[cfg(test)]
mod fault_tests;
pub mod folder;
#[cfg(test)]
mod golden;
pub mod history;
pub mod in_flight;
pub mod log;
pub mod manifest;
pub mod object;
pub mod retention;
pub mod savepoint;
pub mod storage;
#[cfg(test)]
mod testing;

pub use folder::JobFolder;
pub use history::{CheckpointSummary, Restorable, list_checkpoints};
pub use log::{CommitLog, JobHistory, LogError, LogOptions, OpenError, WriterId, read_history};
pub use manifest::{
    CheckpointManifest, CheckpointSizes, ObjectRef, OperatorManifest, SegmentLocation, SubtaskManifest,
};
pub use object::{ObjectReader, ObjectWriter, SegmentError};
pub use retention::Retention;
pub use storage::{ObjectPath, Storage, StorageError, StorageErrorKind, open_storage};
