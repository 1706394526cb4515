//! One record in the encoding of `weir_state::ValueCodec`, without columns around it.

use crate::types::{ColumnType, Kind, Record, RecordReader, RecordWriter, Value};
use crate::{Error, Result};

/// Encodes a record of `fields` fields into `out`, which is overwritten.
pub(crate) fn encode_value<T: Record>(record: &T, fields: usize, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    out.resize(fields.div_ceil(8), 0);
    record.write(&mut ValueWriter { out, next: 0 })
}

/// # Errors
/// Bytes that are no encoding of the record.
pub(crate) fn decode_value<T: Record>(bytes: &[u8], fields: usize) -> Result<T> {
    let (nulls, rest) = bytes.split_at_checked(fields.div_ceil(8)).ok_or_else(ends_early)?;
    T::read(&mut ValueReader { nulls, rest, next: 0 })
}

struct ValueWriter<'a> {
    out: &'a mut Vec<u8>,
    next: usize,
}

impl RecordWriter for ValueWriter<'_> {
    #[inline]
    fn put<T: ColumnType>(&mut self, value: &T) -> Result<()> {
        let field = self.next;
        self.next += 1;
        value.with_value(|value| match value {
            Value::Null => self.out[field / 8] |= 1 << (field % 8),
            Value::Boolean(value) => self.out.push(value.into()),
            Value::TinyInt(value) => self.out.extend_from_slice(&value.to_le_bytes()),
            Value::SmallInt(value) => self.out.extend_from_slice(&value.to_le_bytes()),
            Value::Int(value) | Value::Date(value) => self.out.extend_from_slice(&value.to_le_bytes()),
            Value::BigInt(value) | Value::Time(value) | Value::Timestamp(value) => {
                self.out.extend_from_slice(&value.to_le_bytes())
            }
            Value::Float(value) => self.out.extend_from_slice(&value.to_le_bytes()),
            Value::Double(value) => self.out.extend_from_slice(&value.to_le_bytes()),
            Value::Decimal(value) => self.out.extend_from_slice(&value.to_le_bytes()),
            Value::Varchar(text) => put_bytes(text.as_bytes(), self.out),
            Value::Bytes(bytes) => put_bytes(bytes, self.out),
        });
        Ok(())
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

struct ValueReader<'a> {
    nulls: &'a [u8],
    rest: &'a [u8],
    next: usize,
}

impl<'a> ValueReader<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.bytes(N)?.try_into().expect("as many as asked for"))
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        let mut length = 0usize;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            length |= ((byte & 0x7F) as usize) << shift;
            if byte < 0x80 {
                return self.bytes(length);
            }
        }
        Err(Error::new("a stored text has a length of more than 5 bytes"))
    }
}

impl RecordReader for ValueReader<'_> {
    #[inline]
    fn take<T: ColumnType>(&mut self) -> Result<T> {
        let field = self.next;
        self.next += 1;
        let value = if self.nulls[field / 8] >> (field % 8) & 1 != 0 {
            Value::Null
        } else {
            match T::KIND {
                Kind::Boolean => Value::Boolean(self.array::<1>()?[0] != 0),
                Kind::TinyInt => Value::TinyInt(i8::from_le_bytes(self.array()?)),
                Kind::SmallInt => Value::SmallInt(i16::from_le_bytes(self.array()?)),
                Kind::Int => Value::Int(i32::from_le_bytes(self.array()?)),
                Kind::BigInt => Value::BigInt(i64::from_le_bytes(self.array()?)),
                Kind::Float => Value::Float(f32::from_le_bytes(self.array()?)),
                Kind::Double => Value::Double(f64::from_le_bytes(self.array()?)),
                Kind::Decimal => Value::Decimal(i128::from_le_bytes(self.array()?)),
                Kind::Varchar => Value::Varchar(std::str::from_utf8(self.text()?)?),
                Kind::Bytes => Value::Bytes(self.text()?),
                Kind::Date => Value::Date(i32::from_le_bytes(self.array()?)),
                Kind::Time => Value::Time(i64::from_le_bytes(self.array()?)),
                Kind::Timestamp => Value::Timestamp(i64::from_le_bytes(self.array()?)),
            }
        };
        T::borrow(value).map(T::own)
    }
}

fn ends_early() -> Error {
    Error::new("a stored value ends early")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sample_records;
    use weir_state::{EncodedRows, ValueCodec};

    #[test]
    fn a_record_is_encoded_as_the_codec_of_savepoints_does() {
        for (record, fields, columns) in sample_records() {
            let mut expected = EncodedRows::default();
            ValueCodec::new(&fields).unwrap().encode(&columns, 1, &mut expected).unwrap();
            let mut bytes = vec![1, 2, 3];
            encode_value(&record, fields.len(), &mut bytes).unwrap();
            assert_eq!(bytes, expected.row(0), "{record:?}");
            assert_eq!(decode_value::<crate::testing::Sample>(&bytes, fields.len()).unwrap(), record);
            for end in 0..bytes.len() {
                assert!(decode_value::<crate::testing::Sample>(&bytes[..end], fields.len()).is_err());
            }
        }
    }
}
