//! One generated column.

use super::{ColumnRule, RandomRule, RowOrder};
use crate::api::ConnectorError;
use crate::formats::{DecoderConfig, decoder, write_integer};
use crate::numbered::{Permutation, mix, uniform};
use arrow::array::*;
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::*;
use std::sync::Arc;
use weir_model::types::{TIMESTAMP, sql_type_name};

/// Step between the states of successive rows in a column's random numbers (2^64 over the golden ratio).
const ROW_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Clone, Debug)]
pub(super) struct Column {
    name: String,
    data_type: DataType,
    values: Values,
    /// Of 2^64 rows this many have no value.
    null_threshold: u64,
    seed: u64,
}

#[derive(Clone, Debug)]
enum Values {
    Sequence {
        start: i64,
        step: i64,
        cardinality: u64,
        permutation: Option<Permutation>,
    },
    Integers {
        min: i64,
        span: u64,
    },
    Doubles {
        min: f64,
        width: f64,
    },
    Booleans,
    Texts {
        length: usize,
    },
    Choices(Vec<String>),
    Bytes {
        length: usize,
    },
    /// As many rows as the largest batch so far had.
    Constant(ArrayRef),
    Time {
        start_us: i64,
        step_ns: i64,
        max_out_of_orderness_us: i64,
    },
}

impl Column {
    pub fn new(
        field: &Field,
        rule: &ColumnRule,
        index: usize,
        seed: u64,
        count: Option<u64>,
    ) -> Result<Self, ConnectorError> {
        let seed = mix(seed ^ mix(index as u64 + 1));
        let mut null_threshold = 0;
        let values = match rule {
            ColumnRule::Sequence { start, step, cardinality, order } => {
                sequence(field, *start, *step, cardinality.or(count), *cardinality, *order, seed)?
            }
            ColumnRule::Random(rule) => {
                null_threshold = null_rows(field, rule.null_ratio)?;
                random(field, rule)?
            }
            ColumnRule::Constant(value) => Values::Constant(constant(field, value)?),
            ColumnRule::Time { start_us, step_ns, max_out_of_orderness_us } => {
                if *field.data_type() != TIMESTAMP {
                    return Err(refused(field, "time", "TIMESTAMP"));
                }
                if *max_out_of_orderness_us < 0 {
                    return Err(invalid(field, "maxOutOfOrderness must not be negative"));
                }
                let (start_us, step_ns) = (*start_us, *step_ns);
                Values::Time { start_us, step_ns, max_out_of_orderness_us: *max_out_of_orderness_us }
            }
        };
        Ok(Column { name: field.name().clone(), data_type: field.data_type().clone(), values, null_threshold, seed })
    }

