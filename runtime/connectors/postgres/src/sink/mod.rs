//! The PostgreSQL sink.
//!
//! At least once, rows are copied into the table as they come. By key they are copied into a temporary table and
//! merged, so that writing them again changes nothing. Exactly once, they are copied into a staging table of their
//! own, which is durable and which nobody reads; the commit moves them into the table in one transaction, together
//! with a row in `weir_commits` that says so. See docs/adr/0017.

mod committer;
mod direct;
mod names;
mod prepared;
mod staged;
mod statements;
mod target;

use crate::table::{Table, TableName};
use arrow::datatypes::SchemaRef;
use std::sync::{Arc, Mutex, PoisonError};
use target::Target;
use weir_connectors::api::*;
use weir_postgres_client::{Connection, ConnectionUrl, Lazy, probed, server, while_doing};

/// What to write where.
#[derive(Clone, Debug)]
pub struct PostgresSinkConfig {
    pub url: ConnectionUrl,
    /// `table` or `schema.table`.
    pub table: String,
    /// The columns that identify a row: rows replace each other by them, and deletes of an updating input delete.
    /// Without them rows are inserted.
    pub key: Vec<String>,
    /// None: written as they come.
    pub exactly_once: Option<ExactlyOnce>,
    /// The column that takes an updating input's change kind as `+I`, `-U`, `+U` or `-D`; not together with a key.
    pub change_kind_column: Option<String>,
    /// Rows written in one statement.
    pub batch_rows: usize,
}

/// How rows wait for their checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactlyOnce {
    pub by: CommitBy,
    /// Where the staging tables and `weir_commits` are; beside the table if nothing is said.
    pub schema: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitBy {
    StagingTables,
    /// `PREPARE TRANSACTION`: each row is written once. Not with a key: two batches with one key would wait for each
    /// other.
    PreparedTransactions,
}

pub struct PostgresSink {
    config: Arc<PostgresSinkConfig>,
    table: TableName,
    /// What it would get, as far as it has been asked whether it can take it.
    input: Mutex<Option<SchemaRef>>,
}

impl PostgresSink {
    pub fn new(config: PostgresSinkConfig) -> Result<Self, ConnectorError> {
        let table = TableName::parse(&config.table)?;
        if config.batch_rows == 0 {
            return Err(ConnectorError::Permanent("batchRows is 0; write 1 or more".into()));
        }
        if !config.key.is_empty() && config.change_kind_column.is_some() {
            return Err(ConnectorError::Permanent(
                "key and changeKindColumn exclude each other: by key a change changes the table's row, with \
                 changeKindColumn each change is a row of its own; remove one of them"
                    .into(),
            ));
        }
        let is_prepared = config.exactly_once.as_ref().is_some_and(|once| once.by == CommitBy::PreparedTransactions);
        if is_prepared && !config.key.is_empty() {
            return Err(ConnectorError::Permanent(
                "commitBy: PreparedTransactions inserts rows, and there is a key: a batch would wait for the locks of the \
                 one before it, and that for its checkpoint; use StagingTables"
                    .into(),
            ));
        }
        Ok(PostgresSink { config: Arc::new(config), table, input: Mutex::new(None) })
    }

    /// Checks that the table can take the input: that it is there, that its columns fit, that the key
    /// has a unique index, and that this user may do what the sink does.
    ///
    /// # Errors
    /// The first thing that is wrong, with a remedy.
    fn try_out(&self, connection: &Connection, input: &SchemaRef) -> Result<(), ConnectorError> {
        let target = self.target(connection, input)?;
        let Some(exactly_once) = &self.config.exactly_once else { return Ok(()) };
        if exactly_once.by == CommitBy::PreparedTransactions {
            require_prepared_transactions(connection)?;
        }
        let schema = self.staging_schema(&target);
        let may_create = connection.query_one(
            "SELECT pg_catalog.has_schema_privilege($1, 'CREATE')",
            &[(&schema, tokio_postgres::types::Type::TEXT)],
        );
        if !may_create.map_err(while_doing(format!("looking at the schema `{schema}`")))?.get::<_, bool>(0) {
            return Err(ConnectorError::Permanent(format!(
                "this user may not create tables in the schema `{schema}`, where rows wait for their checkpoint; GRANT \
                 CREATE ON SCHEMA {schema} TO it, or name another one as `stagingSchema`"
            )));
        }
        Ok(())
    }

    fn target(&self, connection: &Connection, input: &SchemaRef) -> Result<Target, ConnectorError> {
        Target::of(&self.config, input, Table::look_up(connection, &self.table)?)
    }

    fn staging_schema(&self, target: &Target) -> String {
        let named = self.config.exactly_once.as_ref().and_then(|once| once.schema.clone());
        named.unwrap_or_else(|| target.table.schema().to_owned())
    }

    fn lazy(&self, purpose: String) -> Lazy {
        Lazy::new(Arc::new(self.config.url.clone()), purpose)
    }
}

impl Sink for PostgresSink {
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError> {
        target::check_input(&self.config, input)?;
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = Some(input.clone());
        Ok(())
    }

    fn probe(&self, _context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let connection = Connection::open(&self.config.url, "weir plan")?;
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tried = input.map_or(Ok(()), |input| self.try_out(&connection, &input));
        probed(tried, || format!("table `{}` of {} takes what it would get", self.table, server(&connection)))
    }

    fn guarantee(&self) -> Guarantee {
        match (&self.config.exactly_once, self.config.key.is_empty()) {
            (Some(_), _) => Guarantee::ExactlyOnce,
            (None, false) => Guarantee::Idempotent,
            (None, true) => Guarantee::AtLeastOnce,
        }
    }

    fn writer(
        &self,
        context: SinkContext,
        _restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let mut connection = self.lazy(format!("weir {} {}[{}]", context.job_uid, context.name, context.subtask));
        let target = self.target(connection.get()?, &context.input)?;
        let (schema, rows) = (self.staging_schema(&target), self.config.batch_rows);
        Ok(match self.config.exactly_once.as_ref().map(|once| once.by) {
            None => Box::new(direct::DirectWriter::new(connection, target, rows)),
            Some(CommitBy::StagingTables) => {
                Box::new(staged::StagedWriter::open(connection, target, &schema, rows, &context)?)
            }
            Some(CommitBy::PreparedTransactions) => {
                require_prepared_transactions(connection.get()?)?;
                Box::new(prepared::PreparedWriter::open(connection, target, &schema, rows, &context)?)
            }
        })
    }

    fn committer(&self, context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        let Some(ExactlyOnce { by: _, schema }) = &self.config.exactly_once else { return Ok(None) };
        let connection = self.lazy(format!("weir {} {} commits", context.job_uid, context.name));
        let schema = schema.clone().or_else(|| self.table.schema.clone());
        Ok(Some(Box::new(committer::PostgresCommitter::new(connection, schema, self.table.clone(), context))))
    }
}

fn require_prepared_transactions(connection: &Connection) -> Result<(), ConnectorError> {
    let setting = connection.query_one("SELECT pg_catalog.current_setting('max_prepared_transactions')::int", &[])?;
    if setting.get::<_, i32>(0) > 0 {
        return Ok(());
    }
    Err(ConnectorError::Permanent(
        "commitBy: PreparedTransactions needs max_prepared_transactions, which is 0 on this server; set it to at least \
         twice the sink's parallelism and restart the server, or use StagingTables, which needs no setting"
            .into(),
    ))
}
