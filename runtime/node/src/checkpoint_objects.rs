//! The objects of the checkpoints under way: one for each, into which all subtasks of this worker write.

use crate::local_copies::LocalCopies;
use crate::metrics::CheckpointFigures;
use crate::task::TaskSnapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;
use weir_model::{CheckpointId, Fence, SubtaskId, WorkerId};
use weir_snapshot::folder::worker_object_path;
use weir_snapshot::{JobFolder, ObjectRef, ObjectWriter, StorageError};
use weir_state::{SegmentRef, SegmentSink, StateError};

/// Given-up checkpoints remembered one by one, so that what a task still writes for them goes nowhere.
const GIVEN_UP_LIMIT: usize = 256;

pub(crate) type TaskSnapshots = Vec<(SubtaskId, TaskSnapshot)>;
pub(crate) type TaskFigures = Vec<(SubtaskId, CheckpointFigures)>;

/// Of one attempt on one worker.
pub(crate) struct CheckpointObjects {
    folder: JobFolder,
    runtime: tokio::runtime::Handle,
    worker: WorkerId,
    /// Each of them has a part in every checkpoint.
    tasks: usize,
    copies: Option<Arc<LocalCopies>>,
    state: Mutex<State>,
}

struct State {
    /// In the names of objects that begin from here on.
    fence: Fence,
    open: BTreeMap<CheckpointId, OpenObject>,
    given_up: BTreeSet<CheckpointId>,
    is_closed: bool,
}

struct OpenObject {
    writer: ObjectWriter,
    upload: JoinHandle<Result<Option<ObjectRef>, StorageError>>,
    snapshots: TaskSnapshots,
    figures: TaskFigures,
}

/// What all tasks of the worker keep for a checkpoint; the object is yet to be completed.
pub(crate) struct Acknowledged {
    object: OpenObject,
}

impl CheckpointObjects {
    pub(crate) fn new(
        folder: JobFolder,
        runtime: tokio::runtime::Handle,
        fence: Fence,
        worker: WorkerId,
        tasks: usize,
        copies: Option<Arc<LocalCopies>>,
    ) -> Self {
        let state = State { fence, open: BTreeMap::new(), given_up: BTreeSet::new(), is_closed: false };
        CheckpointObjects { folder, runtime, worker, tasks, copies, state: Mutex::new(state) }
    }

    /// Another coordinator goes on with the attempt.
    pub(crate) fn adopt(&self, fence: Fence) {
        self.lock().fence = fence;
    }

    /// None: the checkpoint was given up.
    pub(crate) fn segments(&self, checkpoint: CheckpointId) -> Option<ObjectSegments> {
        let mut state = self.lock();
        let writer = self.object(&mut state, checkpoint)?.writer.clone();
        Some(ObjectSegments { writer, copies: self.copies.clone(), written_bytes: 0 })
    }

    /// Notes a task's part. `Some` with the last one.
    pub(crate) fn acknowledge(
        &self,
        checkpoint: CheckpointId,
        task: SubtaskId,
        snapshot: TaskSnapshot,
        figures: CheckpointFigures,
    ) -> Option<Acknowledged> {
        let mut state = self.lock();
        let object = self.object(&mut state, checkpoint)?;
        object.figures.push((task.clone(), figures));
        object.snapshots.push((task, snapshot));
        if object.snapshots.len() < self.tasks {
            return None;
        }
        let object = state.open.remove(&checkpoint)?;
        drop(state);
        if let Some(copies) = &self.copies {
            let nodes = object.snapshots.iter().flat_map(|(_, snapshot)| snapshot);
            copies.acknowledged(checkpoint, nodes.filter_map(|node| node.keyed.as_ref()));
        }
        Some(Acknowledged { object })
    }

    /// Completes the object; it is durable when this returns. Without an object if nothing had to be written.
    pub(crate) fn finish(
        &self,
        acknowledged: Acknowledged,
    ) -> Result<(Option<ObjectRef>, TaskSnapshots, TaskFigures), String> {
        let OpenObject { writer, upload, snapshots, figures } = acknowledged.object;
        writer.finish().map_err(|error| error.to_string())?;
        let uploaded = self.runtime.block_on(upload).map_err(|error| error.to_string())?;
        Ok((uploaded.map_err(|error| error.to_string())?, snapshots, figures))
    }

    /// Drops what was written; the upload ends without an object.
    pub(crate) fn give_up(&self, checkpoint: CheckpointId) {
        let mut state = self.lock();
        state.open.remove(&checkpoint);
        state.given_up.insert(checkpoint);
        if state.given_up.len() > GIVEN_UP_LIMIT {
            state.given_up.pop_first();
        }
    }

    /// The attempt ends: nothing of it is kept any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.open.clear();
    }

    /// Begins an object with the first that asks for it: a barrier may come from another worker before the
    /// coordinator's word of it.
    fn object<'a>(&self, state: &'a mut State, checkpoint: CheckpointId) -> Option<&'a mut OpenObject> {
        if state.is_closed || state.given_up.contains(&checkpoint) {
            return None;
        }
        let fence = state.fence;
        Some(state.open.entry(checkpoint).or_insert_with(|| {
            let path = worker_object_path(checkpoint, fence, self.worker.0);
            let (writer, upload) = ObjectWriter::new(self.folder.clone(), path);
            OpenObject { writer, upload: self.runtime.spawn(upload.run()), snapshots: vec![], figures: vec![] }
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of a task's segments into the checkpoint's object.
pub(crate) struct ObjectSegments {
    writer: ObjectWriter,
    copies: Option<Arc<LocalCopies>>,
    written_bytes: u64,
}

impl ObjectSegments {
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }
}

impl SegmentSink for ObjectSegments {
    fn append(&mut self, bytes: &[u8]) -> Result<SegmentRef, StateError> {
        self.written_bytes += bytes.len() as u64;
        let location = self.writer.append(bytes).map_err(|error| StateError::Storage {
            action: "writing to the object of",
            object: "the checkpoint".to_owned(),
            source: std::io::Error::other(error.to_string()),
        })?;
        let segment = SegmentRef {
            object: location.object.as_str().to_owned(),
            offset: location.offset,
            length: location.length,
            crc32c: location.crc32c,
        };
        if let Some(copies) = &self.copies {
            copies.put(&segment, bytes);
        }
        Ok(segment)
    }
}
