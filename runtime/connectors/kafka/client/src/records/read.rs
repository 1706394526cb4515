//! Records out of what a broker answered.

use super::{layout, varint};
use crate::Compression;
use crate::error::{KafkaError, Result};
use bytes::Bytes;
use std::collections::HashSet;

/// An aborted transaction: its producer, and where its records begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    pub producer_id: i64,
    pub first_offset: i64,
}

/// One record; borrowed from what was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    /// None: a tombstone.
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
}

/// Goes through the record batches of one response for one partition. Records of aborted transactions, control records and
/// what lies before the offset that was asked for are passed over.
pub struct RecordReader {
    bytes: Bytes,
    /// Of the next batch.
    at: usize,
    /// The first offset that hasn't been given, as far as the batches tell.
    next_offset: i64,
    /// By their first offset, the earliest last.
    aborted: Vec<Aborted>,
    /// Producers with an aborted transaction that is open at this place of the log.
    open_aborted: HashSet<i64>,
    check_crcs: bool,
    batch: Option<Batch>,
    scratch: Vec<u8>,
}

/// A batch that is being read.
struct Batch {
    /// Whether its records stand in `scratch`, else in `bytes`.
    is_decompressed: bool,
    at: usize,
    end: usize,
    left: i32,
    base_offset: i64,
    last_offset: i64,
    base_timestamp_ms: i64,
    /// Where the broker's time counts.
    append_time_ms: Option<i64>,
}

impl RecordReader {
    /// `aborted`: of the same response; empty where uncommitted records are read too.
    pub fn new(bytes: Bytes, from_offset: i64, mut aborted: Vec<Aborted>, check_crcs: bool) -> Self {
        aborted.sort_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
        RecordReader {
            bytes,
            at: 0,
            next_offset: from_offset,
            aborted,
            open_aborted: HashSet::new(),
            check_crcs,
            batch: None,
            scratch: Vec::new(),
        }
    }

    /// Where to go on after what was given so far: past records that are passed over, too.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Bytes of which nothing has been given yet.
    pub fn is_done(&self) -> bool {
        self.batch.is_none() && self.bytes.len() - self.at < layout::RECORDS
    }

    /// The next record. None: the response holds no further whole batch.
    pub fn next_record(&mut self) -> Result<Option<RecordView<'_>>> {
        loop {
            let Some(batch) = &mut self.batch else {
                if !self.open_batch()? {
                    return Ok(None);
                }
                continue;
            };
            if batch.left == 0 {
                self.next_offset = self.next_offset.max(batch.last_offset + 1);
                self.batch = None;
                continue;
            }
            let records: &[u8] = if batch.is_decompressed { &self.scratch } else { &self.bytes };
            let (offset, body) = batch.advance(records).ok_or_else(corrupt)?;
            if offset < self.next_offset {
                continue;
            }
            self.next_offset = offset + 1;
            // The borrow checker does not see that a return ends the loop: hence once more.
            let (start, end, timestamp_ms) = body;
            let records: &[u8] = if self.batch.as_ref().is_some_and(|batch| batch.is_decompressed) {
                &self.scratch
            } else {
                &self.bytes
            };
            return RecordView::read(&records[start..end], offset, timestamp_ms).map(Some).ok_or_else(corrupt);
        }
    }

    /// Makes the next batch whose records count the current one. False: there is no further whole batch.
    fn open_batch(&mut self) -> Result<bool> {
        loop {
            let Some(header) = self.bytes.get(self.at..self.at + layout::RECORDS) else { return Ok(false) };
            let length = i32::from_be_bytes(field(header, layout::LENGTH));
            let base_offset = i64::from_be_bytes(field(header, 0));
            if header[layout::MAGIC] != 2 {
                return Err(KafkaError::Unusable(format!(
                    "the batch at offset {base_offset} has the format {} of before Kafka 0.11, which is not read",
                    header[layout::MAGIC]
                )));
            }
            let too_short =
                usize::try_from(length).ok().filter(|length| length + layout::BEFORE_LENGTH >= layout::RECORDS);
            let end = self.at + too_short.ok_or_else(corrupt)? + layout::BEFORE_LENGTH;
            let Some(whole) = self.bytes.get(self.at..end) else { return Ok(false) };
            let start = self.at;
            self.at = end;
            let last_offset = base_offset + i64::from(i32::from_be_bytes(field(header, layout::LAST_OFFSET_DELTA)));
            if last_offset < self.next_offset && self.aborted.is_empty() && self.open_aborted.is_empty() {
                continue;
            }
            if self.check_crcs {
                let expected = u32::from_be_bytes(field(header, layout::CRC));
                if crc32c::crc32c(&whole[layout::ATTRIBUTES..]) != expected {
                    return Err(KafkaError::Connection(format!(
                        "the batch at offset {base_offset} fails its checksum"
                    )));
                }
            }
            let attributes = i16::from_be_bytes(field(header, layout::ATTRIBUTES));
            let producer_id = i64::from_be_bytes(field(header, layout::PRODUCER_ID));
            while let Some(aborted) = self.aborted.pop_if(|aborted| aborted.first_offset <= last_offset) {
                self.open_aborted.insert(aborted.producer_id);
            }
            let is_aborted = attributes & layout::TRANSACTIONAL != 0 && self.open_aborted.contains(&producer_id);
            if attributes & layout::CONTROL != 0 {
                if is_aborted {
                    // A commit of this producer cannot stand here: its transaction is in the list of aborted ones.
                    self.open_aborted.remove(&producer_id);
                }
                self.next_offset = self.next_offset.max(last_offset + 1);
                continue;
            }
            if is_aborted || last_offset < self.next_offset {
                self.next_offset = self.next_offset.max(last_offset + 1);
                continue;
            }
            let compression = Compression::of_attributes(attributes)?;
            let is_decompressed = compression != Compression::None;
            if is_decompressed {
                self.scratch.clear();
                let done = compression.decompress(&whole[layout::RECORDS..], &mut self.scratch);
                done.map_err(|error| {
                    KafkaError::Unusable(format!("the batch at offset {base_offset} cannot be decompressed: {error}"))
                })?;
            }
            let max_timestamp_ms = i64::from_be_bytes(field(header, layout::MAX_TIMESTAMP));
            self.batch = Some(Batch {
                is_decompressed,
                at: if is_decompressed { 0 } else { start + layout::RECORDS },
                end: if is_decompressed { self.scratch.len() } else { end },
                left: i32::from_be_bytes(field(header, layout::COUNT)),
                base_offset,
                last_offset,
                base_timestamp_ms: i64::from_be_bytes(field(header, layout::BASE_TIMESTAMP)),
                append_time_ms: (attributes & layout::LOG_APPEND_TIME != 0).then_some(max_timestamp_ms),
            });
            return Ok(true);
        }
    }
}

