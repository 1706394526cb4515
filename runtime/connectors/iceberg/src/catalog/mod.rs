//! Catalogs: who knows where a table's metadata is, and lets one of several writers replace it.

mod rest;
mod sql;

pub use rest::RestConfig;
pub use sql::SqlConfig;

use crate::files::Files;
use crate::format::metadata::Metadata;
use crate::permanent;
use rest::RestCatalog;
use serde_json::Value;
use sql::SqlCatalog;
use std::collections::BTreeMap;
use std::fmt;
use weir_connectors::api::ConnectorError;

#[derive(Clone, Debug)]
pub enum CatalogConfig {
    /// Iceberg's own protocol.
    Rest(RestConfig),
    /// Tables in a PostgreSQL database.
    Sql(Box<SqlConfig>),
}

impl CatalogConfig {
    /// Whether the catalog says how the storage of its tables is reached, and for how long.
    pub(crate) fn hands_out_access(&self) -> bool {
        matches!(self, CatalogConfig::Rest(_))
    }
}

pub(crate) enum Catalog {
    Rest(Box<RestCatalog>),
    Sql(Box<SqlCatalog>),
}

/// `namespace.table`; a namespace may have several levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName {
    pub namespace: Vec<String>,
    pub name: String,
}

/// A table as the catalog has it at one moment.
pub(crate) struct LoadedTable {
    pub metadata: Metadata,
    /// What the catalog says of the storage of the table's files.
    pub config: BTreeMap<String, String>,
    /// The file of its metadata, where the catalog knows the table by that.
    pub address: Option<String>,
}

/// A snapshot that is to become the table's current one.
pub(crate) struct Append {
    pub snapshot: Value,
    /// None: the table's first. The commit fails if another is the current one by then.
    pub parent: Option<i64>,
    pub properties: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) enum CommitOutcome {
    Committed,
    /// Somebody else was first: nothing has changed.
    Conflict(String),
    /// It may have happened, or may yet.
    Unknown(String),
}

impl Catalog {
    /// `files`: by which a catalog reads and writes metadata that has no service to do it. Asks nobody anything yet.
    pub(crate) fn open(
        config: &CatalogConfig,
        files: impl FnOnce() -> Result<Files, ConnectorError>,
    ) -> Result<Self, ConnectorError> {
        match config {
            CatalogConfig::Rest(rest) => Ok(Catalog::Rest(Box::new(RestCatalog::open(rest)?))),
            CatalogConfig::Sql(sql) => Ok(Catalog::Sql(Box::new(SqlCatalog::open(sql, files()?)?))),
        }
    }

    /// None: there is no such table.
    pub(crate) fn load(&mut self, table: &TableName) -> Result<Option<LoadedTable>, ConnectorError> {
        match self {
            Catalog::Rest(rest) => rest.load(table),
            Catalog::Sql(sql) => sql.load(table),
        }
    }

    /// Creates the table, and its namespace if that isn't there. That somebody else did meanwhile is a success.
    pub(crate) fn create(&mut self, table: &TableName, schema: &Value, spec: &Value) -> Result<(), ConnectorError> {
        match self {
            Catalog::Rest(rest) => rest.create(table, schema, spec),
            Catalog::Sql(sql) => sql.create(table, schema, spec),
        }
    }

    pub(crate) fn commit(
        &mut self,
        table: &TableName,
        base: &LoadedTable,
        append: &Append,
    ) -> Result<CommitOutcome, ConnectorError> {
        match self {
            Catalog::Rest(rest) => rest.commit(table, base, append),
            Catalog::Sql(sql) => sql.commit(table, base, append),
        }
    }

    /// What can be known before a commit, or before the table is created, of whether that will be refused.
    pub(crate) fn check(&mut self, table: &TableName, is_there: bool) -> Result<(), ConnectorError> {
        match self {
            // It tells nobody what they may.
            Catalog::Rest(_) => Ok(()),
            Catalog::Sql(sql) => sql.check(table, is_there),
        }
    }
}

impl TableName {
    pub(crate) fn parse(text: &str) -> Result<Self, ConnectorError> {
        let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        let name = parts.pop().unwrap_or_default();
        if parts.is_empty() || name.is_empty() || parts.iter().any(String::is_empty) {
            return permanent(format!("`{text}` is no table of a catalog; write `namespace.table`"));
        }
        Ok(TableName { namespace: parts, name })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace.join("."), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_namespaces() {
        let name = TableName::parse("a.b.t").unwrap();
        assert_eq!((name.namespace.join("/"), name.name.as_str()), ("a/b".to_owned(), "t"));
        assert_eq!(name.to_string(), "a.b.t");
        for wrong in ["", "t", ".t", "a.", "a..t"] {
            let error = TableName::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("namespace.table"), "{error}");
        }
    }
}
