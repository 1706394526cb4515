//! Reads tables, as `export` gives them, into states that nothing has registered yet.

use crate::StateError;
use crate::any_state::AnyState;
use crate::codec::{EncodedRows, ValueCodec, check_columns};
use crate::cold::{ColdBatch, PREFIX_BYTES};
use crate::export::strict;
use crate::key_batch::{KeyBatch, KeyEncoder};
use crate::keyed_state::KeyedState;
use crate::migrate::{COLD_BYTES, PlaceCodec};
use crate::ordered::OrderedState;
use crate::restore::RestoredState;
use crate::rows::RowState;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast_with_options;
use arrow::datatypes::{DataType, Int64Type, UInt16Type};
use weir_model::{KeyGroup, KeyGroupRange, StateKind, StateSchema};

impl KeyedState {
    /// Adds rows, by column as `export` gives them, to a state that nothing has registered yet; registered, it
    /// becomes what the new schema wants, as a state of a checkpoint does. Without rows: an empty state.
    ///
    /// # Errors
    /// Columns that aren't the schema's; a row of a key group that isn't owned, or that isn't its key's.
    ///
    /// # Panics
    /// If the state is registered already.
    pub fn import(&mut self, schema: &StateSchema, columns: &[ArrayRef]) -> Result<(), StateError> {
        let (owned, max_parallelism) = (self.key_groups(), self.max_parallelism());
        let at = match self.restored.iter().position(|state| state.schema.name == schema.name) {
            Some(at) => at,
            None => {
                // Without runs behind it, the next cut writes all of it.
                let state = RestoredState::empty(schema, false, owned, max_parallelism)?;
                let state = self.placed(state)?;
                self.restored.push(state);
                self.restored.len() - 1
            }
        };
        let fields = schema.key.len() + schema.namespace.len() + schema.value.len();
        let Some((groups, columns)) = columns.split_first() else { return Ok(()) };
        if columns.len() != fields {
            return Err(StateError::ColumnCount { what: "imported state", columns: columns.len(), fields });
        }
        let groups = groups_of(schema, groups, owned)?;
        let (keys, rest) = columns.split_at(schema.key.len());
        let (namespaces, values) = rest.split_at(schema.namespace.len());
        check_columns("key", &schema.key, keys, groups.len())?;
        check_columns("namespace", &schema.namespace, namespaces, groups.len())?;
        check_columns("value", &schema.value, values, groups.len())?;
        let stored = self.import_stored(at)?;
        let RestoredState { content, number, imported, .. } = &mut self.restored[at];
        match content {
            AnyState::Rows(rows) => {
                let (namespaces, keys) = places_of(rows, &groups, keys, namespaces)?;
                match imported {
                    None => rows.put_columns(&namespaces, &keys, values)?,
                    Some(batch) => rows.put_stored(number.expect(NUMBERED), &namespaces, &keys, values, batch)?,
                }
            }
            AnyState::Ordered(entries) => import_ordered(entries, &groups, keys, namespaces, values)?,
        }
        if stored { self.store_imported(at, COLD_BYTES) } else { self.bound_restored(at) }
    }

    /// Rows of a state that is in the store go there by themselves, and not through tables; whether they do.
    fn import_stored(&mut self, at: usize) -> Result<bool, StateError> {
        let Some(shared) = self.store() else { return Ok(false) };
        let (key_groups, max_parallelism) = (self.key_groups(), self.max_parallelism());
        let restored = &mut self.restored[at];
        if restored.imported.is_none() && matches!(restored.content, AnyState::Rows(_)) {
            // What was here is there, and may be put once more.
            restored.content.flush_cold()?;
            restored.content = AnyState::new(&restored.schema, restored.has_ttl, key_groups, max_parallelism)?;
            restored.content.attach_cold(&shared, restored.number.expect(NUMBERED))?;
            restored.imported = Some(ColdBatch::default());
        }
        Ok(restored.imported.is_some())
    }

