//! The catalog's own tables in PostgreSQL, as Iceberg's `JdbcCatalog` and pyiceberg's `SqlCatalog` have them.

use crate::catalog::TableName;
use crate::permanent;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::types::{ToSql, Type};
use weir_connectors::api::ConnectorError;
use weir_postgres_client::{Connection, ConnectionUrl};

/// Of one answer. A swap waits for whoever has the table's row locked.
const PATIENCE: Duration = Duration::from_secs(60);
const NEEDED: [&str; 5] =
    ["catalog_name", "table_namespace", "table_name", "metadata_location", "previous_metadata_location"];
/// As those two make them; `iceberg_type` is in the newer of their schemas.
const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS iceberg_tables (
        catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, table_name VARCHAR(255) NOT NULL,
        metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5),
        PRIMARY KEY (catalog_name, table_namespace, table_name));
    CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
        catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL, property_key VARCHAR(255) NOT NULL,
        property_value VARCHAR(1000), PRIMARY KEY (catalog_name, namespace, property_key))";

/// A connection to a database that has them.
pub(super) struct Tables {
    connection: Connection,
    /// One database may have several catalogs.
    catalog: String,
    /// Whether views have rows among the tables, which say what they are.
    has_types: bool,
}

impl Tables {
    /// None: the database has no such tables.
    pub(super) fn open(url: &ConnectionUrl, catalog: &str) -> Result<Option<Self>, ConnectorError> {
        let connection = connect(url)?;
        let columns = columns(&connection)?;
        if columns.is_empty() {
            return Ok(None);
        }
        let missing: Vec<&str> =
            NEEDED.into_iter().filter(|name| !columns.iter().any(|column| column == name)).collect();
        if !missing.is_empty() {
            return permanent(format!(
                "the table `iceberg_tables` is not that of an Iceberg catalog: it lacks {}",
                missing.join(", ")
            ));
        }
        let has_types = columns.iter().any(|column| column == "iceberg_type");
        Ok(Some(Tables { connection, catalog: catalog.to_owned(), has_types }))
    }

    /// Makes them. Several may at the same time.
    pub(super) fn create(url: &ConnectionUrl) -> Result<(), ConnectorError> {
        let connection = connect(url)?;
        match connection.execute(CREATE) {
            // The server tells the second of two at a time that a name is taken.
            Err(_) if !columns(&connection)?.is_empty() => Ok(()),
            done => done,
        }
    }

    /// Where the table's metadata is.
    pub(super) fn find(&self, table: &TableName) -> Result<Option<String>, ConnectorError> {
        let kind = if self.has_types { "iceberg_type" } else { "NULL::text" };
        let sql = format!(
            "SELECT metadata_location, {kind} FROM iceberg_tables \
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3"
        );
        let rows = self.connection.query(&sql, &texts(&[&self.catalog, &table.namespace.join("."), &table.name]))?;
        let Some(row) = rows.first() else { return Ok(None) };
        match (row.get::<_, Option<String>>(0), row.get::<_, Option<String>>(1)) {
            (_, Some(kind)) if kind != "TABLE" => {
                permanent(format!("`{table}` is a {}, no table", kind.to_lowercase()))
            }
            (None, _) => permanent(format!("the catalog's row of `{table}` has no metadata_location")),
            (Some(location), _) => Ok(Some(location)),
        }
    }

    /// Lets the table's metadata be the file at `new`, if it is still the one at `old`; whether it was.
    pub(super) fn swap(&self, table: &TableName, old: &str, new: &str) -> Result<bool, ConnectorError> {
        let sql = "UPDATE iceberg_tables SET metadata_location = $5, previous_metadata_location = $4 \
                   WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 AND metadata_location = $4 \
                   RETURNING 1";
        let namespace = table.namespace.join(".");
        let rows = self.connection.query(sql, &texts(&[&self.catalog, &namespace, &table.name, old, new]))?;
        Ok(!rows.is_empty())
    }

    /// Whether the table was not there.
    pub(super) fn insert(&self, table: &TableName, location: &str) -> Result<bool, ConnectorError> {
        let (column, value) = if self.has_types { (", iceberg_type", ", 'TABLE'") } else { ("", "") };
        let sql = format!(
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location{column}) \
             VALUES ($1, $2, $3, $4{value}) ON CONFLICT DO NOTHING RETURNING 1"
        );
        let namespace = table.namespace.join(".");
        let rows = self.connection.query(&sql, &texts(&[&self.catalog, &namespace, &table.name, location]))?;
        Ok(!rows.is_empty())
    }

    /// What is said of the namespace; nothing: it may not be there.
    pub(super) fn properties(&self, namespace: &[String]) -> Result<BTreeMap<String, String>, ConnectorError> {
        let sql = "SELECT property_key, coalesce(property_value, '') FROM iceberg_namespace_properties \
                   WHERE catalog_name = $1 AND namespace = $2";
        let rows = self.connection.query(sql, &texts(&[&self.catalog, &namespace.join(".")]))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    pub(super) fn add_namespace(&self, namespace: &[String]) -> Result<(), ConnectorError> {
        let sql = "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) \
                   VALUES ($1, $2, 'exists', 'true') ON CONFLICT DO NOTHING";
        self.connection.query(sql, &texts(&[&self.catalog, &namespace.join(".")])).map(drop)
    }

    /// Refuses a user who lacks one of the rights.
    pub(super) fn require(&self, rights: &[(&str, &str)]) -> Result<(), ConnectorError> {
        for (table, right) in rights {
            let row = self.connection.query_one("SELECT has_table_privilege($1, $2)", &texts(&[table, right]))?;
            if !row.get::<_, bool>(0) {
                return permanent(format!("this user may not {right}; GRANT {right} ON {table} TO it"));
            }
        }
        Ok(())
    }
}

fn connect(url: &ConnectionUrl) -> Result<Connection, ConnectorError> {
    Connection::open_within(PATIENCE, url, "weir iceberg catalog")
}

/// Of `iceberg_tables`, where the server's search path finds it; none: it is not there.
fn columns(connection: &Connection) -> Result<Vec<String>, ConnectorError> {
    let sql = "SELECT attname::text FROM pg_catalog.pg_attribute \
               WHERE attrelid = to_regclass('iceberg_tables') AND attnum > 0 AND NOT attisdropped";
    Ok(connection.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
}

fn texts<'a>(values: &'a [&'a str]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect()
}
