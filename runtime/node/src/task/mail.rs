//! What the coordinator's side tells a task, beside the elements in its channels.

use crate::ended_splits::EndedSplits;
use std::sync::Arc;
use weir_model::{Barrier, CheckpointId, CommitPermit};

#[derive(Clone, Debug)]
pub(crate) enum Mail {
    /// To sources: send this barrier, ahead of all rows if it is unaligned. `hold`: and no record after it until
    /// `Resume`.
    Trigger {
        barrier: Barrier,
        is_unaligned: bool,
        hold: bool,
    },
    /// The checkpoint's barriers overtake from here on.
    TurnUnaligned(CheckpointId),
    Resume,
    /// The attempt at this checkpoint was given up.
    CancelCheckpoint(CheckpointId),
    /// The checkpoint stands in the commit log.
    Commit {
        permit: CommitPermit,
        ended: Arc<EndedSplits>,
    },
    /// All is done and committed: end.
    Finish,
}

impl Mail {
    /// The task must not wait for room in its outputs before it reads this.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self, Mail::Trigger { is_unaligned: true, .. } | Mail::TurnUnaligned(_))
    }
}