    /// The values of the rows `first .. first + count`.
    pub fn make(&mut self, first: u64, count: usize) -> Result<ArrayRef, ConnectorError> {
        let seed = self.seed;
        let bits = move |row: u64| mix(seed.wrapping_add(row.wrapping_mul(ROW_STEP)));
        let rows = first..first + count as u64;
        let nulls = self.nulls(first, count);
        if let Values::Constant(column) = &mut self.values {
            if column.len() < count {
                let repeated = UInt32Array::from(vec![0; count]);
                *column = arrow::compute::take(column, &repeated, None).expect("row 0 is always there");
            }
            return Ok(column.slice(0, count));
        }
        match &self.values {
            Values::Sequence { start, step, cardinality, permutation } => {
                let (start, step) = (*start, *step);
                let value = |index: u64| start.wrapping_add(step.wrapping_mul(index as i64));
                match permutation {
                    Some(permutation) => {
                        let permutation = *permutation;
                        self.numbers(first, count, nulls, *cardinality, move |index| value(permutation.of(index)))
                    }
                    None => self.numbers(first, count, nulls, *cardinality, value),
                }
            }
            Values::Integers { min, span } => {
                let (min, span) = (*min, *span);
                let value = move |row| min.wrapping_add(uniform(bits(row), span) as i64);
                self.numbers(first, count, nulls, u64::MAX, value)
            }
            Values::Doubles { min, width } => {
                let unit = |row| (bits(row) >> 11) as f64 / (1_u64 << 53) as f64;
                let value = |row| *min + unit(row) * *width;
                Ok(match self.data_type {
                    DataType::Float32 => {
                        let values: Vec<_> = rows.map(|row| value(row) as f32).collect();
                        Arc::new(Float32Array::new(values.into(), nulls))
                    }
                    _ => Arc::new(Float64Array::new(rows.map(value).collect::<Vec<_>>().into(), nulls)),
                })
            }
            Values::Booleans => {
                let values = BooleanBuffer::collect_bool(count, |row| bits(first + row as u64) & 1 == 1);
                Ok(Arc::new(BooleanArray::new(values, nulls)))
            }
            Values::Texts { length } => {
                let mut texts = Vec::with_capacity(count * *length);
                rows.for_each(|row| letters(bits(row), *length, &mut texts));
                let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(*length, count));
                Ok(Arc::new(StringArray::new(offsets, texts.into(), nulls)))
            }
            Values::Choices(choices) => {
                let chosen = |row| &choices[uniform(bits(row), choices.len() as u64) as usize];
                let mut texts = Vec::new();
                let offsets = OffsetBuffer::from_lengths(rows.map(|row| {
                    texts.extend_from_slice(chosen(row).as_bytes());
                    chosen(row).len()
                }));
                Ok(Arc::new(StringArray::new(offsets, texts.into(), nulls)))
            }
            Values::Bytes { length } => {
                let mut bytes = Vec::with_capacity(count * *length);
                for row in rows {
                    let end = bytes.len() + *length;
                    let mut state = bits(row);
                    while bytes.len() < end {
                        let room = (end - bytes.len()).min(8);
                        bytes.extend_from_slice(&state.to_le_bytes()[..room]);
                        state = mix(state.wrapping_add(ROW_STEP));
                    }
                }
                let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(*length, count));
                Ok(Arc::new(BinaryArray::new(offsets, bytes.into(), nulls)))
            }
            Values::Constant(_) => unreachable!("handled above"),
            Values::Time { start_us, step_ns, max_out_of_orderness_us } => {
                let (start, late) = (*start_us, *max_out_of_orderness_us as u64 + 1);
                let step_ns = i128::from(*step_ns);
                let last = i128::from(start) + i128::from(first + count as u64) * step_ns / 1_000;
                if i64::try_from(last).is_err() {
                    return Err(past_range(&self.name, &self.data_type, first));
                }
                let in_order = |row: u64| match step_ns % 1_000 {
                    0 => start.wrapping_add((step_ns as i64 / 1_000).wrapping_mul(row as i64)),
                    _ => start.wrapping_add((i128::from(row) * step_ns / 1_000) as i64),
                };
                let values: Vec<_> = match late {
                    1 => rows.map(in_order).collect(),
                    _ => rows.map(|row| in_order(row) - uniform(bits(row), late) as i64).collect(),
                };
                Ok(Arc::new(TimestampMicrosecondArray::new(values.into(), nulls)))
            }
        }
    }

    fn nulls(&self, first: u64, count: usize) -> Option<NullBuffer> {
        if self.null_threshold == 0 {
            return None;
        }
        let seed = mix(self.seed);
        let is_valid =
            |row: usize| mix(seed.wrapping_add((first + row as u64).wrapping_mul(ROW_STEP))) >= self.null_threshold;
        Some(NullBuffer::new(BooleanBuffer::collect_bool(count, is_valid)))
    }

    /// Numbers, in the column's type, of `value(row % cardinality)`.
    fn numbers(
        &self,
        first: u64,
        count: usize,
        nulls: Option<NullBuffer>,
        cardinality: u64,
        value: impl Fn(u64) -> i64,
    ) -> Result<ArrayRef, ConnectorError> {
        macro_rules! narrowed {
            ($array:ty, $native:ty) => {{
                let mut fits = true;
                let values = fill(first, count, cardinality, |index| {
                    let value = value(index);
                    fits &= <$native>::try_from(value).is_ok();
                    value as $native
                });
                if !fits {
                    return Err(past_range(&self.name, &self.data_type, first));
                }
                Ok(Arc::new(<$array>::new(values.into(), nulls)))
            }};
        }
        match &self.data_type {
            DataType::Int8 => narrowed!(Int8Array, i8),
            DataType::Int16 => narrowed!(Int16Array, i16),
            DataType::Int32 => narrowed!(Int32Array, i32),
            DataType::Int64 => Ok(Arc::new(Int64Array::new(fill(first, count, cardinality, value).into(), nulls))),
            DataType::Float32 => {
                let values = fill(first, count, cardinality, |index| value(index) as f32);
                Ok(Arc::new(Float32Array::new(values.into(), nulls)))
            }
            DataType::Float64 => {
                let values = fill(first, count, cardinality, |index| value(index) as f64);
                Ok(Arc::new(Float64Array::new(values.into(), nulls)))
            }
            DataType::Decimal128(precision, scale) => {
                let (unit, limit) = (10_i128.pow(*scale as u32), 10_i128.pow(u32::from(*precision)));
                let values = fill(first, count, cardinality, |index| i128::from(value(index)) * unit);
                if values.iter().any(|value| value.abs() >= limit) {
                    return Err(past_range(&self.name, &self.data_type, first));
                }
                let array = Decimal128Array::new(values.into(), nulls);
                Ok(Arc::new(array.with_data_type(self.data_type.clone())))
            }
            _ => {
                let mut texts = Vec::with_capacity(count * 8);
                let mut offsets = Vec::with_capacity(count + 1);
                offsets.push(0);
                for index in fill(first, count, cardinality, &value) {
                    write_integer(index, &mut texts);
                    offsets.push(texts.len() as i32);
                }
                Ok(Arc::new(StringArray::new(OffsetBuffer::new(offsets.into()), texts.into(), nulls)))
            }
        }
    }
}

