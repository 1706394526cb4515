use super::{BytesBuilder, EncodedRows, check_columns, check_types, with_byte_column};
use crate::StateError;
use crate::word::{Word, array_of_words, unsupported, with_word_type};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type};
use std::sync::Arc;
use weir_model::StateField;

const NULL: u8 = 0;
const VALID: u8 = 1;
/// Ends a byte string; a zero byte inside one is written as `ZERO_BYTE`.
const END: [u8; 2] = [0, 0];
const ZERO_BYTE: [u8; 2] = [0, 0xFF];

/// Order-preserving encoding of rows.
///
/// A nullable field begins with one byte (0: null, and nothing follows; 1: a value follows). Integers, dates
/// and times: big-endian with the sign bit flipped. Floats: their bits in total order, one zero and one NaN.
/// Decimals: 16 bytes big-endian, sign flipped. Booleans: one byte. Strings and bytes: each byte, zero as
/// `00 FF`, then `00 00`.
#[derive(Clone, Debug)]
pub struct KeyCodec {
    fields: Vec<StateField>,
}

impl KeyCodec {
    pub fn new(fields: &[StateField]) -> Result<Self, StateError> {
        check_types(fields)?;
        Ok(KeyCodec { fields: fields.to_vec() })
    }

    pub fn fields(&self) -> &[StateField] {
        &self.fields
    }

    /// Encodes `rows` rows of the columns into `out` (cleared first).
    pub fn encode(&self, columns: &[ArrayRef], rows: usize, out: &mut EncodedRows) -> Result<(), StateError> {
        check_columns("key", &self.fields, columns, rows)?;
        let mut lengths = vec![0u32; rows];
        for (field, column) in self.fields.iter().zip(columns) {
            add_lengths(field, column, &mut lengths)?;
        }
        let mut ends = out.lay_out(&lengths)?;
        for (field, column) in self.fields.iter().zip(columns) {
            write_column(field, column, &mut out.bytes, &mut ends)?;
        }
        Ok(())
    }

    /// Decodes rows that hold exactly one encoding each.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, StateError> {
        let mut rests: Vec<&[u8]> = rows.into_iter().collect();
        let columns = self.decode_prefix(&mut rests)?;
        if let Some(row) = rests.iter().position(|rest| !rest.is_empty()) {
            return Err(StateError::decode("a key", format!("{} bytes too many in row {row}", rests[row].len())));
        }
        Ok(columns)
    }

    /// Decodes from the front of each row and leaves there what follows the encoding.
    pub fn decode_prefix(&self, rows: &mut [&[u8]]) -> Result<Vec<ArrayRef>, StateError> {
        self.fields.iter().map(|field| read_column(field, rows)).collect()
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
    let marker = field.nullable as u32;
    if let Some(width) = width(&field.data_type) {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += if column.is_null(row) { marker } else { marker + width };
        }
        return Ok(());
    }
    with_byte_column!(column, array => {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += marker;
            if array.is_valid(row) {
                let bytes: &[u8] = array.value(row).as_ref();
                let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
                *length = u32::try_from(bytes.len() + zeroes + END.len())
                    .ok()
                    .and_then(|more| length.checked_add(more))
                    .ok_or_else(|| StateError::TooLarge { state: "?".into(), what: "a key longer than 4 GiB" })?;
            }
        }
    }, _ => return Err(unsupported(&field.data_type)));
    Ok(())
}

