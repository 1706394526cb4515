//! The Kinesis source. Which subtask reads a shard follows from its number alone; a thread of each reader asks for the
//! records of all its shards, and the reader decodes what came straight into columns.

mod fetcher;
mod lineage;
mod reader;
mod rows;
mod shards;

use crate::client::{Listing, Place, StreamClient};
use arrow::datatypes::SchemaRef;
use rows::RowLayout;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::{ConnectorError, Probe, ProbeContext, Source, SourceContext, SourceReader, SplitState};
use weir_connectors::formats::{DecoderConfig, OnBadRecord};
use weir_snapshot::storage::StorageOptions;

/// Region, address and credentials, read when they are needed: a job is checked where its secrets need not be.
pub type Options = Arc<dyn Fn() -> Result<StorageOptions, ConnectorError> + Send + Sync>;

/// What to read from where.
#[derive(Clone)]
pub struct KinesisSourceConfig {
    pub stream: String,
    pub options: Options,
    /// Where a job without a checkpoint begins. Shards that come later are read from their beginning.
    pub start: Start,
    /// End with the records that had arrived before the start.
    pub bounded: bool,
    /// How often new shards are looked for.
    pub discovery_interval: Duration,
    /// Between two reads of a shard, of which the service lets all consumers have five a second.
    pub read_interval: Duration,
    /// Of one read, at most.
    pub records_per_read: i32,
    pub format: DecoderConfig,
    /// All columns, those of `metadata` among them.
    pub schema: SchemaRef,
    /// Columns that aren't in the record's data.
    pub metadata: Vec<(String, Metadata)>,
    pub on_bad_record: OnBadRecord,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that the stream keeps.
    Earliest,
    Latest,
    /// The first record that arrived at this time (milliseconds since 1970) or later.
    Timestamp(i64),
    /// By shard, the first record to read. Of those that are not named, the ancestors of one that is are passed over, and
    /// others are read from their beginning.
    SequenceNumbers(BTreeMap<String, String>),
}

/// What a record has beside its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// VARCHAR.
    PartitionKey,
    /// VARCHAR: it is a number of up to 128 digits. Those of an aggregated record have the same.
    SequenceNumber,
    /// VARCHAR.
    Shard,
    /// TIMESTAMP: when the service took the record, or about then.
    Timestamp,
}

pub struct KinesisSource {
    config: Arc<KinesisSourceConfig>,
}

impl KinesisSource {
    /// # Errors
    /// A column that can't hold what it should.
    pub fn new(config: KinesisSourceConfig) -> Result<Self, ConnectorError> {
        RowLayout::of(&config)?;
        Ok(KinesisSource { config: Arc::new(config) })
    }
}

impl Source for KinesisSource {
    fn schema(&self) -> SchemaRef {
        self.config.schema.clone()
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
        Ok(Box::new(reader::KinesisReader::open(&self.config, &context, &restored)?))
    }

    fn probe(&self, context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let KinesisSourceConfig { stream, start, .. } = &*self.config;
        let runtime = runtime()?;
        let failed =
            |failure: crate::failure::Failure| failure.of(format!("source `{}`, stream `{stream}`", context.name));
        let client = connect(&self.config, &runtime)?;
        runtime.block_on(async {
            let mut probe = Probe::default();
            let described = client.describe().await.map_err(failed)?;
            if let Some(summary) = described.stream_description_summary() {
                let (open, hours) = (summary.open_shard_count(), summary.retention_period_hours());
                probe
                    .found
                    .push(format!("stream `{stream}` has {open} open shards and keeps records for {hours} hours"));
                let status = summary.stream_status().as_str();
                if !matches!(status, "ACTIVE" | "UPDATING") {
                    probe.problems.push(format!("stream `{stream}` is {status}: wait until it is ACTIVE"));
                }
            }
            let shards = client.shards(Listing::All).await.map_err(failed)?;
            probe.problems.extend(shards::unusable_start(start, &shards));
            if let Some(last) = shards.last() {
                let iterator = client.iterator(&last.id, &Place::Latest).await.map_err(failed)?;
                client.read(&iterator, 1).await.map_err(failed)?;
                probe.found.push("records may be read".into());
            }
            Ok(probe)
        })
    }
}

/// One thread, which is the caller's.
fn runtime() -> Result<tokio::runtime::Runtime, ConnectorError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| ConnectorError::Transient(format!("cannot start a runtime: {error}")))
}

fn connect(config: &KinesisSourceConfig, runtime: &tokio::runtime::Runtime) -> Result<StreamClient, ConnectorError> {
    let options = (config.options)()?;
    let connected = runtime.block_on(StreamClient::connect(&config.stream, &options));
    connected.map_err(|reason| ConnectorError::Permanent(format!("stream `{}`: {reason}", config.stream)))
}
