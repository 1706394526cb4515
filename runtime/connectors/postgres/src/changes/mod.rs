//! The PostgreSQL source of changes: the rows of a table, then what becomes of them, by logical replication.
//!
//! A replication slot says from where on changes come, and its snapshot holds exactly what was committed before. The rows
//! are read from that snapshot in the order of their primary key, then the changes from the slot's position on. The
//! server keeps its log from where the last completed checkpoint has got to.

mod batch;
mod position;
mod reader;
mod rows;
mod server;

use crate::replication::{Beginning, Feed, FeedSettings, drop_slot};
use crate::table::TableName;
use arrow::datatypes::SchemaRef;
use position::{At, Position};
use reader::{ChangesReader, NothingToRead, Reads};
use server::{Found, Wanted, make_publication};
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Probe, ProbeContext, Source, SourceContext, SourceReader, SplitState};
use weir_postgres_client::{Connection, ConnectionUrl, server as server_version, while_doing};
use xxhash_rust::xxh3::xxh3_64;

/// What to read.
#[derive(Clone, Debug)]
pub struct PostgresChangesConfig {
    pub url: ConnectionUrl,
    /// `table` or `schema.table`.
    pub table: String,
    /// The columns to read and their types. They are said by the job: a table may get others while the job runs.
    pub schema: SchemaRef,
    /// None: one of the job's and the source's own.
    pub slot: Option<String>,
    /// None: one of the job's and the source's own, which is made.
    pub publication: Option<String>,
}

pub struct PostgresChanges {
    url: Arc<ConnectionUrl>,
    table: TableName,
    schema: SchemaRef,
    slot: Option<String>,
    publication: Option<String>,
}

impl PostgresChanges {
    /// Doesn't connect.
    pub fn new(config: PostgresChangesConfig) -> Result<Self, ConnectorError> {
        if config.schema.fields().is_empty() {
            return Err(ConnectorError::Permanent(
                "the columns must be declared: a table may get others while the job runs; add `schema`".to_owned(),
            ));
        }
        Ok(PostgresChanges {
            table: TableName::parse(&config.table)?,
            url: Arc::new(config.url),
            schema: config.schema,
            slot: config.slot,
            publication: config.publication,
        })
    }

    fn names(&self, job_uid: &str, source: &str) -> Names {
        let own = || format!("weir_{:016x}", xxh3_64(format!("{job_uid}\0{source}").as_bytes()));
        Names {
            slot: self.slot.clone().unwrap_or_else(own),
            publication: self.publication.clone().unwrap_or_else(own),
            purpose: format!("weir {source}"),
        }
    }

    fn look_up(&self, connection: &Connection, names: &Names) -> Result<Found, ConnectorError> {
        let wanted = Wanted {
            table: &self.table,
            schema: &self.schema,
            slot: &names.slot,
            publication: &names.publication,
            is_publication_given: self.publication.is_some(),
            purpose: &names.purpose,
        };
        wanted.look_up(connection).map_err(while_doing(format!("changes of `{}`", self.table)))
    }

    fn open(&self, names: Names, source: &str, restored: &[SplitState]) -> Result<ChangesReader, ConnectorError> {
        let connection = Connection::open(&self.url, &names.purpose)?;
        let Found { table, columns, key, system, slot, has_publication, problems } =
            self.look_up(&connection, &names)?;
        if let Some(problem) = problems.into_iter().next() {
            return Err(ConnectorError::Permanent(problem));
        }
        let read: Vec<String> = self.schema.fields().iter().map(|field| field.name().clone()).collect();
        let position = Position::restored(restored)?;
        if let Some(position) = &position {
            position.check(&names.slot, slot.as_ref(), &system, &read)?;
            if !has_publication {
                return Err(ConnectorError::Permanent(format!(
                    "the publication `{}` is gone, or has no changes of `{}` any more; start the job afresh (`--from none`), \
                     with an empty sink",
                    names.publication, self.table
                )));
            }
        }
        if !has_publication {
            make_publication(&connection, &names.publication, &table)?;
        }
        let temporary_slot = || format!("weir_{:016x}", xxh3_64(format!("{}\0rows", names.slot).as_bytes()));
        let position = position.unwrap_or_else(|| Position {
            system,
            slot: names.slot.clone(),
            columns: read,
            at: At::Rows { cuts: vec![] },
        });
        let beginning = match (&position.at, &slot) {
            (At::Changes { lsn, .. }, _) => Beginning::Changes(*lsn),
            (At::Rows { .. }, None) => Beginning::NewSlot,
            (At::Rows { .. }, Some(_)) => Beginning::Snapshot { temporary_slot: temporary_slot() },
        };
        let settings = FeedSettings {
            url: Arc::clone(&self.url),
            source: source.to_owned(),
            slot: names.slot,
            publication: names.publication,
        };
        let reads = Reads {
            url: Arc::clone(&self.url),
            purpose: names.purpose,
            relation: table.oid,
            table,
            columns,
            schema: Arc::clone(&self.schema),
            key,
        };
        Ok(ChangesReader::new(reads, Feed::start(settings, beginning)?, position))
    }
}

struct Names {
    slot: String,
    publication: String,
    /// How our sessions show to the server.
    purpose: String,
}

impl Source for PostgresChanges {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_updating(&self) -> bool {
        true
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        false
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let names = self.names(&context.job_uid, &context.name);
        let owner = xxh3_64(names.slot.as_bytes()) % u64::from(context.parallelism.max(1));
        if owner != u64::from(context.subtask) {
            return Ok(Box::new(NothingToRead));
        }
        let opened = self.open(names, &context.name, &restored);
        opened.map(|reader| Box::new(reader) as _).map_err(while_doing(format!("source `{}`", context.name)))
    }

    fn probe(&self, context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let names = self.names(&context.job_uid, &context.name);
        let connection = Connection::open(&self.url, "weir plan")?;
        let found = match self.look_up(&connection, &names) {
            Ok(found) => found,
            Err(ConnectorError::Permanent(problem)) => return Ok(Probe { found: vec![], problems: vec![problem] }),
            Err(error) => return Err(error),
        };
        if !found.problems.is_empty() {
            return Ok(Probe { found: vec![], problems: found.problems });
        }
        let will = |is_there: bool| if is_there { "is there" } else { "will be made" };
        Ok(Probe {
            found: vec![
                format!("changes of `{}` of {} can be read", self.table, server_version(&connection)),
                format!(
                    "the replication slot `{}` {}, the publication `{}` {}",
                    names.slot,
                    will(found.slot.is_some()),
                    names.publication,
                    will(found.has_publication)
                ),
                format!("when the job is gone for good, drop its slot: {}", drop_slot(&names.slot)),
            ],
            problems: vec![],
        })
    }
}
