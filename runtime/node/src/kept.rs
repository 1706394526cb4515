//! What the tasks of an attempt leave in memory for those of the next one on this worker: state to which nothing was
//! written since its cut for the checkpoint that the next attempt starts from. It need not be read again, whichever
//! subtasks own its key groups now. Sound whatever ended the attempt: what was touched after its last cut, or cut for
//! another checkpoint, is not kept.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use weir_model::{CheckpointId, Fence, OperatorUid};
use weir_snapshot::CheckpointManifest;
use weir_state::{KeptState, KeyedState};

/// Where the tasks of one attempt leave their state as they end.
pub(crate) struct Handover {
    fence: Fence,
    left: Mutex<Vec<Left>>,
}

struct Left {
    operator: OperatorUid,
    checkpoint: CheckpointId,
    state: KeyedState,
}

/// By operator: what former subtasks held on this worker.
#[derive(Default)]
pub(crate) struct KeptStates(RefCell<BTreeMap<OperatorUid, Vec<KeptState>>>);

impl Handover {
    pub(crate) fn new(fence: Fence) -> Self {
        Handover { fence, left: Mutex::default() }
    }

    /// `checkpoint`: of the last cut, since which nothing was written to the state.
    pub(crate) fn leave(&self, operator: OperatorUid, checkpoint: CheckpointId, state: KeyedState) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.push(Left { operator, checkpoint, state });
    }

    /// What is as this checkpoint holds it. The rest is let go.
    pub(crate) fn take(&self, manifest: &CheckpointManifest) -> KeptStates {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let mut kept: BTreeMap<OperatorUid, Vec<KeptState>> = BTreeMap::new();
        if self.fence == manifest.fence() {
            for Left { operator, checkpoint: _, state } in
                left.into_iter().filter(|left| left.checkpoint == manifest.checkpoint)
            {
                kept.entry(operator).or_default().extend(state.keep(manifest.checkpoint));
            }
        }
        KeptStates(RefCell::new(kept))
    }
}

impl KeptStates {
    pub(crate) fn of(&self, operator: &OperatorUid) -> RefMut<'_, Vec<KeptState>> {
        RefMut::map(self.0.borrow_mut(), |kept| kept.entry(operator.clone()).or_default())
    }
}
