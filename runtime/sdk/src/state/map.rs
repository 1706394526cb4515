use super::key_bytes::{KeyWriter, decode_key};
use super::list::delete_all;
use super::value_bytes::{decode_value, encode_value};
use crate::Result;
use crate::operator::Context;
use crate::types::{Record, Value};
use std::marker::PhantomData;
use std::ops::ControlFlow;
use weir_model::StateField;
use weir_state::OrderedStateId;

/// A map for each key, ordered by the map's own keys, as Flink's `MapState`.
pub struct MapState<K, V> {
    id: OrderedStateId,
    fields: usize,
    entry: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for MapState<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for MapState<K, V> {}

/// What a map with keys `K` can be asked by: `K` itself, and `str` for a `String`.
pub trait KeyOf<K> {
    fn write_key(&self, out: &mut KeyWriter<'_>) -> Result<()>;
}

impl<K: Record> KeyOf<K> for K {
    #[inline]
    fn write_key(&self, out: &mut KeyWriter<'_>) -> Result<()> {
        self.write(out)
    }
}

impl KeyOf<String> for str {
    fn write_key(&self, out: &mut KeyWriter<'_>) -> Result<()> {
        out.put_value(Value::Varchar(self), false);
        Ok(())
    }
}

impl KeyOf<Vec<u8>> for [u8] {
    fn write_key(&self, out: &mut KeyWriter<'_>) -> Result<()> {
        out.put_value(Value::Bytes(self), false);
        Ok(())
    }
}

impl<K: Record, V: Record> MapState<K, V> {
    pub(crate) fn new(id: OrderedStateId) -> Self {
        MapState { id, fields: V::fields().len(), entry: PhantomData }
    }

    pub fn get(&self, context: &mut Context<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<Option<V>> {
        let (state, scope, row) = context.parts();
        key.write_key(&mut KeyWriter::new(&mut scope.scratch.namespace))?;
        let (group, own) = scope.ordered_key(row);
        let value = state.ordered(self.id).get(group, own, &scope.scratch.namespace)?;
        value.map(|value| decode_value(value, self.fields)).transpose()
    }

    pub fn contains(&self, context: &mut Context<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<bool> {
        let (state, scope, row) = context.parts();
        key.write_key(&mut KeyWriter::new(&mut scope.scratch.namespace))?;
        let (group, own) = scope.ordered_key(row);
        Ok(state.ordered(self.id).get(group, own, &scope.scratch.namespace)?.is_some())
    }

    pub fn put(&self, context: &mut Context<'_>, key: &(impl KeyOf<K> + ?Sized), value: &V) -> Result<()> {
        let (state, scope, row) = context.parts();
        key.write_key(&mut KeyWriter::new(&mut scope.scratch.namespace))?;
        encode_value(value, self.fields, &mut scope.scratch.value)?;
        let (group, own) = scope.ordered_key(row);
        Ok(state.ordered(self.id).put(group, own, &scope.scratch.namespace, &scope.scratch.value)?)
    }

    /// Removes an entry, if there is one, and gives what it was.
    pub fn remove(&self, context: &mut Context<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<Option<V>> {
        let removed = self.get(context, key)?;
        if removed.is_some() {
            let (state, scope, row) = context.parts();
            let (group, own) = scope.ordered_key(row);
            state.ordered(self.id).delete(group, own, &scope.scratch.namespace)?;
        }
        Ok(removed)
    }

    /// The current key's entries, in the order of the map's keys.
    pub fn entries(&self, context: &mut Context<'_>) -> Result<Vec<(K, V)>> {
        let mut entries = vec![];
        self.for_each(context, |key, value| {
            entries.push((key, value));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Visits the current key's entries, in the order of the map's keys, until told to stop.
    pub fn for_each(&self, context: &mut Context<'_>, mut visit: impl FnMut(K, V) -> ControlFlow<()>) -> Result<()> {
        let (state, scope, row) = context.parts();
        let (group, own) = scope.ordered_key(row);
        let mut result = Ok(());
        state.ordered(self.id).scan_prefix(group, own, |key, value| {
            match (decode_key(key), decode_value(value, self.fields)) {
                (Ok(key), Ok(value)) => visit(key, value),
                (Err(error), _) | (_, Err(error)) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        result
    }

    pub fn is_empty(&self, context: &mut Context<'_>) -> Result<bool> {
        let (state, scope, row) = context.parts();
        let (group, own) = scope.ordered_key(row);
        let mut is_empty = true;
        state.ordered(self.id).scan_prefix(group, own, |_, _| {
            is_empty = false;
            ControlFlow::Break(())
        })?;
        Ok(is_empty)
    }

    /// Removes all of the current key's entries.
    pub fn clear(&self, context: &mut Context<'_>) -> Result<()> {
        let (state, scope, row) = context.parts();
        let (group, own) = scope.ordered_key(row);
        delete_all(state.ordered(self.id), group, own)
    }
}

/// The namespace of a map's entries: its keys, so named that they don't pass for values.
pub(crate) fn map_key_fields<K: Record>() -> Vec<StateField> {
    let mut fields = K::fields();
    for field in &mut fields {
        field.name = match field.name.strip_prefix("value") {
            Some(rest) => format!("map_key{rest}"),
            None => std::mem::take(&mut field.name),
        };
    }
    fields
}
