//! The keyed states of a checkpoint into the tables of a savepoint, on several threads.

use crate::restore::FolderSegments;
use arrow::array::{ArrayRef, RecordBatch};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use weir_model::{KeyGroupRange, OperatorUid, StateSchema};
use weir_snapshot::CheckpointManifest;
use weir_snapshot::savepoint::{SavepointError, SavepointWriter, StateWriter, state_columns};
use weir_state::{ColdStore, KeyedStateHandle, StateError, export, export_stored};
use weir_state_rocksdb::open_files;

/// Each holds a file and what is read for it in memory.
const MAX_THREADS: usize = 4;
/// Bytes of a checkpoint that one thread takes at once, about.
const PART_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Savepoint(#[from] SavepointError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("its keyed state is not described as this version of Weir does: {0}")]
    Handle(#[from] serde_json::Error),
}

#[derive(Clone, Copy)]
pub(super) struct StatesWriter<'a> {
    pub(super) savepoint: &'a SavepointWriter,
    pub(super) segments: &'a FolderSegments,
    /// Where the files of a checkpoint may be put meanwhile.
    pub(super) local: Option<&'a Path>,
    pub(super) runtime: &'a Handle,
}

/// The keyed state of one subtask.
struct Subtask<'a> {
    uid: &'a OperatorUid,
    index: u32,
    handle: KeyedStateHandle,
    files: Mutex<Files>,
}

/// The files of a subtask that has spilled: opened with the first of its parts, and gone with the last.
#[derive(Default)]
struct Files {
    store: Option<Arc<dyn ColdStore>>,
    parts_left: usize,
}

/// What one thread writes at once.
struct Part<'a> {
    subtask: &'a Subtask<'a>,
    key_groups: KeyGroupRange,
}

impl StatesWriter<'_> {
    pub(super) fn write(self, checkpoint: &CheckpointManifest) -> Result<(), String> {
        let mut subtasks = vec![];
        for operator in &checkpoint.operators {
            let uid = &operator.uid;
            for (subtask, keyed) in operator.subtasks.iter().filter_map(|it| Some((it, it.keyed.as_ref()?))) {
                let index = subtask.index;
                let handle = serde_json::from_value(keyed.clone());
                let handle = handle.map_err(|error| describe(uid, index, &WriteError::Handle(error)))?;
                subtasks.push(Subtask { uid, index, handle, files: Mutex::default() });
            }
        }
        let mut parts = vec![];
        for subtask in &subtasks {
            let of_subtask = subtask.handle.parts(PART_BYTES).map(|key_groups| Part { subtask, key_groups });
            let before = parts.len();
            parts.extend(of_subtask);
            subtask.files.lock().unwrap_or_else(PoisonError::into_inner).parts_left = parts.len() - before;
        }
        let next = AtomicUsize::new(0);
        let write_some = || {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.write_part(part).map_err(|error| {
                    // The others needn't go on either.
                    next.store(parts.len(), Ordering::Relaxed);
                    describe(part.subtask.uid, part.subtask.index, &error)
                })?;
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        std::thread::scope(|scope| {
            let others = 1..threads.min(MAX_THREADS).min(parts.len());
            let others: Vec<_> = others.map(|_| scope.spawn(write_some)).collect();
            let mine = write_some();
            others.into_iter().map(|other| other.join().expect("writing doesn't panic")).fold(mine, Result::and)
        })
    }

    fn write_part(&self, part: &Part<'_>) -> Result<(), WriteError> {
        let Part { subtask: Subtask { uid, handle, .. }, key_groups } = part;
        let writer = |schema: &StateSchema| Ok((schema.name.clone(), self.savepoint.state(uid, schema)?));
        let schemas = handle.states.iter().map(|state| &state.schema);
        let mut writers: HashMap<String, StateWriter> = schemas.map(writer).collect::<Result<_, SavepointError>>()?;
        let visit = |schema: &StateSchema, columns: Vec<ArrayRef>| {
            let batch = RecordBatch::try_new(state_columns(schema), columns)?;
            let writer = writers.get_mut(&schema.name).expect("only states of the handle are exported");
            Ok::<_, WriteError>(self.runtime.block_on(writer.write(&batch))?)
        };
        match handle.cold {
            None => export(handle, *key_groups, self.segments, visit)?,
            Some(_) => export_stored(handle, *key_groups, &*self.files_of(part.subtask)?, visit)?,
        }
        part.subtask.written();
        writers.into_values().try_for_each(|writer| Ok(self.runtime.block_on(writer.finish())?))
    }

    fn files_of(&self, subtask: &Subtask<'_>) -> Result<Arc<dyn ColdStore>, WriteError> {
        // Who comes second waits for the files, too.
        let mut files = subtask.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &files.store {
            return Ok(store.clone());
        }
        let handle = &subtask.handle;
        let store = open_files(self.local, std::slice::from_ref(handle), handle.key_groups, self.segments)?;
        Ok(files.store.insert(Arc::new(store)).clone())
    }
}

impl Subtask<'_> {
    fn written(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.parts_left -= 1;
        if files.parts_left == 0 {
            files.store = None;
        }
    }
}

fn describe(uid: &OperatorUid, index: u32, error: &WriteError) -> String {
    format!("{uid}, subtask {index}: {error}")
}
