//! The Kafka source: each partition is a split, its offset a position in the checkpoint.
//!
//! Which subtask reads a partition follows from its name alone: no consumer group, and no rebalance. A thread of each reader
//! fetches ahead, and the reader decodes what came straight into columns.

mod fetcher;
mod partitions;
mod reader;
mod rows;

use crate::failure::connector_error;
use crate::registry::{Registry, RegistryClient};
use crate::settings::{KafkaCluster, setting_error};
use arrow::datatypes::SchemaRef;
use regex::Regex;
use rows::RowLayout;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::{ConnectorError, Probe, ProbeContext, Source, SourceContext, SourceReader, SplitState};
use weir_connectors::formats::{DecoderConfig, OnBadRecord};
use weir_kafka_client::ConsumerOptions;

/// What to read from where.
#[derive(Clone, Debug)]
pub struct KafkaSourceConfig {
    pub cluster: KafkaCluster,
    pub topics: Topics,
    /// Under which offsets are committed after checkpoints, for monitoring.
    pub group_id: Option<String>,
    /// Where a job without a checkpoint begins. Partitions that come later are read from their beginning.
    pub start: Start,
    /// End at the offsets that were the latest at the start.
    pub bounded: bool,
    /// How often new partitions are looked for. None: never.
    pub discovery_interval: Option<Duration>,
    pub format: DecoderConfig,
    /// Where the schemas of Avro messages are that have a number each.
    pub registry: Option<Registry>,
    /// All columns, those of `metadata` among them.
    pub schema: SchemaRef,
    /// Columns that aren't in the message's value.
    pub metadata: Vec<(String, Metadata)>,
    pub on_bad_record: OnBadRecord,
}

#[derive(Clone, Debug)]
pub enum Topics {
    Names(Vec<String>),
    /// Matches whole names.
    Pattern(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    /// The group's offsets; the earliest where it has none.
    CommittedOffsets,
    /// The first record of this time (milliseconds since 1970) or later.
    Timestamp(i64),
    /// By topic and partition; the earliest where none is named.
    Offsets(BTreeMap<(String, i32), i64>),
}

/// What a message has beside its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// VARCHAR.
    Topic,
    /// INT.
    Partition,
    /// BIGINT.
    Offset,
    /// TIMESTAMP: the producer's, or the broker's where the topic says so.
    Timestamp,
    /// VARCHAR or BYTES.
    Key,
    /// VARCHAR: a JSON object, with a header's last value where several have its name.
    Headers,
}

#[derive(Debug)]
pub struct KafkaSource {
    config: Arc<KafkaSourceConfig>,
    options: ConsumerOptions,
}

impl KafkaSource {
    /// # Errors
    /// A setting that can't be used, or a column that can't hold what it should.
    pub fn new(config: KafkaSourceConfig) -> Result<Self, ConnectorError> {
        config.cluster.options()?;
        let options = ConsumerOptions::new(&config.cluster.properties).map_err(setting_error)?;
        RowLayout::of(&config)?;
        Ok(KafkaSource { config: Arc::new(config), options })
    }
}

impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        self.config.schema.clone()
    }

    fn is_updating(&self) -> bool {
        self.config.format == DecoderConfig::Debezium
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        self.config.bounded
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(reader::KafkaReader::open(&self.config, &self.options, &context, &restored)?))
    }

    fn probe(&self, context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let mut cluster = self.config.cluster.client()?;
        let failed = |error| connector_error(&format!("source `{}`", context.name), &error);
        let topics = partitions::topics(&mut cluster, &self.config.topics).map_err(failed)?;
        let mut probe = Probe::default();
        for topic in &topics {
            probe.found.push(format!("topic `{}` has {} partitions", topic.name, topic.partitions.len()));
        }
        if topics.is_empty() {
            probe.found.push("no topic matches the pattern yet".into());
        }
        probe.problems.extend(partitions::unusable_offsets(&mut cluster, &self.config, &topics).map_err(failed)?);
        if let (Some(group), Some(topic)) = (&self.config.group_id, topics.first()) {
            let numbers: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition).collect();
            cluster.committed_offsets(group, &topic.name, &numbers, crate::settings::PATIENCE).map_err(failed)?;
        }
        if let Some(registry) = &self.config.registry {
            RegistryClient::new(registry)?.check()?;
            probe.found.push(format!("the schema registry {} answers", registry.url));
        }
        Ok(probe)
    }
}
