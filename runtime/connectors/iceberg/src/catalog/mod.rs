//! Catalogs: who knows where a table's metadata is, and lets one of several writers replace it.

mod rest;

pub use rest::RestConfig;

use crate::format::metadata::Metadata;
use crate::permanent;
use rest::RestCatalog;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use weir_connectors::api::ConnectorError;

#[derive(Clone, Debug)]
pub enum CatalogConfig {
    /// Iceberg's own protocol.
    Rest(RestConfig),
}

pub(crate) enum Catalog {
    Rest(Box<RestCatalog>),
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
    /// Connects, if that is a thing of its own with such a catalog.
    pub(crate) fn open(config: &CatalogConfig) -> Result<Self, ConnectorError> {
        match config {
            CatalogConfig::Rest(rest) => Ok(Catalog::Rest(Box::new(RestCatalog::open(rest)?))),
        }
    }

    /// None: there is no such table.
    pub(crate) fn load(&mut self, table: &TableName) -> Result<Option<LoadedTable>, ConnectorError> {
        match self {
            Catalog::Rest(rest) => rest.load(table),
        }
    }

    /// Creates the table, and its namespace if that isn't there. That somebody else did meanwhile is a success.
    pub(crate) fn create(&mut self, table: &TableName, schema: &Value, spec: &Value) -> Result<(), ConnectorError> {
        match self {
            Catalog::Rest(rest) => rest.create(table, schema, spec),
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
