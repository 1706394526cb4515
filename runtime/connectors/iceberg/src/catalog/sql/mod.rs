//! A catalog in a PostgreSQL database, without a service in front: a row says which file is a table's metadata, and a commit
//! writes the next file and lets the row name it, if it names no other by then.

mod tables;

use super::{Append, CommitOutcome, LoadedTable, TableName};
use crate::files::{Files, canonical};
use crate::format::metadata::Metadata;
use crate::format::metadata_file;
use crate::{now_ms, permanent};
use serde_json::Value;
use std::collections::BTreeMap;
use tables::Tables;
use weir_connectors::api::ConnectorError;
use weir_postgres_client::{ConnectionUrl, address};

/// Looks for metadata that others replace, and whose files they delete, at the same time.
const READ_TRIES: u32 = 5;

#[derive(Clone, Debug)]
pub struct SqlConfig {
    /// Or why its secret could not be read here.
    pub url: Result<ConnectionUrl, String>,
    /// The catalog's, of which a database may have several.
    pub name: String,
    /// Where new tables go, unless their namespace says otherwise.
    pub warehouse: Option<String>,
    /// A database that has no catalog yet gets one.
    pub may_create: bool,
}

pub(crate) struct SqlCatalog {
    url: ConnectionUrl,
    name: String,
    warehouse: Option<String>,
    may_create: bool,
    files: Files,
    tables: Option<Tables>,
}

impl SqlCatalog {
    /// Connects when something is asked.
    pub(crate) fn open(config: &SqlConfig, files: Files) -> Result<Self, ConnectorError> {
        let SqlConfig { url, name, warehouse, may_create } = config.clone();
        let url = url.map_err(ConnectorError::Permanent)?;
        Ok(SqlCatalog { url, name, warehouse, may_create, files, tables: None })
    }

    pub(crate) fn load(&mut self, table: &TableName) -> Result<Option<LoadedTable>, ConnectorError> {
        let Some(mut address) = self.find(table)? else { return Ok(None) };
        for _ in 0..READ_TRIES {
            let read = self.files.read(&address).and_then(|content| metadata_file::parse(&content));
            match read {
                Ok(metadata) => {
                    return Ok(Some(LoadedTable { metadata, config: BTreeMap::new(), address: Some(address) }));
                }
                Err(error) => match self.find(table)? {
                    Some(other) if other != address => address = other,
                    _ => return Err(error.during(format!("the table's metadata, {address}"))),
                },
            }
        }
        Err(ConnectorError::Transient(format!("the metadata of `{table}` is replaced faster than it can be read")))
    }

    pub(crate) fn create(&mut self, table: &TableName, schema: &Value, spec: &Value) -> Result<(), ConnectorError> {
        if !self.is_there()? {
            Tables::create(&self.url).map_err(|error| error.during(self.said()))?;
        }
        let location = self.new_location(table)?;
        let metadata = Metadata(metadata_file::first(&location, schema, spec, now_ms()));
        let address = self.write(&metadata, None)?;
        if !self.ask(|tables| tables.insert(table, &address))? {
            self.files.forget(&address);
        }
        Ok(())
    }

    pub(crate) fn commit(
        &mut self,
        table: &TableName,
        base: &LoadedTable,
        append: &Append,
    ) -> Result<CommitOutcome, ConnectorError> {
        let old = base.address.as_deref().expect("it was loaded here");
        let Append { snapshot, parent: _, properties } = append;
        let next = metadata_file::with_snapshot(&base.metadata, old, snapshot, properties)?;
        let new = self.write(&Metadata(next.json), Some(old))?;
        match self.ask(|tables| tables.swap(table, old, &new)) {
            Ok(true) => {
                next.obsolete.iter().for_each(|address| self.files.forget(address));
                Ok(CommitOutcome::Committed)
            }
            Ok(false) => {
                // No row ever named it, and none will.
                self.files.forget(&new);
                Ok(CommitOutcome::Conflict(format!("the table's metadata is not {old} any more")))
            }
            // The row may name the new file, or may yet.
            Err(ConnectorError::Transient(reason)) => Ok(CommitOutcome::Unknown(reason)),
            Err(refused) => Err(refused),
        }
    }

