//! The objects of the checkpoints under way: one for each, into which all subtasks of this process write.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;
use weir_model::{CheckpointId, Fence};
use weir_snapshot::folder::worker_object_path;
use weir_snapshot::{JobFolder, ObjectRef, ObjectWriter, StorageError};
use weir_state::{SegmentRef, SegmentSink, StateError};

/// This process as a worker of its own job: local runs have one.
const WORKER: u32 = 0;

pub(crate) struct CheckpointObjects {
    folder: JobFolder,
    runtime: tokio::runtime::Handle,
    open: Mutex<BTreeMap<CheckpointId, OpenObject>>,
}

struct OpenObject {
    writer: ObjectWriter,
    upload: JoinHandle<Result<Option<ObjectRef>, StorageError>>,
}

impl CheckpointObjects {
    pub(crate) fn new(folder: JobFolder, runtime: tokio::runtime::Handle) -> Self {
        CheckpointObjects { folder, runtime, open: Mutex::default() }
    }

    /// Makes place for what the tasks will write for this checkpoint.
    pub(crate) fn begin(&self, checkpoint: CheckpointId, fence: Fence) {
        let path = worker_object_path(checkpoint, fence, WORKER);
        let (writer, upload) = ObjectWriter::new(self.folder.clone(), path);
        let upload = self.runtime.spawn(upload.run());
        self.lock().insert(checkpoint, OpenObject { writer, upload });
    }

    /// None: the checkpoint was given up.
    pub(crate) fn segments(&self, checkpoint: CheckpointId) -> Option<ObjectSegments> {
        self.lock().get(&checkpoint).map(|object| ObjectSegments(object.writer.clone()))
    }

    /// Completes the object; it is durable when this returns. None: nothing had to be written.
    pub(crate) fn finish(&self, checkpoint: CheckpointId) -> Result<Option<ObjectRef>, String> {
        let object = self.lock().remove(&checkpoint).ok_or("the checkpoint was given up")?;
        object.writer.finish().map_err(|error| error.to_string())?;
        let uploaded = self.runtime.block_on(object.upload).map_err(|error| error.to_string())?;
        uploaded.map_err(|error| error.to_string())
    }

    /// Drops what was written; the upload ends without an object.
    pub(crate) fn give_up(&self, checkpoint: CheckpointId) {
        self.lock().remove(&checkpoint);
    }

    pub(crate) fn give_up_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CheckpointId, OpenObject>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of a task's segments into the checkpoint's object.
pub(crate) struct ObjectSegments(ObjectWriter);

impl SegmentSink for ObjectSegments {
    fn append(&mut self, bytes: &[u8]) -> Result<SegmentRef, StateError> {
        let location = self.0.append(bytes).map_err(|error| StateError::Storage {
            action: "writing to the object of",
            object: "the checkpoint".to_owned(),
            source: std::io::Error::other(error.to_string()),
        })?;
        Ok(SegmentRef {
            object: location.object.as_str().to_owned(),
            offset: location.offset,
            length: location.length,
            crc32c: location.crc32c,
        })
    }
}
