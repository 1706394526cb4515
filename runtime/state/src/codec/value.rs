use super::{BytesBuilder, EncodedRows, check_columns, check_types, with_byte_column};
use crate::StateError;
use crate::word::{Word, array_of_words, unsupported, with_word_type};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type};
use std::sync::Arc;
use weir_model::StateField;

/// Compact encoding of rows.
///
/// First a bitmap with a set bit for each null field (bit 0 of byte 0: the first field), then the fields that
/// aren't null: fixed-width ones little-endian in their own width, booleans as one byte, strings and bytes
/// with their length before them (LEB128).
#[derive(Clone, Debug)]
pub struct ValueCodec {
    fields: Vec<StateField>,
}

impl ValueCodec {
    pub fn new(fields: &[StateField]) -> Result<Self, StateError> {
        check_types(fields)?;
        Ok(ValueCodec { fields: fields.to_vec() })
    }

    pub fn fields(&self) -> &[StateField] {
        &self.fields
    }

    /// Encodes `rows` rows of the columns into `out` (cleared first).
    pub fn encode(&self, columns: &[ArrayRef], rows: usize, out: &mut EncodedRows) -> Result<(), StateError> {
        check_columns("value", &self.fields, columns, rows)?;
        let bitmap = self.fields.len().div_ceil(8) as u32;
        let mut lengths = vec![bitmap; rows];
        for (field, column) in self.fields.iter().zip(columns) {
            add_lengths(field, column, &mut lengths)?;
        }
        let mut ends = out.lay_out(&lengths)?;
        for (index, column) in columns.iter().enumerate().filter(|(_, column)| column.logical_null_count() > 0) {
            let nulls = column.logical_nulls();
            for row in 0..rows {
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    out.bytes[ends[row] as usize + index / 8] |= 1 << (index % 8);
                }
            }
        }
        ends.iter_mut().for_each(|end| *end += bitmap);
        for (field, column) in self.fields.iter().zip(columns) {
            write_column(field, column, &mut out.bytes, &mut ends)?;
        }
        Ok(())
    }

    /// Decodes rows that hold exactly one encoding each.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, StateError> {
        let mut rests: Vec<&[u8]> = rows.into_iter().collect();
        let bitmap = self.fields.len().div_ceil(8);
        let mut bitmaps = Vec::with_capacity(rests.len());
        for rest in &mut rests {
            bitmaps.push(take(rest, bitmap, "the null bitmap")?);
        }
        let columns: Result<Vec<ArrayRef>, StateError> = (self.fields.iter().enumerate())
            .map(|(index, field)| {
                let valid: Vec<bool> = bitmaps.iter().map(|bits| bits[index / 8] >> (index % 8) & 1 == 0).collect();
                read_column(field, &mut rests, valid)
            })
            .collect();
        let columns = columns?;
        if let Some(row) = rests.iter().position(|rest| !rest.is_empty()) {
            return Err(StateError::decode("a value", format!("{} bytes too many in row {row}", rests[row].len())));
        }
        Ok(columns)
    }
}

fn width(data_type: &DataType) -> Option<u32> {
    match data_type {
        DataType::Boolean => Some(1),
        DataType::Null => Some(0),
        DataType::Decimal128(_, _) => Some(16),
        other => with_word_type!(other, T => Some(<T as ArrowPrimitiveType>::Native::BYTES as u32), _ => None),
    }
}

fn add_lengths(field: &StateField, column: &ArrayRef, lengths: &mut [u32]) -> Result<(), StateError> {
    if let Some(width) = width(&field.data_type) {
        let nulls = column.logical_nulls();
        for (row, length) in lengths.iter_mut().enumerate() {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                *length += width;
            }
        }
        return Ok(());
    }
    with_byte_column!(column, array => {
        for (row, length) in lengths.iter_mut().enumerate().filter(|(row, _)| array.is_valid(*row)) {
            let bytes: &[u8] = array.value(row).as_ref();
            *length = u32::try_from(leb128_length(bytes.len()) + bytes.len())
                .ok()
                .and_then(|more| length.checked_add(more))
                .ok_or_else(|| StateError::TooLarge { state: "?".into(), what: "a value longer than 4 GiB" })?;
        }
    }, _ => return Err(unsupported(&field.data_type)));
    Ok(())
}

