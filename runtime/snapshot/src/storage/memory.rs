//! Storage in memory, for development and tests: gone with the process.

use super::{ObjectInfo, ObjectPath, Operation, PutOutcome, Storage, StorageError, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Development only: a restart of the process starts from nothing. Clones share their objects.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    objects: Arc<Mutex<BTreeMap<ObjectPath, Bytes>>>,
}

impl MemoryStorage {
    pub fn new() -> Self {
        tracing::warn!("checkpoints are kept in memory and end with this process: for development only");
        MemoryStorage::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectPath, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn uri(&self) -> &str {
        "memory://"
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        self.objects().insert(path.clone(), content);
        Ok(())
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        match self.objects().entry(path.clone()) {
            Entry::Occupied(_) => Ok(PutOutcome::Exists),
            Entry::Vacant(vacant) => {
                vacant.insert(content);
                Ok(PutOutcome::Created)
            }
        }
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(MemoryUpload { storage: self.clone(), path: path.clone(), content: Vec::new() }))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        let found = self.objects().get(path).cloned();
        found.ok_or_else(|| StorageError::not_found(Operation::Get, self.address(path)))
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let found = self.objects().get(path).cloned();
        let object = found.ok_or_else(|| StorageError::not_found(Operation::GetRange, self.address(path)))?;
        match offset.checked_add(length) {
            Some(end) if end <= object.len() as u64 => Ok(object.slice(offset as usize..end as usize)),
            _ => Err(StorageError::too_short(self.address(path), offset, length, object.len() as u64)),
        }
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        let found = self.objects().get(path).map(|object| object.len() as u64);
        found.ok_or_else(|| StorageError::not_found(Operation::Head, self.address(path)))
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        let after = start_after.map_or(Bound::Unbounded, |path| Bound::Excluded(path.clone()));
        let objects = self.objects();
        let inside = objects.range((after, Bound::Unbounded)).filter(|(path, _)| path.is_inside(folder));
        let infos = inside.map(|(path, object)| ObjectInfo { path: path.clone(), length: object.len() as u64 });
        Ok(infos.take(limit.max(1)).collect())
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.objects().remove(path);
        Ok(())
    }

    async fn sweep_unfinished(&self, _folder: &ObjectPath, _older_than: Duration) -> Result<u64, StorageError> {
        Ok(0)
    }
}

struct MemoryUpload {
    storage: MemoryStorage,
    path: ObjectPath,
    content: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError> {
        self.content.extend_from_slice(&part);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        self.storage.put(&self.path, self.content.into()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        let storage = Arc::new(MemoryStorage::new());
        super::super::conformance::check(storage.clone()).await;
        super::super::conformance::check_sizes(storage).await;
    }
}
