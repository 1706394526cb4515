//! A table's metadata, as the catalog hands it out.

use super::partition::PartitionSpec;
use super::schema::TableSchema;
use crate::permanent;
use serde_json::Value;
use weir_connectors::api::ConnectorError;

/// The version of Iceberg's format that is written.
const FORMAT_VERSION: i64 = 2;

/// Kept as it came: what this sink doesn't know of it stays.
#[derive(Clone, Debug)]
pub(crate) struct Metadata(pub Value);

/// What a table has in its metadata for each commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot<'a>(&'a Value);

impl Metadata {
    /// # Errors
    /// The table is of another version of the format.
    pub(crate) fn parse(json: Value) -> Result<Self, ConnectorError> {
        match json.get("format-version").and_then(Value::as_i64) {
            Some(FORMAT_VERSION) => Ok(Metadata(json)),
            Some(1) => permanent(
                "the table has version 1 of Iceberg's format, and this sink writes version 2; upgrade the table \
                 (`ALTER TABLE ... SET TBLPROPERTIES ('format-version' = '2')`), which changes none of its files",
            ),
            Some(version) => permanent(format!(
                "the table has version {version} of Iceberg's format, and this sink writes version 2; use a table of \
                 version 2"
            )),
            None => permanent("the table's metadata can't be read: it has no `format-version`"),
        }
    }

    pub(crate) fn uuid(&self) -> Result<&str, ConnectorError> {
        self.text("table-uuid")
    }

    pub(crate) fn location(&self) -> Result<&str, ConnectorError> {
        Ok(self.text("location")?.trim_end_matches('/'))
    }

    /// Where files of rows go.
    pub(crate) fn data_folder(&self) -> Result<String, ConnectorError> {
        self.folder("write.data.path", "data")
    }

    /// Where manifests and their lists go.
    pub(crate) fn metadata_folder(&self) -> Result<String, ConnectorError> {
        self.folder("write.metadata.path", "metadata")
    }

    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.0.get("properties")?.get(name)?.as_str()
    }

    pub(crate) fn schema(&self) -> Result<TableSchema, ConnectorError> {
        let current = self.number("current-schema-id")?;
        let is_current = |schema: &&Value| schema.get("schema-id").and_then(Value::as_i64) == Some(current);
        match self.list("schemas").iter().find(is_current) {
            Some(schema) => TableSchema::parse(schema),
            None => permanent("the table's metadata can't be read: its current schema is not in it"),
        }
    }

    /// How rows that are written now are divided.
    pub(crate) fn default_spec(&self) -> Result<PartitionSpec, ConnectorError> {
        self.spec(self.number("default-spec-id")?)
    }

    /// Files may have been written by one that was replaced since.
    pub(crate) fn spec(&self, id: i64) -> Result<PartitionSpec, ConnectorError> {
        let is_meant = |spec: &&Value| spec.get("spec-id").and_then(Value::as_i64) == Some(id);
        match self.list("partition-specs").iter().find(is_meant) {
            Some(spec) => PartitionSpec::parse(spec),
            None => {
                permanent(format!("the table has no partition spec {id}, by which files of the checkpoint are divided"))
            }
        }
    }

    /// As it stands in the metadata.
    pub(crate) fn spec_fields_json(&self, id: i64) -> Value {
        let is_meant = |spec: &&Value| spec.get("spec-id").and_then(Value::as_i64) == Some(id);
        let spec = self.list("partition-specs").iter().find(is_meant);
        spec.and_then(|spec| spec.get("fields")).cloned().unwrap_or_else(|| Value::Array(vec![]))
    }

    pub(crate) fn last_sequence_number(&self) -> i64 {
        self.0.get("last-sequence-number").and_then(Value::as_i64).unwrap_or(0)
    }

    pub(crate) fn snapshots(&self) -> impl Iterator<Item = Snapshot<'_>> {
        self.list("snapshots").iter().map(Snapshot)
    }

    /// What readers of the table see. None: nothing was ever written.
    pub(crate) fn current(&self) -> Option<Snapshot<'_>> {
        let main = self.0.get("refs").and_then(|refs| refs.get("main")?.get("snapshot-id")).and_then(Value::as_i64);
        let current = main.or_else(|| self.0.get("current-snapshot-id")?.as_i64()).filter(|id| *id >= 0)?;
        self.snapshots().find(|snapshot| snapshot.id() == Some(current))
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn folder(&self, property: &str, below: &str) -> Result<String, ConnectorError> {
        match self.property(property) {
            Some(folder) => Ok(folder.trim_end_matches('/').to_owned()),
            None => Ok(format!("{}/{below}", self.location()?)),
        }
    }

    fn text(&self, name: &str) -> Result<&str, ConnectorError> {
        match self.0.get(name).and_then(Value::as_str) {
            Some(text) => Ok(text),
            None => permanent(format!("the table's metadata can't be read: it has no `{name}`")),
        }
    }

    fn number(&self, name: &str) -> Result<i64, ConnectorError> {
        match self.0.get(name).and_then(Value::as_i64) {
            Some(number) => Ok(number),
            None => permanent(format!("the table's metadata can't be read: it has no `{name}`")),
        }
    }
}

impl<'a> Snapshot<'a> {
    pub(crate) fn id(self) -> Option<i64> {
        self.0.get("snapshot-id")?.as_i64()
    }

    pub(crate) fn timestamp_ms(self) -> i64 {
        self.0.get("timestamp-ms").and_then(Value::as_i64).unwrap_or(0)
    }

    pub(crate) fn manifest_list(self) -> Option<&'a str> {
        self.0.get("manifest-list")?.as_str()
    }

    /// What its writer said of it.
    pub(crate) fn summary(self, key: &str) -> Option<&'a str> {
        self.0.get("summary")?.get(key)?.as_str()
    }
}
