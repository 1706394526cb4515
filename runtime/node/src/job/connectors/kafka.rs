//! Kafka, as a source and as a sink.

use super::sources::{event_time_us, message_format, on_bad_record};
use super::{Fault, secrets};
use arrow::datatypes::SchemaRef;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Sink, Source};
use weir_connectors::formats::EncoderConfig;
use weir_connectors_kafka::{
    Delivery, KafkaCluster, KafkaSink, KafkaSinkConfig, KafkaSource, KafkaSourceConfig, Metadata, Registry, Start,
    Topics,
};
use weir_crds::streamjob::{self as crd, MessageMetadata, SecretValue, StartFrom};

pub(super) fn source(
    source: &crd::Source,
    kafka: &crd::KafkaSource,
    schema: SchemaRef,
) -> Result<Result<Arc<dyn Source>, ConnectorError>, Fault> {
    let config = KafkaSourceConfig {
        cluster: cluster(&kafka.bootstrap_servers, &kafka.properties, &kafka.secret_properties),
        topics: topics(kafka)?,
        group_id: kafka.group_id.clone(),
        start: start(kafka)?,
        bounded: kafka.bounded(),
        discovery_interval: Some(kafka.partition_discovery_interval()).filter(|interval| !interval.is_zero()),
        format: message_format(source)?,
        registry: source.format.as_ref().and_then(|format| format.avro.as_ref()?.registry.as_ref()).map(registry),
        schema,
        metadata: metadata(source),
        on_bad_record: on_bad_record(source),
    };
    Ok(KafkaSource::new(config).map(|source| Arc::new(source) as _))
}

pub(super) fn sink(
    sink: &crd::Sink,
    kafka: &crd::KafkaSink,
    format: EncoderConfig,
) -> Result<Arc<dyn Sink>, ConnectorError> {
    let config = KafkaSinkConfig {
        cluster: cluster(&kafka.bootstrap_servers, &kafka.properties, &kafka.secret_properties),
        topic: kafka.topic.clone(),
        key: kafka.key.clone(),
        delivery: match sink.delivery() {
            crd::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
            crd::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
            crd::Delivery::Upsert => Delivery::Upsert,
        },
        format,
        registry: sink.format.as_ref().and_then(|format| format.avro.as_ref()?.registry.as_ref()).map(registry),
        change_kind_column: sink.change_kind_column.clone(),
        transaction_timeout: kafka.transaction_timeout(),
        transactional_id_prefix: kafka.transactional_id_prefix.clone(),
    };
    KafkaSink::new(config).map(|sink| Arc::new(sink) as _)
}

fn cluster(
    bootstrap_servers: &str,
    properties: &BTreeMap<String, String>,
    secret_properties: &BTreeMap<String, SecretValue>,
) -> KafkaCluster {
    let mut cluster = KafkaCluster {
        bootstrap_servers: bootstrap_servers.to_owned(),
        properties: properties.clone(),
        missing_secrets: vec![],
    };
    for (name, value) in secret_properties {
        // A job is checked where its secrets need not be.
        let value = secrets::value(value).unwrap_or_else(|reason| {
            cluster.missing_secrets.push(format!("the setting {name}: {reason}"));
            String::new()
        });
        cluster.properties.insert(name.clone(), value);
    }
    cluster
}

fn registry(registry: &crd::SchemaRegistry) -> Registry {
    let crd::SchemaRegistry { url, basic_auth } = registry;
    // As with the cluster's secrets.
    let login = basic_auth.as_ref().map(secrets::value).transpose();
    let (basic_auth, missing_secret) = match login {
        Ok(login) => (login, None),
        Err(reason) => (None, Some(reason)),
    };
    Registry { url: url.clone(), basic_auth, missing_secret }
}

fn topics(kafka: &crd::KafkaSource) -> Result<Topics, Fault> {
    match (&kafka.topics, &kafka.topic_pattern) {
        (Some(names), None) => Ok(Topics::Names(names.clone())),
        (None, Some(pattern)) => {
            let unusable = |error: regex::Error| {
                Fault::new("kafka.topicPattern", format!("not a regular expression: {error}"), "correct it")
            };
            // Anchored: `a|ab` must find `ab`, not end at `a`.
            Regex::new(&format!("^(?:{pattern})$")).map(Topics::Pattern).map_err(unusable)
        }
        _ => Err(Fault::new("kafka", "a source reads topics or a pattern of them", "name one of topics, topicPattern")),
    }
}

fn start(kafka: &crd::KafkaSource) -> Result<Start, Fault> {
    Ok(match kafka.start_from() {
        StartFrom::Earliest => Start::Earliest,
        StartFrom::Latest => Start::Latest,
        StartFrom::CommittedOffsets => Start::CommittedOffsets,
        StartFrom::Timestamp => {
            let text = kafka.start_timestamp.as_deref().unwrap_or_default();
            Start::Timestamp(event_time_us(text, "kafka.startTimestamp")?.div_euclid(1000))
        }
        StartFrom::Offsets => {
            let given = kafka.start_offsets.iter().flatten();
            Start::Offsets(given.map(|start| ((start.topic.clone(), start.partition), start.offset)).collect())
        }
    })
}

fn metadata(source: &crd::Source) -> Vec<(String, Metadata)> {
    let of_column = |column: &crd::Column| {
        let holds = match column.metadata? {
            MessageMetadata::Topic => Metadata::Topic,
            MessageMetadata::Partition => Metadata::Partition,
            MessageMetadata::Offset => Metadata::Offset,
            MessageMetadata::Timestamp => Metadata::Timestamp,
            MessageMetadata::Key => Metadata::Key,
            MessageMetadata::Headers => Metadata::Headers,
            // Of Kinesis, which the validation has refused.
            MessageMetadata::PartitionKey | MessageMetadata::SequenceNumber | MessageMetadata::Shard => return None,
        };
        Some((column.name.clone(), holds))
    };
    source.columns().iter().filter_map(of_column).collect()
}
