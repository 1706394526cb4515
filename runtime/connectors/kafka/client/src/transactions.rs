//! Transactions as values: begun by one process, and ended by it or by another.
//!
//! Two protocols are spoken. In version 1 partitions are added before they are written to, and a producer keeps its epoch from
//! transaction to transaction. In version 2 (KIP-890, Kafka 4) a partition is added by being written to, and each end of a
//! transaction gives the producer a new epoch.

use crate::cluster::{Cluster, CoordinatorKind, retry, topic_name};
use crate::consumer::{FetchPosition, Isolation};
use crate::error::{KafkaError, Result, check};
use crate::options::ConsumerOptions;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest, InitProducerIdRequest,
    ListTransactionsRequest, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use std::time::Duration;

/// Who writes: what brokers tell one producer, and one life of it, from others by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdentity {
    pub producer_id: i64,
    pub epoch: i16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionVersion {
    V1,
    V2,
}

/// A transaction that may be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub transactional_id: String,
    pub identity: ProducerIdentity,
    /// The protocol that it was written by.
    pub version: TransactionVersion,
    /// What was written, one range for each partition.
    pub ranges: Vec<PartitionRange>,
}

/// From the first to the last record's offset; others' records may lie between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRange {
    pub topic: String,
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
}

/// What became of a transaction, by what its partitions' logs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Aborted,
    /// Not ended yet.
    Open,
    /// The records are no longer there: retention has removed them.
    Removed,
}

/// A transactional id that a coordinator knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub transactional_id: String,
    pub producer_id: i64,
    /// As brokers name it.
    pub state: String,
}

/// The state of an id whose transaction is open.
const OPEN: &str = "Ongoing";

impl Listed {
    pub fn is_open(&self) -> bool {
        self.state == OPEN
    }
}

/// The version of ListTransactions that takes a pattern of ids.
const PATTERNS_SINCE: i16 = 2;
/// What `Outcome` is read by: one batch is enough to tell.
const PROBE_BYTES: i32 = 1 << 10;

impl Cluster {
    /// The protocol that transactions of this cluster are written by.
    pub fn version_of_transactions(&mut self) -> Result<TransactionVersion> {
        let level = self.transaction_version()?;
        Ok(if level >= 2 { TransactionVersion::V2 } else { TransactionVersion::V1 })
    }

    /// A producer's identity. With a transactional id: the next epoch of it, which shuts out whoever had an earlier one and
    /// aborts the transaction that it had open.
    pub fn init_producer(
        &mut self,
        transactional_id: Option<&str>,
        timeout: Duration,
        patience: Duration,
    ) -> Result<ProducerIdentity> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(transactional_id.map(transactional))
            .with_transaction_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let read = |answer: kafka_protocol::messages::InitProducerIdResponse| {
            check(answer.error_code, || match transactional_id {
                Some(id) => format!("a producer for the transactional id `{id}`"),
                None => "a producer".into(),
            })?;
            Ok(ProducerIdentity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
        };
        retry(patience, || match transactional_id {
            Some(id) => self.call_coordinator((CoordinatorKind::Transaction, id), 5, &request, read),
            None => {
                let brokers = self.brokers()?;
                let broker = *brokers.first().ok_or_else(|| KafkaError::Connection("there is no broker".into()))?;
                self.call(broker, 5, &request).and_then(read)
            }
        })
    }

