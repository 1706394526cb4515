//! The first phase without a staging table: rows into the table itself, in a transaction that is prepared at the barrier.

use super::direct::Buffer;
use super::names;
use super::staged::commits_table;
use super::statements;
use super::target::Target;
use crate::table::literal;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use weir_connectors::api::{Committable, ConnectorError, SinkContext, SinkSnapshot, SinkWriter};
use weir_model::CheckpointId;
use weir_postgres_client::{Lazy, while_doing};

pub(super) struct PreparedWriter {
    connection: Lazy,
    target: Target,
    schema: String,
    batch_rows: usize,
    context: SinkContext,
    writer: String,
    buffer: Buffer,
    /// Of the checkpoint to come; each writer counts from 1.
    batch: u64,
    /// Rows in the transaction that is open. None: none is.
    written: Option<u64>,
}

/// A transaction that waits for its commit; as it stands in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Prepared {
    /// Its name in `pg_prepared_xacts`.
    pub transaction: String,
    /// Of `weir_commits`.
    pub schema: String,
    pub rows: u64,
    /// With `batch` what the commit's row is found by.
    pub writer: String,
    pub batch: u64,
}

impl PreparedWriter {
    pub(super) fn open(
        mut connection: Lazy,
        target: Target,
        schema: &str,
        batch_rows: usize,
        context: &SinkContext,
    ) -> Result<Self, ConnectorError> {
        let create = statements::create_commits(&commits_table(schema));
        let created = connection.get()?.transaction(|connection| connection.execute(&create));
        created.map_err(while_doing(format!("creating the table {} in the schema `{schema}`", names::COMMITS)))?;
        Ok(PreparedWriter {
            connection,
            target,
            schema: schema.to_owned(),
            batch_rows,
            writer: names::writer(context),
            context: context.clone(),
            buffer: Buffer::default(),
            batch: 1,
            written: None,
        })
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.buffer.rows == 0 {
            return Ok(());
        }
        let copied = self.copy();
        if copied.is_err() {
            self.connection.close();
        }
        copied.map_err(while_doing(format!("writing to `{}`", self.target.table.name)))
    }

    fn copy(&mut self) -> Result<(), ConnectorError> {
        let into = self.target.table.name.quoted();
        let copy = statements::copy_into(&into, &self.target.column_names(), false);
        let (bytes, rows) = self.buffer.take();
        match self.written {
            // A new connection knows nothing of the transaction: the rows before are lost, and the attempt with them.
            Some(_) if self.connection.opened().is_none() => {
                return Err(ConnectorError::Transient("the connection was lost, and with it its transaction".into()));
            }
            Some(_) => {}
            // It is open between two batches of records, however long those take to come.
            None => self.connection.get()?.execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")?,
        }
        self.connection.get()?.copy_in(&copy, bytes)?;
        *self.written.get_or_insert(0) += rows as u64;
        Ok(())
    }

    fn prepare(&mut self, transaction: &str, checkpoint: CheckpointId) -> Result<(), ConnectorError> {
        let Some(connection) = self.connection.opened() else {
            return Err(ConnectorError::Transient("the connection was lost, and with it its transaction".into()));
        };
        let SinkContext { name, job_uid, epoch, .. } = &self.context;
        connection.execute(&format!(
            "INSERT INTO {} (writer, batch, job, sink, epoch, checkpoint) VALUES ({}, {}, {}, {}, {}, {}); \
             PREPARE TRANSACTION {}",
            commits_table(&self.schema),
            literal(&self.writer),
            self.batch,
            literal(job_uid),
            literal(name),
            epoch.0,
            checkpoint.0,
            literal(transaction)
        ))
    }
}

impl SinkWriter for PreparedWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.buffer.add(&self.target, batch, 0)?;
        if self.buffer.is_full(self.batch_rows) {
            self.flush()?;
        }
        Ok(())
    }

    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        self.flush()?;
        let Some(rows) = self.written else { return Ok(SinkSnapshot::default()) };
        let transaction = names::staging(&self.context, self.batch);
        if let Err(error) = self.prepare(&transaction, checkpoint) {
            self.connection.close();
            return Err(while_doing(format!("preparing the transaction {transaction}"))(error));
        }
        self.written = None;
        let prepared =
            Prepared { transaction, schema: self.schema.clone(), rows, writer: self.writer.clone(), batch: self.batch };
        self.batch += 1;
        let committable = serde_json::to_value(&prepared).expect("names and numbers are plain data");
        Ok(SinkSnapshot { committables: vec![Committable(committable)], writer: None })
    }

    /// With the connection ends the transaction.
    fn abort(&mut self) {
        self.written = None;
        self.connection.close();
    }
}
