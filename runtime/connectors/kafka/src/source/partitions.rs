//! Partitions as splits: their names, their owners, and where each begins.

use super::{KafkaSourceConfig, Start, Topics};
use crate::settings::PATIENCE;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use weir_connectors::api::{ConnectorError, SplitState};
use weir_kafka_client::{Cluster, Isolation, Result, StartAt, Topic, retry};
use xxhash_rust::xxh3::xxh3_64;

/// A partition, and what of it is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) position: Position,
}

/// The stored form: fields are added, never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Of the next record.
    pub(super) offset: i64,
    /// Where a bounded source ends; nothing from here on is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<i64>,
}

impl Position {
    pub(super) fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.offset >= end)
    }
}

/// Which subtask reads a partition: those of a topic go around, from one that its name chooses.
pub(super) fn owner(topic: &str, partition: i32, parallelism: u32) -> u32 {
    (xxh3_64(topic.as_bytes()).wrapping_add(partition as u64) % u64::from(parallelism)) as u32
}

/// A topic's name holds no colon.
pub(super) fn split_name(topic: &str, partition: i32) -> String {
    format!("{topic}:{partition}")
}

/// The topics that a reader begins with.
pub(super) fn topics_at_start(cluster: &mut Cluster, wanted: &Topics) -> Result<Vec<Topic>> {
    match wanted {
        Topics::Names(names) => names.iter().map(|name| cluster.existing_topic(name, PATIENCE)).collect(),
        Topics::Pattern(_) => retry(PATIENCE, || topics(cluster, wanted)),
    }
}

/// The topics that there are now.
pub(super) fn topics(cluster: &mut Cluster, wanted: &Topics) -> Result<Vec<Topic>> {
    match wanted {
        Topics::Names(names) => names.iter().map(|name| cluster.topic(name)).collect(),
        Topics::Pattern(pattern) => {
            let all = cluster.all_topics()?;
            let matches = |name: &str| pattern.find(name).is_some_and(|found| found.len() == name.len());
            Ok(all.into_iter().filter(|topic| !topic.is_internal && matches(&topic.name)).collect())
        }
    }
}

/// The positions of a checkpoint, by split.
pub(super) fn restored(states: &[SplitState]) -> Result<HashMap<&str, Position>, ConnectorError> {
    let mut restored = HashMap::new();
    for SplitState { split, position } in states {
        let position = Position::deserialize(position).map_err(|error| {
            ConnectorError::Permanent(format!("the position of {split} in the checkpoint cannot be read: {error}"))
        })?;
        restored.insert(split.as_str(), position);
    }
    Ok(restored)
}

/// Where a reader begins with partitions that no checkpoint knows.
pub(super) fn begin(
    cluster: &mut Cluster,
    config: &KafkaSourceConfig,
    isolation: Isolation,
    topic: &str,
    partitions: &[i32],
    start: &Start,
) -> Result<Vec<Split>> {
    let mut at = |at| cluster.offsets(topic, partitions, at, isolation, PATIENCE);
    let offsets = match start {
        Start::Earliest => at(StartAt::Earliest)?,
        Start::Latest => at(StartAt::Latest)?,
        Start::Timestamp(timestamp_ms) => at(StartAt::Timestamp(*timestamp_ms))?,
        Start::Offsets(given) => {
            let earliest = at(StartAt::Earliest)?;
            let given_for = |partition: &i32| given.get(&(topic.to_owned(), *partition)).copied();
            let at = |(partition, earliest): (&i32, i64)| given_for(partition).unwrap_or(earliest);
            partitions.iter().zip(earliest).map(at).collect()
        }
        Start::CommittedOffsets => {
            let earliest = at(StartAt::Earliest)?;
            match &config.group_id {
                None => earliest,
                Some(group) => {
                    let committed = cluster.committed_offsets(group, topic, partitions, PATIENCE)?;
                    // What retention has removed can't be read, whatever the group says.
                    let at =
                        |(earliest, committed): (i64, Option<i64>)| committed.map_or(earliest, |at| at.max(earliest));
                    earliest.into_iter().zip(committed).map(at).collect()
                }
            }
        }
    };
    let ends = match config.bounded {
        false => vec![None; partitions.len()],
        true => {
            let ends = cluster.offsets(topic, partitions, StartAt::Latest, isolation, PATIENCE)?;
            ends.into_iter().map(Some).collect()
        }
    };
    let splits = partitions.iter().zip(offsets).zip(ends).map(|((partition, offset), end)| Split {
        topic: topic.to_owned(),
        partition: *partition,
        position: Position { offset, end },
    });
    Ok(splits.collect())
}

/// What is wrong with the offsets that a spec gives: of partitions that aren't there, or of records that aren't.
pub(super) fn unusable_offsets(
    cluster: &mut Cluster,
    config: &KafkaSourceConfig,
    topics: &[Topic],
) -> Result<Vec<String>> {
    let Start::Offsets(given) = &config.start else { return Ok(vec![]) };
    let mut unusable = vec![];
    for ((name, partition), offset) in given {
        let found = topics.iter().find(|topic| topic.name == *name);
        if !found.is_some_and(|topic| topic.partitions.iter().any(|found| found.partition == *partition)) {
            let partitions = found.map_or(0, |topic| topic.partitions.len());
            unusable.push(match found {
                None => format!("startOffsets names the topic `{name}`, which this source does not read"),
                Some(_) => format!(
                    "startOffsets names {name}, partition {partition}, and the topic has {partitions}, counted from 0"
                ),
            });
            continue;
        }
        let mut at = |at| cluster.offsets(name, &[*partition], at, Isolation::ReadUncommitted, PATIENCE);
        let (earliest, latest) = (at(StartAt::Earliest)?[0], at(StartAt::Latest)?[0]);
        if !(earliest..=latest).contains(offset) {
            unusable.push(format!(
                "startOffsets begins {name}, partition {partition}, at {offset}, and it holds the offsets from {earliest} to \
                 {latest}: write one of them"
            ));
        }
    }
    Ok(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_a_topic_go_around_and_their_owners_stay() {
        let owners: Vec<u32> = (0..4).map(|partition| owner("orders", partition, 2)).collect();
        assert_eq!(owners.iter().filter(|owner| **owner == 0).count(), 2);
        assert_eq!(owners[0], owners[2]);
        // A change would give partitions to other subtasks after an upgrade in place.
        assert_eq!((0..3).map(|partition| owner("orders", partition, 3)).collect::<Vec<_>>(), OWNERS_OF_ORDERS);
    }

    const OWNERS_OF_ORDERS: [u32; 3] = [0, 1, 2];

    #[test]
    fn the_stored_position_stays() {
        let states = [
            SplitState { split: split_name("orders", 0), position: serde_json::json!({"offset": 7}) },
            SplitState { split: split_name("orders", 1), position: serde_json::json!({"offset": 3, "end": 9}) },
        ];
        let restored = restored(&states).unwrap();
        assert_eq!(restored["orders:0"], Position { offset: 7, end: None });
        assert_eq!(restored["orders:1"], Position { offset: 3, end: Some(9) });
        assert_eq!(serde_json::to_value(restored["orders:1"]).unwrap(), states[1].position);
    }
}
