//! Jobs from Kafka to Kafka against a real broker, killed at random and at chosen moments: what a consumer of another make
//! reads with `read_committed` must be what a run that nobody disturbed would have written.
//!
//! `WEIR_TEST_KAFKA` names the broker; `cargo xtask test` starts one. `WEIR_KAFKA_RUNS` says how many random runs there are and
//! `WEIR_KAFKA_SEED` what the first one's seed is; `cargo xtask kafka-test RUNS SEED` sets both.

#[path = "../support/mod.rs"]
mod support;

mod avro;
mod breadth;
mod broker;
mod by_key;
mod debezium;
mod pairs;
mod secured;

use broker::{Broker, Message, OwnBroker};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use support::{Finished, Running, Scratch, Weir, random_runs};

const DEFAULT_RUNS: u64 = 4;
const RECORDS: i64 = 60_000;
const KEYS: i64 = 40;
const PARTITIONS: u32 = 4;
/// After the first phase; with the checkpoint durable; before the first and in the middle of several commits.
const FAILPOINTS: [(&str, u32); 4] =
    [("before-manifest", 1), ("after-manifest", 1), ("mid-commit", 2), ("mid-commit", 4)];

/// How a process comes to its end.
#[derive(Clone, Copy, Debug)]
enum Death {
    After(Duration),
    Failpoint(&'static str, u32),
}

#[derive(Clone, Copy, Debug)]
struct Start {
    parallelism: u32,
    /// None: all in one process.
    workers: Option<u32>,
    death: Option<Death>,
    /// How long checkpoints stay aligned. None: for good.
    aligned_ms: Option<u64>,
    /// When the job is asked for another parallelism, and for which.
    rescale: Option<(Duration, u32)>,
}

/// The topics of one run.
struct Run {
    broker: Broker,
    scratch: Scratch,
    /// Of both sinks' topics.
    name: String,
    job: PathBuf,
    /// The rescales that were asked for.
    asked: RefCell<Vec<Running>>,
}

#[test]
fn exactly_once_through_random_kills() {
    let Some(broker) = Broker::of_tests() else { return };
    let repeat = |seed| format!("cargo xtask kafka-test 1 {seed}");
    random_runs("KAFKA", DEFAULT_RUNS, repeat, |seed, rng| {
        let mut starts: Vec<Start> = (0..rng.random_range(1..=3)).map(|_| Start::random(rng)).collect();
        starts.push(Start { death: None, ..Start::random(rng) });
        let run = Run::new(&broker, &format!("kafka-{seed}"), &json!({}));
        run.slow_down();
        match run.through(&starts).and_then(|deaths| run.verify().map(|()| deaths)) {
            Ok(deaths) => Ok(format!("{starts:?}: died {deaths} times, rescaled {} times", run.rescaled())),
            Err(problem) => Err(format!("{starts:?}\n{problem}\nkept: {}", run.scratch.keep().display())),
        }
    });
}

#[test]
fn each_moment_of_a_commit() {
    let Some(broker) = Broker::of_tests() else { return };
    for (name, nth) in FAILPOINTS {
        let run = Run::new(&broker, &format!("kafka-{name}-{nth}"), &json!({}));
        let dies = Start { death: Some(Death::Failpoint(name, nth)), ..Start::of(3) };
        // With fewer subtasks than before, whose transactions must not be left behind.
        let last = Start::of(1);
        let deaths = run.through(&[dies, last]).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        assert_eq!(deaths, 1, "{name}: the failpoint was not passed");
        run.verify().unwrap_or_else(|problem| panic!("{name}: {problem}"));
        assert_eq!(
            broker.open_transactions(&format!("weir.{}.", run.name)),
            Vec::<String>::new(),
            "{name}: left behind"
        );
    }
}

#[test]
fn a_pause_longer_than_the_transaction_timeout_stops_loudly() {
    let Some(broker) = Broker::of_tests() else { return };
    let run = Run::new(&broker, "kafka-expired", &json!({"transactionTimeout": "10s"}));
    let dies = Start { death: Some(Death::Failpoint("after-manifest", 1)), ..Start::of(1) };
    assert_eq!(run.through(&[dies]), Ok(1));
    support::await_condition("the broker gives the transactions up", || {
        broker.open_transactions(&format!("weir.{}.", run.name)).is_empty().then_some(())
    });
    let refused = run.start(&Start::of(1)).fail();
    let said = format!("{}{}", refused.stdout, refused.stderr);
    for part in
        ["was aborted before it could be committed", "transaction `weir.kafka-expired", "offsets ", "partition "]
    {
        assert!(said.contains(part), "{part:?} is missing in: {refused}");
    }
}

/// The job outlives it: what was not acknowledged is delivered again, what was prepared is committed afterwards.
#[test]
fn a_broker_that_is_killed_costs_no_record_and_doubles_none() {
    let folder = Scratch::new("kafka-broker");
    let Some(mut own) = OwnBroker::start(folder.path()) else { return };
    let restart = json!({"fixedDelay": {"delay": "200ms", "attempts": 100}});
    let run = Run::with_restarts(&own.broker, "kafka-broker-dies", &json!({}), &restart);
    let running = run.start(&Start::of(2)).spawn();
    support::await_condition("the first commit", || {
        let listed = Weir::new(run.scratch.path(), ["checkpoints".as_ref(), run.job.as_os_str()]);
        let listed = listed.with(["--output", "json"]).run();
        (listed.status.success() && listed.stdout.trim() != "[]").then_some(())
    });
    own.kill_and_restart();
    let finished = running.wait();
    assert!(finished.status.success(), "{finished}");
    run.verify().unwrap();
}

/// Between two transactions nothing of it is open, so nothing is found to be aborted; its next would hold readers up until it
/// expires.
#[test]
fn who_was_replaced_can_begin_nothing() {
    let Some(broker) = Broker::of_tests() else { return };
    let run = Run::new(&broker, "kafka-replaced", &json!({}));
    let dies = Start { death: Some(Death::Failpoint("after-manifest", 1)), ..Start::of(2) };
    assert_eq!(run.through(&[dies]), Ok(1));
    let topic = format!("{}-copies", run.name);
    let mut replaced = broker.writer(&topic, &format!("weir.{}.copies-out.1.1.1.2", run.name));
    run.start(&Start::of(2)).succeed();
    replaced.push(0, 0, None, Some(b"late")).unwrap();
    let refused = replaced.flush().unwrap_err();
    assert!(refused.is_fenced(), "{refused}");
    run.verify().unwrap();
}

/// Nor in an id of the checkpoint: its transaction is committed, and another may have begun since.
#[test]
fn a_committed_id_that_is_open_again_is_taken_over() {
    let Some(broker) = Broker::of_tests() else { return };
    let run = Run::new(&broker, "kafka-open-again", &json!({}));
    let dies = Start { death: Some(Death::Failpoint("after-manifest", 1)), ..Start::of(2) };
    assert_eq!(run.through(&[dies]), Ok(1));
    let prefix = format!("weir.{}.copies-out.", run.name);
    let mut held = broker.open_transactions(&prefix);
    held.retain(|id| id.ends_with(".0"));
    broker.commit_open(&held);
    broker.await_ends(&prefix);
    let mut replaced = broker.writer(&format!("{}-copies", run.name), held.first().expect("a transaction"));
    replaced.push(0, 0, None, Some(b"late")).unwrap();
    replaced.flush().unwrap();
    run.start(&Start::of(2)).succeed();
    assert_eq!(broker.open_transactions(&prefix), Vec::<String>::new());
    run.verify().unwrap();
}

/// Whoever aborts what no checkpoint names must see it: a transaction that is passed over holds readers up until it expires.
#[test]
fn open_transactions_are_found_by_the_first_question_to_a_broker_that_starts() {
    let folder = Scratch::new("kafka-starting-broker");
    let Some(mut own) = OwnBroker::start(folder.path()) else { return };
    let run = Run::new(&own.broker, "kafka-starting", &json!({}));
    let dies = Start { death: Some(Death::Failpoint("after-manifest", 1)), ..Start::of(4) };
    assert_eq!(run.through(&[dies]), Ok(1));
    let prefix = format!("weir.{}.", run.name);
    let open = own.broker.open_transactions(&prefix);
    assert!(open.len() >= 4, "{open:?}");
    for start in 0..3 {
        own.kill_and_begin();
        assert_eq!(own.broker.open_transactions(&prefix), open, "start {start}");
        own.await_start();
    }
}

/// A broker that dies between its decision to commit and the markers may leave a partition out: its records, and all after
/// them, would stay invisible for good.
#[test]
fn a_partition_that_never_heard_of_a_commit_is_told() {
    let folder = Scratch::new("kafka-hanging-broker");
    let Some(mut own) = OwnBroker::start(folder.path()) else { return };
    let run = Run::new(&own.broker, "kafka-hanging", &json!({}));
    let dies = Start { death: Some(Death::Failpoint("after-manifest", 1)), ..Start::of(2) };
    assert_eq!(run.through(&[dies]), Ok(1));
    let (topic, prefix) = (format!("{}-totals", run.name), format!("weir.{}.", run.name));
    // The first of each subtask, which the checkpoint holds; the next may have begun behind it.
    let held = own.broker.open_transactions(&prefix).into_iter().filter(|id| id.ends_with(".0")).collect::<Vec<_>>();
    let open = own.restart_with(&topic, None);
    own.broker.commit_open(&held);
    own.broker.await_ends(&prefix);
    own.restart_with(&topic, Some(&open));
    assert!(run.read("totals").is_empty(), "the transactions hang");
    let finished = run.start(&Start::of(2)).succeed();
    assert!(finished.stderr.contains("had not told these partitions"), "{finished}");
    run.verify().unwrap();
}

#[test]
fn offsets_are_committed_to_the_group_and_are_where_the_next_job_starts() {
    let Some(broker) = Broker::of_tests() else { return };
    let run = Run::new(&broker, "kafka-group", &json!({}));
    run.start(&Start::of(2)).succeed();
    run.verify().unwrap();
    assert_eq!(broker.group_position(&run.name, &input(&broker)), RECORDS);
    // A job without a checkpoint begins there, and finds nothing new.
    run.start(&Start::of(1)).with(["--from", "none"]).succeed();
    run.verify().unwrap();
}

/// Whatever the restart strategy: no restart makes a topic.
#[test]
fn a_topic_that_is_not_there_ends_the_job() {
    let Some(broker) = Broker::of_tests() else { return };
    let restart = json!({"exponentialDelay": {}});
    let runs = ["sources[0].kafka.topics[0]", "sinks[0].kafka.topic"].map(|field| {
        let name = format!("kafka-no-topic-of-{}", field.split_once('[').expect("a list").0);
        let run = Run::with_restarts(&broker, &name, &json!({}), &restart);
        let start = run.start(&Start::of(2));
        let running = start.with(["--set", &format!("spec.pipeline.{field}=no-such-topic")]).spawn();
        (run, running)
    });
    for (_run, running) in runs {
        let failed = running.wait();
        assert!(failed.status.code().is_some_and(|code| code != 0), "{failed}");
        for part in ["there is no topic `no-such-topic`", "Create the topic", "no restart can help"] {
            assert!(failed.stderr.contains(part), "no word of {part}: {failed}");
        }
    }
}

#[test]
fn plan_asks_the_cluster() {
    let Some(broker) = Broker::of_tests() else { return };
    let run = Run::new(&broker, "kafka-plan", &json!({}));
    let plan = |settings: &[&str]| {
        let weir = Weir::new(run.scratch.path(), ["plan".as_ref(), run.job.as_os_str()]);
        weir.with(settings.iter().flat_map(|setting| ["--set", setting])).run()
    };
    let fine = plan(&[]);
    assert!(fine.status.success(), "{fine}");
    assert!(fine.stdout.contains("has 4 partitions") && fine.stdout.contains("transactions of version"), "{fine}");
    let missing = plan(&["spec.pipeline.sinks[0].kafka.topic=no-such-topic"]);
    assert!(!missing.status.success() && missing.stderr.contains("UnknownTopicOrPartition"), "{missing}");
    let too_long = plan(&["spec.pipeline.sinks[0].kafka.transactionTimeout=10h"]);
    assert!(!too_long.status.success() && too_long.stderr.contains("transaction.max.timeout.ms"), "{too_long}");
    let away = plan(&["spec.pipeline.sources[0].kafka.bootstrapServers=127.0.0.1:1"]);
    assert!(!away.status.success() && away.stderr.contains("cannot connect to 127.0.0.1:1"), "{away}");
}

impl Start {
    /// One process, undisturbed.
    fn of(parallelism: u32) -> Self {
        Start { parallelism, workers: None, death: None, aligned_ms: None, rescale: None }
    }

