//! A Kinesis stream as a source.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StorageCredentials;
use crate::{defaults, duration::HumanDuration, rules::MAX_TEXT_LENGTH};

/// Enough for the shards of large streams, and still a spec that can be read.
const MAX_START_SHARDS: u32 = 1024;

/// An Amazon Kinesis stream, each shard in its order and after those that it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.startTimestamp) == (has(self.startFrom) && self.startFrom == 'Timestamp')")
        .message("startTimestamp belongs to startFrom: Timestamp, and is required there"),
    validation = Rule::new("has(self.startSequenceNumbers) == (has(self.startFrom) && self.startFrom == 'SequenceNumbers')")
        .message("startSequenceNumbers belong to startFrom: SequenceNumbers, and are required there"),
)]
pub struct KinesisSource {
    #[schemars(length(min = 1, max = 128))]
    pub stream: String,
    /// Of the environment (AWS_REGION) if nothing is said.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Another service address, for compatible services.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH), regex(pattern = "^https?://.+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of the service account and the environment if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StorageCredentials>,
    /// Where to begin when there is nothing to restore.
    #[schemars(extend("default" = defaults::KINESIS_START_FROM))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_from: Option<KinesisStartFrom>,
    /// With `startFrom: Timestamp`: RFC 3339.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<String>,
    /// With `startFrom: SequenceNumbers`: the first record to read of each shard that is named. Shards that those came from
    /// are passed over, and others begin with their oldest record.
    #[schemars(length(min = 1, max = MAX_START_SHARDS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_sequence_numbers: Option<Vec<StartSequenceNumber>>,
    /// End with the records that had arrived before the start.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded: Option<bool>,
    /// How often new shards are looked for. They are read from their beginning, after those that they came from.
    #[schemars(extend("default" = defaults::KINESIS_DISCOVERY_INTERVAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_discovery_interval: Option<HumanDuration>,
    /// Between two reads of a shard. The service lets all consumers of a shard together have five reads a second.
    #[schemars(extend("default" = defaults::KINESIS_READ_INTERVAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_interval: Option<HumanDuration>,
    /// Records of one read at most.
    #[schemars(extend("default" = defaults::KINESIS_RECORDS_PER_READ))]
    #[schemars(range(min = 1, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_read: Option<u32>,
}

/// Where a Kinesis source begins when there is nothing to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KinesisStartFrom {
    /// The oldest record that the stream keeps (`TRIM_HORIZON`).
    Earliest,
    Latest,
    Timestamp,
    /// Those of `startSequenceNumbers`.
    SequenceNumbers,
}

/// Where to begin in one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct StartSequenceNumber {
    /// `shardId-000000000000`.
    #[schemars(length(min = 1, max = 128))]
    pub shard: String,
    /// Of the first record to read.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[0-9]+$"))]
    pub sequence_number: String,
}
