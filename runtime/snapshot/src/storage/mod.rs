//! The one way to durable storage: a narrow trait, which object stores and file systems alike can fulfil.

pub mod conformance;
mod counting;
mod error;
mod faulty;
mod key;
mod local;
mod lossy;
mod memory;
mod open;
mod path;
mod probe;

pub use counting::{CountingStorage, WriteCounts};
pub use error::{Operation, StorageError, StorageErrorKind};
pub use faulty::{Call, DelayHook, Fault, FaultChoice, FaultPlan, FaultRates, FaultyStorage, ScriptedFault};
pub use key::KeyPrefix;
pub use local::LocalStorage;
pub use lossy::LossyProxy;
pub use memory::MemoryStorage;
pub use open::{Credentials, StorageAddress, StorageOptions, StorageProvider, StorageProviders, open_storage};
pub use path::{InvalidPath, ObjectPath, TEMPORARY_PREFIX};
pub use probe::require_put_if_absent;

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
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
