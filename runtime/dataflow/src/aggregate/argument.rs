//! Arguments and result columns of aggregates, in the few shapes that the loops are written for.

use super::block::{Cell, Place, RowBlock};
use crate::operator::OperatorError;
use arrow::array::*;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::*;
use std::sync::Arc;

/// A batch's argument column, by cell.
#[derive(Clone, Debug)]
pub enum Argument {
    /// COUNT(*).
    None,
    Words(Int64Array),
    Floats(Float64Array),
    Wides(Decimal128Array),
    Text(StringArray),
    Binary(BinaryArray),
    /// Only whether it is null matters: COUNT of anything.
    Any(ArrayRef),
}

/// What an aggregate wants its argument as.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Any,
    /// Of the argument's own type, by its cell.
    Own,
    /// Any number as `f64`.
    Float,
}

impl Argument {
    pub fn new(column: &ArrayRef, shape: &Shape) -> Result<Self, OperatorError> {
        if *shape == Shape::Any {
            return Ok(Argument::Any(column.clone()));
        }
        if *shape == Shape::Float {
            return Ok(Argument::Floats(converted(column, &DataType::Float64)?.as_primitive().clone()));
        }
        Ok(match Cell::of(column.data_type()) {
            Some(Cell::Word) => Argument::Words(to_words(column)?),
            Some(Cell::Float) => Argument::Floats(converted(column, &DataType::Float64)?.as_primitive().clone()),
            Some(Cell::Wide) => Argument::Wides(column.as_primitive::<Decimal128Type>().clone()),
            Some(Cell::Bytes) if column.data_type() == &DataType::Utf8 => Argument::Text(column.as_string().clone()),
            Some(Cell::Bytes) => Argument::Binary(column.as_binary().clone()),
            None => {
                return Err(OperatorError::Failed(format!(
                    "no aggregate takes a column of type {}",
                    column.data_type()
                )));
            }
        })
    }

    pub fn nulls(&self) -> Option<&arrow::buffer::NullBuffer> {
        let nulls = match self {
            Argument::None => None,
            Argument::Words(array) => array.nulls(),
            Argument::Floats(array) => array.nulls(),
            Argument::Wides(array) => array.nulls(),
            Argument::Text(array) => array.nulls(),
            Argument::Binary(array) => array.nulls(),
            Argument::Any(array) => array.nulls(),
        };
        nulls.filter(|nulls| nulls.null_count() > 0)
    }

    /// A column as state holds it.
    pub fn of_state(column: &ArrayRef) -> Result<Self, OperatorError> {
        Argument::new(column, &Shape::Own)
    }

    /// Whether a row's value is the one in a block's row.
    pub fn equals(&self, row: usize, block: &RowBlock, block_row: usize, place: Place) -> bool {
        if !block.is_valid(block_row, place) {
            return false;
        }
        match self {
            Argument::Words(values) => values.value(row) == block.word(block_row, place),
            Argument::Wides(values) => values.value(row) == block.wide(block_row, place),
            Argument::Floats(values) => {
                let (a, b) = (values.value(row), block.float(block_row, place));
                a == b || a.is_nan() && b.is_nan()
            }
            text => Some(text.bytes(row)) == block.bytes(block_row, place),
        }
    }

    /// The bytes of a text or binary row.
    pub fn bytes(&self, row: usize) -> &[u8] {
        match self {
            Argument::Text(array) => array.value(row).as_bytes(),
            Argument::Binary(array) => array.value(row),
            other => unreachable!("bytes of {other:?}"),
        }
    }
}

/// The type in which state keeps a value of `data_type`: narrow numbers widened, so that widening the column
/// later changes nothing.
pub fn state_type(data_type: &DataType) -> DataType {
    use DataType::*;
    match data_type {
        Boolean | Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 => Int64,
        Float32 => Float64,
        Time32(_) => Int64,
        other => other.clone(),
    }
}

/// A column in the type in which state keeps its values.
pub fn to_state(column: &ArrayRef) -> Result<ArrayRef, OperatorError> {
    match state_type(column.data_type()) {
        DataType::Int64 => Ok(Arc::new(to_words(column)?)),
        other => converted(column, &other),
    }
}

