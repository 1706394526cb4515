//! Where keyed state lives, as the spec says.

use crate::job::Job;
use crate::start::StartError;
use std::path::PathBuf;
use std::sync::Arc;
use weir_crds::quantity::ByteSize;
use weir_crds::streamjob::{RocksDbOptions, RocksDbProfile, StateBackendKind};
use weir_state::{KeptState, KeyedState, KeyedStateHandle, SegmentSource, StateConfig, StateError};
use weir_state_rocksdb::{RocksDb, Settings, open_files};

/// Threads that write cuts: encoding takes a processor each.
const HEAP_SNAPSHOT_THREADS: usize = 2;
/// RocksDB waits for the disk most of the time, each store by itself.
const ROCKSDB_SNAPSHOT_THREADS: usize = 8;

pub(crate) enum Backends {
    Heap,
    RocksDb(Arc<RocksDb>),
}

impl Backends {
    pub(crate) fn of(job: &Job) -> Result<Self, StartError> {
        match job.resource.spec.state_backend() {
            StateBackendKind::Heap => Ok(Backends::Heap),
            StateBackendKind::RocksDb(options) => {
                let shared = RocksDb::new(&settings(&options)).map_err(|error| {
                    let remedy = "`stateBackend.rocksdb.path` names another folder";
                    StartError::Refused(format!("the RocksDB state backend cannot start: {error}; {remedy}"))
                })?;
                Ok(Backends::RocksDb(shared))
            }
        }
    }

    /// The state of one subtask, from what either backend kept in a checkpoint, and former subtasks in memory. `name` tells its local files from others', for people.
    pub(crate) fn open(
        &self,
        name: &str,
        config: StateConfig,
        handles: &[KeyedStateHandle],
        kept: &mut [KeptState],
        segments: &dyn SegmentSource,
    ) -> Result<KeyedState, StateError> {
        let mut kept: Vec<&mut KeptState> = kept.iter_mut().collect();
        match self {
            Backends::RocksDb(shared) => shared.open(name, config, &mut kept, handles, segments),
            Backends::Heap if handles.iter().all(|handle| handle.cold.is_none()) => {
                KeyedState::open_with_kept(config, &mut kept, handles, segments)
            }
            Backends::Heap => {
                let files = open_files(None, handles, config.key_groups, segments)?;
                KeyedState::open_stored(config, &files, handles, segments)
            }
        }
    }

    pub(crate) fn snapshot_threads(&self) -> usize {
        match self {
            Backends::Heap => HEAP_SNAPSHOT_THREADS,
            Backends::RocksDb(_) => ROCKSDB_SNAPSHOT_THREADS,
        }
    }

    pub(crate) fn rocksdb(&self) -> Option<Arc<RocksDb>> {
        match self {
            Backends::Heap => None,
            Backends::RocksDb(shared) => Some(shared.clone()),
        }
    }
}

/// Where the files of a checkpoint may be put for as long as they are read.
pub(crate) fn local_folder(job: &Job) -> Option<PathBuf> {
    match job.resource.spec.state_backend() {
        StateBackendKind::Heap => None,
        StateBackendKind::RocksDb(options) => options.path.map(PathBuf::from),
    }
}

fn settings(options: &RocksDbOptions) -> Settings {
    let bytes = |size: ByteSize| usize::try_from(size.bytes()).unwrap_or(usize::MAX);
    let memory = bytes(options.memory());
    let profile = match options.profile() {
        RocksDbProfile::Default => Settings::new(memory),
        RocksDbProfile::SpinningDisk => Settings::spinning_disk(memory),
        RocksDbProfile::FlashSsd => Settings::flash_ssd(memory),
    };
    Settings {
        write_buffer_ratio: options.write_buffer_ratio(),
        indexes_and_filters_first: options.high_priority_pool_ratio() > 0.0,
        folder: options.path.as_ref().map(PathBuf::from),
        block_bytes: options.block_size.map_or(profile.block_bytes, bytes),
        write_buffer_bytes: options.write_buffer_size.map_or(profile.write_buffer_bytes, bytes),
        write_buffer_count: options.write_buffer_count.unwrap_or(profile.write_buffer_count),
        background_threads: options.background_threads.unwrap_or(profile.background_threads),
        ..profile
    }
}
