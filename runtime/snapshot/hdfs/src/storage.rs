//! The storage trait on a folder of HDFS.

use crate::error::kind_of;
use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::client::FileStatus;
use hdfs_native::file::FileWriter;
use hdfs_native::{Client, HdfsError, WriteOptions};
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use uuid::Uuid;
use weir_snapshot::storage::{ObjectInfo, Operation, PutOutcome, Storage, TEMPORARY_PREFIX, Upload};
use weir_snapshot::{ObjectPath, StorageError, StorageErrorKind};

/// The files below one folder.
#[derive(Clone)]
pub struct HdfsStorage {
    client: Client,
    /// `/path`, or empty for the root.
    root: Arc<str>,
    uri: Arc<str>,
}

impl HdfsStorage {
    /// `path` has no slashes at its ends.
    pub fn new(client: Client, path: &str, uri: &str) -> Self {
        let root = if path.is_empty() { String::new() } else { format!("/{path}") };
        HdfsStorage { client, root: root.into(), uri: uri.into() }
    }

    /// Where the file stands in HDFS.
    fn place(&self, path: &ObjectPath) -> String {
        match (path.is_root(), &*self.root) {
            (true, "") => "/".to_owned(),
            (true, root) => root.to_owned(),
            (false, root) => format!("{root}/{path}"),
        }
    }

    fn path(&self, place: &str) -> Option<ObjectPath> {
        ObjectPath::parse(place.strip_prefix(&*self.root)?.strip_prefix('/')?).ok()
    }

    fn failed(&self, operation: Operation, path: &ObjectPath, error: &HdfsError) -> StorageError {
        let object = self.address(path);
        match kind_of(error) {
            StorageErrorKind::NotFound => StorageError::not_found(operation, object),
            kind => StorageError::new(operation, object, kind, error),
        }
    }

    async fn begin(&self, path: &ObjectPath) -> Result<TemporaryFile, HdfsError> {
        let target = self.place(path);
        let folder = target.rsplit_once('/').map_or("", |(folder, _)| folder);
        let place = format!("{folder}/{TEMPORARY_PREFIX}{}", Uuid::new_v4().simple());
        let writer = self.client.create(&place, WriteOptions::default()).await?;
        Ok(TemporaryFile { client: self.client.clone(), place: Some(place), target, writer: Some(writer) })
    }

    async fn write(&self, path: &ObjectPath, content: Bytes) -> Result<TemporaryFile, HdfsError> {
        let mut file = self.begin(path).await?;
        file.write(content).await?;
        file.seal().await?;
        Ok(file)
    }

