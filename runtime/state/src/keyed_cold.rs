//! Keyed state in front of a cold store.
//!
//! As long as the states fit in the memory given, they live there as on the heap, and so do their checkpoints. Once they
//! don't they spill: all of them go into the store, and what stays in memory is a cache of it from then on.

use crate::any_state::AnyState;
use crate::cold::{CacheShare, ColdBatch, ColdConfig, ColdShared, ColdStore, QueuedPart};
use crate::cut::StateRuns;
use crate::export::{Batches, export_ordered};
use crate::handle::{KeyedStateHandle, StateHandle};
use crate::kept::{KeptState, elsewhere};
use crate::keyed_state::{KeyedState, StateConfig, Tracked};
use crate::migrate::COLD_BYTES;
use crate::restore::{RestoredState, check, restore_runs, restore_runs_within};
use crate::rows::cut::BufferPool;
use crate::{SegmentSource, StateError};
use arrow::array::ArrayRef;
use std::sync::Arc;
use weir_model::{KeyGroup, KeyGroupRange, StateSchema};

/// The store behind the states.
pub(crate) struct Cold {
    shared: Arc<ColdShared>,
    /// Whether the states have spilled; until then the store is empty.
    has_spilled: bool,
    /// Number of the next state that is new to the store.
    next_state: u16,
    /// Until the cache is looked at again.
    batches: u32,
    /// Taken with the first state: subtasks without any leave it to the others.
    cache: Option<CacheShare>,
}

/// The cache is measured once in so many batches: that takes a look at every table.
const BATCHES_BETWEEN_LOOKS: u32 = 8;
/// Key groups of runs that are brought into a store at once.
const LOADED_GROUPS: usize = 8;

impl KeyedState {
    /// State as a checkpoint holds it, in front of a store. The store was opened on the files that the handles
    /// name (`KeyedStateHandle::cold`), or made of stores that former subtasks have left, and holds the owned key groups
    /// of them. What the handles keep in runs, and what former subtasks have left of it (`open_with_kept`), stays in memory if all of it fits there; else it is brought
    /// into the store.
    ///
    /// # Errors
    /// As `open`, and what the store says.
    pub fn open_cold(
        config: StateConfig,
        cold: ColdConfig,
        kept: &mut [&mut KeptState],
        handles: &[KeyedStateHandle],
        source: &dyn SegmentSource,
    ) -> Result<Self, StateError> {
        let StateConfig { key_groups, max_parallelism } = config;
        check(handles, key_groups, max_parallelism)?;
        let mut state = KeyedState::new(key_groups, max_parallelism);
        let shared = ColdShared::new(cold);
        let mut cold = Cold { shared: shared.clone(), has_spilled: false, next_state: 0, batches: 0, cache: None };
        let states = numbered(handles, &mut cold.next_state)?;
        if !states.is_empty() {
            cold.claim_cache();
        }
        let in_memory = match handles.iter().all(|handle| handle.cold.is_none()) {
            true => {
                let (handles, max_bytes) = (elsewhere(kept, handles), shared.cache().share_bytes());
                restore_runs_within(max_bytes, &handles, key_groups, max_parallelism, source)?
            }
            false => None,
        };
        if let Some(restored) = in_memory {
            state.restored = restored;
            state.take_over_all(kept, handles)?;
            for restored in &mut state.restored {
                let of = states.iter().find(|(of, _)| of.schema.name == restored.schema.name);
                restored.number = of.map(|(_, number)| *number);
            }
        } else {
            cold.has_spilled = true;
            for (of, number) in states {
                load_runs(handles, of, number, &config, &*shared.store, source)?;
                let mut restored = RestoredState::empty(&of.schema, of.has_ttl, key_groups, max_parallelism)?;
                restored.number = Some(number);
                restored.content.attach_cold(&shared, number)?;
                state.restored.push(restored);
            }
        }
        state.cold = Some(cold);
        Ok(state)
    }

