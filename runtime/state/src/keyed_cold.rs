//! Keyed state in front of a cold store.

use crate::cold::{CacheShare, ColdBatch, ColdConfig, ColdHandle, ColdShared, ColdStore, QueuedPart};
use crate::cut::ColdCut;
use crate::export::{export_ordered, export_rows};
use crate::handle::{KeyedStateHandle, StateHandle};
use crate::keyed_state::{AnyState, KeyedState, StateConfig};
use crate::migrate::COLD_BYTES;
use crate::ordered::OrderedState;
use crate::restore::{Content, RestoredState, check, restore_runs};
use crate::rows::RowState;
use crate::rows::cut::BufferPool;
use crate::{SegmentSource, StateError};
use arrow::array::ArrayRef;
use std::sync::Arc;
use weir_model::{KeyGroupRange, StateSchema};

/// The store behind the states.
pub(crate) struct Cold {
    shared: Arc<ColdShared>,
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
    /// name (`KeyedStateHandle::cold`) and holds the owned key groups of them; states that a handle keeps in runs
    /// are brought into the store here.
    ///
    /// # Errors
    /// As `open`, and what the store says.
    pub fn open_cold(
        config: StateConfig,
        cold: ColdConfig,
        handles: &[KeyedStateHandle],
        source: &dyn SegmentSource,
    ) -> Result<Self, StateError> {
        let StateConfig { key_groups, max_parallelism } = config;
        check(handles, key_groups, max_parallelism)?;
        let mut state = KeyedState::new(key_groups, max_parallelism);
        let mut cold = Cold { shared: ColdShared::new(cold), next_state: 0, batches: 0, cache: None };
        for (of, number) in numbered(handles, &mut cold.next_state)? {
            cold.claim_cache();
            let mut content = Content::new(&of.schema, of.has_ttl, key_groups, max_parallelism)?;
            if of.cold_state.is_none() {
                load_runs(handles, of, number, &config, &*cold.shared.store, source)?;
            }
            match &mut content {
                Content::Rows(rows) => rows.attach_cold(cold.shared.clone(), number)?,
                Content::Ordered(entries) => entries.attach_cold(cold.shared.clone(), number),
            }
            state.restored.push(RestoredState {
                schema: of.schema.clone(),
                has_ttl: of.has_ttl,
                content,
                runs: vec![],
                base_sequences: vec![0; key_groups.len()],
            });
        }
        state.cold = Some(cold);
        Ok(state)
    }

    /// State on the heap, as a checkpoint holds it whose states are in a store. The store was opened on the files
    /// that the handles name, as for `open_cold`.
    ///
    /// # Errors
    /// As `open`, and what the store says.
    pub fn open_stored(
        config: StateConfig,
        store: &dyn ColdStore,
        handles: &[KeyedStateHandle],
    ) -> Result<Self, StateError> {
        check(handles, config.key_groups, config.max_parallelism)?;
        let mut state = KeyedState::new(config.key_groups, config.max_parallelism);
        state.restored = read_stored(handles, config.key_groups, config.max_parallelism, store)?;
        Ok(state)
    }

    /// Keeps the cache within its bounds.
    pub(crate) fn bound_cold(&mut self) -> Result<(), StateError> {
        let Some(cold) = &mut self.cold else { return Ok(()) };
        let shared = cold.shared.clone();
        let applied = shared.applied();
        for tracked in &mut self.states {
            tracked.state.applied_cold(applied);
        }
        cold.batches = (cold.batches + 1) % BATCHES_BETWEEN_LOOKS;
        if cold.batches != 1 {
            return Ok(());
        }
        let mut excess = self.excess_bytes(&shared);
        if excess == 0 {
            return Ok(());
        }
        excess = self.evict(excess);
        if excess == 0 {
            return Ok(());
        }
        if !self.flush(&shared)? {
            // A checkpoint is being written, and its files may hold nothing that came later.
            if self.excess_bytes(&shared) < shared.cache().share_bytes() / 4 {
                return Ok(());
            }
            shared.wait_until_unwanted()?;
            self.flush(&shared)?;
        }
        self.evict(excess);
        Ok(())
    }

    /// What the rows and entries here are more than they may be.
    fn excess_bytes(&self, shared: &ColdShared) -> usize {
        let bytes: usize = self.states.iter().map(|tracked| tracked.state.live_bytes()).sum();
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
        let parts = self.states.iter_mut().filter_map(|tracked| tracked.state.cut_cold(self.interval, &self.pool));
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
        self.restored.drain(..).try_for_each(|state| match state.content {
            Content::Rows(mut rows) => rows.delete_cold(),
            Content::Ordered(mut entries) => entries.delete_cold(),
        })
    }

    /// A state that is being imported, in front of the store if there is one.
    pub(crate) fn stored(&mut self, mut state: RestoredState) -> Result<RestoredState, StateError> {
        if let Some(cold) = &mut self.cold {
            match &mut state.content {
                Content::Rows(rows) => cold.attach_rows(rows)?,
                Content::Ordered(entries) => cold.attach_ordered(entries),
            }
        }
        Ok(state)
    }

