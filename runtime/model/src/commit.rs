//! Proofs that order what must be ordered: durable first, then commit.

use crate::ids::{CheckpointId, Fence};

/// A value that stands in the job's commit log (or on storage, fsync'd), made by the storage layer alone.
///
/// Commands that may only follow durability take a `Durable<_>`, so that calling them too early does not
/// compile. `attest` is the storage layer's: the lint configuration of every other crate disallows it.
#[derive(Clone, Debug)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// To be called only right after the append or put of `value` has succeeded.
    pub fn attest(value: T) -> Self {
        Durable(value)
    }

    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Leave for a sink to commit what belongs to one checkpoint.
///
/// Comes from a `Durable` checkpoint, or from the coordinator's message that says so, and never from thin air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPermit {
    checkpoint: CheckpointId,
    fence: Fence,
}

impl CommitPermit {
    pub fn for_durable(checkpoint: &Durable<CheckpointId>, fence: Fence) -> Self {
        CommitPermit { checkpoint: *checkpoint.get(), fence }
    }

    /// On a worker, from its coordinator's word that the checkpoint stands in the log. The coordinator has that word
    /// from a `Durable` alone.
    pub fn from_coordinator(checkpoint: CheckpointId, fence: Fence) -> Self {
        CommitPermit { checkpoint, fence }
    }

    pub fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    pub fn fence(&self) -> Fence {
        self.fence
    }
}
