//! What a subtask that has ended leaves, in memory, to those that own its key groups from then on.

use crate::any_state::AnyState;
use crate::handle::Run;
use crate::restore::{RestoredState, check, restore_runs};
use crate::{KeyedState, KeyedStateHandle, SegmentSource, StateConfig, StateError};
use std::sync::PoisonError;
use weir_model::{CheckpointId, KeyGroupRange};

/// The state of a former subtask as a completed checkpoint holds it. Each key group is taken over once.
pub struct KeptState {
    state: KeyedState,
}

impl KeptState {
    /// The key groups that the former subtask owned.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.state.key_groups
    }

    fn is_of(&self, handle: &KeyedStateHandle) -> bool {
        self.key_groups() == handle.key_groups
    }
}

/// The handles of which nothing was kept.
pub(crate) fn elsewhere(kept: &[&mut KeptState], handles: &[KeyedStateHandle]) -> Vec<KeyedStateHandle> {
    handles.iter().filter(|handle| !kept.iter().any(|kept| kept.is_of(handle))).cloned().collect()
}

impl KeyedState {
    /// Keeps the state for those that come after. The checkpoint is complete, and nothing was written to the state since
    /// its cut. None: it lies in a cold store, or was not cut for this checkpoint.
    pub fn keep(mut self, checkpoint: CheckpointId) -> Option<KeptState> {
        let cut = self.cuts.iter().find(|cut| cut.checkpoint == checkpoint)?;
        let is_written = cut.written.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if self.store().is_some() || !is_written {
            return None;
        }
        // Nor does it claim memory of those that go on.
        self.cold = None;
        self.confirm(checkpoint);
        Some(KeptState { state: self })
    }

    /// As `open`, where some of the former subtasks have left what they held: of the key groups of `kept` nothing is
    /// read. What is taken over is what the handles of these key groups stand for, and is gone from `kept`.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with_kept(
        config: StateConfig,
        kept: &mut [&mut KeptState],
        handles: &[KeyedStateHandle],
        source: &dyn SegmentSource,
    ) -> Result<Self, StateError> {
        check(handles, config.key_groups, config.max_parallelism)?;
        let elsewhere = elsewhere(kept, handles);
        let mut state = KeyedState::new(config.key_groups, config.max_parallelism);
        state.restored = restore_runs(&elsewhere, config.key_groups, config.max_parallelism, source)?;
        state.take_over_all(kept, handles)?;
        Ok(state)
    }

    /// Adds what was kept of what the handles stand for to what was read of the others, and goes on behind both.
    pub(crate) fn take_over_all(
        &mut self,
        kept: &mut [&mut KeptState],
        handles: &[KeyedStateHandle],
    ) -> Result<(), StateError> {
        for kept in kept.iter_mut().filter(|kept| handles.iter().any(|handle| kept.is_of(handle))) {
            // Rows carry the interval of their birth: those of a later one would be taken for rows that no checkpoint
            // knows of, and their removal would leave no trace.
            self.interval = self.interval.max(kept.state.interval);
            self.take_over(&mut kept.state)?;
        }
        for restored in &mut self.restored {
            restored.runs.sort_by_key(|run| (run.sequence, run.key_groups.first));
        }
        let sequences = self.restored.iter().flat_map(|state| &state.runs).map(|run| run.sequence);
        self.sequence = sequences.max().unwrap_or(0) + 1;
        Ok(())
    }

    fn take_over(&mut self, kept: &mut KeyedState) -> Result<(), StateError> {
        let Some(part) = self.key_groups.intersect(&kept.key_groups) else { return Ok(()) };
        for tracked in &mut kept.states {
            let schema = tracked.state.schema().clone();
            let at = self.restored.iter().position(|state| state.schema.name == schema.name);
            let into = match at {
                Some(at) => &mut self.restored[at],
                None => {
                    let (owned, max_parallelism) = (self.key_groups, self.max_parallelism);
                    self.restored.push(RestoredState::empty(&schema, tracked.has_ttl, owned, max_parallelism)?);
                    self.restored.last_mut().expect("just pushed")
                }
            };
            if into.schema != schema || into.has_ttl != tracked.has_ttl {
                let reason = "the subtasks of the checkpoint disagree about its schema".into();
                return Err(StateError::Incompatible { state: schema.name, reason });
            }
            match (&mut into.content, &mut tracked.state) {
                (AnyState::Rows(own), AnyState::Rows(rows)) => own.take_over(rows)?,
                (AnyState::Ordered(own), AnyState::Ordered(entries)) => own.take_over(entries),
                _ => unreachable!("states of one schema are of one kind"),
            }
            for run in tracked.confirmed.runs.iter() {
                if let Some(key_groups) = run.key_groups.intersect(&part) {
                    into.runs.push(Run { key_groups, ..run.clone() });
                }
            }
            for group in part.iter() {
                let of = |owned: KeyGroupRange| (group.0 - owned.first) as usize;
                into.base_sequences[of(self.key_groups)] = tracked.confirmed.base_sequences[of(kept.key_groups)];
            }
        }
        Ok(())
    }
}