    /// Adds partitions to an open transaction, or opens it. Of version 1 only.
    pub(crate) fn add_partitions(
        &mut self,
        transactional_id: &str,
        identity: ProducerIdentity,
        topic: &str,
        partitions: &[i32],
        patience: Duration,
    ) -> Result<()> {
        let topics =
            AddPartitionsToTxnTopic::default().with_name(topic_name(topic)).with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional(transactional_id))
            .with_v3_and_below_producer_id(ProducerId(identity.producer_id))
            .with_v3_and_below_producer_epoch(identity.epoch)
            .with_v3_and_below_topics(vec![topics]);
        retry(patience, || {
            self.call_coordinator((CoordinatorKind::Transaction, transactional_id), 3, &request, |answer| {
                let mut codes = (answer.results_by_topic_v3_and_below.iter())
                    .flat_map(|topic| topic.results_by_partition.iter().map(|result| result.partition_error_code));
                // Those that are refused because of another say so by this code: the other one is the reason.
                let not_attempted = ResponseError::OperationNotAttempted.code();
                let code = codes.clone().find(|code| *code != 0 && *code != not_attempted);
                check(code.or_else(|| codes.find(|code| *code != 0)).unwrap_or(0), || {
                    format!("adding {topic} to the transaction of `{transactional_id}`")
                })
            })
        })
    }

    /// Ends a transaction in which something was written. Again for one that has ended so already is no error, as long as
    /// its id was not used since. Returns who the producer is from now on.
    pub fn end_transaction(
        &mut self,
        transaction: &Transaction,
        commit: bool,
        patience: Duration,
    ) -> Result<ProducerIdentity> {
        let Transaction { transactional_id: id, identity, version, .. } = transaction;
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional(id))
            .with_producer_id(ProducerId(identity.producer_id))
            .with_producer_epoch(identity.epoch)
            .with_committed(commit);
        let newest = match version {
            TransactionVersion::V1 => 4,
            TransactionVersion::V2 => 5,
        };
        retry(patience, || {
            self.call_coordinator((CoordinatorKind::Transaction, id), newest, &request, |answer| {
                let verb = if commit { "committing" } else { "aborting" };
                check(answer.error_code, || {
                    format!("{verb} `{id}` (producer {}, epoch {})", identity.producer_id, identity.epoch)
                })?;
                Ok(match version {
                    TransactionVersion::V2 if answer.producer_id.0 >= 0 => {
                        ProducerIdentity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch }
                    }
                    TransactionVersion::V1 | TransactionVersion::V2 => *identity,
                })
            })
        })
    }

    /// The open transactions whose ids begin so, on all coordinators; those of a broker that starts are waited for.
    pub fn open_transactions(&mut self, prefix: &str, patience: Duration) -> Result<Vec<Listed>> {
        self.await_coordinators(prefix, patience)?;
        self.transactions(prefix, &[OPEN], patience)
    }

    /// All ids that begin so and that coordinators know, whatever became of their last transactions.
    pub fn known_transactions(&mut self, prefix: &str, patience: Duration) -> Result<Vec<Listed>> {
        self.await_coordinators(prefix, patience)?;
        self.transactions(prefix, &[], patience)
    }

    /// Those whose end is decided, and that readers don't see as ended yet.
    pub fn ending_transactions(&mut self, prefix: &str, patience: Duration) -> Result<Vec<Listed>> {
        self.transactions(prefix, &["PrepareCommit", "PrepareAbort"], patience)
    }

    /// In one of these states; in any if there is none.
    fn transactions(&mut self, prefix: &str, states: &[&'static str], patience: Duration) -> Result<Vec<Listed>> {
        let request = ListTransactionsRequest::default()
            .with_state_filters(states.iter().map(|state| StrBytes::from_static_str(state)).collect())
            .with_duration_filter(-1);
        let pattern = StrBytes::from_string(regex::escape(prefix) + ".*");
        let brokers = retry(patience, || self.brokers())?;
        let mut found = vec![];
        for broker in brokers {
            let answer = retry(patience, || {
                // Before Kafka 4.1 a broker lists those of everybody.
                let version = self.version_up_to::<ListTransactionsRequest>(broker, PATTERNS_SINCE)?;
                let pattern = Some(pattern.clone()).filter(|_| version >= PATTERNS_SINCE);
                let request = request.clone().with_transactional_id_pattern(pattern);
                let answer = self.call(broker, version, &request)?;
                check(answer.error_code, || format!("the transactions that broker {broker} coordinates"))?;
                Ok(answer)
            })?;
            let ours =
                answer.transaction_states.into_iter().filter(|listed| listed.transactional_id.0.starts_with(prefix));
            found.extend(ours.map(|listed| Listed {
                transactional_id: listed.transactional_id.0.as_str().to_owned(),
                producer_id: listed.producer_id.0,
                state: listed.transaction_state.as_str().to_owned(),
            }));
        }
        found.sort_by(|a, b| a.transactional_id.cmp(&b.transactional_id));
        found.dedup();
        Ok(found)
    }

    /// The state's name, and who the producer is, of a transactional id. None: the cluster doesn't know it.
    pub fn describe_transaction(&mut self, id: &str, patience: Duration) -> Result<Option<(String, ProducerIdentity)>> {
        let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional(id)]);
        retry(patience, || {
            self.call_coordinator((CoordinatorKind::Transaction, id), 0, &request, |answer| {
                let Some(state) = answer.transaction_states.into_iter().next() else { return Ok(None) };
                if ResponseError::try_from_code(state.error_code) == Some(ResponseError::TransactionalIdNotFound) {
                    return Ok(None);
                }
                check(state.error_code, || format!("the state of the transactional id `{id}`"))?;
                let identity = ProducerIdentity { producer_id: state.producer_id.0, epoch: state.producer_epoch };
                Ok(Some((state.transaction_state.as_str().to_owned(), identity)))
            })
        })
    }

    /// What became of a transaction whose coordinator can't say it any more, by its partitions' logs.
    pub fn outcome(&mut self, transaction: &Transaction, patience: Duration) -> Result<Outcome> {
        let mut outcome = Outcome::Removed;
        for range in &transaction.ranges {
            let producer_id = transaction.identity.producer_id;
            match retry(patience, || self.outcome_in(range, producer_id))? {
                Outcome::Removed => {}
                found @ (Outcome::Aborted | Outcome::Open) => return Ok(found),
                Outcome::Committed => outcome = Outcome::Committed,
            }
        }
        Ok(outcome)
    }

    fn outcome_in(&mut self, range: &PartitionRange, producer_id: i64) -> Result<Outcome> {
        let options = ConsumerOptions {
            isolation: Isolation::ReadCommitted,
            fetch_max_bytes: PROBE_BYTES,
            max_partition_fetch_bytes: PROBE_BYTES,
            fetch_max_wait: Duration::ZERO,
            fetch_min_bytes: 0,
            check_crcs: true,
        };
        let position = FetchPosition { topic: &range.topic, partition: range.partition, offset: range.first_offset };
        let mut fetched = self.fetch(&options, &[position])?;
        let what = || format!("{}, partition {} at offset {}", range.topic, range.partition, range.first_offset);
        let fetched = fetched.pop().ok_or_else(|| KafkaError::Connection(format!("no answer for {}", what())))?;
        match fetched.error {
            Some(ResponseError::OffsetOutOfRange) => return Ok(Outcome::Removed),
            Some(code) => {
                self.forget_leaders();
                return Err(KafkaError::broker(code, what()));
            }
            None => {}
        }
        if fetched.log_start_offset > range.last_offset {
            return Ok(Outcome::Removed);
        }
        if fetched.last_stable_offset <= range.last_offset {
            return Ok(Outcome::Open);
        }
        let within = range.first_offset..=range.last_offset;
        let is_aborted = (fetched.aborted.iter())
            .any(|aborted| aborted.producer_id == producer_id && within.contains(&aborted.first_offset));
        Ok(if is_aborted { Outcome::Aborted } else { Outcome::Committed })
    }
}

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}
