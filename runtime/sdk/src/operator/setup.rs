use super::KeyColumn;
use crate::keys::KeyShape;
use crate::names;
use crate::rows::{Column, Input, Inputs, RecordColumns};
use crate::state::{
    ListState, MapState, Scope, StateDescriptor, TimeDomain, TimerSet, Timers, ValueSlots, ValueState, map_key_fields,
    position_field, timer_time_field,
};
use crate::types::{ColumnType, Kind, Record};
use crate::{Error, Result};
use weir_model::types::sql_type_name;
use weir_model::{StateKind, StateSchema};
use weir_state::KeyedState;

/// Where a new subtask finds its columns and registers its states.
pub struct Setup<'a> {
    inputs: Inputs<'a>,
    keys: &'a KeyShape,
    /// The step's `stateTtl`.
    state_ttl_ms: Option<u64>,
    state: &'a mut KeyedState,
    scope: &'a mut Scope,
    schemas: &'a mut Vec<StateSchema>,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(
        inputs: Inputs<'a>,
        keys: &'a KeyShape,
        state_ttl_ms: Option<u64>,
        state: &'a mut KeyedState,
        scope: &'a mut Scope,
        schemas: &'a mut Vec<StateSchema>,
    ) -> Self {
        Setup { inputs, keys, state_ttl_ms, state, scope, schemas }
    }

    pub fn inputs(&self) -> Inputs<'a> {
        self.inputs
    }

    /// Input number `index`, from 0.
    pub fn input(&self, index: usize) -> Result<Input<'a>> {
        self.inputs.get(index)
    }

    /// A column of the only input.
    pub fn column<T: ColumnType>(&self, name: &str) -> Result<Column<T>> {
        self.inputs.only()?.column(name)
    }

    /// The columns of the only input that carry the names of the record's fields.
    pub fn record<T: Record>(&self) -> Result<RecordColumns<T>> {
        self.inputs.only()?.record()
    }

    /// A column of the key, by its name in the first input.
    ///
    /// # Errors
    /// If the step isn't keyed by it, or it can't be read as a `T`.
    pub fn key<T: ColumnType>(&self, name: &str) -> Result<KeyColumn<T>> {
        let fields = self.keys.fields();
        let Some(index) = fields.iter().position(|field| field.name == name) else {
            let known = names::listed(name, fields.iter().map(|field| field.name.as_str()));
            return Err(Error::new(format!("the step must be keyed by `{name}`; its `keyBy` is {known}")));
        };
        let data_type = &fields[index].data_type;
        if !Kind::of(data_type).is_some_and(T::accepts) {
            let (is, wanted) = (sql_type_name(data_type), T::KIND.sql_name());
            return Err(Error::new(format!("key column `{name}` is {is}, and {wanted} is needed")));
        }
        Ok(KeyColumn::new(index))
    }

    /// Registers a state with one value for each key.
    ///
    /// # Errors
    /// A step without `keyBy`; a name twice; state in the checkpoint that cannot be read as this.
    pub fn value_state<T: Record>(&mut self, descriptor: impl Into<StateDescriptor>) -> Result<ValueState<T>> {
        let descriptor = descriptor.into();
        let schema = self.schema(&descriptor, StateKind::Value, vec![], T::fields(), T::semantics())?;
        let id = self.state.register_rows_with(schema, descriptor.options(self.state_ttl_ms)?)?;
        self.scope.use_raw_keys();
        self.scope.values.push(ValueSlots::new(id));
        Ok(ValueState::new(self.scope.values.len() - 1))
    }

    /// Registers a state with a list for each key.
    ///
    /// # Errors
    /// As `value_state`.
    pub fn list_state<T: Record>(&mut self, descriptor: impl Into<StateDescriptor>) -> Result<ListState<T>> {
        let descriptor = descriptor.into();
        let position = vec![position_field()];
        let schema = self.schema(&descriptor, StateKind::List, position, T::fields(), T::semantics())?;
        let id = self.state.register_ordered_with(schema, descriptor.options(self.state_ttl_ms)?)?;
        self.scope.use_ordered_keys();
        Ok(ListState::new(id))
    }

    /// Registers a state with a map for each key.
    ///
    /// # Errors
    /// As `value_state`.
    pub fn map_state<K: Record, V: Record>(
        &mut self,
        descriptor: impl Into<StateDescriptor>,
    ) -> Result<MapState<K, V>> {
        let descriptor = descriptor.into();
        let map_key = map_key_fields::<K>();
        let schema = self.schema(&descriptor, StateKind::Map, map_key, V::fields(), V::semantics())?;
        let id = self.state.register_ordered_with(schema, descriptor.options(self.state_ttl_ms)?)?;
        self.scope.use_ordered_keys();
        Ok(MapState::new(id))
    }

    /// Registers a set of timers that fire as the watermark moves on.
    ///
    /// # Errors
    /// As `value_state`.
    pub fn event_timers(&mut self, name: &str) -> Result<Timers> {
        self.timers(name, TimeDomain::Event)
    }

    /// Registers a set of timers that fire as the clock moves on.
    ///
    /// # Errors
    /// As `value_state`.
    pub fn processing_timers(&mut self, name: &str) -> Result<Timers> {
        self.timers(name, TimeDomain::Processing)
    }

    fn timers(&mut self, name: &str, domain: TimeDomain) -> Result<Timers> {
        let descriptor = StateDescriptor::new(name);
        let semantics = match domain {
            TimeDomain::Event => "event-time timer",
            TimeDomain::Processing => "processing-time timer",
        };
        let time = vec![timer_time_field()];
        let schema = self.schema(&descriptor, StateKind::Timer, time, vec![], vec![semantics.to_owned()])?;
        let id = self.state.register_ordered(schema)?;
        self.scope.use_ordered_keys();
        self.scope.timers.push(TimerSet::new(id, domain));
        Ok(Timers { set: self.scope.timers.len() - 1 })
    }

    fn schema(
        &mut self,
        descriptor: &StateDescriptor,
        kind: StateKind,
        namespace: Vec<weir_model::StateField>,
        value: Vec<weir_model::StateField>,
        semantics: Vec<String>,
    ) -> Result<StateSchema> {
        let schema = descriptor.schema(kind, self.keys.fields(), namespace, value, semantics)?;
        self.schemas.push(schema.clone());
        Ok(schema)
    }
}
