//! What a writer has prepared and no completed checkpoint is known to hold.

use super::{Committable, SinkSnapshot};
use std::collections::BTreeMap;
use weir_model::CheckpointId;

/// Committables of one sink subtask that wait for their checkpoint to complete.
///
/// A writer names each committable once, in the snapshot of the checkpoint that sealed it. When that checkpoint
/// fails, its records are still part of the output, so the next one has to carry them: whoever drives the writer
/// passes every snapshot through `prepared`.
#[derive(Clone, Debug, Default)]
pub struct PendingCommits {
    by_checkpoint: BTreeMap<CheckpointId, Vec<Committable>>,
}

impl PendingCommits {
    /// The snapshot as it goes into the manifest of `checkpoint`: the older, still unconfirmed committables first.
    pub fn prepared(&mut self, checkpoint: CheckpointId, snapshot: SinkSnapshot) -> SinkSnapshot {
        let SinkSnapshot { committables, writer } = snapshot;
        self.by_checkpoint.entry(checkpoint).or_default().extend(committables);
        let committables = self.by_checkpoint.range(..=checkpoint).flat_map(|(_, sealed)| sealed.iter().cloned());
        SinkSnapshot { committables: committables.collect(), writer }
    }

    /// `checkpoint` stands in the commit log, and with it everything prepared for it or before it.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        self.by_checkpoint = self.by_checkpoint.split_off(&checkpoint.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(names: &[&str]) -> SinkSnapshot {
        SinkSnapshot { committables: names.iter().map(|name| Committable((*name).into())).collect(), writer: None }
    }

    #[test]
    fn a_failed_checkpoints_committables_go_into_the_next() {
        let mut pending = PendingCommits::default();
        assert_eq!(pending.prepared(CheckpointId(1), snapshot(&["a"])), snapshot(&["a"]));
        assert_eq!(pending.prepared(CheckpointId(2), snapshot(&["b"])), snapshot(&["a", "b"]));
        assert_eq!(pending.prepared(CheckpointId(3), snapshot(&["c"])), snapshot(&["a", "b", "c"]));
        pending.completed(CheckpointId(2));
        assert_eq!(pending.prepared(CheckpointId(4), snapshot(&["d"])), snapshot(&["c", "d"]));
        pending.completed(CheckpointId(4));
        assert_eq!(pending.prepared(CheckpointId(5), snapshot(&[])), snapshot(&[]));
    }
}
