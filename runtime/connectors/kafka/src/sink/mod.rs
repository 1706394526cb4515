//! The Kafka sink.
//!
//! Exactly once: each subtask writes into a transaction, flushes it at a checkpoint and leaves it open; the checkpoint holds its
//! identity, and the commit ends it, from this process or another. At least once and upserts: a checkpoint waits until all
//! is acknowledged.

mod committable;
mod committer;
mod ids;
mod layout;
mod pool;
mod probe;
mod writer;

use crate::registry::{Registry, RegistryClient};
use crate::settings::{KafkaCluster, setting_error};
use arrow::datatypes::SchemaRef;
use layout::Layout;
use pool::Pool;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::{
    Committer, CommitterContext, ConnectorError, Guarantee, Probe, ProbeContext, Sink, SinkContext, SinkWriter,
};
use weir_connectors::formats::EncoderConfig;
use weir_kafka_client::ProducerOptions;
use weir_model::UpdateBeforeUse;

/// What to write where.
#[derive(Clone, Debug)]
pub struct KafkaSinkConfig {
    pub cluster: KafkaCluster,
    pub topic: String,
    /// Columns that make the message key: one is written as its text, several as a JSON object.
    pub key: Vec<String>,
    pub delivery: Delivery,
    pub format: EncoderConfig,
    /// Where the schema of Avro messages is registered, under `<topic>-value`.
    pub registry: Option<Registry>,
    /// The column that takes an updating input's change kind as `+I`, `-U`, `+U` or `-D`. Without it such an input is written
    /// by key, or refused where there is none.
    pub change_kind_column: Option<String>,
    pub transaction_timeout: Duration,
    /// What transactional ids begin with; made from the job's UID and the step's name if nothing is said.
    pub transactional_id_prefix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
    Upsert,
}

pub struct KafkaSink {
    config: Arc<KafkaSinkConfig>,
    options: ProducerOptions,
    pool: Arc<Pool>,
}

impl KafkaSink {
    /// # Errors
    /// A setting that can't be used.
    pub fn new(config: KafkaSinkConfig) -> Result<Self, ConnectorError> {
        config.cluster.options()?;
        let options = ProducerOptions::new(&config.cluster.properties).map_err(setting_error)?;
        Ok(KafkaSink { config: Arc::new(config), options, pool: Arc::default() })
    }
}

impl Sink for KafkaSink {
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError> {
        Layout::of(&self.config, input).map(|_| ())
    }

    fn guarantee(&self) -> Guarantee {
        match self.config.delivery {
            Delivery::AtLeastOnce => Guarantee::AtLeastOnce,
            Delivery::ExactlyOnce => Guarantee::ExactlyOnce,
            Delivery::Upsert => Guarantee::Idempotent,
        }
    }

    fn update_before_use(&self) -> UpdateBeforeUse {
        match self.config.change_kind_column {
            None => UpdateBeforeUse::ByKey(self.config.key.clone()),
            Some(_) => UpdateBeforeUse::All,
        }
    }

    fn writer(
        &self,
        context: SinkContext,
        _restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let layout = Layout::of(&self.config, &context.input)?;
        let layout =
            registered(&self.config, layout).map_err(|error| error.during(format!("sink `{}`", context.name)))?;
        let (config, options) = (Arc::clone(&self.config), self.options.clone());
        Ok(match self.config.delivery {
            Delivery::ExactlyOnce => {
                Box::new(writer::TransactionalWriter::open(config, options, layout, &context, Arc::clone(&self.pool))?)
            }
            Delivery::AtLeastOnce | Delivery::Upsert => {
                Box::new(writer::FlushingWriter::open(&config, options, layout, &context)?)
            }
        })
    }

    fn committer(&self, context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        if self.config.delivery != Delivery::ExactlyOnce {
            return Ok(None);
        }
        let (config, pool) = (Arc::clone(&self.config), Arc::clone(&self.pool));
        Ok(Some(Box::new(committer::KafkaCommitter::new(config, context, pool)?)))
    }

    fn probe(&self, context: &ProbeContext) -> Result<Probe, ConnectorError> {
        probe::probe(&self.config, context)
    }
}

/// With the number of its schema, where there is a registry.
fn registered(config: &KafkaSinkConfig, layout: Layout) -> Result<Layout, ConnectorError> {
    match (&config.registry, layout.avro_schema(config)?) {
        (Some(registry), Some(schema)) => {
            let number = RegistryClient::new(registry)?.register(&subject(&config.topic), &schema)?;
            layout.with_schema(schema, number)
        }
        _ => Ok(layout),
    }
}

/// As Confluent's serializers name it.
fn subject(topic: &str) -> String {
    format!("{topic}-value")
}
