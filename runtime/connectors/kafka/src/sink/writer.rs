//! The first phase: rows into messages, messages to brokers.

use super::committer::WriterState;
use super::layout::{Layout, Messages};
use super::pool::Pool;
use super::{KafkaSinkConfig, committable, ids};
use crate::failure::connector_error;
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_connectors::api::{ConnectorError, SinkContext, SinkSnapshot, SinkWriter};
use weir_kafka_client::{Producer, ProducerOptions, partition_of_key};
use weir_model::CheckpointId;

/// Transactions of one subtask that wait for their commits. So many only come together while no checkpoint completes.
const MAX_PENDING: usize = 32;
/// For the abort of what an ending attempt leaves; the next one does it where this fails.
const ABORT_PATIENCE: Duration = Duration::from_secs(1);

/// Writes rows by one producer.
struct Rows {
    layout: Layout,
    messages: Messages,
    /// Rows without a key go to one partition after the other, a batch each.
    next_partition: i32,
}

impl Rows {
    fn new(layout: Layout, subtask: u32) -> Self {
        Rows { layout, messages: Messages::default(), next_partition: subtask as i32 & 0xffff }
    }

    fn write(&mut self, batch: &RecordBatch, producer: &mut Producer, step: &str) -> Result<(), ConnectorError> {
        self.layout.encode(batch, &mut self.messages)?;
        let partitions = producer.partitions();
        self.next_partition = (self.next_partition + 1) % partitions;
        let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        for message in 0..self.messages.len() {
            let key = self.messages.key(message);
            let partition = key.map_or(self.next_partition, |key| partition_of_key(key, partitions));
            let pushed = producer.push(partition, timestamp_ms, key, self.messages.value(message));
            pushed.map_err(|error| failed(step, &error))?;
        }
        Ok(())
    }
}

fn failed(step: &str, error: &weir_kafka_client::KafkaError) -> ConnectorError {
    connector_error(&format!("sink `{step}`"), error)
}

/// At least once, and upserts: what a checkpoint covers is acknowledged.
pub(super) struct FlushingWriter {
    step: String,
    rows: Rows,
    producer: Producer,
}

impl FlushingWriter {
    pub(super) fn open(
        config: &KafkaSinkConfig,
        options: ProducerOptions,
        layout: Layout,
        context: &SinkContext,
    ) -> Result<Self, ConnectorError> {
        let producer = Producer::idempotent(config.cluster.client()?, options, &config.topic);
        let producer = producer.map_err(|error| failed(&context.name, &error))?;
        Ok(FlushingWriter { step: context.name.clone(), rows: Rows::new(layout, context.subtask), producer })
    }
}

impl SinkWriter for FlushingWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.rows.write(batch, &mut self.producer, &self.step)?;
        // Not later: nobody knows when the next rows come.
        self.producer.send_all().map_err(|error| failed(&self.step, &error))
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        self.producer.flush().map_err(|error| failed(&self.step, &error))?;
        Ok(SinkSnapshot::default())
    }
}

/// Exactly once: what a checkpoint covers is in a transaction that is complete but for its end.
pub(super) struct TransactionalWriter {
    config: Arc<KafkaSinkConfig>,
    options: ProducerOptions,
    step: String,
    rows: Rows,
    pool: Arc<Pool>,
    prefix: String,
    ids: String,
    /// How many ids have been used.
    used: u32,
    /// With the transaction that is open.
    current: Option<Producer>,
    /// By transactional id: those whose transaction waits for its commit.
    pending: BTreeMap<String, Producer>,
}

impl TransactionalWriter {
    /// Takes its first transactional id at once: what can't be written to is found out before a record comes.
    pub(super) fn open(
        config: Arc<KafkaSinkConfig>,
        options: ProducerOptions,
        layout: Layout,
        context: &SinkContext,
        pool: Arc<Pool>,
    ) -> Result<Self, ConnectorError> {
        let prefix = ids::prefix(config.transactional_id_prefix.as_deref(), &context.job_uid, &context.name);
        let ids = ids::of_subtask(&prefix, context.epoch, context.attempt_number, context.subtask);
        pool.clear(&ids);
        let mut writer = TransactionalWriter {
            config,
            options,
            step: context.name.clone(),
            rows: Rows::new(layout, context.subtask),
            pool,
            prefix,
            ids,
            used: 0,
            current: None,
            pending: BTreeMap::new(),
        };
        writer.current = Some(writer.next_producer()?);
        Ok(writer)
    }

    /// A producer whose id has no transaction that waits.
    fn next_producer(&mut self) -> Result<Producer, ConnectorError> {
        let timeout = self.config.transaction_timeout;
        let free = self.pending.keys().find_map(|id| self.pool.take(id).map(|identity| (id.clone(), identity)));
        if let Some((id, ended_as)) = free
            && let Some(mut producer) = self.pending.remove(&id)
        {
            producer.begin(ended_as, timeout).map_err(|error| failed(&self.step, &error))?;
            return Ok(producer);
        }
        if self.pending.len() >= MAX_PENDING {
            return Err(ConnectorError::Transient(format!(
                "sink `{}`: {MAX_PENDING} transactions wait for their commits; no checkpoint completes",
                self.step
            )));
        }
        let id = format!("{}{}", self.ids, self.used);
        self.used += 1;
        let client = self.config.cluster.client()?;
        Producer::transactional(client, self.options.clone(), &self.config.topic, &id, timeout)
            .map_err(|error| failed(&self.step, &error))
    }
}

impl SinkWriter for TransactionalWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let mut producer = match self.current.take() {
            Some(producer) => producer,
            None => self.next_producer()?,
        };
        let written = self.rows.write(batch, &mut producer, &self.step);
        self.current = Some(producer);
        written
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        let state = WriterState { transactional_id_prefix: self.prefix.clone() };
        let mut snapshot =
            SinkSnapshot { committables: vec![], writer: Some(serde_json::to_value(state).expect("text")) };
        let Some(mut producer) = self.current.take() else { return Ok(snapshot) };
        // Without anything written there is no transaction on the broker, and none may be ended.
        match producer.take_transaction().map_err(|error| failed(&self.step, &error))? {
            None => self.current = Some(producer),
            Some(transaction) => {
                snapshot.committables.push(committable::store(&transaction));
                self.pending.insert(transaction.transactional_id, producer);
            }
        }
        Ok(snapshot)
    }

    fn abort(&mut self) {
        if let Some(mut producer) = self.current.take()
            && let Err(error) = producer.abort(ABORT_PATIENCE)
        {
            tracing::debug!(sink = self.step, %error, "a transaction is left for the next attempt to abort");
        }
    }
}
