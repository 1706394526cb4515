//! The sink: its table, its writers, its one committer.

mod committer;
mod layout;
mod markers;
mod parquet_file;
mod writer;

use crate::catalog::{Catalog, CatalogConfig, LoadedTable, TableName};
use crate::files::{Files, options_of_catalog};
use crate::format::partition::{PartitionSpec, parse_partition_by};
use crate::format::schema::TableSchema;
use crate::permanent;
use arrow::datatypes::SchemaRef;
use layout::Layout;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use weir_connectors::api::*;
use weir_snapshot::storage::{StorageOptions, StorageProviders};

/// Tries to create a table that others create at the same time.
const CREATE_TRIES: u32 = 5;
const CREATE_PAUSE: Duration = Duration::from_millis(200);

/// What to write where.
#[derive(Clone)]
pub struct IcebergSinkConfig {
    pub catalog: CatalogConfig,
    /// `namespace.table`.
    pub table: String,
    /// None: a table that isn't there is refused.
    pub create_table: Option<CreateTable>,
    /// The files of so many checkpoints are added by one snapshot; 1: each checkpoint's by its own.
    pub commit_every: u64,
    /// A file that has reached this size is ended before its checkpoint.
    pub target_file_size_bytes: u64,
    /// When more files (partitions) than this are open, the one that waits longest for a record is ended.
    pub max_open_files: usize,
    /// The column that takes an updating input's change kind as `+I`, `-U`, `+U` or `-D`.
    pub change_kind_column: Option<String>,
    /// Who reaches the storage of the table's files ...
    pub storages: StorageProviders,
    /// ... and what that has to be told; None: what the catalog says, and then the environment.
    pub storage: Option<Arc<StorageSettings>>,
}

/// Asked when it is needed: a job is checked where its secrets need not be.
pub type StorageSettings = dyn Fn() -> Result<StorageOptions, ConnectorError> + Send + Sync;

/// How a table is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateTable {
    /// `column`, `day(column)`, `bucket(16, column)`.
    pub partition_by: Vec<String>,
}

pub struct IcebergSink {
    config: Arc<IcebergSinkConfig>,
    table: TableName,
    /// What it would get, as far as it has been asked whether it can take it.
    input: Mutex<Option<SchemaRef>>,
}

impl IcebergSink {
    /// # Errors
    /// What can't be meant.
    pub fn new(config: IcebergSinkConfig) -> Result<Self, ConnectorError> {
        let table = TableName::parse(&config.table)?;
        for text in config.create_table.iter().flat_map(|create| &create.partition_by) {
            parse_partition_by(text)?;
        }
        Ok(IcebergSink { config: Arc::new(config), table, input: Mutex::new(None) })
    }

    /// The table, which is created if it may be.
    fn opened(&self, input: &SchemaRef) -> Result<(Catalog, LoadedTable), ConnectorError> {
        let mut catalog = self.config.catalog()?;
        if let Some(loaded) = catalog.load(&self.table)? {
            return Ok((catalog, loaded));
        }
        let Some(create) = &self.config.create_table else { return permanent(self.missing()) };
        let (schema, spec) = self.wanted(create, input)?;
        let mut failed = None;
        for _ in 0..CREATE_TRIES {
            // Every subtask does, and some catalogs answer the second of two at a time with an error of their own.
            match catalog.create(&self.table, &schema, &spec) {
                Err(ConnectorError::Transient(reason)) => failed = Some(reason),
                done => done.map_err(|error| error.during(format!("creating the table `{}`", self.table)))?,
            }
            if let Some(loaded) = catalog.load(&self.table)? {
                return Ok((catalog, loaded));
            }
            std::thread::sleep(CREATE_PAUSE);
        }
        let reason = failed.unwrap_or_else(|| "it was created and is not there".to_owned());
        Err(ConnectorError::Transient(format!("creating the table `{}`: {reason}", self.table)))
    }

    /// Schema and partition spec of the table that would be created.
    fn wanted(
        &self,
        create: &CreateTable,
        input: &SchemaRef,
    ) -> Result<(serde_json::Value, serde_json::Value), ConnectorError> {
        let columns = layout::columns_for(input, self.config.change_kind_column.as_deref())?;
        let json = TableSchema::json_of(&columns);
        let schema = TableSchema::parse(&json)?;
        Ok((json, PartitionSpec::json_of(&create.partition_by, &schema)?))
    }

    fn missing(&self) -> String {
        format!(
            "the catalog has no table `{}`; create it, correct `table`, or let it be created with `createTable: {{}}`",
            self.table
        )
    }

    fn layout(&self, loaded: &LoadedTable, input: &SchemaRef) -> Result<Layout, ConnectorError> {
        let schema = loaded.metadata.schema()?;
        Layout::of(input, self.config.change_kind_column.as_deref(), &schema, &self.table)
    }

    fn try_out(&self, input: Option<SchemaRef>) -> Result<String, ConnectorError> {
        let mut catalog = self.config.catalog()?;
        let table = &self.table;
        match (catalog.load(table)?, &self.config.create_table) {
            (Some(loaded), _) => {
                catalog.check(table, true)?;
                loaded.metadata.default_spec()?;
                if let Some(input) = input {
                    self.layout(&loaded, &input)?;
                }
                Ok(format!(
                    "table `{table}` takes what it would get; its files go to {}",
                    loaded.metadata.data_folder()?
                ))
            }
            (None, Some(create)) => {
                catalog.check(table, false)?;
                if let Some(input) = input {
                    self.wanted(create, &input)?;
                }
                Ok(format!("table `{table}` is not there and would be created"))
            }
            (None, None) => permanent(self.missing()),
        }
    }
}

impl IcebergSinkConfig {
    fn catalog(&self) -> Result<Catalog, ConnectorError> {
        Catalog::open(&self.catalog, || self.files(&BTreeMap::new()))
    }

    /// `of_catalog`: what that says of the table's storage.
    fn files(&self, of_catalog: &BTreeMap<String, String>) -> Result<Files, ConnectorError> {
        let options = match &self.storage {
            Some(settings) => settings()?,
            None => options_of_catalog(of_catalog),
        };
        Ok(Files::new(self.storages.clone(), options))
    }
}

impl Sink for IcebergSink {
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError> {
        let columns = layout::columns_for(input, self.config.change_kind_column.as_deref())?;
        if let Some(create) = &self.config.create_table {
            PartitionSpec::json_of(&create.partition_by, &TableSchema::parse(&TableSchema::json_of(&columns))?)?;
        }
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = Some(input.clone());
        Ok(())
    }

    fn probe(&self, _context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.try_out(input) {
            Ok(found) => Ok(Probe { found: vec![found], problems: vec![] }),
            Err(ConnectorError::Permanent(problem)) => Ok(Probe { found: vec![], problems: vec![problem] }),
            Err(error) => Err(error),
        }
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    /// Each commit is a snapshot, and two at a time are a conflict.
    fn commit_scope(&self) -> CommitScope {
        CommitScope::Sink
    }

    fn writer(
        &self,
        context: SinkContext,
        restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let (_, loaded) =
            self.opened(&context.input).map_err(|error| error.during(format!("sink `{}`", context.name)))?;
        let layout = self.layout(&loaded, &context.input)?;
        let files = self.config.files(&loaded.config)?;
        Ok(Box::new(writer::IcebergWriter::open(self.config.clone(), &context, &loaded, layout, files, restored)?))
    }

    fn committer(&self, context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(Some(Box::new(committer::IcebergCommitter::new(self.config.clone(), self.table.clone(), context))))
    }
}
