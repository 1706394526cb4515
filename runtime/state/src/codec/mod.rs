//! Rows of Arrow columns as bytes.
//!
//! Two encodings, both decodable with nothing but the fields of the state's schema:
//! - [`KeyCodec`]: comparing the bytes compares the rows (null first). No row's bytes are a prefix of
//!   another's, so that encodings may be put behind each other.
//! - [`ValueCodec`]: compact, for what is never compared.
//!
//! Both are part of the storage format (version 1) and pinned by golden bytes.

mod key;
mod value;

pub use key::KeyCodec;
pub use value::ValueCodec;

use crate::StateError;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use weir_model::StateField;

/// The byte strings of one batch, one a row, in one arena.
#[derive(Clone, Debug, Default)]
pub struct EncodedRows {
    pub(crate) bytes: Vec<u8>,
    /// `rows + 1` of them.
    pub(crate) offsets: Vec<u32>,
}

impl EncodedRows {
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn row(&self, row: usize) -> &[u8] {
        &self.bytes[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.offsets.windows(2).map(|ends| &self.bytes[ends[0] as usize..ends[1] as usize])
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.offsets.clear();
        self.offsets.push(0);
    }

    /// Appends one row. The caller keeps the sum of lengths under 4 GiB.
    pub fn push(&mut self, row: &[u8]) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.bytes.extend_from_slice(row);
        self.offsets.push(self.bytes.len() as u32);
    }

    /// Lays out rows of these lengths, zeroed, and returns where each begins.
    fn lay_out(&mut self, lengths: &[u32]) -> Result<Vec<u32>, StateError> {
        self.bytes.clear();
        self.offsets.clear();
        self.offsets.reserve(lengths.len() + 1);
        self.offsets.push(0);
        let mut end = 0u64;
        for length in lengths {
            end += *length as u64;
            let end = u32::try_from(end)
                .map_err(|_| StateError::TooLarge { state: "?".into(), what: "a batch encodes to more than 4 GiB" })?;
            self.offsets.push(end);
        }
        self.bytes.resize(end as usize, 0);
        Ok(self.offsets[..lengths.len()].to_vec())
    }
}

/// Refuses types that have no encoding.
pub(crate) fn check_types(fields: &[StateField]) -> Result<(), StateError> {
    for field in fields {
        if !is_supported(&field.data_type) {
            return Err(StateError::UnsupportedType { field: field.name.clone(), data_type: field.data_type.clone() });
        }
    }
    Ok(())
}

fn is_supported(data_type: &DataType) -> bool {
    weir_model::hash::is_hashable(data_type) && !matches!(data_type, DataType::Time32(unit) if !time32(unit))
}

fn time32(unit: &arrow::datatypes::TimeUnit) -> bool {
    use arrow::datatypes::TimeUnit::*;
    matches!(unit, Second | Millisecond)
}

/// Refuses columns that aren't what the fields say.
pub(crate) fn check_columns(
    what: &'static str,
    fields: &[StateField],
    columns: &[ArrayRef],
    rows: usize,
) -> Result<(), StateError> {
    if columns.len() != fields.len() {
        return Err(StateError::ColumnCount { what, columns: columns.len(), fields: fields.len() });
    }
    for (field, column) in fields.iter().zip(columns) {
        if *column.data_type() != field.data_type {
            return Err(StateError::ColumnType {
                field: field.name.clone(),
                expected: field.data_type.clone(),
                found: column.data_type().clone(),
            });
        }
        if !field.nullable && field.data_type != DataType::Null && column.null_count() > 0 {
            return Err(StateError::UnexpectedNull { field: field.name.clone() });
        }
        if column.len() != rows {
            return Err(StateError::decode(
                format!("column `{}`", field.name),
                format!("it has {} rows where the batch has {rows}", column.len()),
            ));
        }
    }
    Ok(())
}

/// Runs `$body` with `$array` being the column as an array whose `value(row)` derefs to bytes.
macro_rules! with_byte_column {
    ($column:expr, $array:ident => $body:expr, _ => $other:expr) => {
        match $column.data_type() {
            arrow::datatypes::DataType::Utf8 => {
                let $array = $column.as_string::<i32>();
                $body
            }
            arrow::datatypes::DataType::LargeUtf8 => {
                let $array = $column.as_string::<i64>();
                $body
            }
            arrow::datatypes::DataType::Utf8View => {
                let $array = $column.as_string_view();
                $body
            }
            arrow::datatypes::DataType::Binary => {
                let $array = $column.as_binary::<i32>();
                $body
            }
            arrow::datatypes::DataType::LargeBinary => {
                let $array = $column.as_binary::<i64>();
                $body
            }
            _ => $other,
        }
    };
}
pub(crate) use with_byte_column;

/// Gathers byte strings (or nulls) into a column of a string or binary type.
pub(crate) struct BytesBuilder {
    bytes: Vec<u8>,
    offsets: Vec<usize>,
    valid: Vec<bool>,
}

impl BytesBuilder {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        BytesBuilder { bytes: Vec::new(), offsets, valid: Vec::with_capacity(rows) }
    }

    pub(crate) fn append(&mut self, value: Option<&[u8]>) {
        self.append_with(value.is_some(), |bytes| bytes.extend_from_slice(value.unwrap_or_default()));
    }

    /// Appends what `write` adds to the buffer.
    pub(crate) fn append_with(&mut self, valid: bool, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.offsets.push(self.bytes.len());
        self.valid.push(valid);
    }

    pub(crate) fn finish(self, data_type: &DataType) -> Result<ArrayRef, StateError> {
        use arrow::array::*;
        use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
        use std::sync::Arc;
        let nulls = self.valid.iter().any(|v| !v).then(|| NullBuffer::from(self.valid));
        let not_utf8 = |e: arrow::error::ArrowError| StateError::decode("a string", e.to_string());
        let small = |offsets: &[usize]| -> Result<OffsetBuffer<i32>, StateError> {
            let offsets: Result<Vec<i32>, _> = offsets.iter().map(|o| i32::try_from(*o)).collect();
            let offsets = offsets.map_err(|_| StateError::decode("a string column", "it is larger than 2 GiB"))?;
            Ok(OffsetBuffer::new(ScalarBuffer::from(offsets)))
        };
        let large = |offsets: &[usize]| {
            OffsetBuffer::new(ScalarBuffer::from(offsets.iter().map(|o| *o as i64).collect::<Vec<i64>>()))
        };
        Ok(match data_type {
            DataType::Utf8 => {
                Arc::new(StringArray::try_new(small(&self.offsets)?, self.bytes.into(), nulls).map_err(not_utf8)?)
            }
            DataType::LargeUtf8 => {
                Arc::new(LargeStringArray::try_new(large(&self.offsets), self.bytes.into(), nulls).map_err(not_utf8)?)
            }
            DataType::Utf8View => {
                let strings = LargeStringArray::try_new(large(&self.offsets), self.bytes.into(), nulls);
                Arc::new(StringViewArray::from_iter(strings.map_err(not_utf8)?.iter()))
            }
            DataType::Binary => Arc::new(BinaryArray::try_new(small(&self.offsets)?, self.bytes.into(), nulls)?),
            DataType::LargeBinary => {
                Arc::new(LargeBinaryArray::try_new(large(&self.offsets), self.bytes.into(), nulls)?)
            }
            other => return Err(crate::word::unsupported(other)),
        })
    }
}

#[cfg(test)]
mod tests;