    /// Brings rows into the store, once there are so many bytes of them.
    fn store_imported(&mut self, at: usize, from_bytes: usize) -> Result<(), StateError> {
        let Some((shared, batch)) = self.store().zip(self.restored[at].imported.as_mut()) else { return Ok(()) };
        if batch.bytes() < from_bytes {
            return Ok(());
        }
        batch.settle();
        let group = |key: &[u8]| key.first_chunk::<PREFIX_BYTES>().copied();
        let (first, last) = (batch.first_key().and_then(group), batch.last_key().and_then(group));
        // Mostly one key group comes after the other: files that have none in common need no merging.
        let rest = match last.filter(|last| from_bytes > 0 && first != Some(*last)) {
            Some(last) => batch.split_off(&last),
            None => ColdBatch::default(),
        };
        let full = std::mem::replace(batch, rest);
        let mut writer = shared.store.writer()?;
        writer.write(&full)?;
        writer.finish()
    }

    /// All rows that were imported are where the state looks for them.
    pub(crate) fn finish_import(&mut self, at: usize) -> Result<(), StateError> {
        self.store_imported(at, 0)?;
        let (store, restored) = (self.store(), &mut self.restored[at]);
        match (store, restored.imported.take()) {
            (Some(shared), Some(_)) => restored.content.attach_cold(&shared, restored.number.expect(NUMBERED)),
            _ => Ok(()),
        }
    }
}

const NUMBERED: &str = "a state in front of a store has a number";

fn groups_of(schema: &StateSchema, column: &ArrayRef, owned: KeyGroupRange) -> Result<Vec<KeyGroup>, StateError> {
    if *column.data_type() != DataType::UInt16 || column.null_count() > 0 {
        let reason = format!("its key groups are {}, and should be UInt16 without nulls", column.data_type());
        return Err(StateError::decode(format!("state `{}`", schema.name), reason));
    }
    let groups = column.as_primitive::<UInt16Type>().values().iter().map(|group| KeyGroup(*group));
    let groups: Vec<KeyGroup> = groups.collect();
    match groups.iter().find(|group| !owned.contains(**group)) {
        Some(group) => Err(StateError::NotOwned { group: group.0, owned }),
        None => Ok(groups),
    }
}

/// Namespaces and keys of rows; the keys must be of these groups.
fn places_of(
    rows: &RowState,
    groups: &[KeyGroup],
    key_columns: &[ArrayRef],
    namespaces: &[ArrayRef],
) -> Result<(Vec<i64>, KeyBatch), StateError> {
    let mut keys = KeyBatch::new();
    KeyEncoder::new(&rows.schema().key).encode(key_columns, groups.len(), rows.max_parallelism(), &mut keys)?;
    if let Some(row) = (0..groups.len()).find(|row| keys.key_group(*row) != groups[*row]) {
        let (said, is) = (groups[row].0, keys.key_group(row).0);
        let reason = format!("a row stands in key group {said}, and its key belongs to {is}");
        return Err(StateError::decode(format!("state `{}`", rows.schema().name), reason));
    }
    let namespaces = match namespaces {
        [] => vec![0; groups.len()],
        [column, ..] => {
            let numbers = cast_with_options(column, &DataType::Int64, &strict())?;
            numbers.as_primitive::<Int64Type>().values().to_vec()
        }
    };
    Ok((namespaces, keys))
}

fn import_ordered(
    entries: &mut OrderedState,
    groups: &[KeyGroup],
    keys: &[ArrayRef],
    namespaces: &[ArrayRef],
    values: &[ArrayRef],
) -> Result<(), StateError> {
    let place_columns = match entries.schema().kind {
        StateKind::Timer => [namespaces, keys].concat(),
        _ => [keys, namespaces].concat(),
    };
    let (mut places, mut encoded) = (EncodedRows::default(), EncodedRows::default());
    PlaceCodec::new(entries.schema())?.codec.encode(&place_columns, groups.len(), &mut places)?;
    ValueCodec::new(&entries.schema().value)?.encode(values, groups.len(), &mut encoded)?;
    let mut rows = groups.iter().enumerate();
    rows.try_for_each(|(row, group)| entries.put_place(*group, places.row(row), encoded.row(row)))
}