fn write_column(field: &StateField, column: &ArrayRef, out: &mut [u8], ends: &mut [u32]) -> Result<(), StateError> {
    let mut put = |row: usize, bytes: &[u8]| {
        let at = ends[row] as usize;
        out[at..at + bytes.len()].copy_from_slice(bytes);
        ends[row] += bytes.len() as u32;
    };
    match &field.data_type {
        DataType::Null => {}
        DataType::Boolean => {
            let array = column.as_boolean();
            (0..array.len()).filter(|row| array.is_valid(*row)).for_each(|row| put(row, &[array.value(row) as u8]));
        }
        DataType::Decimal128(_, _) => {
            let array = column.as_primitive::<Decimal128Type>();
            for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
                put(row, &array.value(row).to_le_bytes());
            }
        }
        other => with_word_type!(other, T => {
            let array = column.as_primitive::<T>();
            let bytes = <T as ArrowPrimitiveType>::Native::BYTES;
            for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
                put(row, &array.value(row).to_word().to_le_bytes()[..bytes]);
            }
        }, _ => with_byte_column!(column, array => {
            for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
                let bytes: &[u8] = array.value(row).as_ref();
                let mut length = bytes.len();
                while length >= 0x80 {
                    put(row, &[length as u8 | 0x80]);
                    length >>= 7;
                }
                put(row, &[length as u8]);
                put(row, bytes);
            }
        }, _ => return Err(unsupported(other)))),
    }
    Ok(())
}

fn leb128_length(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn take<'a>(rest: &mut &'a [u8], length: usize, what: &str) -> Result<&'a [u8], StateError> {
    let (taken, after) =
        rest.split_at_checked(length).ok_or_else(|| StateError::decode(what, "the bytes end early"))?;
    *rest = after;
    Ok(taken)
}

fn take_bytes<'a>(rest: &mut &'a [u8], what: &str) -> Result<&'a [u8], StateError> {
    let mut length = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = take(rest, 1, what)?[0];
        length |= ((byte & 0x7F) as u64) << shift;
        if byte < 0x80 {
            return take(rest, length as usize, what);
        }
    }
    Err(StateError::decode(what, "a length of more than 5 bytes"))
}

fn read_column(field: &StateField, rows: &mut [&[u8]], valid: Vec<bool>) -> Result<ArrayRef, StateError> {
    let nulls = valid.contains(&false).then(|| NullBuffer::from(valid.clone()));
    if nulls.is_some() && !field.nullable && field.data_type != DataType::Null {
        return Err(StateError::decode(format!("column `{}`", field.name), "a null where the schema allows none"));
    }
    let present = rows.iter_mut().zip(&valid);
    Ok(match &field.data_type {
        DataType::Null => new_null_array(&DataType::Null, valid.len()),
        DataType::Decimal128(precision, scale) => {
            let mut values = Vec::with_capacity(valid.len());
            for (rest, valid) in present {
                let mut bytes = [0; 16];
                if *valid {
                    bytes.copy_from_slice(take(rest, 16, &field.name)?);
                }
                values.push(i128::from_le_bytes(bytes));
            }
            Arc::new(Decimal128Array::new(values.into(), nulls).with_precision_and_scale(*precision, *scale)?)
        }
        data_type => match width(data_type) {
            Some(bytes) => {
                let mut words = Vec::with_capacity(valid.len());
                for (rest, valid) in present {
                    let mut word = [0; 8];
                    if *valid {
                        word[..bytes as usize].copy_from_slice(take(rest, bytes as usize, &field.name)?);
                    }
                    words.push(u64::from_le_bytes(word));
                }
                array_of_words(&words, nulls, data_type)?
            }
            None => {
                let mut builder = BytesBuilder::with_capacity(valid.len());
                for (rest, valid) in present {
                    builder.append(if *valid { Some(take_bytes(rest, &field.name)?) } else { None });
                }
                builder.finish(data_type)?
            }
        },
    })
}
