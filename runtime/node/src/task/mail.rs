//! What the coordinator's side tells a task, beside the elements in its channels.

use weir_model::{Barrier, CheckpointId, CommitPermit};

#[derive(Clone, Debug)]
pub(crate) enum Mail {
    /// To sources: send this barrier. `hold`: and no record after it until `Resume`.
    Trigger {
        barrier: Barrier,
        hold: bool,
    },
    Resume,
    /// The attempt at this checkpoint was given up.
    CancelCheckpoint(CheckpointId),
    /// The checkpoint stands in the commit log.
    Commit(CommitPermit),
    /// All is done and committed: end.
    Finish,
}
