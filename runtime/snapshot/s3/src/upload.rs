//! Objects in parts.

use crate::error::Failure;
use crate::storage::{S3Storage, Shared, WRITER};
use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use uuid::Uuid;
use weir_snapshot::storage::{Operation, Storage, UPLOAD_PART_BYTES, Upload};
use weir_snapshot::{ObjectPath, StorageError, StorageErrorKind};

/// Parts that are sent at once; with the one being filled the bound of an upload's memory.
const PARTS_IN_FLIGHT: usize = 4;
/// The most that S3 allows.
const MAX_PARTS: i32 = 10_000;
/// From here on parts are larger, so that an object may have 190 GiB.
const LARGE_FROM_PART: i32 = 5_000;
const LARGE_PART_BYTES: usize = 32 << 20;

/// What fits into one part is put by one request; a multipart upload begins with the second.
pub(crate) struct S3Upload {
    storage: S3Storage,
    path: ObjectPath,
    writer: String,
    buffer: Vec<u8>,
    /// Of the multipart upload, once there is one that has to be completed or aborted.
    id: Option<String>,
    next_part: i32,
    in_flight: JoinSet<Result<CompletedPart, Failure>>,
    completed: Vec<CompletedPart>,
}

impl S3Upload {
    pub(crate) fn new(storage: S3Storage, path: ObjectPath) -> Self {
        S3Upload {
            storage,
            path,
            writer: Uuid::new_v4().simple().to_string(),
            buffer: vec![],
            id: None,
            next_part: 1,
            in_flight: JoinSet::new(),
            completed: vec![],
        }
    }

    fn part_bytes(&self) -> usize {
        if self.next_part < LARGE_FROM_PART { UPLOAD_PART_BYTES } else { LARGE_PART_BYTES }
    }

    async fn begun(&mut self) -> Result<String, Failure> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let Shared { client, bucket, .. } = &*self.storage.shared;
        let create = client.create_multipart_upload().bucket(bucket).key(self.storage.key(&self.path));
        let created = create.metadata(WRITER, &self.writer).send().await?;
        let id = created.upload_id().ok_or_else(|| transient("the store began an upload and gave it no id"))?;
        self.id = Some(id.to_owned());
        Ok(id.to_owned())
    }

    async fn send(&mut self, part: Bytes) -> Result<(), Failure> {
        let id = self.begun().await?;
        if self.next_part > MAX_PARTS {
            let message = format!("the object has more than {MAX_PARTS} parts: spread the state over more workers");
            return Err(Failure { kind: StorageErrorKind::Permanent, message, status: None, code: None });
        }
        if self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.await_one().await?;
        }
        let (storage, key, number) = (self.storage.clone(), self.storage.key(&self.path), self.next_part);
        self.next_part += 1;
        self.in_flight.spawn(async move {
            let Shared { client, bucket, .. } = &*storage.shared;
            let upload = client.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number);
            let sent = upload.body(ByteStream::from(part)).send().await?;
            let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned));
            // The checksums are repeated at the end, where the store was sent any.
            let part = part.set_checksum_crc32(sent.checksum_crc32().map(str::to_owned));
            Ok(part.set_checksum_crc64_nvme(sent.checksum_crc64_nvme().map(str::to_owned)).build())
        });
        Ok(())
    }

    async fn await_one(&mut self) -> Result<(), Failure> {
        if let Some(joined) = self.in_flight.join_next().await {
            let part = joined.map_err(|error| transient(&format!("a part's task ended: {error}")))?;
            self.completed.push(part?);
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), Failure> {
        if self.id.is_none() {
            let content = Bytes::from(std::mem::take(&mut self.buffer));
            let Shared { client, bucket, .. } = &*self.storage.shared;
            let put = client.put_object().bucket(bucket).key(self.storage.key(&self.path));
            put.body(ByteStream::from(content)).send().await?;
            return Ok(());
        }
        if !self.buffer.is_empty() {
            let last = Bytes::from(std::mem::take(&mut self.buffer));
            self.send(last).await?;
        }
        while !self.in_flight.is_empty() {
            self.await_one().await?;
        }
        let mut parts = std::mem::take(&mut self.completed);
        parts.sort_by_key(|part| part.part_number());
        let id = self.begun().await?;
        let Shared { client, bucket, .. } = &*self.storage.shared;
        let complete = client.complete_multipart_upload().bucket(bucket).key(self.storage.key(&self.path));
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        match complete.upload_id(id).multipart_upload(parts).send().await.map_err(Failure::from) {
            Ok(_) => {}
            // It was completed before, and the answer was lost: then the object is there, and is this one.
            Err(failure) if failure.kind == StorageErrorKind::NotFound => {
                if !self.storage.is_written_by(&self.path, &self.writer).await? {
                    return Err(transient(&format!(
                        "the upload is gone and the object isn't there: {}",
                        failure.message
                    )));
                }
            }
            Err(failure) => return Err(failure),
        }
        self.id = None;
        Ok(())
    }

    fn failed(&self, failure: Failure) -> StorageError {
        StorageError::new(Operation::Upload, self.storage.address(&self.path), failure.kind, failure.message)
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError> {
        let part_bytes = self.part_bytes();
        if self.buffer.is_empty() && part.len() == part_bytes {
            // As its callers are asked to: no copy.
            return self.send(part).await.map_err(|failure| self.failed(failure));
        }
        let mut rest = part;
        while !rest.is_empty() {
            let taken = rest.split_to(rest.len().min(self.part_bytes() - self.buffer.len()));
            self.buffer.extend_from_slice(&taken);
            if self.buffer.len() == self.part_bytes() {
                let full = Bytes::from(std::mem::take(&mut self.buffer));
                self.send(full).await.map_err(|failure| self.failed(failure))?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        self.complete().await.map_err(|failure| self.failed(failure))
    }
}

impl Drop for S3Upload {
    /// Parts without an object cost money and are in no listing. What a crash leaves is swept later.
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), Handle::try_current()) else { return };
        let (storage, path) = (self.storage.clone(), self.path.clone());
        let mut in_flight = std::mem::take(&mut self.in_flight);
        runtime.spawn(async move {
            // A part that is under way could arrive after the abort, and stay.
            in_flight.shutdown().await;
            let Shared { client, bucket, .. } = &*storage.shared;
            let abort = client.abort_multipart_upload().bucket(bucket).key(storage.key(&path)).upload_id(id);
            if let Err(error) = abort.send().await {
                let error = Failure::from(error).message;
                tracing::warn!(error, object = %storage.address(&path), "an upload that was given up could not be aborted");
            }
        });
    }
}

fn transient(message: &str) -> Failure {
    Failure { kind: StorageErrorKind::Transient, message: message.to_owned(), status: None, code: None }
}