/// `value(row % cardinality)` of each row, in runs that need no division.
#[inline]
fn fill<T>(first: u64, count: usize, cardinality: u64, mut value: impl FnMut(u64) -> T) -> Vec<T> {
    let mut values = Vec::with_capacity(count);
    let mut index = first % cardinality;
    while values.len() < count {
        let run = ((count - values.len()) as u64).min(cardinality - index);
        values.extend((index..index + run).map(&mut value));
        index = 0;
    }
    values
}

fn letters(mut bits: u64, length: usize, out: &mut Vec<u8>) {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    for place in 0..length {
        if place % 12 == 0 && place > 0 {
            bits = mix(bits.wrapping_add(ROW_STEP));
        }
        out.push(LETTERS[(bits >> (place % 12 * 5)) as usize & 31]);
    }
}

fn sequence(
    field: &Field,
    start: i64,
    step: i64,
    last: Option<u64>,
    cardinality: Option<u64>,
    order: RowOrder,
    seed: u64,
) -> Result<Values, ConnectorError> {
    use DataType::*;
    if !matches!(field.data_type(), Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Decimal128(..) | Utf8) {
        return Err(refused(field, "sequence", "numeric and VARCHAR"));
    }
    let permutation = match (order, cardinality) {
        (_, Some(0)) => return Err(invalid(field, "cardinality must be at least 1")),
        (RowOrder::Sequential, _) => None,
        (RowOrder::Mixed, Some(cardinality)) => Some(Permutation::new(cardinality, seed)),
        (RowOrder::Mixed, None) => return Err(invalid(field, "order Mixed needs a cardinality")),
    };
    let end = i128::from(start) + i128::from(step) * i128::from(last.unwrap_or(1) - 1);
    if i64::try_from(end).is_err() {
        return Err(invalid(field, "the sequence runs past the range of BIGINT; choose a smaller step or cardinality"));
    }
    Ok(Values::Sequence { start, step, cardinality: cardinality.unwrap_or(u64::MAX), permutation })
}

fn random(field: &Field, rule: &RandomRule) -> Result<Values, ConnectorError> {
    let range = || -> Result<(f64, f64), ConnectorError> {
        let min = rule.min.unwrap_or(0.0);
        let max = rule.max.ok_or_else(|| invalid(field, "a random number needs max"))?;
        if !(min.is_finite() && max.is_finite() && min <= max) {
            return Err(invalid(field, &format!("min {min} and max {max} are no range")));
        }
        Ok((min, max))
    };
    Ok(match field.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Decimal128(..) => {
            let (min, max) = range()?;
            let (min, max) = (min.ceil() as i64, max.floor() as i64);
            if min > max {
                return Err(invalid(field, "there is no integer between min and max"));
            }
            let span = (max as u64).wrapping_sub(min as u64).saturating_add(1);
            Values::Integers { min, span }
        }
        DataType::Float32 | DataType::Float64 => {
            let (min, max) = range()?;
            Values::Doubles { min, width: max - min }
        }
        DataType::Boolean => Values::Booleans,
        DataType::Utf8 if !rule.values.is_empty() => Values::Choices(rule.values.clone()),
        DataType::Utf8 => Values::Texts { length: rule.length as usize },
        DataType::Binary => Values::Bytes { length: rule.length as usize },
        _ => return Err(refused(field, "random", "BOOLEAN, numeric, VARCHAR and BYTES")),
    })
}

fn null_rows(field: &Field, ratio: f64) -> Result<u64, ConnectorError> {
    if !(0.0..=1.0).contains(&ratio) {
        return Err(invalid(field, &format!("nullRatio is {ratio}, and must be from 0 to 1")));
    }
    if ratio > 0.0 && !field.is_nullable() {
        return Err(invalid(field, "nullRatio is above 0, but the column is not nullable"));
    }
    Ok((ratio * 2_f64.powi(64)) as u64)
}

/// The value in a column of one row, read as the JSON format reads it.
fn constant(field: &Field, value: &serde_json::Value) -> Result<ArrayRef, ConnectorError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let mut decoder = decoder(&DecoderConfig::Json, &schema)?;
    let record = serde_json::json!({ field.name().as_str(): value }).to_string();
    decoder
        .decode(record.as_bytes())
        .map_err(|bad| invalid(field, &format!("the constant {value}: {}", bad.reason)))?;
    Ok(decoder.finish().column(0).clone())
}

fn refused(field: &Field, rule: &str, fits: &str) -> ConnectorError {
    invalid(
        field,
        &format!("the rule `{rule}` is for {fits} columns, and this one is {}", sql_type_name(field.data_type())),
    )
}

fn invalid(field: &Field, reason: &str) -> ConnectorError {
    ConnectorError::Permanent(format!("the generator's column `{}`: {reason}", field.name()))
}

fn past_range(name: &str, data_type: &DataType, row: u64) -> ConnectorError {
    ConnectorError::Permanent(format!(
        "the generator's column `{name}` passes the range of {} after row {row}; give it a wider type, or a cardinality",
        sql_type_name(data_type)
    ))
}
