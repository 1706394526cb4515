//! Where a source begins and ends, what records are made of, and what is said when it can't be read.

use crate::stream::{self, Stream};
use crate::support::{Scratch, Weir, await_condition, finished_lines};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A job that copies a stream's rows to files.
struct Copy {
    scratch: Scratch,
    job: PathBuf,
}

impl Copy {
    fn new(stream: &Stream, kinesis: Value, format: Value, columns: &[(&str, &str, Option<&str>)]) -> Self {
        let scratch = Scratch::new(&stream.name);
        let column = |(name, of, metadata): &(&str, &str, Option<&str>)| match metadata {
            None => json!({"name": name, "type": of}),
            Some(metadata) => json!({"name": name, "type": of, "metadata": metadata}),
        };
        let spec = json!({
            "pipeline": {
                "sources": [{
                    "name": "records", "kinesis": stream.settings(kinesis), "format": format,
                    "schema": columns.iter().map(column).collect::<Vec<_>>(),
                }],
                "sinks": [{
                    "name": "out", "from": "records", "delivery": "ExactlyOnce", "files": {"path": scratch.join("out")},
                    "format": {"json": {"omitNulls": true}},
                }],
            },
            "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
            "restart": {"none": {}},
        });
        let job = scratch.write_job(&stream.name, &spec);
        Copy { scratch, job }
    }

    fn weir(&self, command: &str) -> Weir {
        Weir::new(self.scratch.path(), [command.as_ref(), self.job.as_os_str()])
    }

    /// Sorted.
    fn written(&self) -> Vec<String> {
        let mut lines = finished_lines(&self.scratch.join("out"));
        lines.sort();
        lines
    }
}

fn id(number: i64) -> Value {
    json!(json!({"id": number}).to_string())
}

fn ids(numbers: impl Iterator<Item = i64>) -> Vec<String> {
    let mut lines: Vec<String> = numbers.map(|number| json!({"id": number}).to_string()).collect();
    lines.sort();
    lines
}

#[test]
fn records_and_what_they_have_beside_their_data() {
    let Some(server) = stream::server() else { return };
    let stream = Stream::create(&server, "kinesis-columns", 1);
    let columns = [
        ("text", "VARCHAR", None),
        ("key", "VARCHAR", Some("PartitionKey")),
        ("shard", "VARCHAR", Some("Shard")),
        ("number", "VARCHAR", Some("SequenceNumber")),
        ("at", "TIMESTAMP", Some("Timestamp")),
    ];
    let job = Copy::new(&stream, json!({"startFrom": "Earliest", "bounded": true}), json!({"raw": {}}), &columns);
    stream.put(&job.scratch, "put", &[("a", json!("one"))]);
    stream.put(&job.scratch, "aggregate", &[("b", json!("two")), ("c", json!("three")), ("b", json!("four"))]);
    let finished = job.weir("run").succeed();
    let rows: Vec<Value> = job.written().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut shown: Vec<[&str; 3]> = rows
        .iter()
        .map(|row| ["text", "key", "shard"].map(|column| row[column].as_str().unwrap_or_default()))
        .collect();
    shown.sort_unstable();
    let shard = "shardId-000000000000";
    let expected = [["four", "b", shard], ["one", "a", shard], ["three", "c", shard], ["two", "b", shard]];
    assert_eq!(shown, expected, "{finished}");
    let shards = stream.shards();
    let numbers = &shards[0].2;
    for row in &rows {
        let of = usize::from(row["text"] != "one");
        assert_eq!(row["number"], json!(numbers[of]), "{row}");
        assert!(row["at"].as_str().is_some_and(|at| at.starts_with("20")), "{row}");
    }
}

#[test]
fn what_only_looks_aggregated_is_a_bad_record() {
    let Some(server) = stream::server() else { return };
    let stream = Stream::create(&server, "kinesis-broken", 1);
    let format = json!({"json": {"onBadRecord": "Skip"}});
    let settings = json!({"startFrom": "Earliest", "bounded": true});
    let job = Copy::new(&stream, settings, format, &[("id", "BIGINT", None)]);
    // The magic number, and nothing that belongs to it.
    let broken = json!({"base64": "84mawnsiaWQiOiA3fQAAAAAAAAAAAAAAAAAAAAAA"});
    stream.put(&job.scratch, "put", &[("a", broken), ("a", id(1))]);
    let failing = job.weir("run").with(["--set", "spec.pipeline.sources[0].format.json.onBadRecord=Fail"]).fail();
    assert!(
        failing.stderr.contains("aggregated record (KPL)") && failing.stderr.contains("sequence number"),
        "{failing}"
    );
    job.weir("run").with(["--from", "none"]).succeed();
    assert_eq!(job.written(), ids([1].into_iter()));
}

