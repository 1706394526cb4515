//! Rows as Arrow columns, and back.

use super::RowState;
use super::table::{DEAD, LIVE, NULL_KEY};
use crate::StateError;
use crate::codec::{BytesBuilder, KeyCodec, with_byte_column};
use crate::key_batch::KeyForm;
use crate::layout::{FieldKind, FieldLayout, Slot};
use crate::word::{append_words, array_of_key_words, array_of_words};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type};
use std::sync::Arc;

impl RowState {
    /// One value field of these rows as a column; null for `Slot::NONE`.
    pub fn column(&self, slots: &[Slot], field: usize) -> Result<ArrayRef, StateError> {
        let layout = self.layout.field(field);
        let data_type = self.schema.value[field].data_type.clone();
        if data_type == DataType::Null {
            return Ok(new_null_array(&data_type, slots.len()));
        }
        Ok(match layout.kind {
            FieldKind::Word | FieldKind::Decimal => {
                let rows = slots.iter().map(|slot| (!slot.is_none()).then(|| self.row(*slot)));
                fixed_column(layout, &data_type, rows)?
            }
            FieldKind::Var => {
                let mut builder = BytesBuilder::with_capacity(slots.len());
                for slot in slots {
                    builder.append(if slot.is_none() { None } else { self.get_var(*slot, layout) });
                }
                builder.finish(&data_type)?
            }
        })
    }

    /// All value fields of these rows, in the order of the schema.
    pub fn columns(&self, slots: &[Slot]) -> Result<Vec<ArrayRef>, StateError> {
        (0..self.schema.value.len()).map(|field| self.column(slots, field)).collect()
    }

    /// Sets one value field of these rows from a column of the field's type and marks them as changed.
    pub fn set_column(&mut self, slots: &[Slot], field: usize, column: &ArrayRef) -> Result<(), StateError> {
        let schema = &self.schema.value[field];
        if *column.data_type() != schema.data_type {
            return Err(StateError::ColumnType {
                field: schema.name.clone(),
                expected: schema.data_type.clone(),
                found: column.data_type().clone(),
            });
        }
        assert_eq!(slots.len(), column.len(), "a value for each slot");
        let layout = self.layout.field(field);
        let put_null = |row: &mut [u8], layout: FieldLayout| {
            layout.set_null(row);
            layout.put_u64(row, 0);
        };
        match layout.kind {
            _ if schema.data_type == DataType::Null => {}
            FieldKind::Word => {
                let mut words = Vec::with_capacity(slots.len());
                append_words(column, &mut words)?;
                self.for_each_mut(slots, |at, row| match column.is_null(at) {
                    true => put_null(row, layout),
                    false => layout.set_i64(row, words[at] as i64),
                });
            }
            FieldKind::Decimal => {
                let values = column.as_primitive::<Decimal128Type>();
                self.for_each_mut(slots, |at, row| match values.is_null(at) {
                    true => layout.set_null(row),
                    false => layout.set_i128(row, values.value(at)),
                });
            }
            FieldKind::Var => with_byte_column!(column, array => {
                for (at, slot) in slots.iter().enumerate().filter(|(_, slot)| !slot.is_none()) {
                    let value: Option<&[u8]> = array.is_valid(at).then(|| array.value(at).as_ref());
                    self.set_var(*slot, layout, value)?;
                }
            }, _ => return Err(crate::word::unsupported(&schema.data_type))),
        }
        Ok(())
    }

    /// The keys of these rows as columns.
    ///
    /// # Panics
    /// If a slot is `Slot::NONE` or no longer good.
    pub fn keys(&self, slots: &[Slot]) -> Result<Vec<ArrayRef>, StateError> {
        match self.form() {
            KeyForm::Word => {
                let (mut words, mut valid) = (Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
                for slot in slots {
                    let row = self.table(*slot).row(&self.physical, slot.row());
                    words.push(row[0]);
                    valid.push(row[self.physical.header()] & NULL_KEY == 0);
                }
                Ok(vec![array_of_key_words(&words, nulls_of(valid), &self.schema.key[0].data_type)?])
            }
            KeyForm::Bytes => {
                let keys = slots.iter().map(|slot| {
                    let table = self.table(*slot);
                    table.arena.get(table.row(&self.physical, slot.row())[1])
                });
                if self.schema.key.is_empty() {
                    return Ok(vec![]);
                }
                KeyCodec::new(&self.schema.key)?.decode(keys)
            }
        }
    }

    /// Calls `visit(state, keys, slots)` with all rows of the namespace, at most `max_rows` at a time, in no
    /// particular order. `visit` may change and remove the rows it is given; it may not add any to this
    /// namespace.
    pub fn scan<E: From<StateError>>(
        &mut self,
        namespace: i64,
        max_rows: usize,
        mut visit: impl FnMut(&mut RowState, &[ArrayRef], &[Slot]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(number) = self.by_namespace.get(&namespace).copied() else { return Ok(()) };
        let mut slots = Vec::with_capacity(max_rows.min(self.sets[number].live()));
        let (mut table, mut row) = (0, 0);
        loop {
            if self.by_namespace.get(&namespace) != Some(&number) {
                return Ok(());
            }
            slots.clear();
            while slots.len() < max_rows.max(1) && table < self.sets[number].tables.len() {
                if row >= self.sets[number].tables[table].used {
                    (table, row) = (table + 1, 0);
                    continue;
                }
                let slot = Slot::new(number, table, row);
                if self.table(slot).row(&self.physical, row)[self.physical.header()] & (LIVE | DEAD) == LIVE
                    && !self.is_expired(slot)
                {
                    slots.push(slot);
                }
                row += 1;
            }
            if slots.is_empty() {
                break;
            }
            let keys = self.keys(&slots)?;
            visit(self, &keys, &slots)?;
        }
        self.scan_cold(namespace, number, max_rows, &mut visit)
    }
}

/// A field of fixed length of these rows, as `RowState::row` lends them; null where there is none.
pub(super) fn fixed_column<'r>(
    layout: FieldLayout,
    data_type: &DataType,
    rows: impl ExactSizeIterator<Item = Option<&'r [u8]>>,
) -> Result<ArrayRef, StateError> {
    let mut valid = Vec::with_capacity(rows.len());
    match layout.kind {
        FieldKind::Decimal => {
            let mut values = Vec::with_capacity(rows.len());
            for row in rows {
                valid.push(row.is_some_and(|row| !layout.is_null(row)));
                values.push(row.map_or(0, |row| layout.get_i128(row)));
            }
            let column = Decimal128Array::new(values.into(), nulls_of(valid));
            Ok(Arc::new(column.with_data_type(data_type.clone())))
        }
        FieldKind::Word | FieldKind::Var => {
            let mut words = Vec::with_capacity(rows.len());
            for row in rows {
                valid.push(row.is_some_and(|row| !layout.is_null(row)));
                words.push(row.map_or(0, |row| layout.get_u64(row)));
            }
            array_of_words(&words, nulls_of(valid), data_type)
        }
    }
}

pub(super) fn nulls_of(valid: Vec<bool>) -> Option<NullBuffer> {
    valid.contains(&false).then(|| NullBuffer::from(valid))
}
