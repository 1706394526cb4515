//! The first phase: rows into a staging table for each checkpoint.
//!
//! Each part of it is a transaction of its own, so that none stays open between checkpoints. Only the last of them
//! waits for the disk, and with it all before it are on disk.

use super::direct::Buffer;
use super::names;
use super::statements;
use super::target::Target;
use crate::table::{TableName, literal, quoted};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use weir_connectors::api::{Committable, ConnectorError, SinkContext, SinkSnapshot, SinkWriter};
use weir_model::CheckpointId;
use weir_postgres_client::{Lazy, while_doing};

pub(super) struct StagedWriter {
    connection: Lazy,
    target: Target,
    schema: String,
    batch_rows: usize,
    context: SinkContext,
    writer: String,
    buffer: Buffer,
    /// Of the checkpoint to come; each writer counts from 1.
    batch: u64,
    /// Rows of this batch that are in the staging table. None: there is no table yet.
    staged: Option<u64>,
}

/// Rows that wait for their commit; as it stands in checkpoints. It says all that the commit needs, so that it is the
/// same whatever the job's spec has become since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Staged {
    pub schema: String,
    pub staging: String,
    pub into_schema: String,
    pub into: String,
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    pub rows: u64,
    /// With `batch` what the commit's row is found by.
    pub writer: String,
    pub batch: u64,
}

impl Staged {
    pub(super) fn table(&self) -> TableName {
        TableName { schema: Some(self.schema.clone()), name: self.staging.clone() }
    }

    pub(super) fn destination(&self) -> TableName {
        TableName { schema: Some(self.into_schema.clone()), name: self.into.clone() }
    }

    pub(super) fn commits(&self) -> String {
        commits_table(&self.schema)
    }
}

pub(super) fn commits_table(schema: &str) -> String {
    format!("{}.{}", quoted(schema), names::COMMITS)
}

impl StagedWriter {
    pub(super) fn open(
        mut connection: Lazy,
        target: Target,
        schema: &str,
        batch_rows: usize,
        context: &SinkContext,
    ) -> Result<Self, ConnectorError> {
        // Here rather than at the first commit: that one must not fail for want of a right.
        let create = statements::create_commits(&commits_table(schema));
        let created = connection.get()?.transaction(|connection| connection.execute(&create));
        created.map_err(while_doing(format!("creating the table {} in the schema `{schema}`", names::COMMITS)))?;
        Ok(StagedWriter {
            connection,
            target,
            schema: schema.to_owned(),
            batch_rows,
            writer: names::writer(context),
            context: context.clone(),
            buffer: Buffer::default(),
            batch: 1,
            staged: None,
        })
    }

    fn staging(&self) -> TableName {
        TableName { schema: Some(self.schema.clone()), name: names::staging(&self.context, self.batch) }
    }

    /// Sends what is buffered. `sealed_for`: nothing follows it, and it must be on disk.
    fn stage(&mut self, sealed_for: Option<CheckpointId>) -> Result<(), ConnectorError> {
        let staging = self.staging();
        let staged = self.stage_in_transaction(&staging.quoted(), sealed_for);
        if staged.is_err() {
            self.connection.close();
        }
        staged.map_err(while_doing(format!("writing rows for `{}` into `{staging}`", self.target.table.name)))
    }

    fn stage_in_transaction(&mut self, staging: &str, sealed_for: Option<CheckpointId>) -> Result<(), ConnectorError> {
        let target = &self.target;
        let copy = statements::copy_into(staging, &target.column_names(), !target.key.is_empty());
        let mut before = String::new();
        if sealed_for.is_none() {
            before.push_str("SET LOCAL synchronous_commit = off;");
        } else {
            // Whatever the server does by default, short of not waiting.
            before.push_str(
                "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) \
                 WHERE pg_catalog.current_setting('synchronous_commit') = 'off';",
            );
        }
        if self.staged.is_none() {
            before.push_str(&statements::create_like(target, "", staging, "WITH (autovacuum_enabled = off)"));
        }
        let after = sealed_for.map(|checkpoint| {
            let SinkContext { job_uid, name, subtask, .. } = &self.context;
            let comment = format!(
                "Weir: job {job_uid}, sink {name}, subtask {subtask}: rows that wait for checkpoint {checkpoint}"
            );
            // A change, too, so that the transaction has something to wait for though no row may be left.
            format!("COMMENT ON TABLE {staging} IS {}", literal(&comment))
        });
        let (bytes, rows) = self.buffer.take();
        self.connection.get()?.transaction(|connection| {
            connection.execute(&before)?;
            if rows > 0 {
                connection.copy_in(&copy, bytes)?;
            }
            after.map_or(Ok(()), |after| connection.execute(&after))
        })?;
        *self.staged.get_or_insert(0) += rows as u64;
        Ok(())
    }
}

impl SinkWriter for StagedWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let next_row = self.staged.unwrap_or(0) as i64 + self.buffer.rows as i64;
        self.buffer.add(&self.target, batch, next_row)?;
        if self.buffer.is_full(self.batch_rows) {
            self.stage(None)?;
        }
        Ok(())
    }

    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        if self.staged.is_none() && self.buffer.rows == 0 {
            return Ok(SinkSnapshot::default());
        }
        let staging = self.staging();
        self.stage(Some(checkpoint))?;
        let staged = Staged {
            schema: self.schema.clone(),
            staging: staging.name,
            into_schema: self.target.table.schema().to_owned(),
            into: self.target.table.name.name.clone(),
            columns: self.target.column_names(),
            key: self.target.key.clone(),
            rows: self.staged.take().unwrap_or(0),
            writer: self.writer.clone(),
            batch: self.batch,
        };
        self.batch += 1;
        let committable = serde_json::to_value(&staged).expect("names and numbers are plain data");
        Ok(SinkSnapshot { committables: vec![Committable(committable)], writer: None })
    }

    /// Removes what no checkpoint can hold yet. Best effort: the committer of the next attempt removes the rest.
    fn abort(&mut self) {
        if self.staged.take().is_some()
            && let Some(connection) = self.connection.opened()
            && let Err(error) = connection.execute(&format!("DROP TABLE IF EXISTS {}", self.staging().quoted()))
        {
            tracing::debug!(table = %self.staging(), %error, "unfinished output stays until the next attempt");
        }
    }
}