    fn random(rng: &mut ChaCha8Rng) -> Self {
        let death = match rng.random_range(0..3) {
            0 => {
                let (name, _) = FAILPOINTS[rng.random_range(0..FAILPOINTS.len())];
                Death::Failpoint(name, rng.random_range(1..=8))
            }
            _ => Death::After(Duration::from_millis(rng.random_range(0..3_000))),
        };
        let workers = rng.random_bool(0.3).then_some(2);
        let aligned_ms = rng.random_bool(0.5).then(|| [0, 20][rng.random_range(0..2)]);
        let asked = Duration::from_millis(rng.random_range(300..1_500));
        let rescale = rng.random_bool(0.5).then(|| (asked, rng.random_range(1..=4)));
        Start { parallelism: rng.random_range(1..=4), workers, death: Some(death), aligned_ms, rescale }
    }
}

impl Run {
    /// `sink`: settings of both sinks' `kafka`.
    fn new(broker: &Broker, name: &str, sink: &Value) -> Self {
        // A failure of the job itself must not hide behind a restart that repairs it.
        Self::with_restarts(broker, name, sink, &json!({"none": {}}))
    }

    fn with_restarts(broker: &Broker, name: &str, sink: &Value, restart: &Value) -> Self {
        let scratch = Scratch::new(name);
        let name = format!("{name}-{:08x}", rand::random::<u32>());
        let sinks: Vec<Value> = ["copies", "totals"]
            .iter()
            .map(|from| {
                let topic = format!("{name}-{from}");
                broker.create(&topic, PARTITIONS);
                let mut kafka = json!({"bootstrapServers": broker.address, "topic": topic, "key": ["k"]});
                kafka.as_object_mut().unwrap().extend(sink.as_object().unwrap().clone());
                json!({
                    "name": format!("{from}-out"), "from": from, "delivery": "ExactlyOnce", "kafka": kafka,
                    "format": {"json": {}},
                })
            })
            .collect();
        let column = |name: &str, of: &str| json!({"name": name, "type": of});
        let spec = json!({
            "pipeline": {
                "sources": [{
                    "name": "orders",
                    "kafka": {
                        "bootstrapServers": broker.address, "topics": [input(broker)], "groupId": name,
                        "bounded": true,
                        // So that a run lasts for a few checkpoints.
                        "properties": {"fetch.max.bytes": "16384", "max.partition.fetch.bytes": "16384"},
                    },
                    "format": {"json": {}},
                    "schema": [
                        column("id", "BIGINT"), column("k", "VARCHAR"), column("amount", "BIGINT"),
                        column("at", "TIMESTAMP"),
                        {"name": "place", "type": "BIGINT", "metadata": "Offset"},
                    ],
                }],
                "transforms": [
                    {"name": "copies", "sql": "SELECT id, k, amount, place FROM orders WHERE id % 2 = 0"},
                    {"name": "totals", "sql": "SELECT k, COUNT(*) AS n, SUM(amount) AS amount FROM orders GROUP BY k"},
                ],
                "sinks": sinks,
            },
            "checkpoint": {
                "interval": "100ms", "timeout": "8s", "storage": {"uri": scratch.storage_uri("checkpoints")},
            },
            "restart": restart,
        });
        let job = scratch.write_job(&name, &spec);
        Run { broker: broker.clone(), scratch, name, job, asked: RefCell::default() }
    }

