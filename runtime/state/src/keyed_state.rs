use crate::any_state::AnyState;
use crate::compatibility::{Verdict, compatibility};
use crate::cut::{ColdCut, CutPart, PartCut, StateCut, StateRuns, Written};
use crate::handle::KeyedStateHandle;
use crate::keyed_cold::Cold;
use crate::migrate;
use crate::ordered::OrderedState;
use crate::restore::{RestoredState, restore};
use crate::rows::RowState;
use crate::rows::cut::BufferPool;
use crate::{SegmentSource, StateError};
use std::sync::{Arc, PoisonError};
use weir_model::{CheckpointId, KeyGroupRange, StateKind, StateSchema};

/// All keyed state of one operator subtask.
pub struct KeyedState {
    pub(crate) key_groups: KeyGroupRange,
    pub(crate) max_parallelism: u32,
    pub(crate) states: Vec<Tracked>,
    /// States of the restored checkpoint that nothing has registered yet.
    pub(crate) restored: Vec<RestoredState>,
    /// Number of the current interval between two cuts; restored rows are born in interval 0.
    pub(crate) interval: u32,
    /// Sequence of the runs that the next cut writes.
    pub(crate) sequence: u64,
    /// Cuts that aren't confirmed, oldest first.
    pub(crate) cuts: Vec<PendingCut>,
    pub(crate) pool: BufferPool,
    pub(crate) cold: Option<Cold>,
}

/// What a `KeyedState` is opened with.
#[derive(Clone, Copy, Debug)]
pub struct StateConfig {
    /// The key groups that the subtask owns.
    pub key_groups: KeyGroupRange,
    pub max_parallelism: u32,
}

pub(crate) struct Tracked {
    pub(crate) state: AnyState,
    pub(crate) has_ttl: bool,
    /// In the store, if there is one.
    pub(crate) number: Option<u16>,
    /// What the last confirmed checkpoint holds.
    pub(crate) confirmed: StateRuns,
    /// Key groups that the rolling rebase owes, in parts of `ROLLING_CUTS`.
    pub(crate) owed: usize,
}

pub(crate) struct PendingCut {
    pub(crate) checkpoint: CheckpointId,
    pub(crate) interval: u32,
    pub(crate) written: Written,
}

/// Each key group is written in full at least once in this many confirmed checkpoints, so no restore reads
/// more runs than that and one (of one state and former subtask).
pub(crate) const ROLLING_CUTS: usize = 24;
/// Rows looked at for expiry between two batches.
const SWEEP_ROWS: usize = 1024;

/// A row state of the `KeyedState` that gave the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowStateId(usize);

/// An ordered state of the `KeyedState` that gave the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderedStateId(usize);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateOptions {
    /// Rows and entries that weren't written for this long (processing time) read as absent.
    pub ttl_ms: Option<u64>,
}

impl KeyedState {
    /// Empty state on the heap: for a first start, and for tests.
    pub fn new(key_groups: KeyGroupRange, max_parallelism: u32) -> Self {
        KeyedState {
            key_groups,
            max_parallelism,
            states: vec![],
            restored: vec![],
            interval: 1,
            sequence: 1,
            cuts: vec![],
            pool: BufferPool::default(),
            cold: None,
        }
    }

    /// State as a checkpoint holds it, on the heap. `handles`: those of all former subtasks whose key groups
    /// meet the owned ones, each once; none for a first start.
    ///
    /// Reads the owned key groups of all states. The states themselves appear as they are registered; what
    /// isn't registered by the time of the first cut is no part of it.
    ///
    /// # Errors
    /// `Corrupt` and what the source says; `Version`; `Incompatible` for another max parallelism, or if an
    /// owned key group is in no handle or in two.
    pub fn open(
        config: StateConfig,
        handles: &[KeyedStateHandle],
        source: &dyn SegmentSource,
    ) -> Result<Self, StateError> {
        let mut state = KeyedState::new(config.key_groups, config.max_parallelism);
        state.restored = restore(handles, config.key_groups, config.max_parallelism, source)?;
        let sequences = state.restored.iter().flat_map(|state| &state.runs).map(|run| run.sequence);
        state.sequence = sequences.max().unwrap_or(0) + 1;
        Ok(state)
    }

