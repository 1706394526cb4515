//! The values of a group in order of arrival: FIRST_VALUE and LAST_VALUE of inputs that take rows back.

use super::argument::{Argument, state_type, to_state};
use super::block::{Place, RowBlock};
use super::function::{Pick, pick_values};
use super::last_entry::last_namespace;
use super::selection::Selection;
use super::set::Batch;
use super::values::{delete_under, first_namespace};
use crate::operator::OperatorError;
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use std::sync::Arc;
use weir_model::{StateField, StateKind, StateSchema};
use weir_state::{EncodedRows, KeyBatch, KeyCodec, KeyedState, OrderedStateId, StateOptions, ValueCodec};

/// Two ordered states: (key; arrival) -> value, and (key; value, arrival), by which a retraction finds the
/// arrival that it takes back: the earliest of its value, as in Flink.
pub struct Arrivals {
    by_arrival: OrderedStateId,
    by_value: OrderedStateId,
    /// Counts a group's arrivals up, in its state row.
    next_arrival: Place,
    arrival_codec: KeyCodec,
    value_key_codec: KeyCodec,
    value_codec: ValueCodec,
}

impl Arrivals {
    pub fn schemas(name: &str, argument: &DataType, key: &[StateField]) -> [StateSchema; 2] {
        let value_type = state_type(argument);
        let value = StateField::new("value", value_type.clone(), true);
        let arrival = StateField::new("arrival", DataType::Int64, false);
        let by_arrival = StateSchema {
            name: format!("{name}.arrivals"),
            kind: StateKind::List,
            key: key.to_vec(),
            namespace: vec![arrival.clone()],
            value: vec![value.clone()],
            semantics: vec![format!("by arrival({value_type})")],
        };
        let by_value = StateSchema {
            name: format!("{name}.arrivals_by_value"),
            kind: StateKind::Map,
            key: key.to_vec(),
            namespace: vec![value, arrival],
            value: vec![],
            semantics: vec![],
        };
        [by_arrival, by_value]
    }

    pub fn open(
        name: &str,
        argument: &DataType,
        key: &[StateField],
        next_arrival: Place,
        state: &mut KeyedState,
        ttl_ms: Option<u64>,
    ) -> Result<Self, OperatorError> {
        let [by_arrival, by_value] = Self::schemas(name, argument, key);
        Ok(Arrivals {
            arrival_codec: KeyCodec::new(&by_arrival.namespace)?,
            value_key_codec: KeyCodec::new(&by_value.namespace[..1])?,
            value_codec: ValueCodec::new(&by_arrival.value)?,
            by_arrival: state.register_ordered_with(by_arrival, StateOptions { ttl_ms })?,
            by_value: state.register_ordered_with(by_value, StateOptions { ttl_ms })?,
            next_arrival,
        })
    }

    /// Adds and takes back the selected rows in their order, then sets the first or last value in the block's
    /// rows that the batch touches.
    #[allow(clippy::too_many_arguments)]
    pub fn apply(
        &mut self,
        state: &mut KeyedState,
        block: &mut RowBlock,
        values: &ArrayRef,
        batch: &Batch<'_>,
        rows: &Selection<'_>,
        place: Place,
        pick: Pick,
    ) -> Result<(), OperatorError> {
        let values = [to_state(values)?];
        let (mut value_keys, mut encoded) = (EncodedRows::default(), EncodedRows::default());
        self.value_key_codec.encode(&values, batch.rows, &mut value_keys)?;
        self.value_codec.encode(&values, batch.rows, &mut encoded)?;
        let mut changed = vec![false; batch.touched.len()];
        let mut result = Ok(());
        rows.each(|row, retract| {
            if result.is_err() {
                return;
            }
            let group = batch.touched.of_row[row] as usize;
            changed[group] = true;
            result = match retract {
                true => self.take_back(state, batch, row, value_keys.row(row)),
                false => {
                    let arrival = block.word(group, self.next_arrival);
                    block.set_word(group, self.next_arrival, arrival + 1);
                    self.add(state, batch, row, arrival, value_keys.row(row), encoded.row(row))
                }
            };
        });
        result?;
        for (group, _) in changed.iter().enumerate().filter(|(_, changed)| **changed) {
            let row = batch.touched.first_rows[group] as usize;
            let found = self.pick(state, batch, row, pick)?;
            block.clear(group, place);
            if let Some(bytes) = found {
                let column = &self.value_codec.decode([bytes.as_slice()])?[0];
                pick_values(block, &[group as u32], place, pick, &Argument::of_state(column)?, &Selection::All(1));
            }
        }
        Ok(())
    }

    fn add(
        &self,
        state: &mut KeyedState,
        batch: &Batch<'_>,
        row: usize,
        arrival: i64,
        value_key: &[u8],
        value: &[u8],
    ) -> Result<(), OperatorError> {
        let mut arrivals = EncodedRows::default();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![arrival]));
        self.arrival_codec.encode(&[column], 1, &mut arrivals)?;
        let (group, key, arrival) = (batch.keys.key_group(row), batch.keys.key(row), arrivals.row(0));
        state.ordered(self.by_arrival).put(group, key, arrival, value)?;
        state.ordered(self.by_value).put(group, key, &[value_key, arrival].concat(), &[])?;
        Ok(())
    }

    fn take_back(
        &self,
        state: &mut KeyedState,
        batch: &Batch<'_>,
        row: usize,
        value_key: &[u8],
    ) -> Result<(), OperatorError> {
        let (group, key) = (batch.keys.key_group(row), batch.keys.key(row));
        let of_value = [key, value_key].concat();
        // A value that isn't there has expired.
        let Some(arrival) = first_namespace(state.ordered(self.by_value), group, &of_value)? else { return Ok(()) };
        state.ordered(self.by_value).delete(group, &of_value, &arrival)?;
        state.ordered(self.by_arrival).delete(group, key, &arrival)?;
        Ok(())
    }

    /// The encoded value that arrived first or last.
    fn pick(
        &self,
        state: &mut KeyedState,
        batch: &Batch<'_>,
        row: usize,
        pick: Pick,
    ) -> Result<Option<Vec<u8>>, OperatorError> {
        let (group, key) = (batch.keys.key_group(row), batch.keys.key(row));
        let state = state.ordered(self.by_arrival);
        let arrival = match pick {
            Pick::Last => last_namespace(state, group, key)?,
            _ => first_namespace(state, group, key)?,
        };
        let Some(arrival) = arrival else { return Ok(None) };
        Ok(state.get(group, key, &arrival)?.map(<[u8]>::to_vec))
    }

    /// Deletes all values of a row's key.
    pub fn forget(&mut self, row: usize, keys: &KeyBatch, state: &mut KeyedState) -> Result<(), OperatorError> {
        delete_under(state.ordered(self.by_arrival), keys, row, &[])?;
        delete_under(state.ordered(self.by_value), keys, row, &[])
    }
}
