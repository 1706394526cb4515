//! What a subtask that has ended leaves, in memory or in a store that stays open, to those that own its key groups from
//! then on.

use crate::any_state::AnyState;
use crate::handle::Run;
use crate::restore::{RestoredState, check, restore_runs};
use crate::{ColdStore, KeyedState, KeyedStateHandle, SegmentSource, StateConfig, StateError};
use std::sync::{Arc, PoisonError};
use weir_model::{CheckpointId, KeyGroupRange};

/// The state of a former subtask as a completed checkpoint holds it. Each key group in memory is taken over once.
pub struct KeptState {
    key_groups: KeyGroupRange,
    content: Content,
}

enum Content {
    Memory(Box<KeyedState>),
    /// With nothing in it that came after the checkpoint.
    Store(Arc<dyn ColdStore>),
}

impl KeptState {
    /// The key groups that the former subtask owned.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.key_groups
    }

    /// The store that the state is in, if it is in one.
    pub fn store(&self) -> Option<&Arc<dyn ColdStore>> {
        match &self.content {
            Content::Memory(_) => None,
            Content::Store(store) => Some(store),
        }
    }

    /// What was in memory, if it is what the handles stand for.
    fn in_memory(&mut self, handles: &[KeyedStateHandle]) -> Option<&mut KeyedState> {
        let is_of = |handle: &KeyedStateHandle| handle.cold.is_none() && handle.key_groups == self.key_groups;
        match &mut self.content {
            Content::Memory(state) if handles.iter().any(is_of) => Some(state),
            Content::Memory(_) | Content::Store(_) => None,
        }
    }
}

/// The handles of which nothing was kept in memory.
pub(crate) fn elsewhere(kept: &[&mut KeptState], handles: &[KeyedStateHandle]) -> Vec<KeyedStateHandle> {
    let is_in_memory = |kept: &&mut KeptState| matches!(kept.content, Content::Memory(_));
    let kept: Vec<KeyGroupRange> = kept.iter().filter(|kept| is_in_memory(kept)).map(|kept| kept.key_groups).collect();
    handles.iter().filter(|handle| !kept.contains(&handle.key_groups)).cloned().collect()
}

impl KeyedState {
    /// Keeps the state for those that come after. The checkpoint is complete, and nothing was written to the state since
    /// its cut. None: it was not cut for this checkpoint, or was brought into a cold store since, or that holds more.
    pub fn keep(mut self, checkpoint: CheckpointId) -> Option<KeptState> {
        let cut = self.cuts.iter().find(|cut| cut.checkpoint == checkpoint)?;
        let interval = cut.interval;
        let was_in_store = cut.written.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.cold.is_some();
        let key_groups = self.key_groups;
        match self.store() {
            None if !was_in_store => {
                // Nor does it claim memory of those that go on.
                self.cold = None;
                self.confirm(checkpoint);
                Some(KeptState { key_groups, content: Content::Memory(Box::new(self)) })
            }
            Some(shared) if was_in_store && shared.applied() == interval => {
                Some(KeptState { key_groups, content: Content::Store(shared.store.clone()) })
            }
            _ => None,
        }
    }

    /// As `open`, where some of the former subtasks have left what they held in memory: of their key groups nothing is
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
        for kept in kept.iter_mut().filter_map(|kept| kept.in_memory(handles)) {
            // Rows carry the interval of their birth: those of a later one would be taken for rows that no checkpoint
            // knows of, and their removal would leave no trace.
            self.interval = self.interval.max(kept.interval);
            self.take_over(kept)?;
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
