//! Rows in the binary form of `COPY`.

use crate::types::Wire;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::*;
use weir_connectors::api::ConnectorError;

/// What a COPY in binary begins with: signature, flags, length of the header's extension.
pub(crate) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(crate) const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// Days and microseconds from 1970 to 2000, where the server counts from.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;
const JSONB_VERSION: u8 = 1;

/// A column of a batch, ready to be written.
pub(crate) struct Cells {
    name: String,
    wire: Wire,
    values: ArrayRef,
}

impl Cells {
    pub(crate) fn of(name: &str, column: &ArrayRef, wire: &Wire) -> Result<Self, ConnectorError> {
        let values = cast(column, &wire.arrow(column.data_type())).map_err(|error| {
            ConnectorError::Permanent(format!("column `{name}`: its values cannot be written: {error}"))
        })?;
        Ok(Cells { name: name.to_owned(), wire: wire.clone(), values })
    }

    /// Appends a row's value, behind its length; NULL as the length -1.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ConnectorError> {
        value(&self.wire, &self.values, row, out)
            .map_err(|reason| ConnectorError::Permanent(format!("column `{}`: {reason}", self.name)))
    }
}

/// A row begins with the number of its columns.
pub(crate) fn begin_row(columns: usize, out: &mut Vec<u8>) {
    // PostgreSQL's tables have at most 1,600 columns.
    out.extend_from_slice(&(columns as i16).to_be_bytes());
}

pub(crate) fn write_i64(value: i64, out: &mut Vec<u8>) {
    fixed(&value.to_be_bytes(), out);
}

pub(crate) fn write_bool(value: bool, out: &mut Vec<u8>) {
    fixed(&[value.into()], out);
}

pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as i32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn fixed(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn value(wire: &Wire, values: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if values.is_null(row) {
        out.extend_from_slice(&(-1i32).to_be_bytes());
        return Ok(());
    }
    match wire {
        Wire::Bool => write_bool(values.as_boolean().value(row), out),
        Wire::Int2 => fixed(&values.as_primitive::<Int16Type>().value(row).to_be_bytes(), out),
        Wire::Int4 => fixed(&values.as_primitive::<Int32Type>().value(row).to_be_bytes(), out),
        Wire::Int8 => write_i64(values.as_primitive::<Int64Type>().value(row), out),
        Wire::Float4 => fixed(&values.as_primitive::<Float32Type>().value(row).to_be_bytes(), out),
        Wire::Float8 => fixed(&values.as_primitive::<Float64Type>().value(row).to_be_bytes(), out),
        Wire::Numeric => {
            let values = values.as_primitive::<Decimal128Type>();
            numeric(values.value(row), values.scale() as u16, out);
        }
        Wire::Text => text(values.as_string::<i32>().value(row), out)?,
        Wire::Jsonb => {
            let json = values.as_string::<i32>().value(row);
            out.extend_from_slice(&(json.len() as i32 + 1).to_be_bytes());
            out.push(JSONB_VERSION);
            out.extend_from_slice(json.as_bytes());
        }
        Wire::Uuid => fixed(&uuid(values.as_string::<i32>().value(row))?, out),
        Wire::Bytea => fixed(values.as_binary::<i32>().value(row), out),
        Wire::Date => {
            let days = values.as_primitive::<Date32Type>().value(row).checked_sub(EPOCH_DAYS);
            fixed(&days.ok_or("a date is out of the server's range")?.to_be_bytes(), out);
        }
        Wire::Time => write_i64(values.as_primitive::<Time64MicrosecondType>().value(row), out),
        Wire::Timestamp => {
            let us = values.as_primitive::<TimestampMicrosecondType>().value(row).checked_sub(EPOCH_US);
            write_i64(us.ok_or("a timestamp is out of the server's range")?, out);
        }
        Wire::Array { element, wire } => {
            let elements = values.as_list::<i32>().value(row);
            let begin = out.len();
            out.extend_from_slice(&[0; 4]);
            let dimensions = i32::from(!elements.is_empty());
            out.extend_from_slice(&dimensions.to_be_bytes());
            out.extend_from_slice(&i32::from(elements.null_count() > 0).to_be_bytes());
            out.extend_from_slice(&element.to_be_bytes());
            if dimensions > 0 {
                out.extend_from_slice(&(elements.len() as i32).to_be_bytes());
                // Indexes begin at 1.
                out.extend_from_slice(&1i32.to_be_bytes());
            }
            for index in 0..elements.len() {
                value(wire, &elements, index, out)?;
            }
            let length = (out.len() - begin - 4) as i32;
            out[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(())
}

fn text(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    if text.as_bytes().contains(&0) {
        return Err(
            "PostgreSQL's text cannot hold the character U+0000; REPLACE it in the query that the sink reads".into()
        );
    }
    write_text(text, out);
    Ok(())
}

/// Base 10,000, the decimal point between two digits of it.
fn numeric(value: i128, scale: u16, out: &mut Vec<u8>) {
    const BASE: u128 = 10_000;
    // At most 38 decimal digits: ten of ours, and one more for the point in between.
    let mut digits = [0u16; 12];
    let mut count = 0;
    let mut push = |digit: u128| {
        digits[count] = digit as u16;
        count += 1;
    };
    let (mut fraction, mut whole) = {
        let one = 10u128.pow(u32::from(scale));
        (value.unsigned_abs() % one, value.unsigned_abs() / one)
    };
    // From the least; the last group of the fraction may be partly beyond the scale.
    let beyond = u32::from(scale % 4);
    if beyond > 0 {
        let part = 10u128.pow(beyond);
        push(fraction % part * 10u128.pow(4 - beyond));
        fraction /= part;
    }
    for _ in 0..scale / 4 {
        push(fraction % BASE);
        fraction /= BASE;
    }
    let mut weight = -1i16;
    while whole > 0 {
        push(whole % BASE);
        whole /= BASE;
        weight += 1;
    }
    let digits = &digits[..count];
    // Zeros at both ends aren't sent.
    let highest = digits.iter().rposition(|digit| *digit != 0);
    let lowest = digits.iter().position(|digit| *digit != 0);
    let (sent, weight) = match (lowest, highest) {
        (Some(lowest), Some(highest)) => (&digits[lowest..=highest], weight - (count - 1 - highest) as i16),
        _ => (&digits[..0], 0),
    };
    out.extend_from_slice(&(8 + 2 * sent.len() as i32).to_be_bytes());
    out.extend_from_slice(&(sent.len() as i16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&(if value < 0 { 0x4000u16 } else { 0 }).to_be_bytes());
    out.extend_from_slice(&scale.to_be_bytes());
    for digit in sent.iter().rev() {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

fn uuid(text: &str) -> Result<[u8; 16], String> {
    let wrong = || format!("`{text}` is no UUID, and the table's column is one");
    let mut bytes = [0; 16];
    let mut digits = text.trim_start_matches('{').trim_end_matches('}').chars().filter(|digit| *digit != '-');
    for byte in &mut bytes {
        let mut digit = || digits.next().and_then(|digit| digit.to_digit(16)).ok_or_else(wrong);
        *byte = (digit()? << 4 | digit()?) as u8;
    }
    if digits.next().is_some() { Err(wrong()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digits, weight, sign, scale of what is sent.
    fn sent(value: i128, scale: u16) -> (Vec<u16>, i16, u16, u16) {
        let mut out = vec![];
        numeric(value, scale, &mut out);
        let half = |at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
        assert_eq!(i32::from_be_bytes(out[..4].try_into().unwrap()) as usize, out.len() - 4);
        let digits = (0..half(4) as usize).map(|index| half(12 + 2 * index)).collect();
        (digits, half(6) as i16, half(8), half(10))
    }

    #[test]
    fn numerics_as_the_server_has_them() {
        assert_eq!(sent(0, 2), (vec![], 0, 0, 2));
        assert_eq!(sent(12_345, 2), (vec![123, 4500], 0, 0, 2));
        assert_eq!(sent(-1, 3), (vec![10], -1, 0x4000, 3));
        assert_eq!(sent(1, 6), (vec![100], -2, 0, 6));
        assert_eq!(sent(100_000_000, 0), (vec![1], 2, 0, 0));
        assert_eq!(sent(10_000 * 10_000 + 5, 4), (vec![1, 0, 5], 1, 0, 4));
        let (digits, weight, ..) = sent(10i128.pow(38) - 1, 37);
        assert_eq!((digits.len(), weight, digits[0], digits[10]), (11, 0, 9, 9000));
        assert_eq!(sent(10i128.pow(38) - 1, 38).0.len(), 10);
    }

    #[test]
    fn uuids_are_read() {
        assert_eq!(uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap()[15], 0xff);
        assert!(uuid("00112233").is_err() && uuid("not a uuid").is_err());
    }
}
