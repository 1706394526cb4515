//! Rows as columns on their way into a cold store, without a table between.

use super::RowState;
use crate::StateError;
use crate::codec::with_byte_column;
use crate::cold::{ColdBatch, row_prefix};
use crate::key_batch::{KeyBatch, Keys};
use crate::layout::FieldKind;
use crate::word::append_words;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Decimal128Type};

impl RowState {
    /// Adds rows to what goes into a store, as a cut of this state would write them. The columns are of the schema's types;
    /// of the state, which has no TTL, nothing but the layout counts.
    pub(crate) fn put_stored(
        &self,
        state: u16,
        namespaces: &[i64],
        keys: &KeyBatch,
        values: &[ArrayRef],
        batch: &mut ColdBatch,
    ) -> Result<(), StateError> {
        assert!(self.physical.last_write.is_none(), "what is imported has no times of writing");
        let row_bytes = self.layout.row_bytes();
        let mut images = vec![0u8; row_bytes * keys.len()];
        let mut words = vec![];
        for (layout, column) in self.layout.fields().iter().zip(values) {
            if *column.data_type() == DataType::Null {
                images.chunks_exact_mut(row_bytes).for_each(|row| layout.set_null(row));
                continue;
            }
            let rows = images.chunks_exact_mut(row_bytes).enumerate();
            match layout.kind {
                FieldKind::Word => {
                    words.clear();
                    append_words(column, &mut words)?;
                    rows.for_each(|(at, row)| match column.is_null(at) {
                        true => layout.set_null(row),
                        false => layout.put_u64(row, words[at]),
                    });
                }
                FieldKind::Decimal => {
                    let decimals = column.as_primitive::<Decimal128Type>();
                    rows.for_each(|(at, row)| match decimals.is_null(at) {
                        true => layout.set_null(row),
                        false => layout.set_i128(row, decimals.value(at)),
                    });
                }
                FieldKind::Var => with_byte_column!(column, array => {
                    rows.for_each(|(at, row)| match array.is_null(at) {
                        true => layout.set_null(row),
                        false => layout.put_u64(row, array.value(at).len() as u64),
                    });
                }, _ => return Err(crate::word::unsupported(column.data_type()))),
            }
        }
        let strings: Vec<&ArrayRef> = self
            .layout
            .fields()
            .iter()
            .zip(values)
            .filter(|(field, _)| field.kind == FieldKind::Var)
            .map(|(_, of)| of)
            .collect();
        for (at, image) in images.chunks_exact(row_bytes).enumerate() {
            let prefix = row_prefix(state, keys.key_group(at), namespaces[at]);
            let word;
            let key: &[u8] = match &keys.keys {
                Keys::Words { nulls: Some(nulls), .. } if nulls.is_null(at) => &[],
                Keys::Words { words, .. } => {
                    word = words[at].to_be_bytes();
                    &word
                }
                Keys::Bytes(rows) => rows.row(at),
            };
            batch.put(&[&prefix, key], |out| {
                out.extend_from_slice(image);
                strings.iter().for_each(|column| append_string(column, at, out));
            });
        }
        Ok(())
    }
}

fn append_string(column: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    with_byte_column!(column, array => {
        if array.is_valid(row) {
            out.extend_from_slice(array.value(row).as_ref());
        }
    }, _ => unreachable!("checked before"));
}