fn write_column(field: &StateField, column: &ArrayRef, out: &mut [u8], ends: &mut [u32]) -> Result<(), StateError> {
    if field.nullable {
        for (row, end) in ends.iter_mut().enumerate() {
            out[*end as usize] = if column.is_null(row) { NULL } else { VALID };
            *end += 1;
        }
    }
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
                put(row, &(array.value(row) as u128 ^ (1 << 127)).to_be_bytes());
            }
        }
        other => with_word_type!(other, T => {
            let array = column.as_primitive::<T>();
            let bytes = <T as ArrowPrimitiveType>::Native::BYTES;
            for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
                put(row, &array.value(row).to_ordered().to_be_bytes()[8 - bytes..]);
            }
        }, _ => with_byte_column!(column, array => {
            for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
                let bytes: &[u8] = array.value(row).as_ref();
                let mut parts = bytes.split(|byte| *byte == 0);
                put(row, parts.next().unwrap_or_default());
                for part in parts {
                    put(row, &ZERO_BYTE);
                    put(row, part);
                }
                put(row, &END);
            }
        }, _ => return Err(unsupported(other)))),
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize, field: &StateField) -> Result<&'a [u8], StateError> {
    let (taken, after) = rest.split_at_checked(length).ok_or_else(|| ends_early(field))?;
    *rest = after;
    Ok(taken)
}

fn ends_early(field: &StateField) -> StateError {
    StateError::decode(format!("key column `{}`", field.name), "the bytes end early")
}

fn read_column(field: &StateField, rows: &mut [&[u8]]) -> Result<ArrayRef, StateError> {
    let mut valid = vec![true; rows.len()];
    if field.nullable {
        for (rest, valid) in rows.iter_mut().zip(&mut valid) {
            *valid = match take(rest, 1, field)?[0] {
                NULL => false,
                VALID => true,
                other => {
                    let reason = format!("null marker {other}");
                    return Err(StateError::decode(format!("key column `{}`", field.name), reason));
                }
            };
        }
    }
    let nulls = valid.contains(&false).then(|| NullBuffer::from(valid.clone()));
    let present = rows.iter_mut().zip(&valid);
    Ok(match &field.data_type {
        DataType::Null => new_null_array(&DataType::Null, valid.len()),
        DataType::Decimal128(precision, scale) => {
            let mut values = Vec::with_capacity(valid.len());
            for (rest, valid) in present {
                let mut bytes = [0; 16];
                if *valid {
                    bytes.copy_from_slice(take(rest, 16, field)?);
                }
                values.push((u128::from_be_bytes(bytes) ^ (1 << 127)) as i128);
            }
            Arc::new(Decimal128Array::new(values.into(), nulls).with_precision_and_scale(*precision, *scale)?)
        }
        data_type => match width(data_type) {
            Some(bytes) => {
                let mut words = Vec::with_capacity(valid.len());
                for (rest, valid) in present {
                    let mut ordered = [0; 8];
                    if *valid {
                        ordered[8 - bytes as usize..].copy_from_slice(take(rest, bytes as usize, field)?);
                    }
                    words.push(word_of_ordered(u64::from_be_bytes(ordered), data_type));
                }
                array_of_words(&words, nulls, data_type)?
            }
            None => {
                let mut builder = BytesBuilder::with_capacity(valid.len());
                for (rest, valid) in present {
                    let mut result = Ok(());
                    builder.append_with(*valid, |out| {
                        if *valid {
                            result = read_bytes(rest, field, out);
                        }
                    });
                    result?;
                }
                builder.finish(data_type)?
            }
        },
    })
}

fn word_of_ordered(ordered: u64, data_type: &DataType) -> u64 {
    with_word_type!(data_type, T => <T as ArrowPrimitiveType>::Native::from_ordered(ordered).to_word(), _ => ordered)
}

fn read_bytes(rest: &mut &[u8], field: &StateField, out: &mut Vec<u8>) -> Result<(), StateError> {
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or_else(|| ends_early(field))?;
        out.extend_from_slice(&rest[..zero]);
        let mark = *rest.get(zero + 1).ok_or_else(|| ends_early(field))?;
        *rest = &rest[zero + 2..];
        match mark {
            0 => return Ok(()),
            0xFF => out.push(0),
            other => {
                let reason = format!("byte {other} behind a zero byte");
                return Err(StateError::decode(format!("key column `{}`", field.name), reason));
            }
        }
    }
}