    /// State on the heap, as a checkpoint holds it of which some states are in a store. The store was opened on the
    /// files that the handles name, as for `open_cold`.
    ///
    /// # Errors
    /// As `open`, and what the store says.
    pub fn open_stored(
        config: StateConfig,
        store: &dyn ColdStore,
        handles: &[KeyedStateHandle],
        source: &dyn SegmentSource,
    ) -> Result<Self, StateError> {
        check(handles, config.key_groups, config.max_parallelism)?;
        let mut state = KeyedState::new(config.key_groups, config.max_parallelism);
        let in_runs = restore_runs(handles, config.key_groups, config.max_parallelism, source)?;
        state.restored = read_stored(in_runs, handles, config.key_groups, config.max_parallelism, store)?;
        Ok(state)
    }

    /// The store that the states are in.
    pub(crate) fn store(&self) -> Option<Arc<ColdShared>> {
        self.cold.as_ref().filter(|cold| cold.has_spilled).map(|cold| cold.shared.clone())
    }

    /// The store's number for a state that is new.
    pub(crate) fn next_number(&mut self) -> Option<u16> {
        self.cold.as_mut().map(Cold::next)
    }

    /// Brings all states into the store, also if they fit in memory; as happens by itself when they don't. Nothing
    /// without a store, or if they are there.
    ///
    /// # Errors
    /// What the store says.
    pub fn spill(&mut self) -> Result<(), StateError> {
        let Some(cold) = self.cold.as_mut().filter(|cold| !cold.has_spilled) else { return Ok(()) };
        cold.has_spilled = true;
        let shared = cold.shared.clone();
        let numbered = "a state in front of a store has a number";
        for restored in &mut self.restored {
            restored.content.spill(&shared, restored.number.expect(numbered));
            restored.content.flush_cold()?;
            restored.runs.clear();
            restored.base_sequences.fill(0);
        }
        for tracked in &mut self.states {
            tracked.state.spill(&shared, tracked.number.expect(numbered));
            tracked.confirmed = StateRuns::none(self.key_groups);
            tracked.owed = 0;
        }
        self.flush(&shared)?;
        tracing::debug!(
            first_key_group = self.key_groups.first,
            "the state outgrew its memory and is in the store now"
        );
        Ok(())
    }

    /// Keeps the cache within its bounds.
    pub(crate) fn bound_cold(&mut self) -> Result<(), StateError> {
        let Some(cold) = &mut self.cold else { return Ok(()) };
        let shared = cold.shared.clone();
        let has_spilled = cold.has_spilled;
        cold.batches = (cold.batches + 1) % BATCHES_BETWEEN_LOOKS;
        let is_due = cold.batches == 1;
        if has_spilled {
            let applied = shared.applied();
            self.states.iter_mut().for_each(|tracked| tracked.state.applied_cold(applied));
        }
        let mut excess = if is_due { self.excess_bytes(&shared) } else { 0 };
        if excess == 0 {
            return Ok(());
        }
        if !has_spilled {
            self.spill()?;
        }
        excess = self.evict(excess);
        if excess == 0 {
            return Ok(());
        }
        if !self.flush(&shared)? {
            // A checkpoint is to be written, and its files may hold nothing that came later.
            if self.excess_bytes(&shared) < shared.cache().share_bytes() / 4 {
                return Ok(());
            }
            shared.apply_all()?;
            self.flush(&shared)?;
        }
        self.evict(excess);
        Ok(())
    }

    /// What the rows and entries here are more than they may be.
    fn excess_bytes(&self, shared: &ColdShared) -> usize {
        let restored: usize = self.restored.iter().map(|state| state.content.live_bytes()).sum();
        let bytes = self.states.iter().map(|tracked| tracked.state.live_bytes()).sum::<usize>() + restored;
        let allowed = shared.cache().share_bytes();
        // A tenth less than allowed, so that not every batch has to make room.
        if bytes > allowed { bytes - allowed / 10 * 9 } else { 0 }
    }

