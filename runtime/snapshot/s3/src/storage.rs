//! The storage trait on one bucket.

use crate::error::Failure;
use crate::upload::S3Upload;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use uuid::Uuid;
use weir_snapshot::storage::{KeyPrefix, ObjectInfo, Operation, PutOutcome, Storage, Upload};
use weir_snapshot::{ObjectPath, StorageError, StorageErrorKind};

/// Metadata that tells who wrote an object: one id for each call.
pub(crate) const WRITER: &str = "weir-writer";
/// Tries while other conditional writes of the key are under way; each comes to an end by itself.
const CONFLICT_ATTEMPTS: u32 = 8;
const CONFLICT_BACKOFF: Duration = Duration::from_millis(50);
/// Tries of a read whose body broke off: the SDK repeats requests, not bodies.
const READ_ATTEMPTS: u32 = 3;
const READ_BACKOFF: Duration = Duration::from_millis(200);
/// The most that S3 gives in one answer.
const LIST_PAGE: usize = 1000;

/// The objects below one prefix of a bucket.
#[derive(Clone)]
pub struct S3Storage {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) bucket: String,
    prefix: KeyPrefix,
    uri: String,
}

impl S3Storage {
    pub fn new(client: Client, bucket: &str, prefix: KeyPrefix, uri: &str) -> Self {
        let shared = Shared { client, bucket: bucket.to_owned(), prefix, uri: uri.to_owned() };
        S3Storage { shared: Arc::new(shared) }
    }

    pub(crate) fn key(&self, path: &ObjectPath) -> String {
        self.shared.prefix.key(path)
    }

    pub(crate) fn failed(&self, operation: Operation, path: &ObjectPath, failure: Failure) -> StorageError {
        let object = self.address(path);
        match failure.kind {
            StorageErrorKind::NotFound => StorageError::not_found(operation, object),
            kind => StorageError::new(operation, object, kind, failure.message),
        }
    }