    /// To three seconds, so that most deaths come before its end.
    fn slow_down(&self) {
        let text = std::fs::read_to_string(&self.job).expect("read the job");
        let mut job: Value = serde_json::from_str(&text).expect("the job is JSON");
        let slow = json!({"name": "slow", "from": "orders", "blackhole": {"rowsPerSecond": RECORDS / 3}});
        job["spec"]["pipeline"]["sinks"].as_array_mut().expect("sinks").push(slow);
        std::fs::write(&self.job, job.to_string()).expect("write the job");
    }

    fn start(&self, start: &Start) -> Weir {
        let parallelism = start.parallelism.to_string();
        let mut weir =
            Weir::new(self.scratch.path(), ["run".as_ref(), self.job.as_os_str()]).with(["-p", &parallelism]);
        if let Some(workers) = start.workers {
            weir = weir.with(["--workers", &workers.to_string()]);
        }
        if let Some(aligned_ms) = start.aligned_ms {
            let setting = format!("spec.checkpoint.unaligned={{enabled: true, alignedTimeout: {aligned_ms}ms}}");
            weir = weir.with(["--set", &setting]);
        }
        if start.rescale.is_some() {
            // So that it is still there to be rescaled.
            let properties = "{fetch.max.bytes: '4096', max.partition.fetch.bytes: '4096'}";
            weir = weir.with(["--set", &format!("spec.pipeline.sources[0].kafka.properties={properties}")]);
        }
        match start.death {
            Some(Death::Failpoint(name, nth)) => weir.env("WEIR_FAILPOINT", format!("{name}:{nth}")),
            Some(Death::After(_)) | None => weir,
        }
    }

