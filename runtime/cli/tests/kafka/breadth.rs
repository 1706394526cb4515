//! What a source and a sink do beside exactly once: topics by pattern and partitions that come later, text formats and bad
//! messages, given offsets, idle partitions, at least once and upserts, and how far behind a source is.

use crate::broker::{Broker, Message};
use crate::support::{Running, Scratch, Weir, await_condition, finished_lines};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use weir_api::{Address, Client};

const KEYS: i64 = 7;
/// In each of four portions.
const LINES: i64 = 400;
const BAD: &str = "this,is no line";

struct Job {
    broker: Broker,
    scratch: Scratch,
    name: String,
    file: PathBuf,
}

#[test]
fn what_comes_later_and_what_comes_twice() {
    let Some(broker) = Broker::of_tests() else { return };
    let job = Job::new(broker);
    // Its second partition stays empty for now, and may not hold back the windows.
    job.put("in-a", 0, 0, true);
    let mut running = job.start();
    await_condition("a window closes though a partition is idle", || {
        assert!(!running.has_ended(), "{}", running.stderr());
        (!job.read("windows").is_empty()).then_some(())
    });
    // All of it, or a count that was a key in between may stay when another one takes its place after the kill.
    job.await_counts(LINES);
    running.kill();
    job.put("in-a", 1, 1, false);
    let running = job.start();
    job.await_ids(&running, 2 * LINES);
    // A partition and a topic that the running job has to find.
    job.broker.extend(&job.topic("in-a"), 3);
    job.put("in-a", 2, 2, false);
    job.broker.create(&job.topic("in-b"), 1);
    job.put("in-b", 0, 3, false);
    job.await_ids(&running, 4 * LINES);
    job.await_no_lag(&running);
    job.await_counts(4 * LINES);
    running.kill();
    job.start_until_stopped();
    job.await_counts(4 * LINES);

    let bad = job.read("bad");
    assert!(!bad.is_empty(), "the bad message was not written");
    for message in &bad {
        let letter = message.json().expect("a dead letter");
        assert_eq!((&letter["raw"], &letter["source"]), (&json!(BAD), &json!("lines")), "{letter}");
        assert_eq!(letter["split"], json!(format!("{}, partition 0", job.topic("in-a"))));
    }
    let notes: BTreeSet<String> = job.read("notes-out").into_iter().filter_map(|message| message.value).collect();
    assert_eq!(notes, BTreeSet::from(["k2 note 2".to_owned(), "k3 note 3".to_owned()]), "from offset 2 on");
}

#[test]
fn offsets_that_are_not_there_are_refused() {
    let Some(broker) = Broker::of_tests() else { return };
    let job = Job::new(broker);
    for (partition, offset, said) in [(0, 9, "it holds the offsets from 0 to 4"), (5, 0, "the topic has 1")] {
        let offsets = json!([{"topic": job.topic("notes"), "partition": partition, "offset": offset}]);
        let setting = format!("spec.pipeline.sources[1].kafka.startOffsets={offsets}");
        for command in ["plan", "run"] {
            let weir = Weir::new(job.scratch.path(), [command.as_ref(), job.file.as_os_str()]);
            let failed = weir.with(["--set", &setting]).fail();
            assert!(failed.stderr.contains(said), "{command}: no word of {said}: {failed}");
        }
    }
}

/// However far ahead a partition is that comes before the first record of another.
#[test]
fn no_partition_makes_another_late() {
    const SECONDS: i64 = 3_000;
    const WINDOW: i64 = 10;
    const PARTITIONS: i32 = 3;
    let Some(broker) = Broker::of_tests() else { return };
    let scratch = Scratch::new("kafka-late");
    let topic = format!("late-{:08x}", rand::random::<u32>());
    broker.create(&topic, PARTITIONS as u32);
    let at = |second| 1_700_000_000_000 + second * 1_000;
    let of_partition =
        |partition| (0..SECONDS).map(move |second| (partition, None, json!({"at": at(second)}).to_string()));
    broker.put(&scratch, &topic, (0..PARTITIONS).flat_map(of_partition));
    let spec = json!({
        "pipeline": {
            "sources": [{
                "name": "ticks",
                "kafka": {"bootstrapServers": broker.address, "topics": [topic], "groupId": topic, "bounded": true},
                "format": {"json": {}},
                "schema": [{"name": "at", "type": "TIMESTAMP"}],
                "watermark": {"column": "at"},
            }],
            "transforms": [{
                "name": "windows",
                "sql": "SELECT window_start, COUNT(*) AS n \
                        FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(at), INTERVAL '10' SECOND)) \
                        GROUP BY window_start, window_end",
            }],
            "sinks": [{
                "name": "out", "from": "windows", "files": {"path": scratch.join("out")}, "format": {"json": {}},
            }],
        },
        "checkpoint": {"storage": {"uri": scratch.storage_uri("checkpoints")}},
    });
    let job = scratch.write_job("late", &spec);
    Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).succeed();
    let count = |line: String| serde_json::from_str::<Value>(&line).expect("a JSON line")["n"].as_i64();
    let counts: Vec<Option<i64>> = finished_lines(&scratch.join("out")).into_iter().map(count).collect();
    assert_eq!(counts, vec![Some(WINDOW * i64::from(PARTITIONS)); (SECONDS / WINDOW) as usize]);
}