    /// States of the restored checkpoint that weren't registered (yet).
    pub fn unmatched(&self) -> impl Iterator<Item = &StateSchema> {
        self.restored.iter().map(|state| &state.schema)
    }

    /// The key groups that this subtask owns.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.key_groups
    }

    pub fn max_parallelism(&self) -> u32 {
        self.max_parallelism
    }

    /// Registers a state of kind `Value`: one row for each namespace and key. The namespace is one 64-bit
    /// number, so the schema has at most one namespace field, of at most 8 bytes. A restored state of the same
    /// name becomes this state.
    ///
    /// # Errors
    /// Another kind; a name taken; a type that state cannot hold; `Incompatible` with what was restored.
    pub fn register_rows(&mut self, schema: StateSchema) -> Result<RowStateId, StateError> {
        self.register_rows_with(schema, StateOptions::default())
    }

    /// As `register_rows`, with options.
    pub fn register_rows_with(&mut self, schema: StateSchema, options: StateOptions) -> Result<RowStateId, StateError> {
        self.check_new(&schema, &[StateKind::Value])?;
        let number = |data_type| crate::word::is_word(data_type) && !data_type.is_floating();
        if schema.namespace.len() > 1 || schema.namespace.iter().any(|field| !number(&field.data_type)) {
            return Err(StateError::InvalidSchema {
                state: schema.name,
                reason: "a state of kind Value has at most one namespace field, a number or time of 8 bytes".into(),
            });
        }
        let has_ttl = options.ttl_ms.is_some();
        let (state, number, confirmed) = match self.take_restored(&schema)? {
            Some((old, Verdict::AsIs)) if old.has_ttl == has_ttl => {
                let (content, number, confirmed) = old.into_parts();
                let mut rows = content.into_rows().registered(schema, options.ttl_ms);
                rows.flush_cold()?;
                rows.mark_restored(self.interval);
                (rows, number, confirmed)
            }
            old => {
                let (groups, max_parallelism) = (self.key_groups, self.max_parallelism);
                let mut rows = RowState::new(schema, groups, max_parallelism, options.ttl_ms, self.interval)?;
                let number = self.next_number();
                let store = self.store();
                if let (Some(shared), Some(number)) = (&store, number) {
                    rows.attach_cold(shared.clone(), number)?;
                }
                if let Some((old, _)) = old {
                    let mut old = old.into_parts().0.into_rows();
                    migrate::rows(&mut old, &mut rows)?;
                    old.delete_cold()?;
                }
                if store.is_some() {
                    rows.flush_cold()?;
                    rows.mark_restored(self.interval);
                }
                (rows, number, self.no_runs())
            }
        };
        Ok(RowStateId(self.track(AnyState::Rows(state), has_ttl, number, confirmed)))
    }

    /// Registers a state of kind `List`, `Map` or `Timer`. A restored state of the same name becomes this state.
    ///
    /// # Errors
    /// Another kind; a name taken; a type that state cannot hold; `Incompatible` with what was restored.
    pub fn register_ordered(&mut self, schema: StateSchema) -> Result<OrderedStateId, StateError> {
        self.register_ordered_with(schema, StateOptions::default())
    }

    /// As `register_ordered`, with options.
    pub fn register_ordered_with(
        &mut self,
        schema: StateSchema,
        options: StateOptions,
    ) -> Result<OrderedStateId, StateError> {
        self.check_new(&schema, &[StateKind::List, StateKind::Map, StateKind::Timer])?;
        let has_ttl = options.ttl_ms.is_some();
        let (state, number, confirmed) = match self.take_restored(&schema)? {
            Some((old, Verdict::AsIs)) if old.has_ttl == has_ttl => {
                let (content, number, confirmed) = old.into_parts();
                let mut entries = content.into_ordered().registered(schema, options.ttl_ms);
                entries.flush_cold()?;
                entries.mark_restored();
                (entries, number, confirmed)
            }
            old => {
                let mut entries = OrderedState::new(schema, self.key_groups, self.max_parallelism, options.ttl_ms)?;
                let number = self.next_number();
                if let (Some(shared), Some(number)) = (self.store(), number) {
                    entries.attach_cold(shared, number);
                }
                if let Some((old, _)) = old {
                    let mut old = old.into_parts().0.into_ordered();
                    migrate::ordered(&mut old, &mut entries)?;
                    old.delete_cold()?;
                }
                entries.flush_cold()?;
                (entries, number, self.no_runs())
            }
        };
        Ok(OrderedStateId(self.track(AnyState::Ordered(state), has_ttl, number, confirmed)))
    }

    /// # Panics
    /// If the id comes from another `KeyedState`.
    #[inline]
    pub fn rows(&mut self, id: RowStateId) -> &mut RowState {
        match &mut self.states[id.0].state {
            AnyState::Rows(state) => state,
            AnyState::Ordered(_) => panic!("an id of another KeyedState"),
        }
    }

    /// # Panics
    /// If the id comes from another `KeyedState`.
    #[inline]
    pub fn ordered(&mut self, id: OrderedStateId) -> &mut OrderedState {
        match &mut self.states[id.0].state {
            AnyState::Ordered(state) => state,
            AnyState::Rows(_) => panic!("an id of another KeyedState"),
        }
    }

    /// Cuts all states at a barrier: the synchronous part of a checkpoint. What the cut holds is what changed
    /// since the last confirmed checkpoint, so an aborted one loses nothing.
    pub fn cut(&mut self, checkpoint: CheckpointId) -> Result<StateCut, StateError> {
        self.delete_unmatched()?;
        let written = Written::default();
        let mut parts = Vec::with_capacity(self.states.len());
        let mut queued = vec![];
        let store = self.store();
        for tracked in &mut self.states {
            match store {
                None => parts.push(tracked.cut(self.interval, &self.pool)),
                Some(_) => {
                    queued.extend(tracked.cut_cold(self.interval, &self.pool));
                    parts.push(tracked.part(PartCut::Unchanged));
                }
            }
        }
        let interval = self.interval;
        let cold = store.map(|shared| ColdCut::push(shared, interval, queued));
        self.cuts.push(PendingCut { checkpoint, interval, written: written.clone() });
        let sequence = self.sequence;
        self.interval += 1;
        self.sequence += 1;
        let KeyedState { key_groups, max_parallelism, .. } = *self;
        Ok(StateCut { checkpoint, key_groups, max_parallelism, sequence, parts, written, cold })
    }

    /// The checkpoint is durable: later cuts hold what changed since then. To be called after the cut was
    /// written to a sink that names its object.
    ///
    /// # Panics
    /// If the sink named none: later handles couldn't say where their older segments are.
    pub fn confirm(&mut self, checkpoint: CheckpointId) {
        self.confirm_in(checkpoint, "");
    }

    /// As `confirm`, for a sink that left the object's name empty: it is `object`.
    pub fn confirm_in(&mut self, checkpoint: CheckpointId, object: &str) {
        let Some(at) = self.cuts.iter().position(|cut| cut.checkpoint == checkpoint) else { return };
        let Some(PendingCut { interval, written, .. }) = self.cuts.drain(..=at).next_back() else { return };
        let Some(written) = written.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            tracing::error!(%checkpoint, "a checkpoint was confirmed whose state was never written");
            return;
        };
        if let Some(store) = self.store() {
            // Runs of before the store was made are no part of what comes after.
            return written.cold.into_iter().for_each(|mut handle| store.confirm(&mut handle, object));
        }
        for (tracked, mut runs) in self.states.iter_mut().zip(written.runs) {
            if runs.runs.iter().any(|run| run.segment.object.is_empty()) {
                assert!(!object.is_empty(), "a confirmed segment lies in an object without a name");
                for run in Arc::make_mut(&mut runs.runs) {
                    run.segment = run.segment.clone().resolved(object);
                }
            }
            tracked.settle_rebases(&runs);
            tracked.confirmed = runs;
            match &mut tracked.state {
                AnyState::Rows(state) => state.confirm(interval),
                AnyState::Ordered(state) => state.confirm(interval),
            }
        }
    }

    /// Sets the clock (microseconds since the epoch) and does a bounded amount of tidying: removes some expired
    /// rows. In front of a cold store, keeps within the memory given: may bring what a
    /// checkpoint is to hold into the store, and more. Slots aren't good any more afterwards. To be called once before the first
    /// batch, too.
    ///
    /// # Errors
    /// What the cold store says.
    pub fn between_batches(&mut self, now_us: i64) -> Result<(), StateError> {
        self.bound_cold()?;
        let now_ms = now_us.max(0) as u64 / 1000;
        for tracked in &mut self.states {
            match &mut tracked.state {
                AnyState::Rows(state) => state.sweep(now_ms, SWEEP_ROWS),
                AnyState::Ordered(state) => state.sweep(now_ms, SWEEP_ROWS),
            }
        }
        Ok(())
    }

    /// Bytes of memory that all states hold on to.
    pub fn memory_bytes(&self) -> usize {
        let bytes = self.states.iter().map(|tracked| match &tracked.state {
            AnyState::Rows(state) => state.memory_bytes(),
            AnyState::Ordered(state) => state.memory_bytes(),
        });
        bytes.sum()
    }

    fn check_new(&self, schema: &StateSchema, kinds: &[StateKind]) -> Result<(), StateError> {
        if !kinds.contains(&schema.kind) {
            let reason = format!("kind {:?} cannot be registered this way; it takes {kinds:?}", schema.kind);
            return Err(StateError::InvalidSchema { state: schema.name.clone(), reason });
        }
        if self.states.iter().any(|tracked| tracked.state.schema().name == schema.name) {
            return Err(StateError::RegisteredTwice { state: schema.name.clone() });
        }
        Ok(())
    }

    /// The restored state of this name, if it can be read as the schema wants it.
    fn take_restored(&mut self, schema: &StateSchema) -> Result<Option<(RestoredState, Verdict)>, StateError> {
        let Some(at) = self.restored.iter().position(|state| state.schema.name == schema.name) else {
            return Ok(None);
        };
        match compatibility(&self.restored[at].schema, schema) {
            Verdict::Incompatible { why } => Err(StateError::Incompatible { state: schema.name.clone(), reason: why }),
            verdict => {
                self.finish_import(at)?;
                Ok(Some((self.restored.swap_remove(at), verdict)))
            }
        }
    }

    fn no_runs(&self) -> StateRuns {
        StateRuns::none(self.key_groups)
    }

    fn track(&mut self, state: AnyState, has_ttl: bool, number: Option<u16>, confirmed: StateRuns) -> usize {
        self.states.push(Tracked { state, has_ttl, number, confirmed, owed: 0 });
        self.states.len() - 1
    }
}