    /// Keeps a state that is being imported within bounds.
    pub(crate) fn bound_restored(&mut self, at: usize) -> Result<(), StateError> {
        match &mut self.restored[at].content {
            Content::Rows(rows) => rows.bound_cold(COLD_BYTES),
            Content::Ordered(entries) => entries.bound_cold(COLD_BYTES),
        }
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

    pub(crate) fn attach_rows(&mut self, rows: &mut RowState) -> Result<(), StateError> {
        let number = self.next();
        rows.attach_cold(self.shared.clone(), number)
    }

    pub(crate) fn attach_ordered(&mut self, entries: &mut OrderedState) {
        let number = self.next();
        entries.attach_cold(self.shared.clone(), number);
    }

    pub(crate) fn push(&self, interval: u32, parts: Vec<QueuedPart>) -> ColdCut {
        self.shared.push(interval, parts, true);
        ColdCut { shared: self.shared.clone(), interval }
    }

    pub(crate) fn confirm(&self, handle: &mut ColdHandle, object: &str) {
        for segment in handle.files.iter_mut().flat_map(|file| &mut file.segments) {
            if segment.object.is_empty() {
                assert!(!object.is_empty(), "a confirmed segment lies in an object without a name");
                segment.object = object.to_string();
            }
        }
        self.shared.store.confirm(handle);
    }
}

impl AnyState {
    pub(crate) fn cold_state(&self) -> Option<u16> {
        match self {
            AnyState::Rows(rows) => rows.cold_state(),
            AnyState::Ordered(entries) => entries.cold_state(),
        }
    }

    pub(crate) fn cut_cold(&mut self, interval: u32, pool: &BufferPool) -> Option<QueuedPart> {
        let state = self.cold_state()?;
        Some(match self {
            AnyState::Rows(rows) => QueuedPart::Rows { state, cut: rows.cut_cold(pool)? },
            AnyState::Ordered(entries) => QueuedPart::Ordered { state, cut: entries.cut_cold(interval)? },
        })
    }

    fn applied_cold(&mut self, interval: u32) {
        match self {
            AnyState::Rows(rows) => rows.confirm(interval),
            AnyState::Ordered(entries) => entries.applied_cold(interval),
        }
    }

    fn live_bytes(&self) -> usize {
        match self {
            AnyState::Rows(rows) => rows.live_bytes(),
            AnyState::Ordered(entries) => entries.live_bytes(),
        }
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

/// Brings a state that the handles keep in runs into a store.
fn load_runs(
    handles: &[KeyedStateHandle],
    of: &StateHandle,
    number: u16,
    config: &StateConfig,
    store: &dyn ColdStore,
    source: &dyn SegmentSource,
) -> Result<(), StateError> {
    let of_state: Vec<KeyedStateHandle> = handles
        .iter()
        .map(|handle| {
            let states = handle.states.iter().filter(|state| state.schema.name == of.schema.name);
            KeyedStateHandle { states: states.cloned().collect(), ..handle.clone() }
        })
        .collect();
    let (mut batch, mut writer) = (ColdBatch::default(), store.writer()?);
    let mut write = |batch: &ColdBatch| writer.write(batch);
    for part in parts(config.key_groups) {
        for state in restore_runs(&of_state, part, config.max_parallelism, source)? {
            match state.content {
                Content::Rows(mut rows) => {
                    if let Some(cut) = rows.cut(&[], false, &BufferPool::default()) {
                        cut.write_cold(number, &mut batch, &mut write)?;
                    }
                }
                Content::Ordered(entries) => entries.write_all_to(number, &mut batch, &mut write)?,
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

/// Reads the states that the handles keep in the store into memory.
fn read_stored(
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    max_parallelism: u32,
    store: &dyn ColdStore,
) -> Result<Vec<RestoredState>, StateError> {
    let mut states = vec![];
    for (of, number) in numbered(handles, &mut 0)? {
        let mut content = Content::new(&of.schema, of.has_ttl, owned, max_parallelism)?;
        for group in owned.iter() {
            match &mut content {
                Content::Rows(rows) => rows.load_group(store, number, group)?,
                Content::Ordered(entries) => entries.load_group(store, number, group)?,
            }
        }
        states.push(RestoredState {
            schema: of.schema.clone(),
            has_ttl: of.has_ttl,
            content,
            runs: vec![],
            base_sequences: vec![0; owned.len()],
        });
    }
    Ok(states)
}

/// As `export`, for a handle whose states are in a store, which was opened on its files.
///
/// # Errors
/// What the store says, and what `visit` says.
pub fn export_stored<E: From<StateError>>(
    handle: &KeyedStateHandle,
    store: &dyn ColdStore,
    mut visit: impl FnMut(&StateSchema, Vec<ArrayRef>) -> Result<(), E>,
) -> Result<(), E> {
    for part in parts(handle.key_groups) {
        for state in read_stored(std::slice::from_ref(handle), part, handle.max_parallelism, store)? {
            match state.content {
                Content::Rows(rows) => export_rows(rows, &mut visit)?,
                Content::Ordered(entries) => export_ordered(entries, &mut visit)?,
            }
        }
    }
    Ok(())
}
