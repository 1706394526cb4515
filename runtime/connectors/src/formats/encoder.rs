//! What encoders share: which rows, and typed cells.

use super::{UnsupportedColumn, text};
use arrow::array::*;
use arrow::datatypes::*;
use arrow::record_batch::RecordBatch;
use std::io::Write;
use weir_model::types::TIMESTAMP;

/// Turns rows into the bytes of records.
pub trait Encoder: Send {
    /// Appends the record of each of the rows, and calls `end_record` after each: who wants lines appends a line
    /// end there, who wants messages notes how far `out` has come.
    fn encode(
        &mut self,
        batch: &RecordBatch,
        rows: Rows<'_>,
        out: &mut Vec<u8>,
        end_record: &mut dyn FnMut(&mut Vec<u8>),
    );

    /// The record that names the columns of all that follow, where the format has one.
    fn header(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Rows of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    All,
    These(&'a [u32]),
}

impl Rows<'_> {
    #[inline]
    pub(crate) fn for_each(self, rows: usize, mut visit: impl FnMut(usize)) {
        match self {
            Rows::All => (0..rows).for_each(visit),
            Rows::These(these) => these.iter().for_each(|row| visit(*row as usize)),
        }
    }
}

/// A column with its type found out once per batch.
pub enum Cells<'a> {
    Boolean(&'a BooleanArray),
    Int8(&'a Int8Array),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, i8),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a Date32Array),
    Time(&'a Time64MicrosecondArray),
    Timestamp(&'a TimestampMicrosecondArray),
}

/// Whether an encoder can write every column.
pub fn check_encodable(schema: &Schema) -> Result<(), UnsupportedColumn> {
    let unsupported = schema.fields().iter().find(|field| !is_encodable(field.data_type()));
    unsupported.map_or(Ok(()), |field| {
        Err(UnsupportedColumn { column: field.name().clone(), data_type: field.data_type().clone() })
    })
}

fn is_encodable(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Boolean | Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Decimal128(..) | Utf8 | Binary | Date32 => true,
        Time64(TimeUnit::Microsecond) => true,
        other => *other == TIMESTAMP,
    }
}

impl<'a> Cells<'a> {
    /// # Panics
    /// If `check_encodable` would have refused the column.
    pub fn of(column: &'a dyn Array) -> Self {
        match column.data_type() {
            DataType::Boolean => Cells::Boolean(column.as_boolean()),
            DataType::Int8 => Cells::Int8(column.as_primitive()),
            DataType::Int16 => Cells::Int16(column.as_primitive()),
            DataType::Int32 => Cells::Int32(column.as_primitive()),
            DataType::Int64 => Cells::Int64(column.as_primitive()),
            DataType::Float32 => Cells::Float32(column.as_primitive()),
            DataType::Float64 => Cells::Float64(column.as_primitive()),
            DataType::Decimal128(_, scale) => Cells::Decimal(column.as_primitive(), *scale),
            DataType::Utf8 => Cells::Text(column.as_string()),
            DataType::Binary => Cells::Bytes(column.as_binary()),
            DataType::Date32 => Cells::Date(column.as_primitive()),
            DataType::Time64(_) => Cells::Time(column.as_primitive()),
            DataType::Timestamp(..) => Cells::Timestamp(column.as_primitive()),
            other => panic!("a column of type {other} passed the encoder's check"),
        }
    }

    /// The text of a text column, which is the caller's to quote.
    #[inline]
    pub fn text(&self, row: usize) -> Option<&'a str> {
        match self {
            Cells::Text(array) => Some(array.value(row)),
            _ => None,
        }
    }

    /// Whether the value is a finite number or a boolean, which stand without quotes in every format.
    #[inline]
    pub fn is_bare(&self, row: usize) -> bool {
        match self {
            Cells::Float32(array) => array.value(row).is_finite(),
            Cells::Float64(array) => array.value(row).is_finite(),
            Cells::Text(_) | Cells::Bytes(_) | Cells::Date(_) | Cells::Time(_) | Cells::Timestamp(_) => false,
            _ => true,
        }
    }

    /// Appends a value that isn't NULL, without any quoting: only a text column's needs it.
    #[inline]
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Cells::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Cells::Int8(array) => text::write_integer(array.value(row).into(), out),
            Cells::Int16(array) => text::write_integer(array.value(row).into(), out),
            Cells::Int32(array) => text::write_integer(array.value(row).into(), out),
            Cells::Int64(array) => text::write_integer(array.value(row), out),
            Cells::Float32(array) if array.value(row).is_finite() => write_shortest(array.value(row), out),
            Cells::Float32(array) => out.extend_from_slice(not_finite(array.value(row).into())),
            Cells::Float64(array) if array.value(row).is_finite() => write_shortest(array.value(row), out),
            Cells::Float64(array) => out.extend_from_slice(not_finite(array.value(row))),
            Cells::Decimal(array, scale) => text::write_decimal(array.value(row), *scale, out),
            Cells::Text(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Cells::Bytes(array) => text::write_base64(array.value(row), out),
            Cells::Date(array) => text::write_date(array.value(row).into(), out),
            Cells::Time(array) => text::write_time_us(array.value(row), out),
            Cells::Timestamp(array) => text::write_timestamp_us(array.value(row), out),
        }
    }
}

fn not_finite(value: f64) -> &'static [u8] {
    match value {
        value if value.is_nan() => b"NaN",
        value if value > 0.0 => b"Infinity",
        _ => b"-Infinity",
    }
}

/// The shortest text that reads back as the same number, `1.0` and `1e300` among them.
fn write_shortest(value: impl std::fmt::Debug, out: &mut Vec<u8>) {
    write!(out, "{value:?}").expect("writing to memory");
}
