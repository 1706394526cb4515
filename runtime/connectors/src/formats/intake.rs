//! Takes records into a batch, and does with bad ones what the job asks for.

use super::{BadRecord, Decoder, OnBadRecord};
use crate::api::{ConnectorError, dead_letter_schema};
use arrow::array::{ArrayRef, StringBuilder};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// A bad record's bytes are shown up to this many characters in an error.
const SHOWN_CHARS: usize = 200;
/// A dead letter holds at most this much of the record: it may have been rejected for its size.
const MAX_DEAD_LETTER_BYTES: usize = 1 << 20;

/// Where a record stands, for messages and dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A file, a topic's partition.
    pub split: String,
    /// The record's place in it, as a reader of the message looks it up: `line 7, byte 412`.
    pub position: String,
}

/// A decoder with a policy for bad records.
pub struct Intake {
    source: String,
    decoder: Box<dyn Decoder>,
    on_bad_record: OnBadRecord,
    skipped: u64,
    rejected: DeadLetters,
}

#[derive(Default)]
struct DeadLetters {
    rows: usize,
    source: StringBuilder,
    split: StringBuilder,
    position: StringBuilder,
    error: StringBuilder,
    raw: StringBuilder,
}

impl Intake {
    /// `source` is the step's name.
    pub fn new(source: &str, decoder: Box<dyn Decoder>, on_bad_record: OnBadRecord) -> Self {
        Intake { source: source.into(), decoder, on_bad_record, skipped: 0, rejected: DeadLetters::default() }
    }

    /// Takes one record; the error is the job's, when bad records fail it.
    #[inline]
    pub fn take(&mut self, record: &[u8], place: impl FnOnce() -> Place) -> Result<(), ConnectorError> {
        match self.decoder.decode(record) {
            Ok(()) => Ok(()),
            Err(_) if self.decoder.is_blank(record) => Ok(()),
            Err(bad) => self.reject(record, &bad, place()),
        }
    }

    /// A record that could not even be handed to the decoder.
    pub fn reject(&mut self, record: &[u8], bad: &BadRecord, place: Place) -> Result<(), ConnectorError> {
        match self.on_bad_record {
            OnBadRecord::Fail => return Err(self.failure(record, bad, &place)),
            OnBadRecord::Skip => self.skipped += 1,
            OnBadRecord::DeadLetter => self.rejected.push(&self.source, record, bad, &place),
        }
        tracing::debug!(source = self.source, split = place.split, position = place.position, error = %bad, "bad record");
        Ok(())
    }

    pub fn header(&mut self, header: &[u8]) -> Result<(), BadRecord> {
        self.decoder.header(header)
    }

    /// As `Decoder::unknown_schema`.
    #[inline]
    pub fn unknown_schema(&self, record: &[u8]) -> Option<u32> {
        self.decoder.unknown_schema(record)
    }

    pub fn learn_schema(&mut self, number: u32, schema: &str) -> Result<(), BadRecord> {
        self.decoder.learn_schema(number, schema)
    }

    /// Rows since the last `finish`.
    pub fn rows(&self) -> usize {
        self.decoder.rows()
    }

    /// Rows and dead letters since the last `finish`.
    pub fn taken(&self) -> usize {
        self.decoder.rows() + self.rejected.rows
    }

    /// The rows, and the dead letters if there are any.
    pub fn finish(&mut self) -> (RecordBatch, Option<RecordBatch>) {
        (self.decoder.finish(), self.rejected.finish())
    }

    /// Records passed over so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn failure(&self, record: &[u8], bad: &BadRecord, place: &Place) -> ConnectorError {
        let text = String::from_utf8_lossy(&record[..record.len().min(SHOWN_CHARS * 4)]);
        let shown: String = text.chars().take(SHOWN_CHARS).collect();
        let cut = if shown.len() < record.len() { "..." } else { "" };
        ConnectorError::Permanent(format!(
            "source `{}`: bad record in {}, {}: {bad}. The record: {shown}{cut}\n\
             Correct it, or set onBadRecord to Skip (it is counted and passed over) or DeadLetter (it goes to a sink).",
            self.source, place.split, place.position
        ))
    }
}

impl DeadLetters {
    fn push(&mut self, source: &str, record: &[u8], bad: &BadRecord, place: &Place) {
        self.rows += 1;
        self.source.append_value(source);
        self.split.append_value(&place.split);
        self.position.append_value(&place.position);
        self.error.append_value(bad.to_string());
        self.raw.append_value(String::from_utf8_lossy(&record[..record.len().min(MAX_DEAD_LETTER_BYTES)]));
    }

    fn finish(&mut self) -> Option<RecordBatch> {
        if std::mem::take(&mut self.rows) == 0 {
            return None;
        }
        let DeadLetters { rows: _, source, split, position, error, raw } = self;
        let columns: Vec<ArrayRef> =
            [source, split, position, error, raw].map(|column| Arc::new(column.finish()) as ArrayRef).into();
        Some(RecordBatch::try_new(dead_letter_schema(), columns).expect("five text columns of equal length"))
    }
}
