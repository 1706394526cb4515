//! Writing to a topic: batches in order, each exactly once within a producer's life.

use crate::cluster::{Cluster, retry, topic_name};
use crate::error::{KafkaError, Result};
use crate::options::ProducerOptions;
use crate::records::{BatchBuilder, Stamp};
use crate::transactions::{PartitionRange, ProducerIdentity, Transaction, TransactionVersion};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::{ProduceResponse, TransactionalId};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Requests to one broker that wait for their responses. Brokers remember the last five batches of a producer in a
/// partition: one that is sent again among them is not written twice.
const MAX_IN_FLIGHT: usize = 5;
/// How long a broker may wait for its followers.
const ACKNOWLEDGE_TIMEOUT_MS: i32 = 30_000;

/// Writes to one topic, within transactions or without.
pub struct Producer {
    cluster: Cluster,
    options: ProducerOptions,
    topic: String,
    identity: ProducerIdentity,
    transaction: Option<InTransaction>,
    partitions: Vec<PartitionState>,
    /// By broker, the oldest first.
    in_flight: BTreeMap<i32, VecDeque<Vec<Batch>>>,
    acknowledged: Acknowledged,
}

struct InTransaction {
    id: String,
    version: TransactionVersion,
}

#[derive(Default)]
struct PartitionState {
    builder: BatchBuilder,
    next_sequence: i32,
    /// Whether the broker has taken a batch of this producer and epoch.
    is_known: bool,
    /// Of the transaction that is open.
    is_added: bool,
    range: Option<(i64, i64)>,
}

/// A batch as it is sent, kept until it is acknowledged.
struct Batch {
    partition: usize,
    base_sequence: i32,
    bytes: Bytes,
    count: i32,
}

/// What brokers have taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    pub records: u64,
    pub bytes: u64,
}

impl Producer {
    /// Without transactions: what is acknowledged can be read.
    pub fn idempotent(mut cluster: Cluster, options: ProducerOptions, topic: &str) -> Result<Self> {
        let identity = cluster.init_producer(None, Duration::from_secs(60), options.delivery_timeout)?;
        Self::new(cluster, options, topic, identity, None)
    }

    /// Ends whatever this transactional id had open, and shuts out whoever wrote with it.
    pub fn transactional(
        mut cluster: Cluster,
        options: ProducerOptions,
        topic: &str,
        transactional_id: &str,
        transaction_timeout: Duration,
    ) -> Result<Self> {
        let identity = cluster.init_producer(Some(transactional_id), transaction_timeout, options.delivery_timeout)?;
        let version = cluster.version_of_transactions()?;
        let transaction = InTransaction { id: transactional_id.to_owned(), version };
        Self::new(cluster, options, topic, identity, Some(transaction))
    }

    fn new(
        mut cluster: Cluster,
        options: ProducerOptions,
        topic: &str,
        identity: ProducerIdentity,
        transaction: Option<InTransaction>,
    ) -> Result<Self> {
        let found = cluster.existing_topic(topic, options.delivery_timeout)?;
        let partitions = found.partitions.iter().map(|_| PartitionState::default()).collect();
        let (in_flight, acknowledged) = (BTreeMap::new(), Acknowledged::default());
        let topic = topic.to_owned();
        Ok(Producer { cluster, options, topic, identity, transaction, partitions, in_flight, acknowledged })
    }