    /// Lets go of so many bytes of clean rows; what is missing.
    fn evict(&mut self, mut excess: usize) -> usize {
        for tracked in &mut self.states {
            if let AnyState::Rows(rows) = &mut tracked.state {
                excess = excess.saturating_sub(rows.evict(excess));
            }
        }
        excess
    }

    /// Brings all changes into the store, unless a checkpoint is to be made of an earlier cut; whether it did.
    fn flush(&mut self, shared: &ColdShared) -> Result<bool, StateError> {
        if !shared.apply_unwanted()? {
            return Ok(false);
        }
        let parts = self.states.iter_mut().filter_map(|tracked| tracked.cut_cold(self.interval, &self.pool));
        shared.push(self.interval, parts.collect(), false);
        self.interval += 1;
        let applied = shared.apply_unwanted()?;
        for tracked in &mut self.states {
            tracked.state.applied_cold(shared.applied());
        }
        Ok(applied)
    }

    /// Takes the states that nothing registered out of the store: a later state would be given their number.
    pub(crate) fn delete_unmatched(&mut self) -> Result<(), StateError> {
        if self.cold.is_none() {
            return Ok(());
        }
        self.restored.drain(..).try_for_each(|mut state| state.content.delete_cold())
    }

    /// A state that is being imported, with its number, and in front of the store if states are there.
    pub(crate) fn placed(&mut self, mut state: RestoredState) -> Result<RestoredState, StateError> {
        state.number = self.next_number();
        if let (Some(shared), Some(number)) = (self.store(), state.number) {
            state.content.attach_cold(&shared, number)?;
        }
        Ok(state)
    }

    /// Keeps a state that is being imported within bounds.
    pub(crate) fn bound_restored(&mut self, at: usize) -> Result<(), StateError> {
        let Some(cold) = &self.cold else { return Ok(()) };
        if !cold.has_spilled {
            let shared = cold.shared.clone();
            return if self.excess_bytes(&shared) > 0 { self.spill() } else { Ok(()) };
        }
        self.restored[at].content.bound_cold(COLD_BYTES)
    }
}

impl Cold {
    fn next(&mut self) -> u16 {
        self.claim_cache();
        self.next_state += 1;
        self.next_state - 1
    }

    fn claim_cache(&mut self) {
        self.cache.get_or_insert_with(|| CacheShare::of(self.shared.cache().clone()));
    }
}

impl Tracked {
    /// What changed since the last cut, on its way into the store.
    pub(crate) fn cut_cold(&mut self, interval: u32, pool: &BufferPool) -> Option<QueuedPart> {
        let state = self.number?;
        Some(match &mut self.state {
            AnyState::Rows(rows) => QueuedPart::Rows { state, cut: rows.cut_cold(pool)? },
            AnyState::Ordered(entries) => QueuedPart::Ordered { state, cut: entries.cut_cold(interval)? },
        })
    }
}

/// The states in the handles, each once, with their numbers in the store.
fn numbered<'h>(handles: &'h [KeyedStateHandle], next: &mut u16) -> Result<Vec<(&'h StateHandle, u16)>, StateError> {
    let mut states: Vec<&StateHandle> = vec![];
    for state in handles.iter().flat_map(|handle| &handle.states) {
        match states.iter().find(|known| known.schema.name == state.schema.name) {
            None => states.push(state),
            Some(known)
                if known.schema == state.schema
                    && known.has_ttl == state.has_ttl
                    && known.cold_state == state.cold_state => {}
            Some(known) => {
                let reason = "the subtasks of the checkpoint disagree about its schema or its place".into();
                return Err(StateError::Incompatible { state: known.schema.name.clone(), reason });
            }
        }
    }
    *next = states.iter().filter_map(|state| state.cold_state).max().map_or(0, |last| last + 1);
    let numbered = states.into_iter().map(|state| {
        let number = state.cold_state.unwrap_or_else(|| {
            *next += 1;
            *next - 1
        });
        (state, number)
    });
    Ok(numbered.collect())
}

