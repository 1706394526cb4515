//! Records into a batch.

use super::{layout, varint};
use crate::Compression;
use crate::error::{KafkaError, Result};

/// The records of one partition that wait to be sent.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    records: Vec<u8>,
    count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

/// A finished batch, but for who sends it as its how many-th.
#[derive(Debug)]
pub(crate) struct Sealed {
    bytes: Vec<u8>,
    pub(crate) count: i32,
}

/// What a broker tells repeated and foreign batches by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
}

impl BatchBuilder {
    pub fn push(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        if self.count == 0 {
            (self.base_timestamp_ms, self.max_timestamp_ms) = (timestamp_ms, timestamp_ms);
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        let (timestamp, offset) = (timestamp_ms - self.base_timestamp_ms, i64::from(self.count));
        let length = |bytes: Option<&[u8]>| bytes.map_or(1, |bytes| varint::length(bytes.len() as i64) + bytes.len());
        // Attributes and the number of headers are a byte each.
        let size = 2 + varint::length(timestamp) + varint::length(offset) + length(key) + length(value);
        let out = &mut self.records;
        varint::write(size as i64, out);
        out.push(0);
        varint::write(timestamp, out);
        varint::write(offset, out);
        for bytes in [key, value] {
            match bytes {
                Some(bytes) => {
                    varint::write(bytes.len() as i64, out);
                    out.extend_from_slice(bytes);
                }
                None => varint::write(-1, out),
            }
        }
        varint::write(0, out);
        self.count += 1;
    }

    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    pub fn count(&self) -> i32 {
        self.count
    }

    /// The records as a batch; the builder is empty again.
    pub(crate) fn seal(&mut self, compression: Compression, transactional: bool) -> Result<Sealed> {
        let mut bytes = vec![0; layout::RECORDS];
        let failed = |error: std::io::Error| KafkaError::Unusable(format!("cannot compress a batch: {error}"));
        compression.compress(&self.records, &mut bytes).map_err(failed)?;
        let attributes = compression.code() | if transactional { layout::TRANSACTIONAL } else { 0 };
        let length = (bytes.len() - layout::BEFORE_LENGTH) as i32;
        put(&mut bytes, layout::LENGTH, &length.to_be_bytes());
        // The leader's epoch is not ours to know.
        put(&mut bytes, layout::BEFORE_LENGTH, &(-1i32).to_be_bytes());
        bytes[layout::MAGIC] = 2;
        put(&mut bytes, layout::ATTRIBUTES, &attributes.to_be_bytes());
        put(&mut bytes, layout::LAST_OFFSET_DELTA, &(self.count - 1).to_be_bytes());
        put(&mut bytes, layout::BASE_TIMESTAMP, &self.base_timestamp_ms.to_be_bytes());
        put(&mut bytes, layout::MAX_TIMESTAMP, &self.max_timestamp_ms.to_be_bytes());
        put(&mut bytes, layout::COUNT, &self.count.to_be_bytes());
        let count = self.count;
        self.records.clear();
        self.count = 0;
        Ok(Sealed { bytes, count })
    }
}

impl Sealed {
    /// The batch as it is sent.
    pub(crate) fn stamped(mut self, stamp: Stamp) -> Vec<u8> {
        let bytes = &mut self.bytes;
        put(bytes, layout::PRODUCER_ID, &stamp.producer_id.to_be_bytes());
        put(bytes, layout::PRODUCER_EPOCH, &stamp.producer_epoch.to_be_bytes());
        put(bytes, layout::BASE_SEQUENCE, &stamp.base_sequence.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[layout::ATTRIBUTES..]);
        put(bytes, layout::CRC, &crc.to_be_bytes());
        self.bytes
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
