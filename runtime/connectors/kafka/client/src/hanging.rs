//! A transaction that its coordinator takes for committed, and of which a partition never heard.
//!
//! The coordinator answers a commit once its decision is durable, and writes the markers into the partitions afterwards. A
//! broker that is killed in between writes them when it is back; one that does not know a partition's leader yet at that
//! moment leaves that partition out, and takes the transaction for complete (seen with Kafka 4.3.1). The records
//! stay invisible to whoever reads what is committed, and so does all that is written after them: KIP-664 calls such
//! transactions hanging. The decision was to commit, so the marker that is missing can be written by anybody who may.

use crate::cluster::{Cluster, retry, topic_name};
use crate::error::{KafkaError, Result, check};
use crate::transactions::{PartitionRange, Transaction, TransactionVersion};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, ProducerId, WriteTxnMarkersRequest,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long markers are waited for that the coordinator says are written: partitions lag behind it a little.
const GRACE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// Of a transaction that the coordinator has yet to tell its partitions.
const PREPARED: &str = "PrepareCommit";

/// What is known of a commit once it is asked about.
#[derive(Debug)]
pub enum Confirmed {
    Visible,
    /// So many partitions had not heard of it, and were told.
    Mended {
        partitions: usize,
    },
    /// Nobody may ask, or can.
    Unknown(KafkaError),
}

/// A partition in which a transaction is open.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Open<'a> {
    range: &'a PartitionRange,
    coordinator_epoch: i32,
}

impl Cluster {
    /// Makes sure that all partitions know of a commit that the coordinator has acknowledged.
    ///
    /// # Errors
    /// The coordinator still writes the markers when `patience` is over; or one is missing and we may not write it.
    pub fn confirm_committed(&mut self, transaction: &Transaction, patience: Duration) -> Result<Confirmed> {
        let started = Instant::now();
        let mut complete_since = None;
        loop {
            let open = match self.open_in(transaction, patience) {
                Ok(open) if open.is_empty() => return Ok(Confirmed::Visible),
                Ok(open) => open,
                Err(error) if error.is_retriable() => return Err(error),
                // Older than Kafka 2.8, or we may write to the topic and not read it.
                Err(error) => return Ok(Confirmed::Unknown(error)),
            };
            let known = self.describe_transaction(&transaction.transactional_id, patience)?;
            let is_prepared = known.is_some_and(|(state, identity)| {
                state == PREPARED && identity.producer_id == transaction.identity.producer_id
            });
            if is_prepared {
                complete_since = None;
                if started.elapsed() > patience {
                    let what =
                        format!("the partitions of `{}` do not hear of its commit", transaction.transactional_id);
                    return Err(KafkaError::Connection(what));
                }
            } else if complete_since.get_or_insert_with(Instant::now).elapsed() > GRACE {
                for open in &open {
                    retry(patience, || self.write_marker(transaction, open))?;
                }
                return Ok(Confirmed::Mended { partitions: open.len() });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The partitions in which it has begun and not ended.
    fn open_in<'a>(&mut self, transaction: &'a Transaction, patience: Duration) -> Result<Vec<Open<'a>>> {
        retry(patience, || self.open_now(transaction))
    }

    /// With one question to each leader.
    fn open_now<'a>(&mut self, transaction: &'a Transaction) -> Result<Vec<Open<'a>>> {
        let mut of_leaders: BTreeMap<i32, Vec<&PartitionRange>> = BTreeMap::new();
        for range in &transaction.ranges {
            of_leaders.entry(self.leader(&range.topic, range.partition)?).or_default().push(range);
        }
        let mut open = vec![];
        for (leader, ranges) in of_leaders {
            let mut partitions: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for range in &ranges {
                partitions.entry(&range.topic).or_default().push(range.partition);
            }
            let asked = partitions.into_iter().map(|(topic, partitions)| {
                TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(partitions)
            });
            let request = DescribeProducersRequest::default().with_topics(asked.collect());
            let answer = self.call(leader, 0, &request)?;
            for range in ranges {
                let epoch = coordinator_epoch(&answer, range, transaction.identity.producer_id);
                let epoch = epoch.inspect_err(|_| self.forget_leaders())?;
                open.extend(epoch.map(|coordinator_epoch| Open { range, coordinator_epoch }));
            }
        }
        Ok(open)
    }

    fn write_marker(&mut self, transaction: &Transaction, open: &Open<'_>) -> Result<()> {
        let PartitionRange { topic, partition, .. } = open.range;
        let leader = self.leader(topic, *partition)?;
        let identity = transaction.identity;
        // In version 2 the end of a transaction bears the epoch after the one that it was written with.
        let epoch = match transaction.version {
            TransactionVersion::V1 => identity.epoch,
            TransactionVersion::V2 => identity.epoch.saturating_add(1),
        };
        let place =
            WritableTxnMarkerTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![*partition]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(identity.producer_id))
            .with_producer_epoch(epoch)
            .with_transaction_result(true)
            .with_coordinator_epoch(open.coordinator_epoch.max(0))
            .with_topics(vec![place]);
        let answer = self.call(leader, 1, &WriteTxnMarkersRequest::default().with_markers(vec![marker]))?;
        let results = answer.markers.into_iter().flat_map(|marker| marker.topics).flat_map(|topic| topic.partitions);
        let code = results.map(|result| result.error_code).next().unwrap_or(0);
        check(code, || {
            format!("writing the commit of `{}` into {topic}, partition {partition}", transaction.transactional_id)
        })
        .inspect_err(|_| self.forget_leaders())
    }
}

/// The epoch of the coordinator that last ended a transaction of this producer there, if the one at `range` is open.
fn coordinator_epoch(
    answer: &DescribeProducersResponse,
    range: &PartitionRange,
    producer_id: i64,
) -> Result<Option<i32>> {
    let PartitionRange { topic, partition, first_offset, last_offset } = range;
    let what = || format!("the producers of {topic}, partition {partition}");
    let of_topic = answer.topics.iter().filter(|answered| answered.name.0.as_str() == topic);
    let mut partitions = of_topic.flat_map(|answered| &answered.partitions);
    let answered = partitions.find(|answered| answered.partition_index == *partition);
    let answered = answered.ok_or_else(|| KafkaError::Connection(format!("no answer for {}", what())))?;
    check(answered.error_code, what)?;
    let own = answered.active_producers.iter().find(|producer| {
        producer.producer_id.0 == producer_id
            && (*first_offset..=*last_offset).contains(&producer.current_txn_start_offset)
    });
    Ok(own.map(|producer| producer.coordinator_epoch))
}