    async fn create(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, HdfsError> {
        // Most of those that come too late needn't write anything.
        match self.client.get_file_info(&self.place(path)).await {
            Ok(_) => return Ok(PutOutcome::Exists),
            Err(HdfsError::FileNotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.write(path, content).await?.name_if_absent().await
    }

    async fn status(&self, path: &ObjectPath) -> Result<FileStatus, HdfsError> {
        let status = self.client.get_file_info(&self.place(path)).await?;
        if status.isdir { Err(HdfsError::FileNotFound(status.path)) } else { Ok(status) }
    }

    /// `Err`: the file's length, if the range isn't all in it.
    async fn read(
        &self,
        path: &ObjectPath,
        range: impl FnOnce(u64) -> Option<(u64, u64)>,
    ) -> Result<Result<Bytes, u64>, HdfsError> {
        self.status(path).await?;
        let reader = self.client.read(&self.place(path)).await?;
        let actual = reader.file_length() as u64;
        let Some((offset, length)) = range(actual) else { return Ok(Err(actual)) };
        if length == 0 {
            return Ok(Ok(Bytes::new()));
        }
        Ok(Ok(reader.read_range(offset as usize, length as usize).await?))
    }

    /// Calls `each` with all files at any depth.
    async fn walk(&self, folder: &ObjectPath, mut each: impl FnMut(FileStatus)) -> Result<(), HdfsError> {
        let files = self.client.list_status_iter(&self.place(folder), true);
        while let Some(status) = files.next().await {
            match status {
                Ok(status) if status.isdir => {}
                Ok(status) => each(status),
                // The folder isn't there, or one below was pruned meanwhile.
                Err(HdfsError::FileNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Object stores have no folders: one whose last object went should not stay either.
    async fn prune(&self, path: &ObjectPath) {
        let place = self.place(path);
        let mut folder = place.rsplit_once('/').map(|(folder, _)| folder);
        while let Some(candidate) = folder.filter(|folder| folder.len() > self.root.len()) {
            // Refused by the name node if there is anything in it.
            if !matches!(self.client.delete(candidate, false).await, Ok(true)) {
                return;
            }
            folder = candidate.rsplit_once('/').map(|(folder, _)| folder);
        }
    }

    async fn sweep(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, HdfsError> {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let before_ms = now_ms.saturating_sub(u64::try_from(older_than.as_millis()).unwrap_or(u64::MAX));
        let mut left = Vec::new();
        self.walk(folder, |status| {
            let name = status.path.rsplit('/').next().unwrap_or_default();
            if name.starts_with(TEMPORARY_PREFIX) && status.modification_time <= before_ms {
                left.push(status.path);
            }
        })
        .await?;
        let mut swept = 0;
        for place in left {
            swept += u64::from(self.client.delete(&place, false).await?);
        }
        Ok(swept)
    }
}

/// A file without its final name; removed when dropped without having got one.
struct TemporaryFile {
    client: Client,
    /// `None`: it has been renamed.
    place: Option<String>,
    target: String,
    writer: Option<FileWriter>,
}

impl TemporaryFile {
    async fn write(&mut self, content: Bytes) -> Result<(), HdfsError> {
        let Some(writer) = &mut self.writer else {
            return Err(HdfsError::OperationFailed("the file is closed".to_owned()));
        };
        writer.write_bytes(content).await.map(|_| ())
    }

    /// Makes it durable on the data nodes, and complete.
    async fn seal(&mut self) -> Result<(), HdfsError> {
        if let Some(mut writer) = self.writer.take() {
            // A close alone waits for the data nodes' memory, not for their disks.
            writer.hsync().await?;
            writer.close().await?;
        }
        Ok(())
    }

    async fn replace(mut self) -> Result<(), HdfsError> {
        let Some(place) = self.place.clone() else { return Ok(()) };
        self.client.rename(&place, &self.target, true).await?;
        self.place = None;
        Ok(())
    }

    async fn name_if_absent(mut self) -> Result<PutOutcome, HdfsError> {
        let Some(place) = self.place.clone() else { return Ok(PutOutcome::Created) };
        let error = match self.client.rename(&place, &self.target, false).await {
            Ok(()) => {
                self.place = None;
                return Ok(PutOutcome::Created);
            }
            Err(error) => error,
        };
        // A repeated rename can find its own success. The temporary file, which nobody else knows, tells: if it is gone,
        // then it has got the name.
        match self.client.get_file_info(&place).await {
            Err(HdfsError::FileNotFound(_)) => {
                self.place = None;
                Ok(PutOutcome::Created)
            }
            Ok(_) if matches!(error, HdfsError::AlreadyExists(_)) => Ok(PutOutcome::Exists),
            _ => Err(error),
        }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let (Some(place), Ok(runtime)) = (self.place.take(), Handle::try_current()) else { return };
        let (client, writer) = (self.client.clone(), self.writer.take());
        runtime.spawn(async move {
            if let Some(mut writer) = writer {
                // A file under a lease can be deleted too; closed, it isn't complained about.
                let _ = writer.close().await;
            }
            if let Err(error) = client.delete(&place, false).await {
                tracing::warn!(%error, place, "a temporary file could not be removed");
            }
        });
    }
}

#[async_trait]
impl Storage for HdfsStorage {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        let put = async { self.write(path, content).await?.replace().await };
        put.await.map_err(|error| self.failed(Operation::Put, path, &error))
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        self.create(path, content).await.map_err(|error| self.failed(Operation::PutIfAbsent, path, &error))
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        let file = self.begin(path).await.map_err(|error| self.failed(Operation::Upload, path, &error))?;
        Ok(Box::new(HdfsUpload { storage: self.clone(), path: path.clone(), file }))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        let read = self.read(path, |actual| Some((0, actual))).await;
        let read = read.map_err(|error| self.failed(Operation::Get, path, &error))?;
        read.map_err(|actual| StorageError::too_short(self.address(path), 0, actual, actual))
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let fits = |actual| offset.checked_add(length).filter(|end| *end <= actual).map(|_| (offset, length));
        let read = self.read(path, fits).await;
        let read = read.map_err(|error| self.failed(Operation::GetRange, path, &error))?;
        read.map_err(|actual| StorageError::too_short(self.address(path), offset, length, actual))
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        let status = self.status(path).await.map_err(|error| self.failed(Operation::Head, path, &error))?;
        Ok(status.length as u64)
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        let limit = limit.max(1);
        // The first `limit` of all, in a heap of that size: the name node goes folder by folder.
        let mut first = BinaryHeap::new();
        let walked = self.walk(folder, |status| {
            // A file of the folder's name is listed as its only entry.
            let path = self.path(&status.path).filter(|path| path.is_inside(folder));
            if let Some(path) = path.filter(|path| start_after.is_none_or(|after| path > after)) {
                first.push((path, status.length as u64));
                if first.len() > limit {
                    first.pop();
                }
            }
        });
        walked.await.map_err(|error| self.failed(Operation::List, folder, &error))?;
        Ok(first.into_sorted_vec().into_iter().map(|(path, length)| ObjectInfo { path, length }).collect())
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        match self.client.delete(&self.place(path), false).await {
            // False: there was nothing.
            Ok(_) | Err(HdfsError::FileNotFound(_)) => {}
            Err(error) => return Err(self.failed(Operation::Delete, path, &error)),
        }
        self.prune(path).await;
        Ok(())
    }

    async fn sweep_unfinished(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, StorageError> {
        self.sweep(folder, older_than).await.map_err(|error| self.failed(Operation::Delete, folder, &error))
    }
}

struct HdfsUpload {
    storage: HdfsStorage,
    path: ObjectPath,
    file: TemporaryFile,
}

#[async_trait]
impl Upload for HdfsUpload {
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError> {
        let written = self.file.write(part).await;
        written.map_err(|error| self.storage.failed(Operation::Upload, &self.path, &error))
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        let Self { storage, path, mut file } = *self;
        let finish = async {
            file.seal().await?;
            file.replace().await
        };
        finish.await.map_err(|error| storage.failed(Operation::Upload, &path, &error))
    }
}

impl fmt::Debug for HdfsStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HdfsStorage").field("uri", &self.uri).finish_non_exhaustive()
    }
}
