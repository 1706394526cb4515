use super::value_bytes::{decode_value, encode_value};
use crate::Result;
use crate::operator::Context;
use crate::types::Record;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use weir_model::StateField;
use weir_state::{OrderedState, OrderedStateId, StateError, time_of_timer, timer_time};

/// An ordered list of values for each key, as Flink's `ListState`.
pub struct ListState<T> {
    id: OrderedStateId,
    fields: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for ListState<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ListState<T> {}

impl<T: Record> ListState<T> {
    pub(crate) fn new(id: OrderedStateId) -> Self {
        ListState { id, fields: T::fields().len(), value: PhantomData }
    }

    /// Appends a value to the current key's list.
    pub fn add(&self, context: &mut Context<'_>, value: &T) -> Result<()> {
        let end = self.place(context)?.map_or(0, |place| place.end);
        self.put(context, end, value)
    }

    /// Appends values to the current key's list.
    pub fn add_all<'v>(&self, context: &mut Context<'_>, values: impl IntoIterator<Item = &'v T>) -> Result<()> {
        let end = self.place(context)?.map_or(0, |place| place.end);
        values.into_iter().zip(end..).try_for_each(|(value, position)| self.put(context, position, value))
    }

    /// Puts these values in place of the current key's list.
    pub fn update<'v>(&self, context: &mut Context<'_>, values: impl IntoIterator<Item = &'v T>) -> Result<()> {
        self.clear(context)?;
        self.add_all(context, values)
    }

    /// The current key's list, oldest first.
    pub fn get(&self, context: &mut Context<'_>) -> Result<Vec<T>> {
        let mut values = vec![];
        self.for_each(context, |value| {
            values.push(value);
            ControlFlow::Continue(())
        })?;
        Ok(values)
    }

    /// Visits the current key's list, oldest first, until told to stop.
    pub fn for_each(&self, context: &mut Context<'_>, mut visit: impl FnMut(T) -> ControlFlow<()>) -> Result<()> {
        let (state, scope, row) = context.parts();
        let (group, key) = scope.ordered_key(row);
        let mut result = Ok(());
        state.ordered(self.id).scan_prefix(group, key, |_, value| match decode_value(value, self.fields) {
            Ok(value) => visit(value),
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        })?;
        result
    }

    pub fn is_empty(&self, context: &mut Context<'_>) -> Result<bool> {
        Ok(self.place(context)?.is_none())
    }

    /// How many values the current key's list has. Costs a few lookups, not a walk.
    pub fn len(&self, context: &mut Context<'_>) -> Result<usize> {
        Ok(self.place(context)?.map_or(0, |place| (place.end - place.first) as usize))
    }

    /// Takes the oldest value out of the current key's list.
    pub fn remove_first(&self, context: &mut Context<'_>) -> Result<Option<T>> {
        let (state, scope, row) = context.parts();
        let (group, key) = scope.ordered_key(row);
        let state = state.ordered(self.id);
        let mut first = None;
        state.scan_prefix(group, key, |position, value| {
            first = Some((position.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })?;
        let Some((position, value)) = first else { return Ok(None) };
        state.delete(group, key, &position)?;
        decode_value(&value, self.fields).map(Some)
    }

    /// Removes the current key's list.
    pub fn clear(&self, context: &mut Context<'_>) -> Result<()> {
        let (state, scope, row) = context.parts();
        let (group, key) = scope.ordered_key(row);
        delete_all(state.ordered(self.id), group, key)
    }

    fn put(&self, context: &mut Context<'_>, position: i64, value: &T) -> Result<()> {
        let (state, scope, row) = context.parts();
        let mut bytes = std::mem::take(&mut scope.scratch.value);
        encode_value(value, self.fields, &mut bytes)?;
        let (group, key) = scope.ordered_key(row);
        let result = state.ordered(self.id).put(group, key, &timer_time(position), &bytes);
        scope.scratch.value = bytes;
        Ok(result?)
    }

    fn place(&self, context: &mut Context<'_>) -> Result<Option<Place>> {
        let (state, scope, row) = context.parts();
        let (group, key) = scope.ordered_key(row);
        let state = state.ordered(self.id);
        let mut first = None;
        state.scan_prefix(group, key, |position, _| {
            first = position.try_into().ok().map(time_of_timer);
            ControlFlow::Break(())
        })?;
        let Some(first) = first else { return Ok(None) };
        let mut has = |position: i64| Ok::<_, StateError>(state.get(group, key, &timer_time(position))?.is_some());
        // Positions have no gaps, so that the end is found by steps that double, and then by halves.
        let (mut held, mut step) = (first, 1);
        while has(held + step)? {
            held += step;
            step *= 2;
        }
        let mut free = held + step;
        while free - held > 1 {
            let middle = held + (free - held) / 2;
            match has(middle)? {
                true => held = middle,
                false => free = middle,
            }
        }
        Ok(Some(Place { first, end: free }))
    }
}

/// The namespace of a list's entries: where it stands, encoded as timers' times are.
pub(crate) fn position_field() -> StateField {
    StateField::new("position", arrow::datatypes::DataType::Int64, false)
}

/// The positions that a list takes: `first .. end`.
struct Place {
    first: i64,
    end: i64,
}

/// Removes all entries of a key.
pub(crate) fn delete_all(state: &mut OrderedState, group: weir_model::KeyGroup, key: &[u8]) -> Result<()> {
    let mut namespaces = weir_state::EncodedRows::default();
    state.scan_prefix(group, key, |namespace, _| {
        namespaces.push(namespace);
        ControlFlow::Continue(())
    })?;
    for namespace in namespaces.iter() {
        state.delete(group, key, namespace)?;
    }
    Ok(())
}