impl Job {
    fn new(broker: Broker) -> Job {
        let scratch = Scratch::new(&format!("kafka-breadth-{:08x}", rand::random::<u32>()));
        let name = format!("breadth-{:08x}", rand::random::<u32>());
        let topic = |topic: &str| format!("{name}-{topic}");
        broker.create(&topic("in-a"), 2);
        broker.create(&topic("notes"), 1);
        broker.create_compacted(&topic("counts"), 2);
        ["copies", "windows", "bad", "notes-out"].iter().for_each(|of| broker.create(&topic(of), 2));
        let notes = (0..4).map(|note| (0, Some(format!("k{note}")), format!("note {note}")));
        broker.put(&scratch, &topic("notes"), notes);
        let column = |name: &str, of: &str| json!({"name": name, "type": of});
        let metadata = |name: &str, of: &str, holds: &str| json!({"name": name, "type": of, "metadata": holds});
        let sink = |from: &str, to: &str, delivery: &str, key: &[&str], format: Value| {
            let kafka = json!({"bootstrapServers": broker.address, "topic": topic(to), "key": key});
            json!({"name": format!("{to}-sink"), "from": from, "delivery": delivery, "kafka": kafka, "format": format})
        };
        let mut dead = sink("", "bad", "AtLeastOnce", &[], json!({"json": {}}));
        dead.as_object_mut().expect("an object").remove("from");
        let spec = json!({
            "parallelism": 2,
            "pipeline": {
                "sources": [
                    {
                        "name": "lines",
                        "kafka": {
                            "bootstrapServers": broker.address, "topicPattern": format!("{name}-in-.*"),
                            "partitionDiscoveryInterval": "200ms",
                        },
                        "format": {"csv": {"header": false, "onBadRecord": "DeadLetter", "deadLetterSink": "bad-sink"}},
                        "schema": [
                            column("id", "BIGINT"), column("k", "VARCHAR"), column("at", "TIMESTAMP"),
                            metadata("topic", "VARCHAR", "Topic"),
                        ],
                        "watermark": {"column": "at", "idleTimeout": "300ms"},
                    },
                    {
                        "name": "notes",
                        "kafka": {
                            "bootstrapServers": broker.address, "topics": [topic("notes")], "startFrom": "Offsets",
                            "startOffsets": [{"topic": topic("notes"), "partition": 0, "offset": 2}],
                        },
                        "format": {"raw": {}},
                        "schema": [column("note", "VARCHAR"), metadata("key", "VARCHAR", "Key")],
                    },
                ],
                "transforms": [
                    {"name": "copies", "sql": "SELECT id, k, topic FROM lines"},
                    {"name": "totals", "sql": "SELECT k, COUNT(*) AS n FROM lines GROUP BY k"},
                    {"name": "counts", "sql": "SELECT n, COUNT(*) AS keys FROM totals GROUP BY n"},
                    {
                        "name": "windows",
                        "sql": "SELECT window_start, COUNT(*) AS n \
                                FROM TABLE(TUMBLE(lines, DESCRIPTOR(at), INTERVAL '1' SECOND)) \
                                GROUP BY window_start, window_end",
                    },
                    {"name": "keyed-notes", "sql": "SELECT key || ' ' || note AS line FROM notes"},
                ],
                "sinks": [
                    sink("copies", "copies", "AtLeastOnce", &[], json!({"csv": {"header": false}})),
                    sink("counts", "counts", "Upsert", &["n"], json!({"json": {}})),
                    sink("windows", "windows", "AtLeastOnce", &[], json!({"json": {}})),
                    sink("keyed-notes", "notes-out", "AtLeastOnce", &[], json!({"raw": {}})),
                    dead,
                ],
            },
            "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
            "restart": {"none": {}},
        });
        let file = scratch.write_job(&name, &spec);
        Job { broker, scratch, name, file }
    }

