//! Shards as splits: their owners, their stored positions, and where each begins.

use super::Start;
use crate::client::{Listing, Place, Shard, shown};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use weir_connectors::api::{ConnectorError, SplitState};
use xxhash_rust::xxh3::xxh3_64;

/// How far before the start a silent shard is read from after a restore: that the clocks of two machines differ must not
/// cost a record.
const CLOCK_SKEW_MS: i64 = 2_000;

/// The stored form: fields are added, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Position {
    /// The sequence number of the last record that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<String>,
    /// Where the shard begins as long as there is none.
    #[serde(default, skip_serializing_if = "Begin::is_beginning")]
    pub(super) begin: Begin,
    /// There are no more records. See `SplitState::ENDED`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) ended: bool,
    /// Where a bounded source ends: the first record that arrived after this time is not read. Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end_ms: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Begin {
    /// The oldest record that is kept.
    #[default]
    Beginning,
    At(String),
    /// Milliseconds since 1970.
    TimestampMs(i64),
}

impl Begin {
    fn is_beginning(&self) -> bool {
        *self == Begin::Beginning
    }
}

impl Position {
    pub(super) fn place(&self) -> Place {
        match (&self.after, &self.begin) {
            (Some(after), _) => Place::After(after.clone()),
            (None, Begin::Beginning) => Place::Beginning,
            (None, Begin::At(number)) => Place::At(number.clone()),
            (None, Begin::TimestampMs(ms)) => Place::Timestamp(*ms),
        }
    }

    /// In words.
    pub(super) fn described(&self) -> String {
        match self.place() {
            Place::After(number) => format!("after sequence number {number}"),
            Place::At(number) => format!("at sequence number {number}"),
            Place::Timestamp(ms) => format!("from {}", shown(ms)),
            Place::Beginning | Place::Latest => "from its beginning".into(),
        }
    }
}

/// Which subtask reads a shard: they go around by their numbers, from one that the stream's name chooses.
pub(super) fn owner(stream: &str, shard: &str, parallelism: u32) -> u32 {
    let number = shard.rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
    let number = number.unwrap_or_else(|| xxh3_64(shard.as_bytes()));
    (xxh3_64(stream.as_bytes()).wrapping_add(number) % u64::from(parallelism)) as u32
}

/// The positions of a checkpoint, by shard.
pub(super) fn restored(states: &[SplitState]) -> Result<BTreeMap<String, Position>, ConnectorError> {
    let mut restored = BTreeMap::new();
    for SplitState { split, position } in states {
        let position = Position::deserialize(position).map_err(|error| {
            ConnectorError::Permanent(format!("the position of {split} in the checkpoint cannot be read: {error}"))
        })?;
        restored.insert(split.clone(), position);
    }
    Ok(restored)
}

/// What a job without a checkpoint asks for.
pub(super) fn listing(start: &Start) -> Listing<'_> {
    match start {
        Start::Earliest | Start::SequenceNumbers(_) => Listing::All,
        Start::Latest => Listing::Open,
        Start::Timestamp(ms) => Listing::Since(*ms),
    }
}

/// Where a job without a checkpoint begins with these shards. Those that it doesn't read are left out.
pub(super) fn begin(start: &Start, shards: &[Shard], bounded: bool, now_ms: i64) -> Vec<(Shard, Position)> {
    let passed_over = match start {
        Start::SequenceNumbers(named) => ancestors(named, shards),
        _ => HashSet::new(),
    };
    let position = |shard: &Shard| Position {
        begin: match start {
            Start::Earliest => Begin::Beginning,
            Start::Latest => Begin::TimestampMs(now_ms - CLOCK_SKEW_MS),
            Start::Timestamp(ms) => Begin::TimestampMs(*ms),
            Start::SequenceNumbers(named) => {
                named.get(&shard.id).map_or(Begin::Beginning, |number| Begin::At(number.clone()))
            }
        },
        end_ms: bounded.then_some(now_ms),
        ..Position::default()
    };
    let read = shards.iter().filter(|shard| !passed_over.contains(shard.id.as_str()));
    read.map(|shard| (shard.clone(), position(shard))).collect()
}

fn ancestors<'a>(named: &BTreeMap<String, String>, shards: &'a [Shard]) -> HashSet<&'a str> {
    let parents: BTreeMap<&str, &[String]> =
        shards.iter().map(|shard| (shard.id.as_str(), shard.parents.as_slice())).collect();
    let mut found = HashSet::new();
    let mut open: Vec<&'a str> =
        shards.iter().filter(|shard| named.contains_key(&shard.id)).map(|shard| shard.id.as_str()).collect();
    while let Some(shard) = open.pop() {
        for parent in parents.get(shard).into_iter().flat_map(|parents| parents.iter()) {
            if !named.contains_key(parent) && found.insert(parent.as_str()) {
                open.push(parent);
            }
        }
    }
    found
}

/// What is wrong with the place where a spec begins.
pub(super) fn unusable_start(start: &Start, shards: &[Shard]) -> Vec<String> {
    let Start::SequenceNumbers(named) = start else { return vec![] };
    let missing = named.keys().filter(|name| shards.iter().all(|shard| shard.id != **name));
    missing.map(|name| format!("startSequenceNumbers names `{name}`, and the stream has no such shard")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::HashKeys;

    fn shard(number: u32, parents: &[u32]) -> Shard {
        let id = |number: &u32| format!("shardId-{number:012}");
        let hash_keys = HashKeys { first: 0, last: 1 };
        Shard { id: id(&number), parents: parents.iter().map(id).collect(), hash_keys }
    }

    #[test]
    fn shards_go_around_and_their_owners_stay() {
        let owners =
            |parallelism| (0..4).map(|number| owner("orders", &shard(number, &[]).id, parallelism)).collect::<Vec<_>>();
        // A change would give shards to other subtasks after an upgrade in place.
        assert_eq!(owners(1), [0, 0, 0, 0]);
        assert_eq!(owners(3), [0, 1, 2, 0]);
    }

    #[test]
    fn the_stored_position_stays() {
        for (text, position) in [
            ("{}", Position::default()),
            (r#"{"after":"49"}"#, Position { after: Some("49".into()), ..Position::default() }),
            (
                r#"{"begin":{"at":"7"},"endMs":9}"#,
                Position { begin: Begin::At("7".into()), end_ms: Some(9), ..Position::default() },
            ),
            (
                r#"{"begin":{"timestampMs":5},"ended":true}"#,
                Position { begin: Begin::TimestampMs(5), ended: true, ..Position::default() },
            ),
        ] {
            assert_eq!(serde_json::to_string(&position).unwrap(), text);
            assert_eq!(serde_json::from_str::<Position>(text).unwrap(), position);
        }
        let state = SplitState { split: "s".into(), position: serde_json::json!({"ended": true}) };
        assert!(state.is_ended());
    }

    #[test]
    fn ancestors_of_a_named_shard_are_passed_over() {
        let shards = [shard(0, &[]), shard(1, &[]), shard(2, &[0]), shard(3, &[0]), shard(4, &[3, 1])];
        let start = Start::SequenceNumbers([(shards[4].id.clone(), "42".to_owned())].into());
        let read = begin(&start, &shards, false, 0);
        let shown: Vec<_> = read.iter().map(|(shard, position)| (&*shard.id, position.place())).collect();
        let expected = [(&*shards[2].id, Place::Beginning), (&*shards[4].id, Place::At("42".into()))];
        assert_eq!(shown, expected, "2 is no ancestor of 4");
        assert_eq!(unusable_start(&start, &shards[..4]).len(), 1);
    }
}