    /// How many partitions the topic had when this producer was made. Later ones are not written to.
    pub fn partitions(&self) -> i32 {
        self.partitions.len() as i32
    }

    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged
    }

    pub fn identity(&self) -> ProducerIdentity {
        self.identity
    }

    /// Whether something was written that `take_transaction` has not taken.
    pub fn has_written(&self) -> bool {
        self.partitions.iter().any(|state| state.builder.count() > 0 || state.next_sequence > 0 || state.is_added)
    }

    /// Takes a record; sends the partition's batch once that is full.
    pub fn push(&mut self, partition: i32, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<()> {
        let builder = &mut self.partitions[partition as usize].builder;
        builder.push(timestamp_ms, key, value);
        if builder.bytes() < self.options.batch_size_bytes {
            return Ok(());
        }
        self.send(&[partition as usize])
    }

    /// Sends what waits, without waiting for acknowledgements.
    pub fn send_all(&mut self) -> Result<()> {
        let waiting: Vec<usize> =
            (0..self.partitions.len()).filter(|at| self.partitions[*at].builder.count() > 0).collect();
        if waiting.is_empty() { Ok(()) } else { self.send(&waiting) }
    }

    /// Sends what waits, and waits until all that was sent is acknowledged.
    pub fn flush(&mut self) -> Result<()> {
        self.send_all()?;
        while let Some(broker) = self.waiting_broker() {
            self.receive(broker)?;
        }
        Ok(())
    }

    /// The transaction that is open, flushed. None: nothing was written in it. The producer must get an identity by
    /// `begin` before it writes again.
    ///
    /// # Panics
    /// Without a transactional id.
    pub fn take_transaction(&mut self) -> Result<Option<Transaction>> {
        self.flush()?;
        let InTransaction { id, version } = self.transaction.as_ref().expect("a transactional producer");
        let ranges: Vec<PartitionRange> = (self.partitions.iter().enumerate())
            .filter_map(|(partition, state)| {
                let (first_offset, last_offset) = state.range?;
                Some(PartitionRange {
                    topic: self.topic.clone(),
                    partition: partition as i32,
                    first_offset,
                    last_offset,
                })
            })
            .collect();
        if ranges.is_empty() {
            return Ok(None);
        }
        let transaction =
            Transaction { transactional_id: id.clone(), identity: self.identity, version: *version, ranges };
        Ok(Some(transaction))
    }

    /// The next transaction, as whom it is written. In version 1 that is the next epoch too, which is asked for: a commit of
    /// the one before, repeated, must not commit this one.
    ///
    /// # Panics
    /// Without a transactional id, or while something waits for an acknowledgement.
    pub fn begin(&mut self, ended_as: ProducerIdentity, transaction_timeout: Duration) -> Result<()> {
        assert!(self.waiting_broker().is_none(), "the transaction before was flushed");
        let InTransaction { id, version } = self.transaction.as_ref().expect("a transactional producer");
        self.identity = match version {
            TransactionVersion::V2 => ended_as,
            TransactionVersion::V1 => {
                self.cluster.init_producer(Some(id), transaction_timeout, self.options.delivery_timeout)?
            }
        };
        self.partitions.iter_mut().for_each(|state| *state = PartitionState::default());
        Ok(())
    }

    /// Aborts the transaction that is open, if there is one; what waits is dropped.
    pub fn abort(&mut self, patience: Duration) -> Result<()> {
        let Some(InTransaction { id, version }) = &self.transaction else { return Ok(()) };
        if !self.has_written() {
            return Ok(());
        }
        self.cluster.disconnect_all();
        self.in_flight.clear();
        let transaction =
            Transaction { transactional_id: id.clone(), identity: self.identity, version: *version, ranges: vec![] };
        self.cluster.end_transaction(&transaction, false, patience).map(|_| ())
    }

    fn waiting_broker(&self) -> Option<i32> {
        self.in_flight.iter().find(|(_, requests)| !requests.is_empty()).map(|(broker, _)| *broker)
    }

    fn send(&mut self, partitions: &[usize]) -> Result<()> {
        self.add_to_transaction(partitions)?;
        self.await_first_batches(partitions)?;
        let mut of_leaders: BTreeMap<i32, Vec<Batch>> = BTreeMap::new();
        let mut homeless = vec![];
        for partition in partitions {
            let batch = self.seal(*partition)?;
            match self.cluster.leader(&self.topic, *partition as i32) {
                Ok(leader) => of_leaders.entry(leader).or_default().push(batch),
                Err(error) if error.is_retriable() => homeless.push(batch),
                Err(error) => return Err(error),
            }
        }
        for (leader, batches) in of_leaders {
            while self.in_flight.get(&leader).is_some_and(|requests| requests.len() >= MAX_IN_FLIGHT) {
                self.receive(leader)?;
            }
            let request = self.request(&batches);
            let newest = self.newest_produce();
            let sent = self.cluster.connection(leader).and_then(|connection| {
                let version = connection.version_up_to::<ProduceRequest>(newest)?;
                connection.send(&request, version)
            });
            self.in_flight.entry(leader).or_default().push_back(batches);
            match sent {
                Ok(()) => {}
                Err(error) if error.is_retriable() => self.deliver_one_by_one(vec![], &error)?,
                Err(error) => return Err(error),
            }
        }
        if homeless.is_empty() {
            return Ok(());
        }
        let error = KafkaError::broker(ResponseError::LeaderNotAvailable, format!("topic `{}`", self.topic));
        self.deliver_one_by_one(homeless, &error)
    }

    fn seal(&mut self, partition: usize) -> Result<Batch> {
        let state = &mut self.partitions[partition];
        let sealed = state.builder.seal(self.options.compression, self.transaction.is_some())?;
        let count = sealed.count;
        let stamp = Stamp {
            producer_id: self.identity.producer_id,
            producer_epoch: self.identity.epoch,
            base_sequence: state.next_sequence,
        };
        let base_sequence = state.next_sequence;
        // After the largest number comes 0.
        state.next_sequence = ((i64::from(base_sequence) + i64::from(count)) & i64::from(i32::MAX)) as i32;
        Ok(Batch { partition, base_sequence, bytes: Bytes::from(sealed.stamped(stamp)), count })
    }

    /// A broker that knows nothing of a producer takes whatever number its first batch has: were a second batch on the way
    /// while the first is refused, as where a new topic's leader is not ready, the first could not follow any more.
    fn await_first_batches(&mut self, partitions: &[usize]) -> Result<()> {
        for partition in partitions {
            while !self.partitions[*partition].is_known && self.partitions[*partition].next_sequence > 0 {
                let Some(broker) = self.waiting_broker() else { break };
                self.receive(broker)?;
            }
        }
        Ok(())
    }

    fn add_to_transaction(&mut self, partitions: &[usize]) -> Result<()> {
        let Some(InTransaction { id, version }) = &self.transaction else { return Ok(()) };
        let new: Vec<usize> = partitions.iter().copied().filter(|at| !self.partitions[*at].is_added).collect();
        if new.is_empty() {
            return Ok(());
        }
        if *version == TransactionVersion::V1 {
            let numbers: Vec<i32> = new.iter().map(|partition| *partition as i32).collect();
            let patience = self.options.delivery_timeout;
            self.cluster.add_partitions(id, self.identity, &self.topic, &numbers, patience)?;
        }
        new.into_iter().for_each(|partition| self.partitions[partition].is_added = true);
        Ok(())
    }

    fn newest_produce(&self) -> i16 {
        match self.transaction.as_ref().map(|transaction| transaction.version) {
            Some(TransactionVersion::V2) => 12,
            // From version 12 on a broker takes partitions into the transaction by itself.
            Some(TransactionVersion::V1) | None => 11,
        }
    }

    fn request(&self, batches: &[Batch]) -> ProduceRequest {
        let data = batches.iter().map(|batch| {
            PartitionProduceData::default().with_index(batch.partition as i32).with_records(Some(batch.bytes.clone()))
        });
        let topic = TopicProduceData::default().with_name(topic_name(&self.topic)).with_partition_data(data.collect());
        let id = self.transaction.as_ref().map(|transaction| transaction.id.clone());
        ProduceRequest::default()
            .with_transactional_id(id.map(|id| TransactionalId(StrBytes::from_string(id))))
            .with_acks(-1)
            .with_timeout_ms(ACKNOWLEDGE_TIMEOUT_MS)
            .with_topic_data(vec![topic])
    }

    /// Takes the response to the oldest request of a broker.
    fn receive(&mut self, broker: i32) -> Result<()> {
        let answer = self.cluster.connection(broker).and_then(|connection| connection.receive::<ProduceRequest>());
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_retriable() => return self.deliver_one_by_one(vec![], &error),
            Err(error) => return Err(error),
        };
        let requests = self.in_flight.get_mut(&broker).expect("a request was sent");
        let batches = requests.pop_front().expect("a request was sent");
        let mut failed = vec![];
        let mut reason = None;
        for batch in batches {
            match self.taken(&answer, &batch) {
                Ok(()) => {}
                Err(error) if error.is_retriable() || error.code() == Some(ResponseError::OutOfOrderSequenceNumber) => {
                    failed.push(batch);
                    reason = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match reason {
            None => Ok(()),
            Some(error) => self.deliver_one_by_one(failed, &error),
        }
    }

    /// Notes a batch that the broker has taken.
    fn taken(&mut self, answer: &ProduceResponse, batch: &Batch) -> Result<()> {
        let results = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
        let what = format!("writing to {}, partition {}", self.topic, batch.partition);
        let result = results.into_iter().find(|result| result.index == batch.partition as i32);
        let result = result.ok_or_else(|| KafkaError::Connection(format!("no answer for {what}")))?;
        match ResponseError::try_from_code(result.error_code) {
            // Also for a batch that was taken before, whose first answer was lost.
            None => {}
            Some(code) => {
                let reason = result.error_message.as_ref().map(|reason| format!(" ({})", reason.as_str()));
                return Err(KafkaError::broker(code, what + &reason.unwrap_or_default()));
            }
        }
        let state = &mut self.partitions[batch.partition];
        state.is_known = true;
        if result.base_offset >= 0 {
            let last = result.base_offset + i64::from(batch.count) - 1;
            let (first, so_far) = state.range.unwrap_or((result.base_offset, last));
            state.range = Some((first.min(result.base_offset), so_far.max(last)));
        }
        self.acknowledged.records += batch.count as u64;
        self.acknowledged.bytes += batch.bytes.len() as u64;
        Ok(())
    }

    /// Something was lost on the way: closes all connections, and delivers what isn't acknowledged in its order, one batch
    /// at a time. A broker passes over what it had taken.
    fn deliver_one_by_one(&mut self, first: Vec<Batch>, reason: &KafkaError) -> Result<()> {
        tracing::warn!(topic = self.topic, %reason, "delivering again what is not acknowledged");
        self.cluster.disconnect_all();
        self.cluster.forget_leaders();
        let in_flight = std::mem::take(&mut self.in_flight);
        let mut batches: Vec<Batch> = first.into_iter().chain(in_flight.into_values().flatten().flatten()).collect();
        // A partition whose leader has changed has batches on the way to both.
        batches.sort_by_key(|batch| (batch.partition, batch.base_sequence));
        for batch in batches {
            let request = self.request(std::slice::from_ref(&batch));
            let newest = self.newest_produce();
            retry(self.options.delivery_timeout, || {
                let leader = self.cluster.leader(&self.topic, batch.partition as i32)?;
                let answer = self.cluster.call(leader, newest, &request)?;
                let taken = self.taken(&answer, &batch);
                if taken.is_err() {
                    self.cluster.forget_leaders();
                }
                taken
            })?;
        }
        Ok(())
    }
}
