//! The storage trait on any store of the `object_store` crate that creates objects only if absent.

use crate::error::kind_of;
use crate::upload::PartsUpload;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use weir_snapshot::storage::{KeyPrefix, ObjectInfo, Operation, PutOutcome, Storage, Upload};
use weir_snapshot::{ObjectPath, StorageError, StorageErrorKind};

/// Metadata that tells who wrote an object: one id for each call. Azure asks for an identifier.
const WRITER: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("weirwriter"));

/// Whether a store lists its objects in the order of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOrder {
    ByKey,
    /// Then a folder is listed whole for each page of it.
    Any,
}

/// The objects below one prefix of a bucket.
#[derive(Clone)]
pub struct ObjectStorage {
    pub(crate) store: Arc<dyn ObjectStore>,
    order: ListOrder,
    prefix: Arc<KeyPrefix>,
    uri: Arc<str>,
}

impl ObjectStorage {
    pub fn new(store: Arc<dyn ObjectStore>, order: ListOrder, prefix: KeyPrefix, uri: &str) -> Self {
        ObjectStorage { store, order, prefix: Arc::new(prefix), uri: uri.into() }
    }

    pub(crate) fn key(&self, path: &ObjectPath) -> Result<Path, Error> {
        Ok(Path::parse(self.prefix.key(path))?)
    }

    pub(crate) fn failed(&self, operation: Operation, path: &ObjectPath, error: Error) -> StorageError {
        let object = self.address(path);
        match kind_of(&error) {
            StorageErrorKind::NotFound => StorageError::not_found(operation, object),
            kind => StorageError::new(operation, object, kind, error),
        }
    }

    /// Whether the object that stands there was written by the call with this id.
    pub(crate) async fn is_written_by(&self, key: &Path, writer: &str) -> Result<bool, Error> {
        match self.store.get_opts(key, GetOptions::default().with_head(true)).await {
            Ok(found) => Ok(found.attributes.get(&WRITER).is_some_and(|id| id.as_ref() == writer)),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, Error> {
        let (key, writer) = (self.key(path)?, new_writer());
        let options = PutOptions { mode: PutMode::Create, attributes: written_by(&writer), ..Default::default() };
        match self.store.put_opts(&key, PutPayload::from_bytes(content), options).await {
            Ok(_) => Ok(PutOutcome::Created),
            // Perhaps by this very call: its first request succeeded, the answer was lost, and it was repeated.
            Err(Error::AlreadyExists { .. }) => {
                let is_own = self.is_written_by(&key, &writer).await?;
                Ok(if is_own { PutOutcome::Created } else { PutOutcome::Exists })
            }
            // The client of GCS does not repeat such a request when the answer is lost. The object may stand all the same.
            Err(error) if kind_of(&error) == StorageErrorKind::Transient => {
                match self.is_written_by(&key, &writer).await {
                    Ok(true) => Ok(PutOutcome::Created),
                    Ok(false) | Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn length(&self, path: &ObjectPath) -> Result<u64, Error> {
        Ok(self.store.head(&self.key(path)?).await?.size)
    }

    /// `Err`: the object's length, if the range isn't all in it.
    async fn read(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Result<Bytes, u64>, Error> {
        let end = offset.checked_add(length);
        let Some(end) = end.filter(|_| length > 0) else {
            let actual = self.length(path).await?;
            return Ok(end.filter(|end| *end <= actual).map(|_| Bytes::new()).ok_or(actual));
        };
        let options = GetOptions { range: Some(GetRange::Bounded(offset..end)), ..Default::default() };
        match self.store.get_opts(&self.key(path)?, options).await {
            Ok(found) if found.range == (offset..end) => Ok(Ok(found.bytes().await?)),
            Ok(found) => Ok(Err(found.meta.size)),
            Err(error @ Error::NotFound { .. }) => Err(error),
            // A range that begins behind the end is an error, of which each store has its own.
            Err(error) => match self.length(path).await? {
                actual if end > actual => Ok(Err(actual)),
                _ => Err(error),
            },
        }
    }

    async fn find(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, Error> {
        let below = Path::parse(self.prefix.folder(folder))?;
        let below = (!below.as_ref().is_empty()).then_some(below);
        let listed = match start_after {
            Some(after) if self.order == ListOrder::ByKey => {
                self.store.list_with_offset(below.as_ref(), &self.key(after)?)
            }
            _ => self.store.list(below.as_ref()),
        };
        let mut ours = std::pin::pin!(listed.try_filter_map(|object| {
            let path = self.prefix.path(object.location.as_ref());
            let path = path.filter(|path| start_after.is_none_or(|after| path > after));
            std::future::ready(Ok(path.map(|path| ObjectInfo { path, length: object.size })))
        }));
        if self.order == ListOrder::ByKey {
            return ours.take(limit).try_collect().await;
        }
        // The first `limit` of all, in a heap of that size.
        let mut first = BinaryHeap::new();
        while let Some(info) = ours.try_next().await? {
            first.push((info.path, info.length));
            if first.len() > limit {
                first.pop();
            }
        }
        Ok(first.into_sorted_vec().into_iter().map(|(path, length)| ObjectInfo { path, length }).collect())
    }
}

pub(crate) fn new_writer() -> String {
    Uuid::new_v4().simple().to_string()
}

pub(crate) fn written_by(writer: &str) -> Attributes {
    [(WRITER, writer.to_owned())].into_iter().collect()
}

#[async_trait]
impl Storage for ObjectStorage {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        let put = async { self.store.put(&self.key(path)?, PutPayload::from_bytes(content)).await };
        put.await.map_err(|error| self.failed(Operation::Put, path, error))?;
        Ok(())
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        self.create(path, content).await.map_err(|error| self.failed(Operation::PutIfAbsent, path, error))
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(PartsUpload::new(self.clone(), path.clone())))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        let get = async { self.store.get(&self.key(path)?).await?.bytes().await };
        get.await.map_err(|error| self.failed(Operation::Get, path, error))
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let read = self.read(path, offset, length).await;
        let read = read.map_err(|error| self.failed(Operation::GetRange, path, error))?;
        read.map_err(|actual| StorageError::too_short(self.address(path), offset, length, actual))
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        self.length(path).await.map_err(|error| self.failed(Operation::Head, path, error))
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        let found = self.find(folder, start_after, limit.max(1)).await;
        found.map_err(|error| self.failed(Operation::List, folder, error))
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        let delete = async { self.store.delete(&self.key(path)?).await };
        match delete.await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(Operation::Delete, path, error)),
        }
    }

    /// Neither service lets what it holds of unfinished uploads be listed here: Azure forgets uncommitted blocks after a
    /// week by itself, and a bucket on GCS needs a lifecycle rule (`AbortIncompleteMultipartUpload`).
    async fn sweep_unfinished(&self, _: &ObjectPath, _: Duration) -> Result<u64, StorageError> {
        Ok(0)
    }
}

impl fmt::Debug for ObjectStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStorage").field("uri", &self.uri).finish_non_exhaustive()
    }
}