    fn topic(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    /// A portion of the lines, a tenth of a second of event time each.
    fn put(&self, topic: &str, partition: i32, portion: i64, with_bad: bool) {
        let line = |id: i64| format!("{id},k{},{}", id % KEYS, 1_700_000_000_000 + id * 100);
        let lines = (portion * LINES..(portion + 1) * LINES).map(line).chain(with_bad.then(|| BAD.to_owned()));
        self.broker.put(&self.scratch, &self.topic(topic), lines.map(|line| (partition, None, line)));
    }

    fn start(&self) -> Running {
        let weir = Weir::new(self.scratch.path(), ["run".as_ref(), self.file.as_os_str()]);
        weir.with(["--http", "127.0.0.1:0", "--http-open-reads"]).spawn()
    }

    /// A start after all has come: what the last checkpoint did not hold comes again.
    fn start_until_stopped(&self) {
        let running = self.start();
        self.await_no_lag(&running);
        running.signal(libc::SIGTERM);
        let finished = running.wait();
        assert!(finished.status.success(), "{finished}");
    }

    fn await_ids(&self, running: &Running, expected: i64) {
        await_condition(&format!("{expected} ids"), || {
            let ids: BTreeSet<i64> = self.read("copies").iter().map(id).collect();
            assert!(ids.iter().all(|id| (0..expected).contains(id)), "ids that nobody wrote: {}", running.stderr());
            (ids.len() as i64 == expected).then_some(())
        });
    }

    /// How many keys have so many lines: rows that come and go, of which the latest message of a key is what counts.
    fn await_counts(&self, lines: i64) {
        let mut of_keys: BTreeMap<i64, i64> = BTreeMap::new();
        (0..lines).for_each(|id| *of_keys.entry(id % KEYS).or_default() += 1);
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        of_keys.values().for_each(|lines| *expected.entry(lines.to_string()).or_default() += 1);
        await_condition(&format!("the counts of {lines} lines: {expected:?}"), || {
            let mut counts = BTreeMap::new();
            for Message { key, value, .. } in self.read("counts") {
                let key = key.expect("a key");
                match value {
                    None => counts.remove(&key),
                    Some(value) => {
                        let value: Value = serde_json::from_str(&value).expect("JSON");
                        counts.insert(key, value["keys"].as_i64().expect("a number"))
                    }
                };
            }
            (counts == expected).then_some(())
        });
    }

    fn await_no_lag(&self, running: &Running) {
        let url = await_condition("the address of its HTTP", || {
            let said = running.stderr();
            Some(said.split_once("HTTP at ")?.1.split_once('\n')?.0.to_owned())
        });
        let client = Client::new(Address::of_url(&url).expect("an address"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        await_condition("all partitions are read to their ends", || {
            let told = runtime.block_on(client.subtasks()).ok()?;
            let operators = told.tasks.iter().flat_map(|task| &task.subtasks).flat_map(|subtask| &subtask.operators);
            let sources: Vec<_> =
                operators.filter(|operator| ["lines", "notes"].contains(&operator.uid.as_str())).collect();
            (sources.len() == 4 && sources.iter().all(|source| source.pending_records == Some(0))).then_some(())
        });
        let metrics = runtime.block_on(client.text("/metrics")).expect("its metrics");
        let lag =
            format!("weir_operator_pending_records{{job_name=\"{}\",operator=\"lines\",subtask=\"1\"}} 0", self.name);
        assert!(metrics.contains(&lag), "no {lag} in {metrics}");
    }

    fn read(&self, of: &str) -> Vec<Message> {
        self.broker.read(&self.topic(of))
    }
}

/// Of a copy.
fn id(message: &Message) -> i64 {
    let line = message.value.as_deref().unwrap_or_default();
    line.split(',').next().and_then(|id| id.parse().ok()).unwrap_or(-1)
}
