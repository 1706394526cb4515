//! Sinks: where results go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Compression, CustomConnector, HttpMethod, HttpSink, IcebergSink, KafkaSink, PostgresSink, SinkFormat,
    StorageCredentials, only,
};
use crate::{
    defaults,
    duration::HumanDuration,
    quantity::ByteSize,
    rules::{DNS_LABEL_PATTERN, MAX_NAME_LENGTH, MAX_NAMES, MAX_TEXT_LENGTH, exactly_one},
};

/// The fields of which exactly one says where a sink writes.
pub const SINK_CONNECTORS: [&str; 8] =
    ["files", "print", "blackhole", "kafka", "postgres", "iceberg", "http", "custom"];

/// A sink: a name, what it reads, exactly one connector, and a promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = exactly_one(&SINK_CONNECTORS),
    validation = Rule::new("!(has(self.delivery) && self.delivery == 'Upsert') || has(self.postgres) || has(self.kafka) || has(self.custom)")
        .message("delivery: Upsert needs a sink with keys: postgres, kafka or custom"),
    validation = Rule::new("!(has(self.delivery) && self.delivery == 'Upsert' && has(self.postgres)) || has(self.postgres.key)")
        .message("delivery: Upsert needs postgres.key, the columns that identify a row"),
)]
pub struct Sink {
    /// The operator UID.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,
    /// The step it reads. A sink without it is a source's dead letter sink, named there.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[schemars(extend("default" = defaults::DELIVERY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Files, written in two phases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesSink>,
    /// Standard output, one line for each record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub print: Option<PrintSink>,
    /// Nowhere; counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blackhole: Option<BlackholeSink>,
    /// An Apache Kafka topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSink>,
    /// A PostgreSQL table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSink>,
    /// An Apache Iceberg table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iceberg: Option<IcebergSink>,
    /// A web service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSink>,
    /// A sink of one's own, written with the SDK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomConnector>,
    /// How records become bytes. Not for sinks that take records themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<SinkFormat>,
    /// Write the change kind (+I, -U, +U, -D) of an updating input into a column of this name. Without it, a sink
    /// that neither upserts nor prints refuses an updating input.
    #[schemars(length(min = 1, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_kind_column: Option<String>,
    /// Subtasks of this sink; the job's parallelism if nothing is said.
    #[schemars(range(min = 1, max = 32768))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
}

/// What a sink promises across failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// No record is lost; after a failure some come twice.
    AtLeastOnce,
    /// Each record's effect is there once: written in two phases, committed with the checkpoint.
    ExactlyOnce,
    /// Written by key, so that writing twice changes nothing.
    Upsert,
}

/// Files: in progress, pending until the checkpoint completes, then finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FilesSink {
    /// The directory, or `s3://bucket/prefix`.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    pub path: String,
    /// With `s3://`: how to reach it. What is left out comes from the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<ObjectStorage>,
    /// When a file is closed and the next begun between two checkpoints. Each checkpoint closes every file, whatever is
    /// said here: its records become visible with that checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling: Option<RollingPolicy>,
    /// Columns that become folders, `origin=JFK/`, and are left out of the records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NAMES), inner(length(min = 1, max = 128)))]
    pub partition_by: Vec<String>,
    /// Not for Parquet, which compresses by itself.
    #[schemars(extend("default" = defaults::SINK_COMPRESSION))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// How a store of objects is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStorage {
    /// Another service address, for S3-compatible services: `http://minio:9000`.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH), regex(pattern = "^https?://.+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region, where the service has any.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The bucket stands in the path instead of the host name. With an endpoint `true` if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Of the service account and the environment if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StorageCredentials>,
}

/// When a file is closed: at whichever comes first, looked at with each batch of records and at each checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct RollingPolicy {
    #[schemars(extend("default" = defaults::ROLLING_MAX_SIZE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteSize>,
    #[schemars(extend("default" = defaults::ROLLING_MAX_AGE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<HumanDuration>,
    /// Close a file to which nothing was written for this long. Never, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inactivity: Option<HumanDuration>,
}

/// Standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct PrintSink {
    /// Stands before each line.
    #[schemars(length(max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// Discards records, as fast as they come or slowly on purpose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlackholeSink {
    /// Rows per second that it takes over all subtasks, to see what a slow sink does; all that come if nothing is said.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<u64>,
}

/// The connector that a sink names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SinkConnector<'a> {
    Files(&'a FilesSink),
    Print(&'a PrintSink),
    Blackhole(&'a BlackholeSink),
    Kafka(&'a KafkaSink),
    Postgres(&'a PostgresSink),
    Iceberg(&'a IcebergSink),
    Http(&'a HttpSink),
    Custom(&'a CustomConnector),
}

impl SinkConnector<'_> {
    /// The field that names it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Print(_) => "print",
            Self::Blackhole(_) => "blackhole",
            Self::Kafka(_) => "kafka",
            Self::Postgres(_) => "postgres",
            Self::Iceberg(_) => "iceberg",
            Self::Http(_) => "http",
            Self::Custom(_) => "custom",
        }
    }
}

impl Sink {
    /// The connector. `None` unless exactly one is named, which validation refuses.
    pub fn connector(&self) -> Option<SinkConnector<'_>> {
        only(self.connectors().into_iter().map(Some).collect())
    }

    /// Every connector that is named.
    pub fn connectors(&self) -> Vec<SinkConnector<'_>> {
        let Self {
            name: _,
            from: _,
            delivery: _,
            files,
            print,
            blackhole,
            kafka,
            postgres,
            iceberg,
            http,
            custom,
            format: _,
            change_kind_column: _,
            parallelism: _,
        } = self;
        [
            files.as_ref().map(SinkConnector::Files),
            print.as_ref().map(SinkConnector::Print),
            blackhole.as_ref().map(SinkConnector::Blackhole),
            kafka.as_ref().map(SinkConnector::Kafka),
            postgres.as_ref().map(SinkConnector::Postgres),
            iceberg.as_ref().map(SinkConnector::Iceberg),
            http.as_ref().map(SinkConnector::Http),
            custom.as_ref().map(SinkConnector::Custom),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    pub fn delivery(&self) -> Delivery {
        self.delivery.unwrap_or(defaults::DELIVERY)
    }
}

impl FilesSink {
    /// Of a store of objects; None for a directory.
    pub fn scheme(&self) -> Option<&str> {
        let (scheme, _) = self.path.split_once("://")?;
        Some(scheme).filter(|scheme| *scheme != "file")
    }

    pub fn compression(&self) -> Compression {
        self.compression.unwrap_or(defaults::SINK_COMPRESSION)
    }

    pub fn rolling_max_size(&self) -> ByteSize {
        self.rolling.as_ref().and_then(|rolling| rolling.max_size).unwrap_or(defaults::ROLLING_MAX_SIZE)
    }

    pub fn rolling_max_age(&self) -> std::time::Duration {
        self.rolling.as_ref().and_then(|rolling| rolling.max_age).unwrap_or(defaults::ROLLING_MAX_AGE).get()
    }

    pub fn rolling_inactivity(&self) -> Option<std::time::Duration> {
        self.rolling.as_ref().and_then(|rolling| rolling.inactivity).map(HumanDuration::get)
    }
}

impl HttpSink {
    pub fn method(&self) -> HttpMethod {
        self.method.unwrap_or(defaults::HTTP_METHOD)
    }

    pub fn idempotency_header(&self) -> &str {
        self.idempotency_header.as_deref().unwrap_or(defaults::HTTP_IDEMPOTENCY_HEADER)
    }

    pub fn batch_rows(&self) -> u32 {
        self.batch_rows.unwrap_or(defaults::HTTP_BATCH_ROWS)
    }

    pub fn timeout(&self) -> std::time::Duration {
        self.timeout.unwrap_or(defaults::HTTP_TIMEOUT).get()
    }

    pub fn max_retries(&self) -> u32 {
        self.max_retries.unwrap_or(defaults::HTTP_MAX_RETRIES)
    }
}