    /// How many of the starts ended by a signal; that one fails by itself is an error.
    fn through(&self, starts: &[Start]) -> Result<u32, String> {
        let mut deaths = 0;
        for start in starts {
            let mut running = self.start(start).spawn();
            let killed_after = match start.death {
                Some(Death::After(delay)) => Some(delay),
                Some(Death::Failpoint(..)) | None => None,
            };
            if let Some((asked, parallelism)) = start.rescale
                && killed_after.is_none_or(|killed| asked < killed)
            {
                running.pass(asked);
                self.rescale(parallelism, &mut running);
            }
            let finished = match killed_after {
                Some(delay) => {
                    running.pass(delay.saturating_sub(start.rescale.map_or(Duration::ZERO, |(asked, _)| asked)));
                    let workers = running.children();
                    let finished = running.kill();
                    workers.into_iter().for_each(|pid| support::signal(pid, libc::SIGKILL));
                    finished
                }
                None => running.wait(),
            };
            deaths += u32::from(died(&finished, start)?);
        }
        Ok(deaths)
    }

    /// Asks for another parallelism; whether the job hears of it, in which state, and lives to act on it is left to chance.
    fn rescale(&self, parallelism: u32, running: &mut Running) {
        if running.has_ended() {
            return;
        }
        let rescale = Weir::new(self.scratch.path(), ["rescale".as_ref(), self.job.as_os_str()]);
        // Not waited for: what kills the job may come while it is rescaled.
        let asked = rescale.with(["-p", &parallelism.to_string()]).spawn();
        self.asked.borrow_mut().push(asked);
    }

