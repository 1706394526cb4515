//! Sort keys as bytes.

use crate::operator::OperatorError;
use arrow::array::{ArrayRef, BinaryArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use weir_model::StateField;
use weir_model::graph::SortKey;
use weir_state::{EncodedRows, KeyCodec, StateError};

/// Encodes ORDER BY keys so that comparing the bytes compares the rows.
///
/// Each key is one byte (0: null that comes first, 1: a value, 2: null that comes last) and, for a value, its
/// bytes by `KeyCodec`, each inverted if the order is descending. Part of the storage format.
pub(crate) struct SortOrder {
    keys: Vec<(SortKey, KeyCodec)>,
}

const NULL_FIRST: u8 = 0;
const VALUE: u8 = 1;
const NULL_LAST: u8 = 2;

impl SortOrder {
    pub(crate) fn new(keys: &[SortKey], schema: &SchemaRef) -> Result<Self, StateError> {
        let codec = |key: &SortKey| {
            let field = schema.field(key.column);
            Ok((*key, KeyCodec::new(&[StateField::new(field.name(), field.data_type().clone(), true)])?))
        };
        Ok(SortOrder { keys: keys.iter().map(codec).collect::<Result<_, StateError>>()? })
    }

    /// The sort keys of these rows, as a column of type `Binary`.
    pub(crate) fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef, OperatorError> {
        let mut encoded = vec![EncodedRows::default(); self.keys.len()];
        for ((key, codec), encoded) in self.keys.iter().zip(&mut encoded) {
            codec.encode(std::slice::from_ref(&columns[key.column]), rows, encoded)?;
        }
        let mut bytes = vec![];
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        for row in 0..rows {
            for ((key, _), encoded) in self.keys.iter().zip(&encoded) {
                let (marker, value) = encoded.row(row).split_at(1);
                match (marker[0], key.nulls_first, key.descending) {
                    (0, true, _) => bytes.push(NULL_FIRST),
                    (0, false, _) => bytes.push(NULL_LAST),
                    (_, _, descending) => {
                        bytes.push(VALUE);
                        let invert = if descending { 0xFF } else { 0 };
                        bytes.extend(value.iter().map(|byte| byte ^ invert));
                    }
                }
            }
            let end = i32::try_from(bytes.len());
            offsets
                .push(end.map_err(|_| OperatorError::Failed("the sort keys of a batch are larger than 2 GiB".into()))?);
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(BinaryArray::try_new(offsets, bytes.into(), None)?))
    }

    /// The order as SQL has it.
    pub(crate) fn describe(&self, schema: &SchemaRef) -> String {
        let key = |(key, _): &(SortKey, KeyCodec)| {
            let direction = if key.descending { "DESC" } else { "ASC" };
            let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
            format!("{} {direction} NULLS {nulls}", schema.field(key.column).name())
        };
        self.keys.iter().map(key).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices};
    use arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_sort_as_rows(
            rows in proptest::collection::vec((proptest::option::of("[a\0\u{ff}]{0,3}"), proptest::option::of(-3i64..3)), 1..30),
            flags in any::<[bool; 4]>(),
        ) {
            let text: ArrayRef = Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<StringArray>());
            let number: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
            let fields = vec![Field::new("s", DataType::Utf8, true), Field::new("n", DataType::Int64, true)];
            let keys = [
                SortKey { column: 0, descending: flags[0], nulls_first: flags[1] },
                SortKey { column: 1, descending: flags[2], nulls_first: flags[3] },
            ];
            let columns = [text, number];
            let order = SortOrder::new(&keys, &Arc::new(Schema::new(fields))).unwrap();
            let bytes = order.encode(&columns, rows.len()).unwrap();
            let bytes = bytes.as_binary::<i32>();
            let mut by_bytes: Vec<u32> = (0..rows.len() as u32).collect();
            by_bytes.sort_by_key(|row| (bytes.value(*row as usize), *row));
            let column = |i: usize| SortColumn {
                values: columns[i].clone(),
                options: Some(SortOptions { descending: flags[2 * i], nulls_first: flags[2 * i + 1] }),
            };
            let sorted = lexsort_to_indices(&[column(0), column(1)], None).unwrap();
            let value = |row: &u32| rows[*row as usize].clone();
            prop_assert_eq!(by_bytes.iter().map(value).collect::<Vec<_>>(), sorted.values().iter().map(value).collect::<Vec<_>>());
        }
    }
}