#[test]
fn begins_where_it_is_told_to() {
    let Some(server) = stream::server() else { return };
    let stream = Stream::create(&server, "kinesis-places", 2);
    let before = Scratch::new("kinesis-places-put");
    let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    let put = |from: i64| {
        let records: Vec<_> = (from..).zip(&keys).map(|(number, key)| (key.as_str(), id(number))).collect();
        stream.put(&before, "put", &records);
    };
    put(0);
    stream.reshard(1);
    put(100);
    // The last shard's second record, and by that all of the others' that are none of its ancestors.
    let shards = stream.shards();
    let (last, parents, numbers) = shards.iter().rfind(|(_, _, numbers)| numbers.len() > 1).expect("records in it");
    let start = json!([{"shard": last, "sequenceNumber": numbers[1]}]);
    let passed_over: usize =
        shards.iter().filter(|(shard, ..)| parents.contains(shard)).map(|(_, _, numbers)| numbers.len()).sum();
    let settings = json!({"startFrom": "SequenceNumbers", "startSequenceNumbers": start, "bounded": true});
    let job = Copy::new(&stream, settings, json!({"json": {}}), &[("id", "BIGINT", None)]);
    let finished = job.weir("run").with(["-p", "3"]).succeed();
    assert_eq!(job.written().len(), 80 - passed_over - 1, "{finished}");

    // Everything, at a parallelism at which each shard may have another reader.
    let all = Copy::new(
        &stream,
        json!({"startFrom": "Earliest", "bounded": true}),
        json!({"json": {}}),
        &[("id", "BIGINT", None)],
    );
    let finished = all.weir("run").with(["-p", "4"]).succeed();
    assert_eq!(all.written(), ids((0..40).chain(100..140)), "{finished}");
}

#[test]
fn latest_is_what_comes_after_the_start() {
    let Some(server) = stream::server() else { return };
    let stream = Stream::create(&server, "kinesis-latest", 2);
    let job = Copy::new(&stream, json!({}), json!({"json": {}}), &[("id", "BIGINT", None)]);
    stream.put(&job.scratch, "put", &[("a", id(1)), ("b", id(2))]);
    let mut running = job.weir("run").spawn();
    // Nobody outside sees when it has begun: what comes is read from some moment on.
    let mut next = 10;
    await_condition("a record that came after the start is read", || {
        assert!(!running.has_ended(), "{}", running.stderr());
        stream.put(&job.scratch, "put", &[("a", id(next)), ("b", id(next + 1))]);
        next += 2;
        (!job.written().is_empty()).then_some(())
    });
    job.weir("stop").succeed();
    running.wait();
    let old = ids([1, 2].into_iter());
    assert!(job.written().iter().all(|line| !old.contains(line)), "{:?}", job.written());
}

#[test]
fn plan_asks_the_service() {
    let Some(server) = stream::server() else { return };
    let stream = Stream::create(&server, "kinesis-plan", 2);
    let job = Copy::new(&stream, json!({}), json!({"json": {}}), &[("id", "BIGINT", None)]);
    let plan = |settings: &[&str]| job.weir("plan").with(settings.iter().flat_map(|setting| ["--set", setting])).run();
    let fine = plan(&[]);
    assert!(fine.status.success(), "{fine}");
    assert!(fine.stdout.contains("has 2 open shards") && fine.stdout.contains("records may be read"), "{fine}");
    let source = "spec.pipeline.sources[0].kinesis";
    let missing = plan(&[&format!("{source}.stream=no-such-stream")]);
    assert!(!missing.status.success() && missing.stderr.contains("create the stream"), "{missing}");
    let wrong = plan(&[
        &format!("{source}.startFrom=SequenceNumbers"),
        &format!("{source}.startSequenceNumbers=[{{shard: shardId-000000000009, sequenceNumber: '1'}}]"),
    ]);
    assert!(!wrong.status.success() && wrong.stderr.contains("no such shard"), "{wrong}");
    let refused = job.weir("run").with(["--set", &format!("{source}.stream=no-such-stream")]).fail();
    assert!(refused.stderr.contains("no restart can help"), "{refused}");
}
