//! Columns under construction: values are appended row by row, and a row that turns out bad is taken back.

use super::{BadRecord, UnsupportedColumn, text};
use arrow::array::*;
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::*;
use std::sync::Arc;
use weir_model::types::{TIMESTAMP, sql_type_name};

const DAY_US: i64 = 86_400_000_000;

/// One column of the batch that a decoder is filling.
pub(crate) struct ColumnBuilder {
    name: String,
    data_type: DataType,
    nullable: bool,
    values: Values,
    /// Rows whose value is NULL, ascending: most columns have few.
    nulls: Vec<u32>,
    rows: usize,
}

enum Values {
    Boolean(Vec<bool>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal { values: Vec<i128>, precision: u8, scale: i8 },
    Text(Strings),
    Bytes(Strings),
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp(Vec<i64>),
}

#[derive(Default)]
struct Strings {
    /// End of each value in `bytes`.
    ends: Vec<i32>,
    bytes: Vec<u8>,
}

/// Where a number in a record came from: what it may stand for depends on it.
pub(crate) struct Number<'a> {
    pub text: &'a str,
    pub is_integer: bool,
}

/// Runs `$body` with `$values` bound to the plain vector behind a fixed-width column.
macro_rules! fixed_width {
    ($self:expr, $values:ident => $body:expr, $strings:ident => $other:expr) => {
        match $self {
            Values::Boolean($values) => $body,
            Values::Int8($values) => $body,
            Values::Int16($values) => $body,
            Values::Int32($values) | Values::Date($values) => $body,
            Values::Int64($values) | Values::Time($values) | Values::Timestamp($values) => $body,
            Values::Float32($values) => $body,
            Values::Float64($values) => $body,
            Values::Decimal { values: $values, .. } => $body,
            Values::Text($strings) | Values::Bytes($strings) => $other,
        }
    };
}

