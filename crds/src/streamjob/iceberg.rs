//! An Apache Iceberg table as a sink.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ObjectStorage, SecretValue, only};
use crate::{
    defaults,
    duration::HumanDuration,
    quantity::ByteSize,
    rules::{MAX_NAMES, MAX_TEXT_LENGTH, exactly_one},
};

/// The fields of which exactly one says which catalog an Iceberg sink asks.
pub const ICEBERG_CATALOGS: [&str; 2] = ["rest", "sql"];

/// An Apache Iceberg table, to which rows are appended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct IcebergSink {
    /// Who knows the table.
    pub catalog: IcebergCatalog,
    /// `namespace.table`; a namespace may have several levels.
    #[schemars(length(min = 3, max = 512))]
    pub table: String,
    /// Create the table if it isn't there; without this such a job is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_table: Option<IcebergCreateTable>,
    /// Add files to the table at most this often, those of several checkpoints in one snapshot. With each checkpoint if
    /// nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_interval: Option<HumanDuration>,
    /// A file that has reached this size is ended before its checkpoint.
    #[schemars(extend("default" = defaults::ICEBERG_TARGET_FILE_SIZE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_file_size: Option<ByteSize>,
    /// Files (partitions) that a subtask writes at once; of more, the one that waits longest for a record is ended.
    #[schemars(extend("default" = defaults::ICEBERG_MAX_OPEN_FILES))]
    #[schemars(range(min = 1, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_open_files: Option<u32>,
    /// How the storage of the table's files is reached. What the catalog says if nothing is said here, and then the
    /// environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<ObjectStorage>,
}

/// A catalog of Iceberg tables: exactly one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&ICEBERG_CATALOGS))]
pub struct IcebergCatalog {
    /// One that speaks Iceberg's REST protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<IcebergRestCatalog>,
    /// One in a PostgreSQL database (also known as a JDBC catalog), without a service in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<IcebergSqlCatalog>,
}

/// A catalog that speaks Iceberg's REST protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct IcebergRestCatalog {
    /// `http://` or `https://`, without `/v1`.
    #[schemars(length(min = 8, max = MAX_TEXT_LENGTH), regex(pattern = "^https?://.+$"))]
    pub uri: String,
    /// Which of the catalog's warehouses, where it has several.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warehouse: Option<String>,
    /// A bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretValue>,
    /// `client-id:client-secret`, for which a token is fetched and renewed (OAuth 2, client credentials).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<SecretValue>,
    /// Where the token is fetched; at the catalog itself if nothing is said.
    #[schemars(length(min = 8, max = MAX_TEXT_LENGTH), regex(pattern = "^https?://.+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth2_server_uri: Option<String>,
    /// The scope that is asked for; `catalog` if nothing is said.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Authorities that are believed besides the system's, as PEM.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// A catalog in a PostgreSQL database: the tables `iceberg_tables` and `iceberg_namespace_properties` of Iceberg's JdbcCatalog
/// and of pyiceberg's SqlCatalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct IcebergSqlCatalog {
    /// `postgres://user:password@host:port/database`.
    pub url: SecretValue,
    /// The catalog's name, by which all its rows are known.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Where tables that are created go, unless their namespace has a `location`: `s3://bucket/folder`, `file:///folder`.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH), regex(pattern = "^([a-z][a-z0-9]*:/)?/.+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warehouse: Option<String>,
}

/// How a table is created: columns are the input's, the format's version is 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct IcebergCreateTable {
    /// `column`, `year(column)`, `month(column)`, `day(column)`, `hour(column)`, `bucket(16, column)` or
    /// `truncate(10, column)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NAMES), inner(length(min = 1, max = 256)))]
    pub partition_by: Vec<String>,
}

/// The catalog that a sink names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IcebergCatalogKind<'a> {
    Rest(&'a IcebergRestCatalog),
    Sql(&'a IcebergSqlCatalog),
}

impl IcebergCatalog {
    /// `None` unless exactly one is named, which validation refuses.
    pub fn kind(&self) -> Option<IcebergCatalogKind<'_>> {
        let Self { rest, sql } = self;
        only(vec![rest.as_ref().map(IcebergCatalogKind::Rest), sql.as_ref().map(IcebergCatalogKind::Sql)])
    }

    /// Every kind that is named.
    pub fn named(&self) -> Vec<&'static str> {
        let Self { rest, sql } = self;
        let named = [rest.as_ref().map(|_| "rest"), sql.as_ref().map(|_| "sql")];
        named.into_iter().flatten().collect()
    }
}

impl IcebergSink {
    pub fn target_file_size(&self) -> ByteSize {
        self.target_file_size.unwrap_or(defaults::ICEBERG_TARGET_FILE_SIZE)
    }

    pub fn max_open_files(&self) -> u32 {
        self.max_open_files.unwrap_or(defaults::ICEBERG_MAX_OPEN_FILES)
    }

    /// One commit for so many checkpoints.
    pub fn commit_every(&self, checkpoint_interval: std::time::Duration) -> u64 {
        let Some(wanted) = self.commit_interval else { return 1 };
        let (wanted_ms, interval_ms) = (wanted.get().as_millis(), checkpoint_interval.as_millis().max(1));
        u64::try_from(wanted_ms.div_ceil(interval_ms)).unwrap_or(u64::MAX).max(1)
    }
}
