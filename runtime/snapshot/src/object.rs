//! The objects of a checkpoint: one per worker, written once, read by ranges.

mod reader;
mod writer;

pub use reader::ObjectReader;
pub use writer::{ObjectUpload, ObjectWriter};

use crate::storage::{ObjectPath, StorageError, StorageErrorKind};

#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes are not those that were written.
    #[error(
        "`{object}` is damaged: {length} bytes from {offset} have checksum {actual:08x}, and the manifest says {stated:08x}"
    )]
    Checksum { object: String, offset: u64, length: u64, stated: u32, actual: u32 },
    /// The upload failed or was given up; its own error says why.
    #[error("the upload of `{0}` has ended, no segment can be added")]
    UploadEnded(ObjectPath),
}

impl SegmentError {
    /// Whether another try may find the bytes as they were written.
    pub fn is_transient(&self) -> bool {
        matches!(self, SegmentError::Storage(error) if error.is_transient())
    }

    /// Whether the bytes are gone or changed, and no try will find them.
    pub fn is_damage(&self) -> bool {
        match self {
            SegmentError::Checksum { .. } => true,
            SegmentError::Storage(error) => {
                matches!(error.kind, StorageErrorKind::NotFound | StorageErrorKind::Corrupt)
            }
            SegmentError::UploadEnded(_) => false,
        }
    }
}
