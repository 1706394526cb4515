//! What a sink has prepared and is not known to be visible, pure.

use std::collections::BTreeMap;
use weir_model::CheckpointId;

/// Of one sink subtask. `C`: what a committer needs for one commit.
///
/// A checkpoint must hold everything that isn't known to be visible: what an aborted one prepared, and what a
/// committer was told of and hasn't finished. A restore commits what its checkpoint holds, and removes the rest.
#[derive(Clone, Debug)]
pub struct PendingCommits<C> {
    /// By the checkpoint that first holds it.
    prepared: BTreeMap<CheckpointId, Vec<C>>,
    /// By the durable checkpoint that a committer was told of.
    committing: BTreeMap<CheckpointId, Vec<C>>,
}

impl<C> Default for PendingCommits<C> {
    fn default() -> Self {
        PendingCommits { prepared: BTreeMap::new(), committing: BTreeMap::new() }
    }
}

impl<C: Clone> PendingCommits<C> {
    /// Adds what `checkpoint` prepared, and returns all that it must hold.
    pub fn prepared(&mut self, checkpoint: CheckpointId, committables: Vec<C>) -> Vec<C> {
        if !committables.is_empty() {
            self.prepared.entry(checkpoint).or_default().extend(committables);
        }
        self.committing.values().chain(self.prepared.values()).flatten().cloned().collect()
    }

    /// What a committer is to make visible for the durable `checkpoint`, without what it was told of before.
    pub fn commit_up_to(&mut self, checkpoint: CheckpointId) -> Vec<C> {
        let later = self.prepared.split_off(&checkpoint.next());
        let due: Vec<C> = std::mem::replace(&mut self.prepared, later).into_values().flatten().collect();
        if !due.is_empty() {
            self.committing.entry(checkpoint).or_default().extend(due.iter().cloned());
        }
        due
    }

    /// Everything that a committer was told of for `checkpoint` and those before is visible.
    pub fn committed(&mut self, checkpoint: CheckpointId) {
        self.committing = self.committing.split_off(&checkpoint.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_aborted_checkpoint_prepared_belongs_to_the_next() {
        let mut pending = PendingCommits::default();
        assert_eq!(pending.prepared(CheckpointId(1), vec!["a"]), ["a"]);
        // 1 is aborted: nothing commits it. 2 holds both.
        assert_eq!(pending.prepared(CheckpointId(2), vec!["b"]), ["a", "b"]);
        assert_eq!(pending.prepared(CheckpointId(3), vec!["c"]), ["a", "b", "c"]);
        assert_eq!(pending.commit_up_to(CheckpointId(2)), ["a", "b"]);
        pending.committed(CheckpointId(2));
        assert_eq!(pending.prepared(CheckpointId(4), vec![]), ["c"]);
        assert_eq!(pending.commit_up_to(CheckpointId(4)), ["c"]);
    }

    /// A commit that takes long, and a crash after the next checkpoint: nobody else would know of it.
    #[test]
    fn what_is_being_committed_belongs_to_every_checkpoint_until_it_is_visible() {
        let mut pending = PendingCommits::default();
        pending.prepared(CheckpointId(1), vec!["a"]);
        assert_eq!(pending.commit_up_to(CheckpointId(1)), ["a"]);
        assert_eq!(pending.prepared(CheckpointId(2), vec!["b"]), ["a", "b"]);
        assert_eq!(pending.commit_up_to(CheckpointId(2)), ["b"], "each is handed over once");
        assert_eq!(pending.prepared(CheckpointId(3), vec![]), ["a", "b"]);
        pending.committed(CheckpointId(1));
        assert_eq!(pending.prepared(CheckpointId(4), vec![]), ["b"]);
        pending.committed(CheckpointId(3));
        assert_eq!(pending.prepared(CheckpointId(5), vec![]), Vec::<&str>::new());
    }
}
