//! Sources: where records come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CustomConnector, FilesSource, GeneratorSource, KafkaSource, KinesisSource, NexmarkSource, PostgresSource,
    SocketSource, SourceFormat,
};
use crate::{
    column_type::ColumnType,
    defaults,
    duration::HumanDuration,
    rules::{DNS_LABEL_PATTERN, MAX_COLUMNS, MAX_NAME_LENGTH, exactly_one},
};

/// The fields of which exactly one says where a source reads.
pub const SOURCE_CONNECTORS: [&str; 8] =
    ["files", "generator", "nexmark", "socket", "kafka", "postgres", "kinesis", "custom"];

/// A source: a name, exactly one connector, and what its records look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = exactly_one(&SOURCE_CONNECTORS),
    validation = Rule::new("!has(self.watermark) || !has(self.schema) || self.schema.exists(c, c.name == self.watermark.column)")
        .message("the watermark's column is not in the schema"),
)]
pub struct Source {
    /// The operator UID and the table's name in SQL.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,
    /// Files: one, a directory or a glob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesSource>,
    /// Rows made up by rule, the same in every run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<GeneratorSource>,
    /// The Nexmark auction site: persons, auctions and bids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nexmark: Option<NexmarkSource>,
    /// Lines from a TCP server. Cannot be replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<SocketSource>,
    /// Apache Kafka topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSource>,
    /// A PostgreSQL table: its rows, then its changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSource>,
    /// An Amazon Kinesis stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinesis: Option<KinesisSource>,
    /// A source of one's own, written with the SDK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomConnector>,
    /// How bytes become records. Not for sources that make records themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<SourceFormat>,
    /// The columns. Optional where the source knows them itself: Parquet, nexmark, custom.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = MAX_COLUMNS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Vec<Column>>,
    /// How event time moves on. Without it there is no event time, and no window over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// Subtasks of this source; the job's parallelism if nothing is said.
    #[schemars(range(min = 1, max = 32768))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
}

/// One column of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// The column's name, as in the records.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its SQL type: `BOOLEAN`, `INT`, `BIGINT`, `DOUBLE`, `DECIMAL(p, s)`, `VARCHAR`, `BYTES`, `DATE`, `TIMESTAMP(p)`, ...
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether it may be NULL; a record with a NULL elsewhere is a bad record.
    #[schemars(extend("default" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
    /// Filled from what a Kafka message has beside its value, or a Kinesis record beside its data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MessageMetadata>,
}

/// What a Kafka message has beside its value, and a Kinesis record beside its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MessageMetadata {
    /// Of Kafka. VARCHAR.
    Topic,
    /// Of Kafka. INT.
    Partition,
    /// Of Kafka. BIGINT.
    Offset,
    /// TIMESTAMP: the producer's, or the broker's where the topic says so; of Kinesis when the record arrived, or about then.
    Timestamp,
    /// Of Kafka. VARCHAR or BYTES; NULL where the message has none.
    Key,
    /// Of Kafka. VARCHAR: a JSON object.
    Headers,
    /// Of Kinesis. VARCHAR.
    PartitionKey,
    /// Of Kinesis. VARCHAR: a number of up to 128 digits.
    SequenceNumber,
    /// Of Kinesis. VARCHAR.
    Shard,
}

impl MessageMetadata {
    pub const OF_KAFKA: [Self; 6] =
        [Self::Topic, Self::Partition, Self::Offset, Self::Timestamp, Self::Key, Self::Headers];
    pub const OF_KINESIS: [Self; 4] = [Self::PartitionKey, Self::SequenceNumber, Self::Shard, Self::Timestamp];
}

/// Bounded out-of-orderness: the watermark is the largest timestamp seen, less a bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Watermark {
    /// A column of type TIMESTAMP.
    #[schemars(length(min = 1, max = 128))]
    pub column: String,
    /// How much later than its successors a record may come and still be on time.
    #[schemars(extend("default" = defaults::WATERMARK_MAX_OUT_OF_ORDERNESS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_out_of_orderness: Option<HumanDuration>,
    /// After this long without a record an input no longer holds event time back. Never, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<HumanDuration>,
}

/// The connector that a source names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SourceConnector<'a> {
    Files(&'a FilesSource),
    Generator(&'a GeneratorSource),
    Nexmark(&'a NexmarkSource),
    Socket(&'a SocketSource),
    Kafka(&'a KafkaSource),
    Postgres(&'a PostgresSource),
    Kinesis(&'a KinesisSource),
    Custom(&'a CustomConnector),
}

impl SourceConnector<'_> {
    /// The field that names it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Generator(_) => "generator",
            Self::Nexmark(_) => "nexmark",
            Self::Socket(_) => "socket",
            Self::Kafka(_) => "kafka",
            Self::Postgres(_) => "postgres",
            Self::Kinesis(_) => "kinesis",
            Self::Custom(_) => "custom",
        }
    }
}

impl Source {
    /// The connector. `None` unless exactly one is named, which validation refuses.
    pub fn connector(&self) -> Option<SourceConnector<'_>> {
        match self.connectors().as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// Every connector that is named.
    pub fn connectors(&self) -> Vec<SourceConnector<'_>> {
        let Self {
            name: _,
            files,
            generator,
            nexmark,
            socket,
            kafka,
            postgres,
            kinesis,
            custom,
            format: _,
            schema: _,
            watermark: _,
            parallelism: _,
        } = self;
        [
            files.as_ref().map(SourceConnector::Files),
            generator.as_ref().map(SourceConnector::Generator),
            nexmark.as_ref().map(SourceConnector::Nexmark),
            socket.as_ref().map(SourceConnector::Socket),
            kafka.as_ref().map(SourceConnector::Kafka),
            postgres.as_ref().map(SourceConnector::Postgres),
            kinesis.as_ref().map(SourceConnector::Kinesis),
            custom.as_ref().map(SourceConnector::Custom),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The declared columns; empty where the source knows them itself.
    pub fn columns(&self) -> &[Column] {
        self.schema.as_deref().unwrap_or_default()
    }
}

impl Column {
    /// Whether the column may be NULL.
    pub fn is_nullable(&self) -> bool {
        self.nullable.unwrap_or(true)
    }
}

impl Watermark {
    pub fn max_out_of_orderness(&self) -> std::time::Duration {
        self.max_out_of_orderness.unwrap_or(defaults::WATERMARK_MAX_OUT_OF_ORDERNESS).get()
    }

    pub fn idle_timeout(&self) -> Option<std::time::Duration> {
        self.idle_timeout.map(HumanDuration::get)
    }
}
