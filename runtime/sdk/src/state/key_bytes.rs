//! One record in the order-preserving encoding of `weir_state::KeyCodec`, without columns around it.

use crate::types::{ColumnType, Kind, Record, RecordReader, RecordWriter, Value};
use crate::{Error, Result};

/// Writes the encoding of one key into a buffer.
pub struct KeyWriter<'a> {
    out: &'a mut Vec<u8>,
}

/// # Errors
/// Bytes that are no encoding of the record.
pub(crate) fn decode_key<T: Record>(bytes: &[u8]) -> Result<T> {
    T::read(&mut KeyReader { rest: bytes })
}

const NULL: u8 = 0;
const VALID: u8 = 1;
/// Ends a text; a zero byte inside one is followed by `ESCAPED`.
const END: [u8; 2] = [0, 0];
const ESCAPED: u8 = 0xFF;

/// The bits of a float so that unsigned comparison orders them; one zero and one NaN.
macro_rules! ordered_float {
    ($to:ident, $from:ident, $float:ty, $bits:ty) => {
        fn $to(value: $float) -> $bits {
            const SIGN: $bits = 1 << (<$bits>::BITS - 1);
            let value = if value == 0.0 {
                0.0
            } else if value.is_nan() {
                <$float>::NAN
            } else {
                value
            };
            let bits = value.to_bits();
            if bits & SIGN == 0 { bits ^ SIGN } else { !bits }
        }

        fn $from(ordered: $bits) -> $float {
            const SIGN: $bits = 1 << (<$bits>::BITS - 1);
            <$float>::from_bits(if ordered & SIGN != 0 { ordered ^ SIGN } else { !ordered })
        }
    };
}
ordered_float!(ordered_f32, f32_of, f32, u32);
ordered_float!(ordered_f64, f64_of, f64, u64);

impl<'a> KeyWriter<'a> {
    /// Clears the buffer.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        KeyWriter { out }
    }

    #[inline]
    pub(crate) fn put_value(&mut self, value: Value<'_>, nullable: bool) {
        if nullable {
            self.out.push(if value == Value::Null { NULL } else { VALID });
        }
        match value {
            Value::Null => {}
            Value::Boolean(value) => self.out.push(value.into()),
            Value::TinyInt(value) => self.out.push(value as u8 ^ 1 << 7),
            Value::SmallInt(value) => self.out.extend_from_slice(&(value as u16 ^ 1 << 15).to_be_bytes()),
            Value::Int(value) | Value::Date(value) => {
                self.out.extend_from_slice(&(value as u32 ^ 1 << 31).to_be_bytes())
            }
            Value::BigInt(value) | Value::Time(value) | Value::Timestamp(value) => {
                self.out.extend_from_slice(&(value as u64 ^ 1 << 63).to_be_bytes())
            }
            Value::Float(value) => self.out.extend_from_slice(&ordered_f32(value).to_be_bytes()),
            Value::Double(value) => self.out.extend_from_slice(&ordered_f64(value).to_be_bytes()),
            Value::Decimal(value) => self.out.extend_from_slice(&(value as u128 ^ 1 << 127).to_be_bytes()),
            Value::Varchar(text) => self.put_bytes(text.as_bytes()),
            Value::Bytes(bytes) => self.put_bytes(bytes),
        }
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        let mut parts = bytes.split(|byte| *byte == 0);
        self.out.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            self.out.extend_from_slice(&[0, ESCAPED]);
            self.out.extend_from_slice(part);
        }
        self.out.extend_from_slice(&END);
    }
}

impl RecordWriter for KeyWriter<'_> {
    #[inline]
    fn put<T: ColumnType>(&mut self, value: &T) -> Result<()> {
        value.with_value(|value| self.put_value(value, T::NULLABLE));
        Ok(())
    }
}

struct KeyReader<'a> {
    rest: &'a [u8],
}

impl KeyReader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_at_checked(N).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(taken.try_into().expect("as many as asked for"))
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let mut out = vec![];
        loop {
            let zero = self.rest.iter().position(|byte| *byte == 0).ok_or_else(ends_early)?;
            out.extend_from_slice(&self.rest[..zero]);
            self.rest = &self.rest[zero + 1..];
            match self.array()? {
                [0] => return Ok(out),
                [ESCAPED] => out.push(0),
                [other] => return Err(Error::new(format!("a stored key has byte {other} behind a zero byte"))),
            }
        }
    }
}

impl RecordReader for KeyReader<'_> {
    fn take<T: ColumnType>(&mut self) -> Result<T> {
        if T::NULLABLE && self.array::<1>()? == [NULL] {
            return T::borrow(Value::Null).map(T::own);
        }
        let bytes;
        let value = match T::KIND {
            Kind::Boolean => Value::Boolean(self.array::<1>()? != [0]),
            Kind::TinyInt => Value::TinyInt((self.array::<1>()?[0] ^ 1 << 7) as i8),
            Kind::SmallInt => Value::SmallInt((u16::from_be_bytes(self.array()?) ^ 1 << 15) as i16),
            Kind::Int => Value::Int(self.int()?),
            Kind::BigInt => Value::BigInt(self.long()?),
            Kind::Float => Value::Float(f32_of(u32::from_be_bytes(self.array()?))),
            Kind::Double => Value::Double(f64_of(u64::from_be_bytes(self.array()?))),
            Kind::Decimal => Value::Decimal((u128::from_be_bytes(self.array()?) ^ 1 << 127) as i128),
            Kind::Varchar => {
                bytes = self.bytes()?;
                Value::Varchar(std::str::from_utf8(&bytes)?)
            }
            Kind::Bytes => {
                bytes = self.bytes()?;
                Value::Bytes(&bytes)
            }
            Kind::Date => Value::Date(self.int()?),
            Kind::Time => Value::Time(self.long()?),
            Kind::Timestamp => Value::Timestamp(self.long()?),
        };
        T::borrow(value).map(T::own)
    }
}

impl KeyReader<'_> {
    fn int(&mut self) -> Result<i32> {
        Ok((u32::from_be_bytes(self.array()?) ^ 1 << 31) as i32)
    }

    fn long(&mut self) -> Result<i64> {
        Ok((u64::from_be_bytes(self.array()?) ^ 1 << 63) as i64)
    }
}

fn ends_early() -> Error {
    Error::new("a stored key ends early")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sample_records;
    use weir_state::{EncodedRows, KeyCodec};

    #[test]
    fn a_record_is_encoded_as_the_codec_of_savepoints_does() {
        for (record, fields, columns) in sample_records() {
            let mut expected = EncodedRows::default();
            KeyCodec::new(&fields).unwrap().encode(&columns, 1, &mut expected).unwrap();
            let mut bytes = vec![1, 2, 3];
            record.write(&mut KeyWriter::new(&mut bytes)).unwrap();
            assert_eq!(bytes, expected.row(0), "{record:?}");
            assert_eq!(decode_key::<crate::testing::Sample>(&bytes).unwrap(), record);
            for end in 0..bytes.len() {
                assert!(decode_key::<crate::testing::Sample>(&bytes[..end]).is_err());
            }
        }
    }
}
