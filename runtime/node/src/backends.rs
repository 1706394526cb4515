//! Where keyed state lives, as the spec says.

use crate::attempt::StateBackends;
use crate::job::Job;
use crate::start::StartError;
use weir_crds::streamjob::StateBackendKind;
use weir_model::{Fence, KeyGroupRange, OperatorUid};
use weir_state::StateConfig;

/// The answer to a job that asks for RocksDB.
const ROCKSDB: &str = "this version keeps keyed state on the heap only: set `stateBackend: {heap: {}}`, or pass \
                       `--backend heap`";

pub(crate) enum Backends {
    Heap,
}

impl Backends {
    pub(crate) fn of(job: &Job) -> Result<Self, StartError> {
        match job.resource.spec.state_backend() {
            StateBackendKind::Heap => Ok(Backends::Heap),
            StateBackendKind::RocksDb(_) => Err(StartError::Refused(ROCKSDB.to_owned())),
        }
    }
}

impl StateBackends for Backends {
    fn config(
        &self,
        _uid: &OperatorUid,
        _subtask: u32,
        _fence: Fence,
        key_groups: KeyGroupRange,
        max_parallelism: u32,
    ) -> Result<StateConfig, String> {
        match self {
            Backends::Heap => Ok(StateConfig { key_groups, max_parallelism }),
        }
    }
}
