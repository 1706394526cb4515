//! A storage that counts what is asked of it: for tests of what a checkpoint costs.

use super::{ObjectInfo, ObjectPath, PutOutcome, Storage, StorageError, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the calls that an object store bills as writes. Clones count together.
#[derive(Clone, Debug)]
pub struct CountingStorage {
    inner: Arc<dyn Storage>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    puts: AtomicU64,
    puts_if_absent: AtomicU64,
    uploads: AtomicU64,
    lists: AtomicU64,
}

/// Calls so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    pub puts: u64,
    pub puts_if_absent: u64,
    /// Objects in parts; each costs its parts and two more.
    pub uploads: u64,
    pub lists: u64,
}

impl CountingStorage {
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        CountingStorage { inner, counts: Arc::default() }
    }

    pub fn counts(&self) -> WriteCounts {
        let Counts { puts, puts_if_absent, uploads, lists } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        WriteCounts {
            puts: read(puts),
            puts_if_absent: read(puts_if_absent),
            uploads: read(uploads),
            lists: read(lists),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

#[async_trait]
impl Storage for CountingStorage {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        count(&self.counts.puts);
        self.inner.put(path, content).await
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        count(&self.counts.puts_if_absent);
        self.inner.put_if_absent(path, content).await
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        count(&self.counts.uploads);
        self.inner.upload(path).await
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        self.inner.get(path).await
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        self.inner.get_range(path, offset, length).await
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        self.inner.head(path).await
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        count(&self.counts.lists);
        self.inner.list(folder, start_after, limit).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.inner.delete(path).await
    }

    async fn sweep_unfinished(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, StorageError> {
        self.inner.sweep_unfinished(folder, older_than).await
    }
}
