//! The one way to durable storage: a narrow trait, which object stores and file systems alike can fulfil.

pub mod conformance;
mod error;
mod faulty;
mod local;
mod memory;
mod path;

pub use error::{Operation, StorageError, StorageErrorKind};
pub use faulty::{Call, DelayHook, Fault, FaultChoice, FaultPlan, FaultRates, FaultyStorage, ScriptedFault};
pub use local::LocalStorage;
pub use memory::MemoryStorage;
pub use path::{InvalidPath, ObjectPath};

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Objects under one root. `&self` is shared by everyone who uses the storage.
///
/// What every implementation promises, and `conformance::check` tests:
/// - A write that returned `Ok` is durable, and every later read, list and head sees it.
/// - An object appears whole or not at all; readers of a replaced object see the old one or the new one.
/// - Of two `put_if_absent` of one path at most one gets `Created`.
/// - After a `Transient` error of a write, it may or may not have happened, and may even happen later.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// The address of the root, for messages: `file:///var/weir`.
    fn uri(&self) -> &str;

    /// The object's whole address, for messages.
    fn address(&self, path: &ObjectPath) -> String {
        match self.uri() {
            uri if uri.ends_with('/') => format!("{uri}{path}"),
            uri => format!("{uri}/{path}"),
        }
    }

    /// Creates or replaces.
    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError>;

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError>;

    /// Begins an object that is too large to be held in memory. It appears at `finish`.
    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError>;

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError>;

    /// Exactly `length` bytes from `offset`; an object that ends before is `Corrupt`.
    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError>;

    /// The object's length, bytes.
    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError>;

    /// Objects inside `folder` at any depth, after `start_after`, in the order of their paths' bytes; at most
    /// `limit` (at least 1). A folder that isn't there is empty.
    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError>;

    /// Deletes; an object that isn't there is a success, so that a repeated delete is.
    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError>;

    /// Removes what unfinished writes inside `folder` left behind (temporary files, parts of uploads) and is older
    /// than `older_than`, so that a write under way isn't hurt. Returns how many.
    async fn sweep_unfinished(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, StorageError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    Created,
    /// The object was there before, and is as it was.
    Exists,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    pub path: ObjectPath,
    /// Bytes.
    pub length: u64,
}

/// An object in the making. Dropped without `finish`: it never appears.
#[async_trait]
pub trait Upload: Send {
    /// Appends. Parts of `UPLOAD_PART_BYTES` suit every store; only the last may be smaller.
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError>;

    async fn finish(self: Box<Self>) -> Result<(), StorageError>;
}

/// Size of all parts of an upload but the last: above the 5 MiB that S3 asks for.
pub const UPLOAD_PART_BYTES: usize = 8 << 20;

/// Objects per call when everything is listed.
const LIST_PAGE: usize = 1000;

/// Schemes that `open_storage` knows.
pub const KNOWN_SCHEMES: [&str; 2] = ["file", "memory"];

/// Opens the storage behind `file:///path` or `memory://` (a new, empty one, gone with the process).
pub fn open_storage(uri: &str) -> Result<Arc<dyn Storage>, StorageError> {
    let refuse = |reason: String| StorageError::new(Operation::Open, uri, StorageErrorKind::Permanent, reason);
    let known = || KNOWN_SCHEMES.map(|scheme| format!("`{scheme}://`")).join(" and ");
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Err(refuse(format!("a storage address begins with its scheme: {} are known", known())));
    };
    match scheme {
        "file" if rest.starts_with('/') => Ok(Arc::new(LocalStorage::open(rest)?)),
        "file" => Err(refuse(format!(
            "a file address holds an absolute path: `file:///{rest}` (three slashes), if that is meant"
        ))),
        "memory" => Ok(Arc::new(MemoryStorage::new())),
        other => Err(refuse(format!("`{other}` is not a scheme that this build knows; {} are", known()))),
    }
}

/// Everything inside `folder`, in order.
pub async fn list_all(storage: &dyn Storage, folder: &ObjectPath) -> Result<Vec<ObjectInfo>, StorageError> {
    let mut all: Vec<ObjectInfo> = Vec::new();
    loop {
        let last = all.last().map(|info| info.path.clone());
        let page = storage.list(folder, last.as_ref(), LIST_PAGE).await?;
        let is_last = page.len() < LIST_PAGE;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_schemes_name_the_known_ones() {
        let refused = |uri| open_storage(uri).unwrap_err().to_string();
        assert_eq!(
            refused("ftp://x"),
            "opening `ftp://x`: `ftp` is not a scheme that this build knows; `file://` and `memory://` are"
        );
        assert!(refused("/tmp/x").contains("begins with its scheme"));
        assert!(refused("file://tmp/x").contains("`file:///tmp/x`"));
        assert!(open_storage("memory://").is_ok());
    }
}
