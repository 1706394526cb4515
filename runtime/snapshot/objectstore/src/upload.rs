//! Objects in parts.

use crate::error::kind_of;
use crate::storage::{ObjectStorage, new_writer, written_by};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::{Error, MultipartUpload, PutMultipartOptions, PutPayload};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use weir_snapshot::storage::{Operation, Storage, UPLOAD_PART_BYTES, Upload};
use weir_snapshot::{ObjectPath, StorageError, StorageErrorKind};

/// Parts that are sent at once; with the one being filled the bound of an upload's memory.
const PARTS_IN_FLIGHT: usize = 4;
/// The most that GCS allows; Azure has 50,000.
const MAX_PARTS: usize = 10_000;
/// From here on parts are larger, so that an object may have 190 GiB.
const LARGE_FROM_PART: usize = 5_000;
const LARGE_PART_BYTES: usize = 32 << 20;

/// What fits into one part is put by one request; an upload in parts begins with the second.
pub(crate) struct PartsUpload {
    storage: ObjectStorage,
    path: ObjectPath,
    writer: String,
    buffer: Vec<u8>,
    /// Once there is one that has to be completed or aborted.
    parts: Option<Box<dyn MultipartUpload>>,
    sent: usize,
    in_flight: JoinSet<Result<(), Error>>,
}

impl PartsUpload {
    pub(crate) fn new(storage: ObjectStorage, path: ObjectPath) -> Self {
        let (writer, in_flight) = (new_writer(), JoinSet::new());
        PartsUpload { storage, path, writer, buffer: vec![], parts: None, sent: 0, in_flight }
    }

    fn part_bytes(&self) -> usize {
        if self.sent < LARGE_FROM_PART { UPLOAD_PART_BYTES } else { LARGE_PART_BYTES }
    }

    async fn send(&mut self, part: Bytes) -> Result<(), StorageError> {
        if self.sent == MAX_PARTS {
            let message = format!("the object has more than {MAX_PARTS} parts: spread the state over more workers");
            let object = self.storage.address(&self.path);
            return Err(StorageError::new(Operation::Upload, object, StorageErrorKind::Permanent, message));
        }
        if self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.await_one().await?;
        }
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => {
                let options = PutMultipartOptions { attributes: written_by(&self.writer), ..Default::default() };
                let begin =
                    async { self.storage.store.put_multipart_opts(&self.storage.key(&self.path)?, options).await };
                let begun = begin.await.map_err(|error| self.storage.failed(Operation::Upload, &self.path, error))?;
                none.insert(begun)
            }
        };
        self.in_flight.spawn(parts.put_part(PutPayload::from_bytes(part)));
        self.sent += 1;
        Ok(())
    }

    async fn await_one(&mut self) -> Result<(), StorageError> {
        match self.in_flight.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(self.storage.failed(Operation::Upload, &self.path, error)),
            Some(Err(ended)) => {
                let object = self.storage.address(&self.path);
                Err(StorageError::new(Operation::Upload, object, StorageErrorKind::Transient, ended))
            }
        }
    }

    async fn complete(&mut self) -> Result<(), StorageError> {
        let last = Bytes::from(std::mem::take(&mut self.buffer));
        if self.parts.is_none() {
            return self.storage.put(&self.path, last).await;
        }
        if !last.is_empty() {
            self.send(last).await?;
        }
        while !self.in_flight.is_empty() {
            self.await_one().await?;
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let (storage, path) = (&self.storage, &self.path);
        let failed = |error| storage.failed(Operation::Upload, path, error);
        match parts.complete().await {
            Ok(_) => {}
            // It was completed before, and the answer was lost: then the object is there, and is this one.
            Err(error) if kind_of(&error) == StorageErrorKind::NotFound => {
                let key = storage.key(path).map_err(failed)?;
                if !storage.is_written_by(&key, &self.writer).await.map_err(failed)? {
                    return Err(failed(error));
                }
            }
            Err(error) => return Err(failed(error)),
        }
        self.parts = None;
        Ok(())
    }
}

#[async_trait]
impl Upload for PartsUpload {
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError> {
        if self.buffer.is_empty() && part.len() == self.part_bytes() {
            // As its callers are asked to: no copy.
            return self.send(part).await;
        }
        let mut rest = part;
        while !rest.is_empty() {
            let taken = rest.split_to(rest.len().min(self.part_bytes() - self.buffer.len()));
            self.buffer.extend_from_slice(&taken);
            if self.buffer.len() == self.part_bytes() {
                let full = Bytes::from(std::mem::take(&mut self.buffer));
                self.send(full).await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        self.complete().await
    }
}

impl Drop for PartsUpload {
    /// Parts without an object cost money and are in no listing.
    fn drop(&mut self) {
        let (Some(mut parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) else { return };
        let mut in_flight = std::mem::take(&mut self.in_flight);
        let object = self.storage.address(&self.path);
        runtime.spawn(async move {
            in_flight.shutdown().await;
            if let Err(error) = parts.abort().await {
                tracing::warn!(%error, object, "an upload that was given up could not be aborted");
            }
        });
    }
}