impl ColumnBuilder {
    pub fn new(field: &Field) -> Result<Self, UnsupportedColumn> {
        let values = match field.data_type() {
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int8 => Values::Int8(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(precision, scale) => {
                Values::Decimal { values: Vec::new(), precision: *precision, scale: *scale }
            }
            DataType::Utf8 => Values::Text(Strings::default()),
            DataType::Binary => Values::Bytes(Strings::default()),
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Time64(TimeUnit::Microsecond) => Values::Time(Vec::new()),
            data_type if *data_type == TIMESTAMP => Values::Timestamp(Vec::new()),
            other => return Err(UnsupportedColumn { column: field.name().clone(), data_type: other.clone() }),
        };
        Ok(ColumnBuilder {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            values,
            nulls: Vec::new(),
            rows: 0,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn is_text(&self) -> bool {
        matches!(self.values, Values::Text(_))
    }

    pub fn push_null(&mut self) -> Result<(), BadRecord> {
        if !self.nullable {
            return Err(BadRecord::in_column(&self.name, "it has no value, and the column is not nullable"));
        }
        fixed_width!(&mut self.values, values => values.push(Default::default()), strings => strings.push(&[]));
        self.nulls.push(self.rows as u32);
        self.rows += 1;
        Ok(())
    }

    /// A value written as text: a CSV field or a JSON string.
    pub fn push_text(&mut self, value: &str) -> Result<(), BadRecord> {
        let bytes = value.as_bytes();
        let pushed = match &mut self.values {
            Values::Text(strings) => {
                strings.push(bytes);
                Some(())
            }
            Values::Bytes(strings) => strings.push_with(|out| text::parse_base64(bytes, out)),
            Values::Boolean(values) => parse_boolean(bytes).map(|value| values.push(value)),
            Values::Int8(values) => narrow(text::parse_integer(bytes)).map(|value| values.push(value)),
            Values::Int16(values) => narrow(text::parse_integer(bytes)).map(|value| values.push(value)),
            Values::Int32(values) => narrow(text::parse_integer(bytes)).map(|value| values.push(value)),
            Values::Int64(values) => text::parse_integer(bytes).map(|value| values.push(value)),
            Values::Float32(values) => value.parse().ok().map(|value| values.push(value)),
            Values::Float64(values) => value.parse().ok().map(|value| values.push(value)),
            Values::Decimal { values, precision, scale } => {
                text::parse_decimal(bytes, *precision, *scale).map(|value| values.push(value))
            }
            Values::Date(values) => text::parse_date(bytes).map(|value| values.push(value)),
            Values::Time(values) => text::parse_time_us(bytes).map(|value| values.push(value)),
            Values::Timestamp(values) => {
                text::parse_timestamp_us(bytes).or_else(|| epoch_millis(bytes)).map(|value| values.push(value))
            }
        };
        self.pushed(pushed, || format!("{:?}", shorten(value)))
    }

    /// A number of a format that has numbers. For a timestamp it is milliseconds since 1970.
    pub fn push_number(&mut self, number: Number<'_>) -> Result<(), BadRecord> {
        let bytes = number.text.as_bytes();
        let integer = || if number.is_integer { text::parse_integer(bytes) } else { whole_number(number.text) };
        let pushed = match &mut self.values {
            Values::Text(strings) => {
                strings.push(bytes);
                Some(())
            }
            Values::Int8(values) => narrow(integer()).map(|value| values.push(value)),
            Values::Int16(values) => narrow(integer()).map(|value| values.push(value)),
            Values::Int32(values) => narrow(integer()).map(|value| values.push(value)),
            Values::Int64(values) => integer().map(|value| values.push(value)),
            Values::Float32(values) => number.text.parse().ok().map(|value| values.push(value)),
            Values::Float64(values) => number.text.parse().ok().map(|value| values.push(value)),
            Values::Decimal { values, precision, scale } => {
                text::parse_decimal(bytes, *precision, *scale).map(|value| values.push(value))
            }
            Values::Timestamp(values) => {
                integer().and_then(|millis| millis.checked_mul(1_000)).map(|value| values.push(value))
            }
            Values::Boolean(_) | Values::Bytes(_) | Values::Date(_) | Values::Time(_) => None,
        };
        self.pushed(pushed, || format!("the number {}", shorten(number.text)))
    }

    /// A whole number of a format that knows such. For a timestamp it is milliseconds since 1970.
    pub fn push_integer(&mut self, value: i64) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Text(strings) => {
                strings.push(value.to_string().as_bytes());
                Some(())
            }
            Values::Int8(values) => narrow(Some(value)).map(|value| values.push(value)),
            Values::Int16(values) => narrow(Some(value)).map(|value| values.push(value)),
            Values::Int32(values) => narrow(Some(value)).map(|value| values.push(value)),
            Values::Int64(values) => {
                values.push(value);
                Some(())
            }
            Values::Float32(values) => {
                values.push(value as f32);
                Some(())
            }
            Values::Float64(values) => {
                values.push(value as f64);
                Some(())
            }
            Values::Decimal { values, precision, scale } => {
                rescaled(i128::from(value), 0, *precision, *scale).map(|value| values.push(value))
            }
            Values::Timestamp(values) => value.checked_mul(1_000).map(|value| values.push(value)),
            Values::Boolean(_) | Values::Bytes(_) | Values::Date(_) | Values::Time(_) => None,
        };
        self.pushed(pushed, || format!("the number {value}"))
    }

    pub fn push_float(&mut self, value: f64) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Text(strings) => {
                strings.push(value.to_string().as_bytes());
                Some(())
            }
            Values::Float32(values) => {
                values.push(value as f32);
                Some(())
            }
            Values::Float64(values) => {
                values.push(value);
                Some(())
            }
            _ => None,
        };
        self.pushed(pushed, || format!("the number {value}"))
    }

