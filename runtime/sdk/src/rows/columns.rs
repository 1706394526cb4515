use crate::types::{Kind, Value};
use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::*;

/// One column of a batch, its type looked at once per batch and not once per row.
pub(crate) struct ColumnData<'a> {
    values: Values<'a>,
    nulls: Option<&'a NullBuffer>,
}

enum Values<'a> {
    Boolean(&'a BooleanArray),
    TinyInt(&'a [i8]),
    SmallInt(&'a [i16]),
    Int(&'a [i32]),
    BigInt(&'a [i64]),
    Float(&'a [f32]),
    Double(&'a [f64]),
    Decimal(&'a [i128]),
    Varchar(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a [i32]),
    Time(&'a [i64]),
    Timestamp(&'a [i64]),
    /// A type that `Kind` does not know: no handle to such a column can be had, and it can't be passed on.
    Unreadable,
}

impl<'a> ColumnData<'a> {
    pub(crate) fn of(column: &'a dyn Array) -> Self {
        let values = match Kind::of(column.data_type()) {
            Some(Kind::Boolean) => Values::Boolean(column.as_boolean()),
            Some(Kind::TinyInt) => Values::TinyInt(column.as_primitive::<Int8Type>().values()),
            Some(Kind::SmallInt) => Values::SmallInt(column.as_primitive::<Int16Type>().values()),
            Some(Kind::Int) => Values::Int(column.as_primitive::<Int32Type>().values()),
            Some(Kind::BigInt) => Values::BigInt(column.as_primitive::<Int64Type>().values()),
            Some(Kind::Float) => Values::Float(column.as_primitive::<Float32Type>().values()),
            Some(Kind::Double) => Values::Double(column.as_primitive::<Float64Type>().values()),
            Some(Kind::Decimal) => Values::Decimal(column.as_primitive::<Decimal128Type>().values()),
            Some(Kind::Varchar) => Values::Varchar(column.as_string()),
            Some(Kind::Bytes) => Values::Bytes(column.as_binary()),
            Some(Kind::Date) => Values::Date(column.as_primitive::<Date32Type>().values()),
            Some(Kind::Time) => Values::Time(column.as_primitive::<Time64MicrosecondType>().values()),
            Some(Kind::Timestamp) => Values::Timestamp(column.as_primitive::<TimestampMicrosecondType>().values()),
            None => Values::Unreadable,
        };
        ColumnData { values, nulls: column.nulls() }
    }

    /// `None` if columns of this type can't be read.
    #[inline]
    pub(crate) fn value(&self, row: usize) -> Option<Value<'a>> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return Some(Value::Null);
        }
        Some(match self.values {
            Values::Boolean(array) => Value::Boolean(array.value(row)),
            Values::TinyInt(values) => Value::TinyInt(values[row]),
            Values::SmallInt(values) => Value::SmallInt(values[row]),
            Values::Int(values) => Value::Int(values[row]),
            Values::BigInt(values) => Value::BigInt(values[row]),
            Values::Float(values) => Value::Float(values[row]),
            Values::Double(values) => Value::Double(values[row]),
            Values::Decimal(values) => Value::Decimal(values[row]),
            Values::Varchar(array) => Value::Varchar(array.value(row)),
            Values::Bytes(array) => Value::Bytes(array.value(row)),
            Values::Date(values) => Value::Date(values[row]),
            Values::Time(values) => Value::Time(values[row]),
            Values::Timestamp(values) => Value::Timestamp(values[row]),
            Values::Unreadable => return None,
        })
    }
}
