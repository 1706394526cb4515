//! A state of either form, where it matters little which.

use crate::StateError;
use crate::cold::ColdShared;
use crate::ordered::OrderedState;
use crate::rows::RowState;
use std::sync::Arc;
use weir_model::{KeyGroupRange, StateKind, StateSchema};

pub(crate) enum AnyState {
    Rows(RowState),
    Ordered(OrderedState),
}

/// Restored states carry a TTL of this until they're registered with theirs: nothing expires while loading.
const ENDLESS_TTL_MS: u64 = u64::MAX;

impl AnyState {
    /// An empty state in memory, to be filled from a checkpoint or a savepoint.
    pub(crate) fn new(
        schema: &StateSchema,
        has_ttl: bool,
        owned: KeyGroupRange,
        max_parallelism: u32,
    ) -> Result<AnyState, StateError> {
        let schema = schema.clone();
        let ttl_ms = has_ttl.then_some(ENDLESS_TTL_MS);
        Ok(match schema.kind {
            StateKind::Value => AnyState::Rows(RowState::new(schema, owned, max_parallelism, ttl_ms, 0)?),
            StateKind::List | StateKind::Map | StateKind::Timer => {
                AnyState::Ordered(OrderedState::new(schema, owned, max_parallelism, ttl_ms)?)
            }
        })
    }

    pub(crate) fn schema(&self) -> &StateSchema {
        match self {
            AnyState::Rows(rows) => rows.schema(),
            AnyState::Ordered(entries) => entries.schema(),
        }
    }

    /// Bytes of the rows and entries in memory.
    pub(crate) fn live_bytes(&self) -> usize {
        match self {
            AnyState::Rows(rows) => rows.live_bytes(),
            AnyState::Ordered(entries) => entries.live_bytes(),
        }
    }

    /// Puts the state in front of a store that may hold some of it.
    pub(crate) fn attach_cold(&mut self, shared: &Arc<ColdShared>, number: u16) -> Result<(), StateError> {
        match self {
            AnyState::Rows(rows) => rows.attach_cold(shared.clone(), number),
            AnyState::Ordered(entries) => {
                entries.attach_cold(shared.clone(), number);
                Ok(())
            }
        }
    }

    /// Puts the state in front of a store that holds nothing of it; the next cut or flush brings all there.
    pub(crate) fn spill(&mut self, shared: &Arc<ColdShared>, number: u16) {
        match self {
            AnyState::Rows(rows) => rows.spill(shared.clone(), number),
            AnyState::Ordered(entries) => entries.spill(shared.clone(), number),
        }
    }

    /// Brings what changed into the store, which takes part in no cut right now.
    pub(crate) fn flush_cold(&mut self) -> Result<(), StateError> {
        match self {
            AnyState::Rows(rows) => rows.flush_cold(),
            AnyState::Ordered(entries) => entries.flush_cold(),
        }
    }

    /// Brings what changed into the store if it is more than `cache_bytes`; no cut is in the works.
    pub(crate) fn bound_cold(&mut self, cache_bytes: usize) -> Result<(), StateError> {
        match self {
            AnyState::Rows(rows) => rows.bound_cold(cache_bytes),
            AnyState::Ordered(entries) => entries.bound_cold(cache_bytes),
        }
    }

    /// Takes all of it out of the store.
    pub(crate) fn delete_cold(&mut self) -> Result<(), StateError> {
        match self {
            AnyState::Rows(rows) => rows.delete_cold(),
            AnyState::Ordered(entries) => entries.delete_cold(),
        }
    }

    /// The cuts up to this interval's are in the store.
    pub(crate) fn applied_cold(&mut self, interval: u32) {
        match self {
            AnyState::Rows(rows) => rows.confirm(interval),
            AnyState::Ordered(entries) => entries.applied_cold(interval),
        }
    }

    pub(crate) fn into_rows(self) -> RowState {
        match self {
            AnyState::Rows(rows) => rows,
            AnyState::Ordered(_) => unreachable!("compatible states are of one kind"),
        }
    }

    pub(crate) fn into_ordered(self) -> OrderedState {
        match self {
            AnyState::Ordered(entries) => entries,
            AnyState::Rows(_) => unreachable!("compatible states are of one kind"),
        }
    }
}
