//! A client for Apache Kafka, as far as sources and sinks that checkpoint need one.
//!
//! It blocks, and is driven by the thread that owns it. What sets it apart from the clients there are is that a transaction
//! is a value here: its identity (transactional id, producer id and epoch) can be written down, and ended by
//! another process. Messages are those of `kafka-protocol`; record batches are read and written here, without an
//! allocation for each record.

mod cluster;
mod compression;
mod connection;
mod consumer;
mod coordinators;
mod error;
mod hanging;
mod issuer;
mod options;
mod partitioner;
mod producer;
pub mod records;
mod sasl;
mod tls;
mod transactions;

pub use cluster::{Cluster, Partition, Topic, retry};
pub use compression::Compression;
pub use consumer::{FetchPosition, Fetched, Isolation, StartAt};
pub use error::{KafkaError, Result};
pub use hanging::Confirmed;
pub use kafka_protocol::ResponseError;
pub use options::{ConsumerOptions, Options, ProducerOptions, Sasl, Security, SettingError, TlsOptions, TokenOrigin};
pub use partitioner::partition_of_key;
pub use producer::{Acknowledged, Producer};
pub use transactions::{Listed, Outcome, PartitionRange, ProducerIdentity, Transaction, TransactionVersion};
