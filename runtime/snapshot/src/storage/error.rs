//! What can go wrong with an object, said with its name.

use std::fmt;

/// What was being done with the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Put,
    PutIfAbsent,
    Upload,
    Get,
    GetRange,
    Head,
    List,
    Delete,
    Open,
}

/// What the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StorageErrorKind {
    /// The object isn't there.
    NotFound,
    /// Worth another try. Of a write it isn't known whether it happened.
    Transient,
    /// Will fail again: no permission, a bad name, a full disk.
    Permanent,
    /// The object is there and is not what it should be.
    Corrupt,
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} `{object}`: {message}")]
pub struct StorageError {
    pub operation: Operation,
    /// With the storage's address in front, so that a user finds it.
    pub object: String,
    pub kind: StorageErrorKind,
    pub message: String,
}

impl StorageError {
    pub fn new(
        operation: Operation,
        object: impl fmt::Display,
        kind: StorageErrorKind,
        message: impl fmt::Display,
    ) -> Self {
        StorageError { operation, object: object.to_string(), kind, message: message.to_string() }
    }

    pub fn not_found(operation: Operation, object: impl fmt::Display) -> Self {
        StorageError::new(operation, object, StorageErrorKind::NotFound, "there is no such object")
    }

    pub fn corrupt(operation: Operation, object: impl fmt::Display, message: impl fmt::Display) -> Self {
        StorageError::new(operation, object, StorageErrorKind::Corrupt, message)
    }

    /// An address that can't be opened as it is.
    pub fn refused(uri: &str, reason: impl fmt::Display) -> Self {
        StorageError::new(Operation::Open, uri, StorageErrorKind::Permanent, reason)
    }

    /// A range was asked for of an object that ends, at byte `actual`, before it does.
    pub fn too_short(object: impl fmt::Display, offset: u64, length: u64, actual: u64) -> Self {
        let wanted = format!("it ends at byte {actual}, and {length} bytes from {offset} were asked for");
        StorageError::corrupt(Operation::GetRange, object, wanted)
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == StorageErrorKind::NotFound
    }

    pub fn is_transient(&self) -> bool {
        self.kind == StorageErrorKind::Transient
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Put => "writing",
            Operation::PutIfAbsent => "creating",
            Operation::Upload => "uploading",
            Operation::Get | Operation::GetRange => "reading",
            Operation::Head => "looking up",
            Operation::List => "listing",
            Operation::Delete => "deleting",
            Operation::Open => "opening",
        })
    }
}
