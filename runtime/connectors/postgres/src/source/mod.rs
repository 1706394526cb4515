//! The PostgreSQL source: the rows of a table, once.
//!
//! The table's pages are cut into splits of a fixed number, so that a split's id says all about it and every subtask
//! finds its own by itself. A page range is read by one statement, which the server answers without looking at other pages.

pub(crate) mod columns;
mod reader;

use crate::table::{Table, TableName};
use arrow::datatypes::{Field, Schema, SchemaRef};
use columns::Columns;
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Probe, ProbeContext, Source, SourceContext, SourceReader, SplitState};
use weir_postgres_client::{Connection, ConnectionUrl, probed, server, while_doing};

/// What to read.
#[derive(Clone, Debug)]
pub struct PostgresSourceConfig {
    pub url: ConnectionUrl,
    /// `table` or `schema.table`.
    pub table: String,
    /// The columns to read and their types. None: all of them, as the table has them.
    pub schema: Option<SchemaRef>,
}

pub struct PostgresSource {
    url: ConnectionUrl,
    table: TableName,
    schema: SchemaRef,
}

impl PostgresSource {
    /// Asks the server for the columns where the config doesn't say them.
    pub fn new(config: PostgresSourceConfig) -> Result<Self, ConnectorError> {
        let table = TableName::parse(&config.table)?;
        let schema = match config.schema {
            Some(schema) => schema,
            None => natural_schema(&config.url, &table)?,
        };
        Ok(PostgresSource { url: config.url, table, schema })
    }

    fn columns(&self, connection: &Connection) -> Result<(Table, Columns), ConnectorError> {
        let table = Table::look_up(connection, &self.table)?;
        if table.missing_rights.contains(&"SELECT") {
            return Err(ConnectorError::Permanent(format!(
                "this user may not read `{0}`; GRANT SELECT ON {0} TO it",
                table.name
            )));
        }
        let columns = Columns::of(&table, &self.schema)?;
        Ok((table, columns))
    }
}

impl Source for PostgresSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        true
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let connection = Connection::open(&self.url, &format!("weir {}[{}]", context.name, context.subtask))?;
        let (table, columns) = self.columns(&connection)?;
        let reader = reader::SnapshotReader::open(connection, table, columns, &context, &restored);
        reader.map(|reader| Box::new(reader) as _).map_err(while_doing(format!("reading the table `{}`", self.table)))
    }

    fn probe(&self, _context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let connection = Connection::open(&self.url, "weir plan")?;
        let tried = self.columns(&connection).map(|_| ());
        probed(tried, || format!("table `{}` of {} can be read", self.table, server(&connection)))
    }
}

fn natural_schema(url: &ConnectionUrl, table: &TableName) -> Result<SchemaRef, ConnectorError> {
    let connection = Connection::open(url, "weir plan")?;
    let table = Table::look_up(&connection, table)?;
    let fields = table.columns.iter().map(|column| {
        let (_, natural) = columns::natural(column);
        Field::new(&column.name, natural, !column.not_null)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}
