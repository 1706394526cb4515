//! Amazon Kinesis, as a source.

use super::Fault;
use super::sources::{event_time_us, message_format, on_bad_record};
use crate::job::storage::aws_options;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Source};
use weir_connectors_kinesis::{KinesisSource, KinesisSourceConfig, Metadata, Start};
use weir_crds::streamjob::{self as crd, KinesisStartFrom, MessageMetadata};

pub(super) fn source(
    source: &crd::Source,
    kinesis: &crd::KinesisSource,
    schema: SchemaRef,
) -> Result<Result<Arc<dyn Source>, ConnectorError>, Fault> {
    let (endpoint, region) = (kinesis.endpoint.clone(), kinesis.region.clone());
    let credentials = kinesis.credentials.clone();
    // A job is checked where its secrets need not be.
    let options = move || {
        aws_options(endpoint.as_ref(), region.as_ref(), credentials.as_ref()).map_err(ConnectorError::Permanent)
    };
    let config = KinesisSourceConfig {
        stream: kinesis.stream.clone(),
        options: Arc::new(options),
        start: start(kinesis)?,
        bounded: kinesis.bounded(),
        discovery_interval: kinesis.shard_discovery_interval(),
        read_interval: kinesis.read_interval(),
        records_per_read: i32::try_from(kinesis.records_per_read()).unwrap_or(i32::MAX),
        format: message_format(source)?,
        schema,
        metadata: metadata(source),
        on_bad_record: on_bad_record(source),
    };
    Ok(KinesisSource::new(config).map(|source| Arc::new(source) as _))
}

fn start(kinesis: &crd::KinesisSource) -> Result<Start, Fault> {
    Ok(match kinesis.start_from() {
        KinesisStartFrom::Earliest => Start::Earliest,
        KinesisStartFrom::Latest => Start::Latest,
        KinesisStartFrom::Timestamp => {
            let text = kinesis.start_timestamp.as_deref().unwrap_or_default();
            Start::Timestamp(event_time_us(text, "kinesis.startTimestamp")?.div_euclid(1000))
        }
        KinesisStartFrom::SequenceNumbers => {
            let given = kinesis.start_sequence_numbers.iter().flatten();
            Start::SequenceNumbers(given.map(|start| (start.shard.clone(), start.sequence_number.clone())).collect())
        }
    })
}

fn metadata(source: &crd::Source) -> Vec<(String, Metadata)> {
    let of_column = |column: &crd::Column| {
        let holds = match column.metadata? {
            MessageMetadata::PartitionKey => Metadata::PartitionKey,
            MessageMetadata::SequenceNumber => Metadata::SequenceNumber,
            MessageMetadata::Shard => Metadata::Shard,
            MessageMetadata::Timestamp => Metadata::Timestamp,
            // Of Kafka, which the validation has refused.
            MessageMetadata::Topic
            | MessageMetadata::Partition
            | MessageMetadata::Offset
            | MessageMetadata::Key
            | MessageMetadata::Headers => return None,
        };
        Some((column.name.clone(), holds))
    };
    source.columns().iter().filter_map(of_column).collect()
}