    /// Refuses what a commit, or the table's creation, would be refused for.
    pub(crate) fn check(&mut self, table: &TableName, is_there: bool) -> Result<(), ConnectorError> {
        let rights: &[(&str, &str)] = match is_there {
            true => &[("iceberg_tables", "UPDATE")],
            false => &[
                ("iceberg_tables", "INSERT"),
                ("iceberg_tables", "UPDATE"),
                ("iceberg_namespace_properties", "INSERT"),
            ],
        };
        if self.is_there()? {
            self.ask(|tables| tables.require(rights))?;
        }
        match is_there {
            true => Ok(()),
            false => self.location_for(table).map(drop),
        }
    }

    /// Where a new table's files go; its namespace is there then.
    fn new_location(&mut self, table: &TableName) -> Result<String, ConnectorError> {
        let (location, is_known) = self.location_for(table)?;
        if !is_known {
            self.ask(|tables| tables.add_namespace(&table.namespace))?;
        }
        Ok(location)
    }

    /// And whether anything is known of its namespace.
    fn location_for(&mut self, table: &TableName) -> Result<(String, bool), ConnectorError> {
        let said = match self.is_there()? {
            true => self.ask(|tables| tables.properties(&table.namespace))?,
            false => BTreeMap::new(),
        };
        let of_warehouse = || Some(format!("{}/{}", trimmed(self.warehouse.as_ref()?), table.namespace.join("/")));
        let Some(folder) = said.get("location").map(|text| trimmed(text).to_owned()).or_else(of_warehouse) else {
            return permanent(format!(
                "there is no place for the new table `{table}`: its namespace has no `location`; say one for all new tables \
                 in catalog.sql.warehouse"
            ));
        };
        let folder = canonical(&folder);
        if !folder.contains("://") {
            return permanent(format!(
                "`{folder}` is no place for the new table `{table}`; say an address, such as s3://bucket/lake or \
                 file:///mnt/lake, in catalog.sql.warehouse"
            ));
        }
        Ok((format!("{folder}/{}", table.name), !said.is_empty()))
    }

    fn find(&mut self, table: &TableName) -> Result<Option<String>, ConnectorError> {
        let was_open = self.tables.is_some();
        let found = match self.is_there() {
            Ok(true) => self.ask(|tables| tables.find(table)),
            Ok(false) if self.may_create => return Ok(None),
            Ok(false) => {
                return permanent(format!(
                    "{} has no table `iceberg_tables`, or the user's search_path doesn't lead to it: no Iceberg catalog was \
                     made there; correct catalog.sql.url, or let it be made with `createTable: {{}}`",
                    address(&self.url)
                ));
            }
            Err(error) => Err(error),
        };
        match found {
            // The server may have ended a connection that had nothing to do since the last commit.
            Err(ConnectorError::Transient(_)) if was_open => self.ask(|tables| tables.find(table)),
            found => found,
        }
    }

    /// A new file of metadata, which nobody else has written or will write.
    fn write(&mut self, metadata: &Metadata, before: Option<&str>) -> Result<String, ConnectorError> {
        let (name, content) = metadata_file::file(&metadata.0, before);
        let address = format!("{}/{name}", metadata.metadata_folder()?);
        self.files.write_new(&address, content)?;
        Ok(address)
    }

    /// Whether there is a catalog in the database.
    fn is_there(&mut self) -> Result<bool, ConnectorError> {
        Ok(self.tables()?.is_some())
    }

    fn ask<T>(&mut self, question: impl FnOnce(&Tables) -> Result<T, ConnectorError>) -> Result<T, ConnectorError> {
        let gone = || ConnectorError::Permanent("the catalog's own tables are gone".to_owned());
        let answer = self.tables()?.ok_or_else(gone).and_then(question);
        if answer.is_err() {
            // What state the connection is in isn't known.
            self.tables = None;
        }
        answer.map_err(|error| error.during(self.said()))
    }

    /// None: there is no catalog in the database.
    fn tables(&mut self) -> Result<Option<&Tables>, ConnectorError> {
        if self.tables.is_none() {
            self.tables = Tables::open(&self.url, &self.name).map_err(|error| error.during(self.said()))?;
        }
        Ok(self.tables.as_ref())
    }

    fn said(&self) -> String {
        format!("the Iceberg catalog `{}` in {}", self.name, address(&self.url))
    }
}

fn trimmed(address: &str) -> &str {
    address.trim_end_matches('/')
}
