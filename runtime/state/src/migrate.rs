//! Reads restored states as a newer schema wants them: columns matched by name, types widened.

use crate::StateError;
use crate::codec::{EncodedRows, KeyCodec, ValueCodec};
use crate::key_batch::{KeyBatch, KeyEncoder};
use crate::ordered::OrderedState;
use crate::rows::RowState;
use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use std::ops::ControlFlow;
use weir_model::{StateField, StateKind, StateSchema};

const BATCH_ROWS: usize = 8192;
/// What a state in front of a cold store keeps in memory while it's rewritten.
pub(crate) const COLD_BYTES: usize = 1 << 24;

/// Moves all rows over; `old` and `new` passed `compatibility`.
pub(crate) fn rows(old: &mut RowState, new: &mut RowState) -> Result<(), StateError> {
    let (from, to) = (old.schema().clone(), new.schema().clone());
    let max_parallelism = new.max_parallelism();
    let mut encoder = KeyEncoder::new(&to.key);
    let mut keys = KeyBatch::new();
    old.for_each_batch(BATCH_ROWS, |namespace, key_columns, values, rows| {
        let key_columns = convert(&from.key, &to.key, key_columns, rows)?;
        encoder.encode(&key_columns, rows, max_parallelism, &mut keys)?;
        let values = convert(&from.value, &to.value, &values, rows)?;
        new.put_columns(&vec![namespace; rows], &keys, &values)?;
        new.bound_cold(COLD_BYTES)
    })
}

/// Moves all entries over; `old` and `new` passed `compatibility`.
pub(crate) fn ordered(old: &mut OrderedState, new: &mut OrderedState) -> Result<(), StateError> {
    let (from, to) = (old.schema().clone(), new.schema().clone());
    let (old_places, new_places) = (PlaceCodec::new(&from)?, PlaceCodec::new(&to)?);
    let (old_values, new_values) = (ValueCodec::new(&from.value)?, ValueCodec::new(&to.value)?);
    let (mut encoded_places, mut encoded_values) = (EncodedRows::default(), EncodedRows::default());
    for group in old.key_groups().iter() {
        let mut from_place = Vec::new();
        loop {
            let (mut places, mut values) = (EncodedRows::default(), EncodedRows::default());
            old.scan_range(group, &from_place, None, |place, value| {
                places.push(place);
                values.push(value);
                if places.len() < BATCH_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            let rows = places.len();
            if rows == 0 {
                break;
            }
            from_place = [places.row(rows - 1), &[0]].concat();
            let columns =
                convert(&old_places.fields, &new_places.fields, &old_places.codec.decode(places.iter())?, rows)?;
            new_places.codec.encode(&columns, rows, &mut encoded_places)?;
            let columns = convert(&from.value, &to.value, &old_values.decode(values.iter())?, rows)?;
            new_values.encode(&columns, rows, &mut encoded_values)?;
            for row in 0..rows {
                new.put_place(group, encoded_places.row(row), encoded_values.row(row))?;
            }
            new.bound_cold(COLD_BYTES)?;
        }
    }
    Ok(())
}

/// The place of an ordered state's entry: key and namespace in the order in which they're put behind each other.
pub(crate) struct PlaceCodec {
    pub(crate) fields: Vec<StateField>,
    pub(crate) codec: KeyCodec,
}

impl PlaceCodec {
    pub(crate) fn new(schema: &StateSchema) -> Result<Self, StateError> {
        let fields = match schema.kind {
            StateKind::Timer => [&schema.namespace[..], &schema.key].concat(),
            _ => [&schema.key[..], &schema.namespace].concat(),
        };
        Ok(PlaceCodec { codec: KeyCodec::new(&fields)?, fields })
    }
}

/// The columns that the new fields want, from those of the old: by name, cast to the new type, null where new.
fn convert(
    old: &[StateField],
    new: &[StateField],
    columns: &[ArrayRef],
    rows: usize,
) -> Result<Vec<ArrayRef>, StateError> {
    let options = CastOptions { safe: false, ..Default::default() };
    new.iter()
        .map(|field| match old.iter().position(|was| was.name == field.name) {
            None => Ok(new_null_array(&field.data_type, rows)),
            Some(at) if columns[at].null_count() > 0 && !field.nullable => {
                Err(StateError::UnexpectedNull { field: field.name.clone() })
            }
            Some(at) => Ok(cast_with_options(&columns[at], &field.data_type, &options)?),
        })
        .collect()
}