    /// Of `unscaled` the last `scale` digits stand behind the point.
    pub fn push_decimal(&mut self, unscaled: i128, scale: i8) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Decimal { values, precision, scale: own } => {
                rescaled(unscaled, scale, *precision, *own).map(|value| values.push(value))
            }
            Values::Float64(values) => {
                values.push(unscaled as f64 / 10f64.powi(i32::from(scale)));
                Some(())
            }
            _ => None,
        };
        self.pushed(pushed, || format!("the decimal {unscaled}e-{scale}"))
    }

    /// Days since 1970.
    pub fn push_date(&mut self, days: i64) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Date(values) => narrow(Some(days)).map(|days| values.push(days)),
            _ => None,
        };
        self.pushed(pushed, || format!("a date, {days} days since 1970"))
    }

    /// Microseconds since midnight.
    pub fn push_time_us(&mut self, time_us: i64) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Time(values) if (0..DAY_US).contains(&time_us) => {
                values.push(time_us);
                Some(())
            }
            _ => None,
        };
        self.pushed(pushed, || format!("a time of day, {time_us} microseconds after midnight"))
    }

    /// Microseconds since 1970.
    pub fn push_timestamp_us(&mut self, timestamp_us: i64) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Timestamp(values) => {
                values.push(timestamp_us);
                Some(())
            }
            _ => None,
        };
        self.pushed(pushed, || format!("a timestamp, {timestamp_us} microseconds since 1970"))
    }

    pub fn push_boolean(&mut self, value: bool) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Boolean(values) => {
                values.push(value);
                Some(())
            }
            Values::Text(strings) => {
                strings.push(if value { b"true" } else { b"false" });
                Some(())
            }
            _ => None,
        };
        self.pushed(pushed, || value.to_string())
    }

    /// Bytes as they stand.
    pub fn push_bytes(&mut self, value: &[u8]) -> Result<(), BadRecord> {
        let pushed = match &mut self.values {
            Values::Bytes(strings) => {
                strings.push(value);
                Some(())
            }
            _ => None,
        };
        self.pushed(pushed, || "bytes".into())
    }

    /// The error for a value of a shape that the column can't take (an object, an array).
    pub fn mismatch(&self, found: &str) -> BadRecord {
        BadRecord::in_column(&self.name, format!("expected {}, found {found}", expectation(&self.data_type)))
    }

    /// Takes back rows, so that `rows` are left.
    pub fn truncate(&mut self, rows: usize) {
        if self.rows <= rows {
            return;
        }
        fixed_width!(&mut self.values, values => values.truncate(rows), strings => strings.truncate(rows));
        while self.nulls.last().is_some_and(|row| *row as usize >= rows) {
            self.nulls.pop();
        }
        self.rows = rows;
    }

    /// The column, leaving an empty builder with room for as many rows again.
    pub fn finish(&mut self) -> ArrayRef {
        let rows = std::mem::take(&mut self.rows);
        let nulls = (!self.nulls.is_empty()).then(|| {
            let mut valid = BooleanBufferBuilder::new(rows);
            valid.append_n(rows, true);
            self.nulls.iter().for_each(|row| valid.set_bit(*row as usize, false));
            NullBuffer::new(valid.finish())
        });
        self.nulls.clear();
        fn take<T>(values: &mut Vec<T>) -> Vec<T> {
            let capacity = values.len();
            std::mem::replace(values, Vec::with_capacity(capacity))
        }
        fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
            Arc::new(PrimitiveArray::<T>::new(take(values).into(), nulls))
        }
        match &mut self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(take(values)), nulls)),
            Values::Int8(values) => primitive::<Int8Type>(values, nulls),
            Values::Int16(values) => primitive::<Int16Type>(values, nulls),
            Values::Int32(values) => primitive::<Int32Type>(values, nulls),
            Values::Int64(values) => primitive::<Int64Type>(values, nulls),
            Values::Float32(values) => primitive::<Float32Type>(values, nulls),
            Values::Float64(values) => primitive::<Float64Type>(values, nulls),
            Values::Date(values) => primitive::<Date32Type>(values, nulls),
            Values::Time(values) => primitive::<Time64MicrosecondType>(values, nulls),
            Values::Timestamp(values) => primitive::<TimestampMicrosecondType>(values, nulls),
            Values::Decimal { values, .. } => Arc::new(
                PrimitiveArray::<Decimal128Type>::new(take(values).into(), nulls)
                    .with_data_type(self.data_type.clone()),
            ),
            Values::Text(strings) => {
                let (offsets, bytes) = strings.take();
                // SAFETY: a text column takes whole `&str`s only; every end in `ends` is the end of one of them.
                Arc::new(unsafe { StringArray::new_unchecked(offsets, bytes, nulls) })
            }
            Values::Bytes(strings) => {
                let (offsets, bytes) = strings.take();
                Arc::new(BinaryArray::new(offsets, bytes, nulls))
            }
        }
    }

    #[inline]
    fn pushed(&mut self, pushed: Option<()>, found: impl FnOnce() -> String) -> Result<(), BadRecord> {
        if pushed.is_none() {
            return Err(self.mismatch(&found()));
        }
        self.rows += 1;
        Ok(())
    }
}