/// A field of every row of a block as a column of type `data_type`.
pub fn column(block: &RowBlock, place: Place, data_type: &DataType) -> Result<ArrayRef, OperatorError> {
    let rows = 0..block.rows();
    let validity = block.validity(place);
    Ok(match place.cell {
        Cell::Word => from_words(words(block.words(place).map(|word| word as i64).collect(), validity), data_type)?,
        Cell::Float => {
            let values = block.words(place).map(f64::from_bits).collect::<Vec<_>>();
            converted(&(Arc::new(Float64Array::new(values.into(), validity)) as ArrayRef), data_type)?
        }
        Cell::Wide => {
            let values = rows.map(|row| block.wide(row, place)).collect::<Vec<_>>();
            Arc::new(Decimal128Array::new(values.into(), validity).with_data_type(data_type.clone()))
        }
        Cell::Bytes if data_type == &DataType::Utf8 => {
            let text = |row| {
                block.bytes(row, place).map(|bytes| {
                    std::str::from_utf8(bytes).map_err(|error| OperatorError::Failed(format!("text in state: {error}")))
                })
            };
            let texts = rows.map(|row| text(row).transpose()).collect::<Result<Vec<_>, _>>()?;
            Arc::new(StringArray::from(texts))
        }
        Cell::Bytes => Arc::new(BinaryArray::from(rows.map(|row| block.bytes(row, place)).collect::<Vec<_>>())),
    })
}

pub fn words(values: Vec<i64>, validity: Option<arrow::buffer::NullBuffer>) -> Int64Array {
    Int64Array::new(values.into(), validity)
}

/// Any column of the `Word` cell as its `i64` values.
pub fn to_words(column: &ArrayRef) -> Result<Int64Array, OperatorError> {
    use DataType::*;
    Ok(match column.data_type() {
        Int64 => column.as_primitive::<Int64Type>().clone(),
        Timestamp(TimeUnit::Second, _) => column.as_primitive::<TimestampSecondType>().reinterpret_cast(),
        Timestamp(TimeUnit::Millisecond, _) => column.as_primitive::<TimestampMillisecondType>().reinterpret_cast(),
        Timestamp(TimeUnit::Microsecond, _) => column.as_primitive::<TimestampMicrosecondType>().reinterpret_cast(),
        Timestamp(TimeUnit::Nanosecond, _) => column.as_primitive::<TimestampNanosecondType>().reinterpret_cast(),
        // Arrow goes from dates and times to integers by their stored numbers.
        _ => converted(column, &Int64)?.as_primitive::<Int64Type>().clone(),
    })
}

/// The inverse of `to_words`.
pub fn from_words(words: Int64Array, data_type: &DataType) -> Result<ArrayRef, OperatorError> {
    use DataType::*;
    Ok(match data_type {
        Int64 => Arc::new(words),
        Timestamp(TimeUnit::Microsecond, zone) => {
            Arc::new(words.reinterpret_cast::<TimestampMicrosecondType>().with_timezone_opt(zone.clone()))
        }
        Timestamp(TimeUnit::Second, zone) => {
            Arc::new(words.reinterpret_cast::<TimestampSecondType>().with_timezone_opt(zone.clone()))
        }
        Timestamp(TimeUnit::Millisecond, zone) => {
            Arc::new(words.reinterpret_cast::<TimestampMillisecondType>().with_timezone_opt(zone.clone()))
        }
        Timestamp(TimeUnit::Nanosecond, zone) => {
            Arc::new(words.reinterpret_cast::<TimestampNanosecondType>().with_timezone_opt(zone.clone()))
        }
        Date32 | Time32(_) => converted(&converted(&(Arc::new(words) as ArrayRef), &Int32)?, data_type)?,
        other => converted(&(Arc::new(words) as ArrayRef), other)?,
    })
}

/// A cast that fails rather than make nulls.
pub fn converted(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, OperatorError> {
    if column.data_type() == data_type {
        return Ok(column.clone());
    }
    Ok(cast_with_options(column, data_type, &CastOptions { safe: false, ..Default::default() })?)
}