    /// How many rescales were carried out.
    fn rescaled(&self) -> usize {
        let asked = self.asked.take().into_iter().map(Running::wait);
        let is_done = |finished: &Finished| {
            if !finished.status.success() {
                println!("not rescaled: {}", finished.stderr.lines().next().unwrap_or_default());
            }
            finished.status.success()
        };
        asked.filter(is_done).count()
    }

    /// What is wrong with what both sinks' topics hold.
    fn verify(&self) -> Result<(), String> {
        self.broker.await_ends(&format!("weir.{}.", self.name));
        let mut copies: Vec<i64> = vec![];
        for message in self.read("copies") {
            let value = message.json()?;
            let (id, k) = (int(&value, "id"), format!("k{}", int(&value, "id") % KEYS));
            if message.key.as_deref() != Some(&k) || value["k"] != json!(k) || int(&value, "amount") != id % 97 {
                return Err(format!("a copy is not what it was made from: {message:?}"));
            }
            copies.push(id);
        }
        copies.sort_unstable();
        let expected: Vec<i64> = (0..RECORDS).filter(|id| id % 2 == 0).collect();
        if copies != expected {
            let missing = expected.iter().filter(|id| copies.binary_search(id).is_err()).count();
            let twice = copies.windows(2).filter(|pair| pair[0] == pair[1]).count();
            return Err(format!("of {} copies {missing} are missing, {twice} are there twice", expected.len()));
        }
        let mut totals: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut partitions: BTreeMap<String, i32> = BTreeMap::new();
        for message in self.read("totals") {
            let value = message.json()?;
            let (n, amount) = (int(&value, "n"), int(&value, "amount"));
            let key = message.key.clone().unwrap_or_default();
            if *partitions.entry(key.clone()).or_insert(message.partition) != message.partition {
                return Err(format!("a key is in two partitions: {message:?}"));
            }
            let before = totals.insert(key, (n, amount));
            // A key's messages are in one partition, in their order.
            if before.is_some_and(|(before, _)| before >= n) {
                return Err(format!("a total goes back or comes twice, after {before:?}: {message:?}"));
            }
        }
        let expected = (0..KEYS).map(|key| {
            let ids = (0..RECORDS).filter(|id| id % KEYS == key);
            (format!("k{key}"), (ids.clone().count() as i64, ids.map(|id| id % 97).sum()))
        });
        let expected: BTreeMap<String, (i64, i64)> = expected.collect();
        if totals != expected { Err(format!("totals are {totals:?}, not {expected:?}")) } else { Ok(()) }
    }

    fn read(&self, from: &str) -> Vec<Message> {
        self.broker.read(&format!("{}-{from}", self.name))
    }
}

/// Whether a start ended by a signal, its own or that of a worker whose end it reports.
fn died(finished: &Finished, start: &Start) -> Result<bool, String> {
    if finished.status.signal().is_some() {
        return Ok(true);
    }
    if finished.status.success() {
        return Ok(false);
    }
    // A worker that dies ends the job, which may not restart.
    let of_worker = start.workers.is_some() && start.death.is_some();
    if of_worker { Ok(true) } else { Err(format!("a start failed by itself: {finished}")) }
}

/// The topic that all jobs of a broker read, made once.
fn input(broker: &Broker) -> String {
    static INPUTS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut inputs = INPUTS.lock().unwrap_or_else(PoisonError::into_inner);
    let fill = || {
        let topic = format!("orders-{:08x}", rand::random::<u32>());
        broker.create(&topic, PARTITIONS);
        broker.fill(&topic, 0, RECORDS, KEYS);
        topic
    };
    inputs.entry(broker.address.clone()).or_insert_with(fill).clone()
}

fn int(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or(-1)
}
