//! Rows written as they come: copied into the table, or merged into it by key.

use super::statements;
use super::target::Target;
use crate::copy;
use arrow::record_batch::RecordBatch;
use std::time::{Duration, Instant};
use weir_connectors::api::{ConnectorError, SinkSnapshot, SinkWriter};
use weir_model::CheckpointId;
use weir_postgres_client::{Lazy, while_doing};

/// Of one connection, so that its name can't clash.
const MERGED: &str = "pg_temp.weir_merged";
/// Rows larger than this together are written though they are few.
pub(super) const MAX_BUFFER_BYTES: usize = 8 << 20;
/// Rows wait no longer for others to be written with, unless none come at all: then until the checkpoint.
const MAX_WAIT: Duration = Duration::from_secs(1);

pub(super) struct DirectWriter {
    connection: Lazy,
    target: Target,
    batch_rows: usize,
    buffer: Buffer,
    /// Whether the connection has its temporary table.
    has_temporary: bool,
}

/// Rows in the form of COPY, without its header.
#[derive(Default)]
pub(super) struct Buffer {
    pub bytes: Vec<u8>,
    pub rows: usize,
    since: Option<Instant>,
}

impl Buffer {
    pub(super) fn add(&mut self, target: &Target, batch: &RecordBatch, next_row: i64) -> Result<(), ConnectorError> {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(copy::HEADER);
        }
        target.encode(batch, next_row, &mut self.bytes)?;
        self.rows += batch.num_rows();
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    pub(super) fn is_full(&self, rows: usize) -> bool {
        self.rows >= rows || self.bytes.len() >= MAX_BUFFER_BYTES
    }

    fn has_waited(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= MAX_WAIT)
    }

    /// All of it, complete, and how many rows that is.
    pub(super) fn take(&mut self) -> (bytes::Bytes, usize) {
        let Buffer { mut bytes, rows, since: _ } = std::mem::take(self);
        bytes.extend_from_slice(copy::TRAILER);
        (bytes.into(), rows)
    }
}

impl DirectWriter {
    pub(super) fn new(connection: Lazy, target: Target, batch_rows: usize) -> Self {
        DirectWriter { connection, target, batch_rows, buffer: Buffer::default(), has_temporary: false }
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.buffer.rows == 0 {
            return Ok(());
        }
        let written = self.write_buffer();
        if written.is_err() {
            self.connection.close();
            self.has_temporary = false;
        }
        written.map_err(while_doing(format!("writing to `{}`", self.target.table.name)))
    }

    fn write_buffer(&mut self) -> Result<(), ConnectorError> {
        let (target, columns) = (&self.target, self.target.column_names());
        let into = target.table.name.quoted();
        let (bytes, _) = self.buffer.take();
        if self.connection.opened().is_none() {
            self.has_temporary = false;
        }
        let connection = self.connection.get()?;
        if target.key.is_empty() {
            connection.copy_in(&statements::copy_into(&into, &columns, false), bytes)?;
            return Ok(());
        }
        if !self.has_temporary {
            connection.execute(&statements::create_like(target, "TEMP ", MERGED, "ON COMMIT DELETE ROWS"))?;
            self.has_temporary = true;
        }
        connection.transaction(|connection| {
            connection.copy_in(&statements::copy_into(MERGED, &columns, true), bytes)?;
            connection.execute(&statements::merge(MERGED, &into, &columns, &target.key))
        })
    }
}

impl SinkWriter for DirectWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.buffer.add(&self.target, batch, self.buffer.rows as i64)?;
        if self.buffer.is_full(self.batch_rows) || self.buffer.has_waited() {
            self.flush()?;
        }
        Ok(())
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        self.flush()?;
        Ok(SinkSnapshot::default())
    }
}