/// Brings what the handles keep of a state in runs into a store.
fn load_runs(
    handles: &[KeyedStateHandle],
    of: &StateHandle,
    number: u16,
    config: &StateConfig,
    store: &dyn ColdStore,
    source: &dyn SegmentSource,
) -> Result<(), StateError> {
    let of_state = |handle: &KeyedStateHandle| {
        let states = handle.states.iter().filter(|state| state.schema.name == of.schema.name);
        KeyedStateHandle { states: states.cloned().collect(), ..handle.clone() }
    };
    let of_state: Vec<_> = handles.iter().filter(|handle| handle.cold.is_none()).map(of_state).collect();
    if of_state.iter().all(|handle| handle.states.is_empty()) {
        return Ok(());
    }
    let (mut batch, mut writer) = (ColdBatch::default(), store.writer()?);
    let mut write = |batch: &ColdBatch| writer.write(batch);
    for part in parts(config.key_groups) {
        for state in restore_runs(&of_state, part, config.max_parallelism, source)? {
            match state.content {
                AnyState::Rows(mut rows) => {
                    if let Some(cut) = rows.cut(&[], false, &BufferPool::default()) {
                        cut.write_cold(number, &mut batch, &mut write)?;
                    }
                }
                AnyState::Ordered(entries) => entries.write_all_to(number, &mut batch, &mut write)?,
            }
        }
    }
    writer.finish()
}

/// The owned key groups, a few at a time.
fn parts(owned: KeyGroupRange) -> impl Iterator<Item = KeyGroupRange> {
    owned.iter().step_by(LOADED_GROUPS).map(move |first| {
        let last = owned.last.min(first.0.saturating_add(LOADED_GROUPS as u16 - 1));
        KeyGroupRange { first: first.0, last }
    })
}

/// Reads the states that some handles keep in the store into memory, beside what was in the runs of the others.
fn read_stored(
    in_runs: Vec<RestoredState>,
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    max_parallelism: u32,
    store: &dyn ColdStore,
) -> Result<Vec<RestoredState>, StateError> {
    let (mut in_runs, mut states) = (in_runs, vec![]);
    let is_stored =
        |group: &KeyGroup| handles.iter().any(|handle| handle.cold.is_some() && handle.key_groups.contains(*group));
    for (of, number) in numbered(handles, &mut 0)? {
        let mut state = match in_runs.iter().position(|state| state.schema.name == of.schema.name) {
            Some(at) => in_runs.swap_remove(at),
            None => RestoredState::empty(&of.schema, of.has_ttl, owned, max_parallelism)?,
        };
        for group in owned.iter().filter(is_stored) {
            match &mut state.content {
                AnyState::Rows(rows) => rows.load_group(store, number, group)?,
                AnyState::Ordered(entries) => entries.load_group(store, number, group)?,
            }
        }
        // The next checkpoint holds all of it.
        state.runs.clear();
        state.base_sequences.fill(0);
        states.push(state);
    }
    Ok(states)
}

/// As `export`, for a handle whose states are in a store, which was opened on its files.
///
/// # Errors
/// What the store says, and what `visit` says.
pub fn export_stored<E: From<StateError>>(
    handle: &KeyedStateHandle,
    key_groups: KeyGroupRange,
    store: &dyn ColdStore,
    mut visit: impl FnMut(&StateSchema, Vec<ArrayRef>) -> Result<(), E>,
) -> Result<(), E> {
    for (of, number) in numbered(std::slice::from_ref(handle), &mut 0)? {
        let mut batches = Batches::new(&of.schema);
        for group in key_groups.iter() {
            let own = KeyGroupRange { first: group.0, last: group.0 };
            match AnyState::new(&of.schema, of.has_ttl, own, handle.max_parallelism)? {
                AnyState::Rows(rows) => {
                    rows.visit_stored_group(store, number, group, &mut |namespaces, keys, values| {
                        batches.add(group, namespaces, keys, values, &mut visit)
                    })?;
                }
                AnyState::Ordered(mut entries) => {
                    entries.load_group(store, number, group)?;
                    export_ordered(entries, &mut visit)?;
                }
            }
        }
        batches.flush(&mut visit)?;
    }
    Ok(())
}
