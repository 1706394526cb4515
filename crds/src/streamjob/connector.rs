//! The connectors' own settings, as far as they are not files, generators or Nexmark.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretValue;
use crate::{
    defaults,
    duration::HumanDuration,
    quantity::ByteSize,
    rules::{MAX_NAMES, MAX_TEXT_LENGTH, exactly_one},
};

/// Enough for the partitions of large topics, and still a spec that can be read.
const MAX_START_OFFSETS: u32 = 1024;

/// Files on a file system or in an object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FilesSource {
    /// A file, a directory (all files in it, in the order of their names) or a glob: `data/*.csv`.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    pub path: String,
    /// Go on watching for new files and appended lines. Without it the source ends with what is there.
    #[schemars(extend("default" = defaults::FILES_FOLLOW))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    #[schemars(extend("default" = defaults::SOURCE_COMPRESSION))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// How often a followed path is looked at.
    #[schemars(extend("default" = defaults::FILES_POLL_INTERVAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll_interval: Option<HumanDuration>,
    /// Files larger than this are read by several subtasks: JSON lines and raw lines, uncompressed and not followed. CSV
    /// only where a size is written here, which says that no quoted value holds a line break. Parquet is never cut.
    #[schemars(extend("default" = defaults::FILES_SPLIT_SIZE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_size: Option<ByteSize>,
}

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// Told from the file's name: `.gz`, `.zst`, else none. For sources only.
    Auto,
    None,
    Gzip,
    Zstd,
    /// Inside Parquet only.
    Snappy,
    /// Inside Parquet only.
    Lz4,
}

/// Lines from a TCP server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SocketSource {
    /// `host:port` to connect to.
    #[schemars(length(min = 3, max = MAX_TEXT_LENGTH))]
    pub address: String,
    /// A socket cannot be read again: records in flight at a failure are lost. A job in ExactlyOnce must accept that here.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_at_most_once: Option<bool>,
}

/// Apache Kafka topics, each partition in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = exactly_one(&["topics", "topicPattern"]),
    validation = Rule::new("has(self.startTimestamp) == (has(self.startFrom) && self.startFrom == 'Timestamp')")
        .message("startTimestamp belongs to startFrom: Timestamp, and is required there"),
    validation = Rule::new("has(self.startOffsets) == (has(self.startFrom) && self.startFrom == 'Offsets')")
        .message("startOffsets belong to startFrom: Offsets, and are required there"),
)]
pub struct KafkaSource {
    /// `host:port`, several separated by commas.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    pub bootstrap_servers: String,
    #[schemars(length(min = 1, max = MAX_NAMES), inner(length(min = 1, max = 249)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<Vec<String>>,
    /// A regular expression that whole topic names match; new topics are found while the job runs.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_pattern: Option<String>,
    /// The consumer group under which offsets are committed, for monitoring only. Weir's own checkpoints are what counts.
    #[schemars(length(min = 1, max = 255))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Where to begin when there is nothing to restore.
    #[schemars(extend("default" = defaults::KAFKA_START_FROM))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFrom>,
    /// With `startFrom: Timestamp`: RFC 3339.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<String>,
    /// With `startFrom: Offsets`: the first message to read of each partition that is named; others begin with their earliest.
    #[schemars(length(min = 1, max = MAX_START_OFFSETS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_offsets: Option<Vec<StartOffset>>,
    /// End at the offsets that were the latest at the start.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded: Option<bool>,
    /// How often new partitions, and with `topicPattern` new topics, are looked for. They are read from their beginning.
    #[schemars(extend("default" = defaults::KAFKA_DISCOVERY_INTERVAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_discovery_interval: Option<HumanDuration>,
    /// Settings of the Kafka client itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub properties: BTreeMap<String, String>,
    /// Settings of the Kafka client with secret values, such as `sasl.password`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub secret_properties: BTreeMap<String, SecretValue>,
}

/// Where a Kafka source begins when there is nothing to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StartFrom {
    Earliest,
    Latest,
    /// The consumer group's offsets; the earliest where it has none.
    CommittedOffsets,
    Timestamp,
    /// Those of `startOffsets`.
    Offsets,
}

/// Where to begin in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct StartOffset {
    #[schemars(length(min = 1, max = 249))]
    pub topic: String,
    #[schemars(range(min = 0))]
    pub partition: i32,
    #[schemars(range(min = 0))]
    pub offset: i64,
}