impl Tracked {
    fn cut(&mut self, interval: u32, pool: &BufferPool) -> CutPart {
        let has_runs = !self.confirmed.runs.is_empty();
        let rolling = if has_runs { self.rolling_rebase() } else { vec![] };
        let changes = match &mut self.state {
            AnyState::Rows(state) => state.cut(&rolling, has_runs, pool).map(PartCut::Rows),
            AnyState::Ordered(state) => state.cut(&rolling, has_runs, interval).map(PartCut::Ordered),
        };
        self.part(changes.unwrap_or(PartCut::Unchanged))
    }

    fn part(&self, changes: PartCut) -> CutPart {
        CutPart {
            schema: self.state.schema().clone(),
            has_ttl: self.has_ttl,
            number: self.number,
            before: self.confirmed.clone(),
            changes,
        }
    }

    /// Counts what a confirmed checkpoint did of the rolling rebase; an aborted one did nothing.
    fn settle_rebases(&mut self, confirmed: &StateRuns) {
        if confirmed.runs == self.confirmed.runs {
            return;
        }
        let (before, after) = (&self.confirmed.base_sequences, &confirmed.base_sequences);
        let rebased = before.iter().zip(after).filter(|(before, after)| before != after).count();
        self.owed = (self.owed + before.len()).saturating_sub(rebased * ROLLING_CUTS);
    }

    /// The key groups whose full copies are the oldest, as many as keep the turn within `ROLLING_CUTS`.
    fn rolling_rebase(&self) -> Vec<usize> {
        let sequences = &self.confirmed.base_sequences;
        let count = (self.owed + sequences.len()) / ROLLING_CUTS;
        let mut places: Vec<usize> = (0..sequences.len()).collect();
        places.sort_by_key(|place| sequences[*place]);
        places.truncate(count);
        places
    }
}

impl RestoredState {
    fn into_parts(self) -> (AnyState, Option<u16>, StateRuns) {
        (self.content, self.number, StateRuns { runs: Arc::new(self.runs), base_sequences: self.base_sequences })
    }
}
