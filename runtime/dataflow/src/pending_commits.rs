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
    /// By checkpoint: the first whose commits it holds, those of checkpoints before it being visible.
    first_held: BTreeMap<CheckpointId, CheckpointId>,
}

impl<C> Default for PendingCommits<C> {
    fn default() -> Self {
        PendingCommits { prepared: BTreeMap::new(), committing: BTreeMap::new(), first_held: BTreeMap::new() }
    }
}

impl<C: Clone> PendingCommits<C> {
    /// Adds what `checkpoint` prepared, and returns all that it must hold.
    pub fn prepared(&mut self, checkpoint: CheckpointId, committables: Vec<C>) -> Vec<C> {
        if !committables.is_empty() {
            self.prepared.entry(checkpoint).or_default().extend(committables);
        }
        let first_held = self.committing.first_key_value().map_or(checkpoint, |(first, _)| *first);
        self.first_held.insert(checkpoint, first_held);
        self.committing.values().chain(self.prepared.values()).flatten().cloned().collect()
    }

    /// What a committer is to make visible for the durable `checkpoint`, without what it was told of before.
    pub fn commit_up_to(&mut self, checkpoint: CheckpointId) -> Vec<C> {
        self.first_held = self.first_held.split_off(&checkpoint);
        let later = self.prepared.split_off(&checkpoint.next());
        let due: Vec<C> = std::mem::replace(&mut self.prepared, later).into_values().flatten().collect();
        if !due.is_empty() {
            self.committing.entry(checkpoint).or_default().extend(due.iter().cloned());
        }
        due
    }

    /// What a committer was told of for checkpoints before this one stands neither in the durable `checkpoint` nor in any
    /// later one.
    pub fn settled_before(&self, checkpoint: CheckpointId) -> CheckpointId {
        self.first_held.get(&checkpoint).copied().unwrap_or(CheckpointId(0))
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

    /// Visible is not enough: a checkpoint that was cut before holds it still, and a restore from it commits it again.
    #[test]
    fn what_no_restore_commits_again_is_known() {
        let mut pending = PendingCommits::default();
        pending.prepared(CheckpointId(1), vec!["a"]);
        pending.commit_up_to(CheckpointId(1));
        assert_eq!(pending.settled_before(CheckpointId(1)), CheckpointId(1));
        pending.prepared(CheckpointId(2), vec!["b"]);
        pending.committed(CheckpointId(1));
        pending.commit_up_to(CheckpointId(2));
        assert_eq!(pending.settled_before(CheckpointId(2)), CheckpointId(1), "2 holds `a`, which is visible by now");
        // 3 is aborted.
        pending.prepared(CheckpointId(3), vec!["c"]);
        pending.committed(CheckpointId(2));
        pending.prepared(CheckpointId(4), vec!["d"]);
        pending.commit_up_to(CheckpointId(4));
        assert_eq!(pending.settled_before(CheckpointId(4)), CheckpointId(4));
    }
}