/// A Kafka topic to write to. With `delivery: ExactlyOnce` in transactions that commit with the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSink {
    /// `host:port`, several separated by commas.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    pub bootstrap_servers: String,
    #[schemars(length(min = 1, max = 249))]
    pub topic: String,
    /// Columns that make the message key, and so choose the partition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NAMES), inner(length(min = 1, max = 128)))]
    pub key: Vec<String>,
    /// How long the broker keeps an open transaction. Must exceed checkpoint interval and timeout together.
    #[schemars(extend("default" = defaults::KAFKA_TRANSACTION_TIMEOUT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_timeout: Option<HumanDuration>,
    /// The prefix of transactional ids; from the job's UID if nothing is said. Unique for each job of a Kafka cluster.
    #[schemars(length(min = 1, max = 200))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transactional_id_prefix: Option<String>,
    /// Settings of the Kafka client itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub properties: BTreeMap<String, String>,
    /// Settings of the Kafka client with secret values, such as `sasl.password`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub secret_properties: BTreeMap<String, SecretValue>,
}

/// A web service that takes records by HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct HttpSink {
    /// `http://` or `https://`, without a user or a password.
    #[schemars(length(min = 8, max = MAX_TEXT_LENGTH), regex(pattern = "^https?://.+$"))]
    pub url: String,
    #[schemars(extend("default" = defaults::HTTP_METHOD))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// Headers of each request. `Content-Type` follows from the format if it is not here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: BTreeMap<String, String>,
    /// Headers with secret values, such as `Authorization`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub secret_headers: BTreeMap<String, SecretValue>,
    /// The header with a request's key: the same one again when the request is repeated.
    #[schemars(extend("default" = defaults::HTTP_IDEMPOTENCY_HEADER))]
    #[schemars(length(min = 1, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_header: Option<String>,
    /// Records of a request at most; each checkpoint sends what there is. With 1 a body of JSON is an object, else an array.
    #[schemars(extend("default" = defaults::HTTP_BATCH_ROWS))]
    #[schemars(range(min = 1, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<u32>,
    /// Of one try, from the connection to the end of the answer.
    #[schemars(extend("default" = defaults::HTTP_TIMEOUT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// Tries after the first one, when nobody answers or the answer is 408, 425, 429 or 5xx; then the task fails.
    #[schemars(extend("default" = defaults::HTTP_MAX_RETRIES))]
    #[schemars(range(max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Authorities that are believed besides the system's: a PEM file.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// How records are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HttpMethod {
    Post,
    Put,
}

/// A PostgreSQL table as a source: its rows, then its changes by logical replication. The source's `schema` says the
/// columns, unless it is `bounded`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSource {
    /// `postgres://user:password@host:port/database`.
    pub url: SecretValue,
    /// `table` or `schema.table`.
    #[schemars(length(min = 1, max = 128))]
    pub table: String,
    /// The replication slot; one of the job's and the source's own if nothing is said. Made if it isn't there.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// The publication to read, which must be there; one is made if nothing is said.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publication: Option<String>,
    /// Read the rows once and end: no changes.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded: Option<bool>,
}

/// A PostgreSQL table as a sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSink {
    /// `postgres://user:password@host:port/database`.
    pub url: SecretValue,
    /// `table` or `schema.table`.
    #[schemars(length(min = 1, max = 128))]
    pub table: String,
    /// The columns that identify a row, with a unique index: rows replace each other by them, and deletes of an updating
    /// input delete. Without them rows are inserted. Required for `delivery: Upsert`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NAMES), inner(length(min = 1, max = 128)))]
    pub key: Vec<String>,
    /// Rows written in one statement.
    #[schemars(extend("default" = defaults::POSTGRES_SINK_BATCH_ROWS))]
    #[schemars(range(min = 1, max = 100000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<u32>,
    /// With `delivery: ExactlyOnce`: how rows wait for their checkpoint.
    #[schemars(extend("default" = defaults::POSTGRES_COMMIT_BY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_by: Option<PostgresCommitBy>,
    /// With `delivery: ExactlyOnce`: the schema of the staging tables, in which rows wait for their checkpoint, and of
    /// `weir_commits`. The table's own if nothing is said.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staging_schema: Option<String>,
}

/// With `delivery: ExactlyOnce`: how rows wait for their checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PostgresCommitBy {
    /// In tables of their own, from which the commit moves them.
    StagingTables,
    /// In the table, by `PREPARE TRANSACTION`. Needs `max_prepared_transactions`; not with a `key`.
    PreparedTransactions,
}

/// A source or a sink of one's own, written with the SDK and shipped in the job's image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomConnector {
    /// The name under which it is registered.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 128))]
    pub connector_type: String,
    /// Handed to it as it stands.
    #[schemars(schema_with = "crate::schema::any_object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}
