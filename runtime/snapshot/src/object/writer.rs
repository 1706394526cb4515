//! Merging the segments of a worker's subtasks into one object.

use super::SegmentError;
use crate::folder::JobFolder;
use crate::manifest::{ObjectRef, SegmentLocation};
use crate::storage::{ObjectPath, StorageError, StorageErrorKind, UPLOAD_PART_BYTES, Upload};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Parts that wait for the storage; with the one being filled and the one being sent, the bound of a checkpoint's memory.
const PARTS_IN_FLIGHT: usize = 4;

/// Where the subtasks of a worker append their segments, each from its own (background) thread.
///
/// Clones write into the same object. An object of less than `UPLOAD_PART_BYTES` costs one PUT.
#[derive(Clone)]
pub struct ObjectWriter {
    shared: Arc<Mutex<Shared>>,
    path: ObjectPath,
}

struct Shared {
    part: Vec<u8>,
    length: u64,
    crc32c: u32,
    /// `None`: finished.
    parts: Option<mpsc::Sender<Part>>,
}

enum Part {
    Full(Bytes),
    /// The last one, and what the whole object is.
    Last(Bytes, ObjectRef),
}

/// The other end: sends to the storage what the writer is given.
#[must_use = "nothing is written unless the upload runs"]
pub struct ObjectUpload {
    folder: JobFolder,
    path: ObjectPath,
    parts: mpsc::Receiver<Part>,
}

impl ObjectWriter {
    /// `path` is in the job's folder (`folder::worker_object_path`).
    pub fn new(folder: JobFolder, path: ObjectPath) -> (ObjectWriter, ObjectUpload) {
        let (sender, parts) = mpsc::channel(PARTS_IN_FLIGHT);
        let shared = Shared { part: vec![], length: 0, crc32c: 0, parts: Some(sender) };
        let writer = ObjectWriter { shared: Arc::new(Mutex::new(shared)), path: path.clone() };
        (writer, ObjectUpload { folder, path, parts })
    }

    /// Appends a segment. Waits while the storage is slower than its writers.
    ///
    /// # Panics
    /// In an async context, as it may wait.
    pub fn append(&self, bytes: &[u8]) -> Result<SegmentLocation, SegmentError> {
        // Outside of the lock, as it is the work; the object's checksum is put together from the segments'.
        let crc32c = crc32c::crc32c(bytes);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = || SegmentError::UploadEnded(self.path.clone());
        let parts = shared.parts.clone().ok_or_else(ended)?;
        let offset = shared.length;
        let mut rest = bytes;
        while shared.part.len() + rest.len() >= UPLOAD_PART_BYTES {
            let (fits, more) = rest.split_at(UPLOAD_PART_BYTES - shared.part.len());
            shared.part.extend_from_slice(fits);
            rest = more;
            let full = std::mem::take(&mut shared.part);
            parts.blocking_send(Part::Full(full.into())).map_err(|_| ended())?;
        }
        shared.part.extend_from_slice(rest);
        shared.crc32c = crc32c::crc32c_combine(shared.crc32c, crc32c, bytes.len());
        shared.length += bytes.len() as u64;
        Ok(SegmentLocation { object: self.path.clone(), offset, length: bytes.len() as u64, crc32c })
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).length
    }

    /// No segment follows: the upload completes. Dropping all writers without it gives the object up.
    ///
    /// # Panics
    /// In an async context, as it may wait.
    pub fn finish(&self) -> Result<(), SegmentError> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = || SegmentError::UploadEnded(self.path.clone());
        let parts = shared.parts.take().ok_or_else(ended)?;
        let object = ObjectRef { path: self.path.clone(), length: shared.length, crc32c: shared.crc32c };
        let last = std::mem::take(&mut shared.part);
        parts.blocking_send(Part::Last(last.into(), object)).map_err(|_| ended())
    }
}

impl ObjectUpload {
    /// Runs until the writer is finished; then the object is durable. `None`: it would have been empty, or it was
    /// given up, and nothing was written.
    pub async fn run(mut self) -> Result<Option<ObjectRef>, StorageError> {
        let path = self.folder.path(&self.path);
        let storage = self.folder.storage().clone();
        let mut upload: Option<Box<dyn Upload>> = None;
        while let Some(part) = self.parts.recv().await {
            match (part, upload.as_mut()) {
                (Part::Full(part), Some(upload)) => upload.write(part).await?,
                (Part::Full(part), None) => upload.insert(storage.upload(&path).await?).write(part).await?,
                (Part::Last(_, object), None) if object.length == 0 => return Ok(None),
                (Part::Last(part, object), None) => {
                    storage.put(&path, part).await?;
                    return Ok(Some(object));
                }
                (Part::Last(part, object), Some(begun)) => {
                    if !part.is_empty() {
                        begun.write(part).await?;
                    }
                    let begun = upload.take().ok_or_else(|| self.lost())?;
                    begun.finish().await?;
                    return Ok(Some(object));
                }
            }
        }
        Ok(None)
    }

    fn lost(&self) -> StorageError {
        let object = self.folder.describe(&self.path);
        StorageError::new(crate::storage::Operation::Upload, object, StorageErrorKind::Permanent, "it was not begun")
    }
}