impl Batch {
    /// The next record's offset, and where its key begins, where it ends, and its time.
    fn advance(&mut self, records: &[u8]) -> Option<(i64, (usize, usize, i64))> {
        let length = usize::try_from(varint::read(records, &mut self.at)?).ok()?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.end)?;
        // The record's attributes, of which there are none.
        let mut at = self.at + 1;
        let timestamp = varint::read(records, &mut at)?;
        let offset = varint::read(records, &mut at)?;
        self.at = end;
        self.left -= 1;
        let timestamp_ms = self.append_time_ms.unwrap_or(self.base_timestamp_ms.wrapping_add(timestamp));
        (at <= end).then_some((self.base_offset.checked_add(offset)?, (at, end, timestamp_ms)))
    }
}

impl<'a> RecordView<'a> {
    /// `body`: from the key's length on.
    fn read(body: &'a [u8], offset: i64, timestamp_ms: i64) -> Option<Self> {
        let mut at = 0;
        let key = bytes(body, &mut at)?;
        let value = bytes(body, &mut at)?;
        Some(RecordView { offset, timestamp_ms, key, value, headers: &body[at..] })
    }

    /// Name and value of each header.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let mut at = 0;
        let headers = self.headers;
        let count = varint::read(headers, &mut at).unwrap_or(0);
        (0..count).map_while(move |_| Some((bytes(headers, &mut at)?.unwrap_or_default(), bytes(headers, &mut at)?)))
    }
}

/// Bytes behind their length; -1 stands for none.
#[inline]
fn bytes<'a>(body: &'a [u8], at: &mut usize) -> Option<Option<&'a [u8]>> {
    let length = varint::read(body, at)?;
    if length < 0 {
        return Some(None);
    }
    let start = *at;
    *at = start.checked_add(usize::try_from(length).ok()?)?;
    body.get(start..*at).map(Some)
}

/// The offset behind the last whole batch, read from the batches' headers alone. None: there is none.
pub fn end_of(mut batches: &[u8]) -> Option<i64> {
    let mut end = None;
    while let Some(header) = batches.get(..layout::RECORDS) {
        let length = usize::try_from(i32::from_be_bytes(field(header, layout::LENGTH))).ok()?;
        let Some(rest) = batches.get(length.checked_add(layout::BEFORE_LENGTH)?..) else { break };
        let base_offset = i64::from_be_bytes(field(header, 0));
        end = Some(base_offset + i64::from(i32::from_be_bytes(field(header, layout::LAST_OFFSET_DELTA))) + 1);
        batches = rest;
    }
    end
}

fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header[at..at + N].try_into().expect("the header was measured")
}

fn corrupt() -> KafkaError {
    KafkaError::Connection("a batch of records makes no sense".into())
}
