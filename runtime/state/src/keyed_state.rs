use crate::StateError;
use crate::ordered::OrderedState;
use crate::rows::RowState;
use weir_model::{KeyGroupRange, StateKind, StateSchema};

/// All keyed state of one operator subtask.
pub struct KeyedState {
    key_groups: KeyGroupRange,
    max_parallelism: u32,
    states: Vec<AnyState>,
    /// Number of the current interval between two cuts; rows restored are born in interval 0.
    interval: u32,
}

enum AnyState {
    Rows(RowState),
    Ordered(OrderedState),
}

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
        KeyedState { key_groups, max_parallelism, states: vec![], interval: 1 }
    }

    /// The key groups that this subtask owns.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.key_groups
    }

    pub fn max_parallelism(&self) -> u32 {
        self.max_parallelism
    }

    /// Registers a state of kind `Value`: one row for each namespace and key. The namespace is one 64-bit
    /// number, so the schema has at most one namespace field.
    ///
    /// # Errors
    /// Another kind; a name taken; a type that state cannot hold.
    pub fn register_rows(&mut self, schema: StateSchema) -> Result<RowStateId, StateError> {
        self.register_rows_with(schema, StateOptions::default())
    }

    /// As `register_rows`, with options.
    pub fn register_rows_with(&mut self, schema: StateSchema, options: StateOptions) -> Result<RowStateId, StateError> {
        self.check_new(&schema, &[StateKind::Value])?;
        if schema.namespace.len() > 1 {
            return Err(StateError::InvalidSchema {
                state: schema.name,
                reason: "a state of kind Value has at most one namespace field".into(),
            });
        }
        let state = RowState::new(schema, self.key_groups, self.max_parallelism, options.ttl_ms, self.interval)?;
        self.states.push(AnyState::Rows(state));
        Ok(RowStateId(self.states.len() - 1))
    }

    /// Registers a state of kind `List`, `Map` or `Timer`.
    ///
    /// # Errors
    /// Another kind; a name taken; a type that state cannot hold.
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
        let state = OrderedState::new(schema, self.key_groups, self.max_parallelism, options.ttl_ms)?;
        self.states.push(AnyState::Ordered(state));
        Ok(OrderedStateId(self.states.len() - 1))
    }

    /// # Panics
    /// If the id comes from another `KeyedState`.
    #[inline]
    pub fn rows(&mut self, id: RowStateId) -> &mut RowState {
        match &mut self.states[id.0] {
            AnyState::Rows(state) => state,
            AnyState::Ordered(_) => panic!("an id of another KeyedState"),
        }
    }

    /// # Panics
    /// If the id comes from another `KeyedState`.
    #[inline]
    pub fn ordered(&mut self, id: OrderedStateId) -> &mut OrderedState {
        match &mut self.states[id.0] {
            AnyState::Ordered(state) => state,
            AnyState::Rows(_) => panic!("an id of another KeyedState"),
        }
    }

    fn check_new(&self, schema: &StateSchema, kinds: &[StateKind]) -> Result<(), StateError> {
        if !kinds.contains(&schema.kind) {
            let reason = format!("kind {:?} cannot be registered this way; it takes {kinds:?}", schema.kind);
            return Err(StateError::InvalidSchema { state: schema.name.clone(), reason });
        }
        let taken = self.states.iter().any(|state| match state {
            AnyState::Rows(state) => state.schema().name == schema.name,
            AnyState::Ordered(state) => state.schema().name == schema.name,
        });
        if taken {
            return Err(StateError::RegisteredTwice { state: schema.name.clone() });
        }
        Ok(())
    }
}