impl Strings {
    fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.end_value();
    }

    fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
        let before = self.bytes.len();
        if write(&mut self.bytes).is_none() {
            self.bytes.truncate(before);
            return None;
        }
        self.end_value();
        Some(())
    }

    fn end_value(&mut self) {
        let end = i32::try_from(self.bytes.len()).expect("a batch's bytes are bounded far below 2 GiB");
        self.ends.push(end);
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, arrow::buffer::Buffer) {
        let mut offsets = Vec::with_capacity(self.ends.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.ends);
        let capacity = self.bytes.len();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        (OffsetBuffer::new(offsets.into()), bytes.into())
    }
}

/// The same number with another count of digits behind the point, if it has so few, and fits.
fn rescaled(unscaled: i128, from: i8, precision: u8, to: i8) -> Option<i128> {
    let power = |exponent: i32| u32::try_from(exponent).ok().and_then(|exponent| 10i128.checked_pow(exponent));
    let more = i32::from(to) - i32::from(from);
    let value = if more >= 0 {
        unscaled.checked_mul(power(more)?)?
    } else {
        let by = power(-more)?;
        (unscaled % by == 0).then_some(unscaled / by)?
    };
    (value.unsigned_abs() < power(i32::from(precision))?.unsigned_abs()).then_some(value)
}

fn narrow<T: TryFrom<i64>>(value: Option<i64>) -> Option<T> {
    value.and_then(|value| T::try_from(value).ok())
}

/// `12.0` and `1e3` are integers too.
fn whole_number(text: &str) -> Option<i64> {
    let value: f64 = text.parse().ok()?;
    // 2^63 is the first double that an i64 can't hold.
    (value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0).then_some(value as i64)
}

fn epoch_millis(text: &[u8]) -> Option<i64> {
    text::parse_integer(text)?.checked_mul(1_000)
}

fn parse_boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"TRUE" | b"True" | b"1" => Some(true),
        b"false" | b"FALSE" | b"False" | b"0" => Some(false),
        _ => None,
    }
}

/// The type, and how its values are written where that isn't plain.
fn expectation(data_type: &DataType) -> String {
    let name = sql_type_name(data_type);
    match data_type {
        DataType::Timestamp(..) => format!("{name} (2013-01-01T05:15:00Z, or milliseconds since 1970)"),
        DataType::Date32 => format!("{name} (2013-01-01)"),
        DataType::Time64(_) => format!("{name} (05:15:00)"),
        DataType::Binary => format!("{name} (base64)"),
        DataType::Boolean => format!("{name} (true or false)"),
        _ => name,
    }
}

fn shorten(value: &str) -> &str {
    value.char_indices().nth(60).map_or(value, |(end, _)| &value[..end])
}

/// The batch of all columns, each with the same number of rows.
pub(crate) fn into_batch(schema: &SchemaRef, columns: &mut [ColumnBuilder]) -> RecordBatch {
    let arrays = columns.iter_mut().map(ColumnBuilder::finish).collect();
    RecordBatch::try_new(schema.clone(), arrays).expect("builders keep to the schema that they were made for")
}