    /// Whether the object that stands there was written by the call with this id.
    pub(crate) async fn is_written_by(&self, path: &ObjectPath, writer: &str) -> Result<bool, Failure> {
        let Shared { client, bucket, .. } = &*self.shared;
        match client.head_object().bucket(bucket).key(self.key(path)).send().await.map_err(Failure::from) {
            Ok(head) => Ok(head.metadata().and_then(|all| all.get(WRITER)).is_some_and(|id| id == writer)),
            Err(failure) if failure.kind == StorageErrorKind::NotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn put_object_if_absent(&self, path: &ObjectPath, content: &Bytes) -> Result<PutOutcome, Failure> {
        let Shared { client, bucket, .. } = &*self.shared;
        let writer = Uuid::new_v4().simple().to_string();
        let mut backoff = CONFLICT_BACKOFF;
        let mut attempt = 1;
        loop {
            let put = client.put_object().bucket(bucket).key(self.key(path)).if_none_match("*");
            let put = put.metadata(WRITER, &writer).body(ByteStream::from(content.clone()));
            match put.send().await.map_err(Failure::from) {
                Ok(_) => return Ok(PutOutcome::Created),
                // Perhaps by this very call: its first request succeeded, the answer was lost, and the SDK repeated it.
                Err(failure) if failure.is_precondition() => {
                    let is_own = self.is_written_by(path, &writer).await?;
                    return Ok(if is_own { PutOutcome::Created } else { PutOutcome::Exists });
                }
                Err(failure) if failure.is_conflict() && attempt < CONFLICT_ATTEMPTS => {
                    tokio::time::sleep(backoff).await;
                    (attempt, backoff) = (attempt + 1, backoff * 2);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn get_object(&self, path: &ObjectPath, range: Option<&str>) -> Result<Object, Failure> {
        let Shared { client, bucket, .. } = &*self.shared;
        let mut attempt = 1;
        loop {
            let get = client.get_object().bucket(bucket).key(self.key(path));
            let output = get.set_range(range.map(str::to_owned)).send().await?;
            let GetObjectOutput { body, content_range, .. } = output;
            match body.collect().await {
                Ok(content) => return Ok(Object { content: content.into_bytes(), content_range }),
                Err(error) if attempt < READ_ATTEMPTS => {
                    tracing::warn!(%error, object = %self.address(path), "a read broke off and is tried again");
                    tokio::time::sleep(READ_BACKOFF * attempt).await;
                    attempt += 1;
                }
                Err(error) => {
                    let message = format!("the object's body broke off: {error}");
                    return Err(Failure { kind: StorageErrorKind::Transient, message, status: None, code: None });
                }
            }
        }
    }

    async fn length(&self, path: &ObjectPath) -> Result<u64, Failure> {
        let Shared { client, bucket, .. } = &*self.shared;
        let head = client.head_object().bucket(bucket).key(self.key(path)).send().await?;
        Ok(head.content_length().unwrap_or_default().max(0) as u64)
    }

    async fn list_page(
        &self,
        folder: &ObjectPath,
        start_after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, Failure> {
        let Shared { client, bucket, prefix, .. } = &*self.shared;
        let list = client.list_objects_v2().bucket(bucket).prefix(prefix.folder(folder));
        let limit = i32::try_from(limit.min(LIST_PAGE)).unwrap_or(i32::MAX);
        let page = list.set_start_after(start_after).max_keys(limit).send().await?;
        let objects = page
            .contents()
            .iter()
            .filter_map(|object| Some((object.key()?.to_owned(), object.size().unwrap_or_default().max(0) as u64)));
        Ok(objects.collect())
    }

    async fn abort_old_uploads(&self, folder: &ObjectPath, before: SystemTime) -> Result<u64, Failure> {
        let Shared { client, bucket, prefix, .. } = &*self.shared;
        let (mut key_marker, mut id_marker, mut aborted) = (None, None, 0);
        loop {
            let list = client.list_multipart_uploads().bucket(bucket).prefix(prefix.folder(folder));
            let page = list.set_key_marker(key_marker).set_upload_id_marker(id_marker).send().await?;
            for upload in page.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                if !began_before(upload.initiated(), before) || prefix.path(key).is_none() {
                    continue;
                }
                let abort = client.abort_multipart_upload().bucket(bucket).key(key).upload_id(id);
                match abort.send().await.map_err(Failure::from) {
                    Ok(_) => aborted += 1,
                    // Finished or aborted meanwhile.
                    Err(failure) if failure.kind == StorageErrorKind::NotFound => {}
                    Err(failure) => return Err(failure),
                }
            }
            if !page.is_truncated().unwrap_or(false) || page.next_key_marker().is_none() {
                return Ok(aborted);
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            id_marker = page.next_upload_id_marker().map(str::to_owned);
        }
    }
}

/// False where it isn't known: an upload under way is worse to lose than parts are to keep.
fn began_before(initiated: Option<&DateTime>, before: SystemTime) -> bool {
    initiated.and_then(|at| SystemTime::try_from(*at).ok()).is_some_and(|at| at <= before)
}

struct Object {
    content: Bytes,
    /// `bytes 3-6/10`; `None`: the whole object.
    content_range: Option<String>,
}

impl Object {
    /// The object's whole length.
    fn length(&self) -> Option<u64> {
        match &self.content_range {
            None => Some(self.content.len() as u64),
            Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        }
    }

    /// The part that was asked for; `None`: it isn't all there.
    fn part(self, offset: u64, length: u64) -> Option<Bytes> {
        if self.content_range.is_none() {
            // A store that doesn't know ranges sends everything.
            let (from, to) = (usize::try_from(offset).ok()?, usize::try_from(offset + length).ok()?);
            return (to <= self.content.len()).then(|| self.content.slice(from..to));
        }
        (self.content.len() as u64 == length).then_some(self.content)
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn uri(&self) -> &str {
        &self.shared.uri
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        let Shared { client, bucket, .. } = &*self.shared;
        let put = client.put_object().bucket(bucket).key(self.key(path)).body(ByteStream::from(content));
        put.send().await.map_err(|error| self.failed(Operation::Put, path, error.into()))?;
        Ok(())
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        let outcome = self.put_object_if_absent(path, &content).await;
        outcome.map_err(|failure| self.failed(Operation::PutIfAbsent, path, failure))
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(S3Upload::new(self.clone(), path.clone())))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        let object = self.get_object(path, None).await;
        Ok(object.map_err(|failure| self.failed(Operation::Get, path, failure))?.content)
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let failed = |failure| self.failed(Operation::GetRange, path, failure);
        let too_short = |actual| StorageError::too_short(self.address(path), offset, length, actual);
        let last = offset.checked_add(length).and_then(|end| end.checked_sub(1));
        let Some(last) = last.filter(|_| length > 0) else {
            // HTTP has no empty range, nor one beyond all numbers.
            let actual = self.length(path).await.map_err(failed)?;
            let fits = offset.checked_add(length).is_some_and(|end| end <= actual);
            return if fits { Ok(Bytes::new()) } else { Err(too_short(actual)) };
        };
        match self.get_object(path, Some(&format!("bytes={offset}-{last}"))).await {
            Ok(object) => {
                let actual = object.length();
                object.part(offset, length).ok_or_else(|| too_short(actual.unwrap_or_default()))
            }
            Err(failure) if failure.status == Some(416) || failure.has_code("InvalidRange") => {
                Err(too_short(self.length(path).await.map_err(failed)?))
            }
            Err(failure) => Err(failed(failure)),
        }
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        self.length(path).await.map_err(|failure| self.failed(Operation::Head, path, failure))
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        let limit = limit.max(1);
        let mut after = start_after.map(|path| self.key(path));
        let mut found = Vec::new();
        loop {
            let wanted = (limit - found.len()).min(LIST_PAGE);
            let page = self.list_page(folder, after, wanted).await;
            let page = page.map_err(|failure| self.failed(Operation::List, folder, failure))?;
            let is_last = page.len() < wanted;
            after = page.last().map(|(key, _)| key.clone());
            let named = page.into_iter().filter_map(|(key, length)| Some((self.shared.prefix.path(&key)?, length)));
            found.extend(named.map(|(path, length)| ObjectInfo { path, length }));
            if is_last || found.len() >= limit {
                return Ok(found);
            }
        }
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        let Shared { client, bucket, .. } = &*self.shared;
        match client.delete_object().bucket(bucket).key(self.key(path)).send().await.map_err(Failure::from) {
            Ok(_) => Ok(()),
            Err(failure) if failure.kind == StorageErrorKind::NotFound => Ok(()),
            Err(failure) => Err(self.failed(Operation::Delete, path, failure)),
        }
    }

    async fn sweep_unfinished(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, StorageError> {
        let before = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        match self.abort_old_uploads(folder, before).await {
            Ok(aborted) => Ok(aborted),
            // Some compatible stores have uploads and no list of them, and clean up by themselves.
            Err(failure) if failure.status == Some(501) => Ok(0),
            Err(failure) => Err(self.failed(Operation::Delete, folder, failure)),
        }
    }
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Storage").field("uri", &self.shared.uri).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_uploads_are_left_overs() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let at = |time: SystemTime| Some(DateTime::from(time));
        assert!(began_before(at(now - 2 * hour).as_ref(), now - hour));
        assert!(!began_before(at(now).as_ref(), now - hour));
        assert!(!began_before(None, now), "an unknown age is no age");
    }

    #[test]
    fn ranges_are_told_from_whole_objects() {
        let object = |content: &'static [u8], range: Option<&str>| Object {
            content: Bytes::from_static(content),
            content_range: range.map(str::to_owned),
        };
        assert_eq!(object(b"3456", Some("bytes 3-6/10")).length(), Some(10));
        assert_eq!(object(b"3456", Some("bytes 3-6/10")).part(3, 4).unwrap(), "3456");
        assert_eq!(object(b"89", Some("bytes 8-9/10")).part(8, 4), None);
        // A store that doesn't know ranges sends everything.
        assert_eq!(object(b"0123456789", None).part(3, 4).unwrap(), "3456");
        assert_eq!(object(b"0123456789", None).part(8, 4), None);
    }
}
