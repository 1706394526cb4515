//! The socket source: lines from a TCP server. What was read can't be read again: at most once.

mod connection;

use crate::api::{ConnectorError, Poll, Source, SourceContext, SourceReader, SplitState};
use crate::formats::{BadRecord, DecoderConfig, Intake, OnBadRecord, Place, decoder};
use arrow::datatypes::SchemaRef;
use connection::{Connection, Received};
use std::time::Duration;

/// A longer line is a bad record.
const MAX_LINE_BYTES: usize = 16 << 20;
/// A batch ends after this many blocks, however few rows they hold: a barrier may be waiting.
const MAX_BLOCKS: usize = 64;

#[derive(Clone, Debug)]
pub struct SocketConfig {
    /// `host:port`.
    pub address: String,
    pub format: DecoderConfig,
    pub schema: SchemaRef,
    pub on_bad_record: OnBadRecord,
    pub reconnect: Reconnect,
}

/// How a lost connection is made again: after `first`, then twice as long each time, up to `max`.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    pub first: Duration,
    pub max: Duration,
    /// After so many failures in a row the attempt fails, and the restart strategy decides.
    pub attempts: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect { first: Duration::from_millis(100), max: Duration::from_secs(10), attempts: 10 }
    }
}

pub struct SocketSource {
    config: SocketConfig,
}

impl SocketSource {
    pub fn new(config: SocketConfig) -> Result<Self, ConnectorError> {
        let port = config.address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
            return Err(ConnectorError::Permanent(format!("`{}` is not host:port", config.address)));
        }
        decoder(&config.format, &config.schema)?;
        Ok(SocketSource { config })
    }
}

impl Source for SocketSource {
    fn schema(&self) -> SchemaRef {
        self.config.schema.clone()
    }

    fn is_replayable(&self) -> bool {
        false
    }

    fn is_bounded(&self) -> bool {
        false
    }

    /// One subtask connects; the others have nothing to read.
    fn reader(
        &self,
        context: SourceContext,
        _restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let SocketConfig { address, format, schema, on_bad_record, reconnect } = &self.config;
        let connection = (context.subtask == 0).then(|| Connection::start(address.clone(), *reconnect)).transpose()?;
        Ok(Box::new(SocketReader {
            address: address.clone(),
            intake: Intake::new(&context.name, decoder(format, schema)?, *on_bad_record),
            has_header: matches!(format, DecoderConfig::Csv(csv) if csv.header),
            connection,
            awaits_header: false,
            block: Vec::new(),
            taken: 0,
            partial: Vec::new(),
            line: 0,
        }))
    }
}

struct SocketReader {
    address: String,
    intake: Intake,
    has_header: bool,
    connection: Option<Connection>,
    /// The next line names the columns: the first of each connection does.
    awaits_header: bool,
    /// The last block, and how much of it has been taken.
    block: Vec<u8>,
    taken: usize,
    /// A line whose end hasn't come yet.
    partial: Vec<u8>,
    line: u64,
}

impl SocketReader {
    /// Takes lines from the last block until it or the batch is full.
    fn take_lines(&mut self, max_rows: usize) -> Result<(), ConnectorError> {
        let block = std::mem::take(&mut self.block);
        while self.intake.taken() < max_rows {
            let rest = &block[self.taken..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.keep_partial(rest);
                self.taken = block.len();
                break;
            };
            self.taken += end + 1;
            if self.partial.is_empty() {
                self.take_line(&rest[..end])?;
            } else {
                self.keep_partial(&rest[..end]);
                let mut whole = std::mem::take(&mut self.partial);
                self.take_line(&whole)?;
                whole.clear();
                self.partial = whole;
            }
        }
        self.block = block;
        Ok(())
    }

    /// Of a line that is too long only so much is kept as shows that it is.
    fn keep_partial(&mut self, bytes: &[u8]) {
        let room = (MAX_LINE_BYTES + 1).saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), ConnectorError> {
        self.line += 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let place = || Place { split: self.address.clone(), position: format!("line {}", self.line) };
        if line.len() > MAX_LINE_BYTES {
            let bad = BadRecord::new(format!("it is longer than {} MiB", MAX_LINE_BYTES >> 20));
            return self.intake.reject(line, &bad, place());
        }
        if std::mem::take(&mut self.awaits_header) {
            return self
                .intake
                .header(line)
                .map_err(|bad| ConnectorError::Permanent(format!("{}: the header: {bad}", self.address)));
        }
        self.intake.take(line, place)
    }
}

impl SourceReader for SocketReader {
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        for _ in 0..MAX_BLOCKS {
            self.take_lines(max_rows.max(1))?;
            if self.taken < self.block.len() {
                break;
            }
            let Some(connection) = &self.connection else { return Ok(Poll::End) };
            match connection.receive() {
                Some(Received::Connected) => (self.awaits_header, self.line) = (self.has_header, 0),
                Some(Received::Block(block)) => (self.block, self.taken) = (block, 0),
                Some(Received::Closed) => {
                    let last = std::mem::take(&mut self.partial);
                    if !last.is_empty() {
                        self.take_line(&last)?;
                    }
                }
                Some(Received::GivenUp(reason)) => return Err(ConnectorError::Transient(reason)),
                None => break,
            }
        }
        if self.intake.taken() == 0 {
            return Ok(Poll::Pending { retry_after: Duration::from_millis(5) });
        }
        let (batch, rejected) = self.intake.finish();
        Ok(Poll::Batch { batch, split: 0, rejected })
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        Ok(Vec::new())
    }

    fn skipped_records(&self) -> u64 {
        self.intake.skipped()
    }
}

#[cfg(test)]
mod tests;
