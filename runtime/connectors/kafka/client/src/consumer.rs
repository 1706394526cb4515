//! Reading: offsets, fetches, and what a group has committed.

use crate::cluster::{Cluster, CoordinatorKind, retry, topic_name};
use crate::error::{KafkaError, Result, check};
use crate::options::ConsumerOptions;
use crate::records::Aborted;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, GroupId, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted = 0,
    ReadCommitted = 1,
}

/// An offset by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    Earliest,
    /// With `ReadCommitted`: behind the last record that is neither in an open transaction nor behind one.
    Latest,
    /// The first record of this time (milliseconds since 1970) or later; the latest if there is none.
    Timestamp(i64),
}

/// Where to read on in one partition.
#[derive(Clone, Copy, Debug)]
pub struct FetchPosition<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
}

/// What came from one partition.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub topic: String,
    pub partition: i32,
    /// The offset that was asked for.
    pub offset: i64,
    pub error: Option<ResponseError>,
    pub records: Bytes,
    pub aborted: Vec<Aborted>,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
}

/// What OffsetsForTimes calls them.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

impl Cluster {
    /// The offset of each partition, in the order given.
    pub fn offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        at: StartAt,
        isolation: Isolation,
        patience: Duration,
    ) -> Result<Vec<i64>> {
        partitions.iter().map(|partition| retry(patience, || self.offset(topic, *partition, at, isolation))).collect()
    }

    fn offset(&mut self, topic: &str, partition: i32, at: StartAt, isolation: Isolation) -> Result<i64> {
        let timestamp = match at {
            StartAt::Earliest => EARLIEST,
            StartAt::Latest => LATEST,
            StartAt::Timestamp(timestamp_ms) => timestamp_ms,
        };
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topics = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(isolation as i8)
            .with_topics(vec![topics]);
        let leader = self.leader(topic, partition)?;
        let answer = self.call(leader, 6, &request)?;
        let found = answer.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let what = || format!("the offsets of {topic}, partition {partition}");
        let found = found.ok_or_else(|| KafkaError::Connection(format!("no answer for {}", what())))?;
        if let Err(error) = check(found.error_code, what) {
            self.forget_leaders();
            return Err(error);
        }
        match (found.offset, at) {
            (-1, StartAt::Timestamp(_)) => self.offset(topic, partition, StartAt::Latest, isolation),
            (offset, _) => Ok(offset),
        }
    }

    /// Asks all leaders of these partitions at once for what follows the positions. Partitions whose leader is not known or
    /// not reachable now are left out, to be asked for again.
    pub fn fetch(&mut self, options: &ConsumerOptions, positions: &[FetchPosition<'_>]) -> Result<Vec<Fetched>> {
        let mut of_leaders: BTreeMap<i32, BTreeMap<&str, Vec<FetchPartition>>> = BTreeMap::new();
        let mut last_error = None;
        for position in positions {
            let leader = match self.leader(position.topic, position.partition) {
                Ok(leader) => leader,
                Err(error) => {
                    last_error = Some(error);
                    continue;
                }
            };
            let asked = FetchPartition::default()
                .with_partition(position.partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(position.offset)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(options.max_partition_fetch_bytes);
            of_leaders.entry(leader).or_default().entry(position.topic).or_default().push(asked);
        }
        let mut sent = vec![];
        for (leader, topics) in of_leaders {
            let topics = topics.into_iter().map(|(topic, partitions)| {
                FetchTopic::default().with_topic(topic_name(topic)).with_partitions(partitions)
            });
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(i32::try_from(options.fetch_max_wait.as_millis()).unwrap_or(i32::MAX))
                .with_min_bytes(options.fetch_min_bytes)
                .with_max_bytes(options.fetch_max_bytes)
                .with_isolation_level(options.isolation as i8)
                .with_session_epoch(-1)
                .with_topics(topics.collect());
            let done = self.connection(leader).and_then(|connection| {
                let version = connection.version_up_to::<FetchRequest>(12)?;
                connection.send(&request, version)
            });
            match done {
                Ok(()) => sent.push(leader),
                Err(error) => last_error = Some(self.lost(leader, error)?),
            }
        }
        let mut fetched = vec![];
        for leader in sent {
            match self.connection(leader).and_then(|connection| connection.receive::<FetchRequest>()) {
                Ok(answer) => {
                    check(answer.error_code, || "a fetch".into())?;
                    collect(answer, positions, &mut fetched);
                }
                Err(error) => last_error = Some(self.lost(leader, error)?),
            }
        }
        match last_error {
            Some(error) if fetched.is_empty() => Err(error),
            _ => Ok(fetched),
        }
    }

    /// Drops the connection of a leader that can't be reached; other errors are not of the connection.
    fn lost(&mut self, leader: i32, error: KafkaError) -> Result<KafkaError> {
        if !error.is_retriable() {
            return Err(error);
        }
        self.disconnect(leader);
        self.forget_leaders();
        Ok(error)
    }

    /// Tells a group's coordinator how far it has come. Nobody may be a member of the group meanwhile.
    pub fn commit_offsets(&mut self, group: &str, offsets: &[(String, i32, i64)], patience: Duration) -> Result<()> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (topic, partition, offset) in offsets {
            let committed = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1);
            topics.entry(topic).or_default().push(committed);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics.collect());
        retry(patience, || {
            self.call_coordinator((CoordinatorKind::Group, group), 8, &request, |answer| {
                let codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|found| found.error_code);
                check(codes.into_iter().find(|code| *code != 0).unwrap_or(0), || {
                    format!("committing offsets of the group `{group}`")
                })
            })
        })
    }

    /// What the group has committed for these partitions; None where nothing is.
    pub fn committed_offsets(
        &mut self,
        group: &str,
        topic: &str,
        partitions: &[i32],
        patience: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let asked =
            OffsetFetchRequestTopic::default().with_name(topic_name(topic)).with_partition_indexes(partitions.to_vec());
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_topics(Some(vec![asked]));
        let what = || format!("the committed offsets of the group `{group}`");
        let answer = retry(patience, || {
            self.call_coordinator((CoordinatorKind::Group, group), 7, &request, |answer| {
                check(answer.error_code, what)?;
                Ok(answer)
            })
        })?;
        let found: Vec<_> = answer.topics.into_iter().flat_map(|topic| topic.partitions).collect();
        let committed = partitions.iter().map(|partition| {
            let Some(found) = found.iter().find(|found| found.partition_index == *partition) else { return Ok(None) };
            check(found.error_code, what)?;
            Ok(Some(found.committed_offset).filter(|offset| *offset >= 0))
        });
        committed.collect()
    }
}

fn collect(answer: FetchResponse, positions: &[FetchPosition<'_>], into: &mut Vec<Fetched>) {
    for topic in answer.responses {
        for found in topic.partitions {
            let name = topic.topic.0.as_str();
            let asked = positions.iter().find(|asked| asked.topic == name && asked.partition == found.partition_index);
            let Some(asked) = asked else { continue };
            let aborted = found
                .aborted_transactions
                .unwrap_or_default()
                .into_iter()
                .map(|aborted| Aborted { producer_id: aborted.producer_id.0, first_offset: aborted.first_offset });
            into.push(Fetched {
                topic: name.to_owned(),
                partition: found.partition_index,
                offset: asked.offset,
                error: ResponseError::try_from_code(found.error_code),
                records: found.records.unwrap_or_default(),
                aborted: aborted.collect(),
                high_watermark: found.high_watermark,
                last_stable_offset: found.last_stable_offset,
                log_start_offset: found.log_start_offset,
            });
        }
    }
}
