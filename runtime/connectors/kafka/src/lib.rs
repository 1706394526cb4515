//! Apache Kafka: a source whose partitions are splits, and a sink in two phases.
//!
//! A transaction of the sink is prepared by its writer and committed by whoever has the checkpoint that names it: see
//! `docs/adr/0016-kafka-transactions.md`.

mod failure;
mod registry;
mod settings;
mod sink;
mod source;

pub use registry::Registry;
pub use settings::KafkaCluster;
pub use sink::{Delivery, KafkaSink, KafkaSinkConfig};
pub use source::{KafkaSource, KafkaSourceConfig, Metadata, Start, Topics};
