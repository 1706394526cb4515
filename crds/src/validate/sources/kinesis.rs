//! A Kinesis source.

use std::collections::BTreeSet;

use super::{Findings, start_timestamp};
use crate::streamjob::{KinesisSource, KinesisStartFrom, Source, StreamJobSpec};

pub(super) fn check(
    kinesis: &KinesisSource,
    spec: &StreamJobSpec,
    source: &Source,
    path: &str,
    findings: &mut Findings,
) {
    let at = format!("{path}.kinesis");
    let at_timestamp = kinesis.start_from == Some(KinesisStartFrom::Timestamp);
    start_timestamp(at_timestamp, kinesis.start_timestamp.as_deref(), &at, findings);
    start_sequence_numbers(kinesis, &format!("{at}.startSequenceNumbers"), findings);
    for (field, interval) in
        [("shardDiscoveryInterval", kinesis.shard_discovery_interval), ("readInterval", kinesis.read_interval)]
    {
        if interval.is_some_and(|interval| interval.is_zero()) {
            findings.error(format!("{at}.{field}"), "would ask without a pause", "write 10ms or more");
        }
    }
    if spec.checkpoint.is_none() {
        findings.error(
            at,
            "the shards of a split or a merge are begun when a checkpoint says that those before them were read, and the job \
             takes none",
            "add `checkpoint` with a storage",
        );
    }
    let avro = source.format.as_ref().and_then(|format| format.avro.as_ref());
    if avro.is_some_and(|avro| avro.registry.is_some()) {
        let reason = "a schema registry is asked for Kafka's messages alone";
        findings.error(format!("{path}.format.avro.registry"), reason, "write the `schema` of the records");
    }
}

fn start_sequence_numbers(kinesis: &KinesisSource, path: &str, findings: &mut Findings) {
    let asked_for = kinesis.start_from == Some(KinesisStartFrom::SequenceNumbers);
    let numbers = match (asked_for, &kinesis.start_sequence_numbers) {
        (true, Some(numbers)) if !numbers.is_empty() => numbers,
        (true, _) => {
            let remedy = "add them, such as `[{shard: shardId-000000000000, sequenceNumber: \"4959...\"}]`";
            return findings.error(path, "startFrom: SequenceNumbers needs them", remedy);
        }
        (false, Some(_)) => {
            return findings.error(path, "they belong to startFrom: SequenceNumbers", "set that, or remove them");
        }
        (false, None) => return,
    };
    let mut seen = BTreeSet::new();
    for (index, start) in numbers.iter().enumerate() {
        if !seen.insert(&start.shard) {
            let reason = format!("{} stands here twice", start.shard);
            findings.error(format!("{path}[{index}].shard"), reason, "remove one of them");
        }
        if start.sequence_number.is_empty() || !start.sequence_number.bytes().all(|byte| byte.is_ascii_digit()) {
            let reason = format!("`{}` is no sequence number", start.sequence_number);
            findings.error(format!("{path}[{index}].sequenceNumber"), reason, "write its digits, in quotes");
        }
    }
}
