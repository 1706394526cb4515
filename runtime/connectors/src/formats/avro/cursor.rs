//! Avro's encoding, from its first byte to its last.

use crate::formats::BadRecord;

/// Seven bits each: of 64.
const MAX_VARINT_BYTES: usize = 10;

pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Zigzag, in groups of seven bits, the lowest first. An `int` is written in the same way.
    #[inline]
    pub(super) fn long(&mut self) -> Result<i64, BadRecord> {
        let mut value = 0u64;
        for (place, byte) in self.rest.iter().enumerate().take(MAX_VARINT_BYTES) {
            value |= u64::from(byte & 0x7f).checked_shl(7 * place as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[place + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        let is_short = self.rest.len() < MAX_VARINT_BYTES;
        Err(if is_short { ended() } else { BadRecord::new("a number is longer than 64 bits") })
    }

    pub(super) fn boolean(&mut self) -> Result<bool, BadRecord> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => Err(BadRecord::new(format!("a boolean is {}: it was written with another schema", other[0]))),
        }
    }

    pub(super) fn float(&mut self) -> Result<f32, BadRecord> {
        self.array().map(f32::from_le_bytes)
    }

    pub(super) fn double(&mut self) -> Result<f64, BadRecord> {
        self.array().map(f64::from_le_bytes)
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], BadRecord> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| BadRecord::new(format!("a length is {length}")))?;
        self.take(length)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, BadRecord> {
        std::str::from_utf8(self.bytes()?).map_err(|_| BadRecord::new("a string is not UTF-8"))
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], BadRecord> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(ended)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        self.take(N).map(|bytes| bytes.try_into().expect("so many were taken"))
    }
}

fn ended() -> BadRecord {
    BadRecord::new("it ends in the middle of a value: it was written with another schema")
}
