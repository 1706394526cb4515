//! Jobs that read Kinesis, against a server that its shards are split and merged on meanwhile, killed at random: what they
//! write must be what a run that nobody disturbed would have written, each partition key's records in their order.
//!
//! `WEIR_TEST_KINESIS` names the server; `cargo xtask test` starts one. `WEIR_KINESIS_RUNS` says how many random runs there
//! are and `WEIR_KINESIS_SEED` what the first one's seed is; `cargo xtask kinesis-test RUNS SEED` sets both.

#[path = "../support/mod.rs"]
mod support;

mod places;
mod stream;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;
use stream::{Feeder, Stream};
use support::unaligned::make_unaligned;
use support::{Running, Scratch, Weir, await_condition, finished_lines, random_runs};

const DEFAULT_RUNS: u64 = 3;
const RECORDS: i64 = 12_000;
/// It takes them all in two seconds.
const SLOW_SINK_ROWS_PER_SECOND: u64 = 6_000;
const KEYS: i64 = 24;
const SHARDS: u32 = 3;
/// Splits and merges while records come.
const CHANGES: u32 = 8;
const FAILPOINTS: [&str; 3] = ["before-manifest", "after-manifest", "mid-commit"];

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
    /// None: it runs until all has been written.
    death: Option<Death>,
    /// When the job is asked for another parallelism, and for which.
    rescale: Option<(Duration, u32)>,
}

struct Run {
    scratch: Scratch,
    job: PathBuf,
}

#[test]
fn exactly_once_and_in_order_through_random_kills_and_reshardings() {
    let Some(server) = stream::server() else { return };
    let repeat = |seed| format!("cargo xtask kinesis-test 1 {seed}");
    random_runs("KINESIS", DEFAULT_RUNS, repeat, |seed, rng| {
        let mut starts: Vec<Start> = (0..rng.random_range(1..=3)).map(|_| Start::random(rng)).collect();
        starts.push(Start { death: None, ..Start::random(rng) });
        let stream = Stream::create(&server, &format!("kinesis-{seed}"), SHARDS);
        let run = Run::new(&stream);
        let is_unaligned = rng.random_bool(0.5);
        if is_unaligned {
            make_unaligned(&run.job, 0, ("copies", SLOW_SINK_ROWS_PER_SECOND));
        }
        let feeder = stream.feed(RECORDS, KEYS, CHANGES, seed);
        match run.through(&starts, feeder).and_then(|deaths| run.verify().map(|()| deaths)) {
            Ok(deaths) => {
                Ok(format!("{starts:?}{}, died {deaths} times", if is_unaligned { ", unaligned" } else { "" }))
            }
            Err(problem) => Err(format!("{starts:?}\n{problem}\nkept: {}", run.scratch.keep().display())),
        }
    });
}

impl Start {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let death = match rng.random_range(0..3) {
            0 => Death::Failpoint(FAILPOINTS[rng.random_range(0..FAILPOINTS.len())], rng.random_range(1..=8)),
            _ => Death::After(Duration::from_millis(rng.random_range(0..2_500))),
        };
        let workers = rng.random_bool(0.3).then_some(2);
        let asked = Duration::from_millis(rng.random_range(300..1_500));
        let rescale = rng.random_bool(0.5).then(|| (asked, rng.random_range(1..=4)));
        Start { parallelism: rng.random_range(1..=4), workers, death: Some(death), rescale }
    }
}

impl Run {
    fn new(stream: &Stream) -> Self {
        let scratch = Scratch::new(&stream.name);
        let sink = |from: &str, change_kind: Option<&str>| {
            let mut sink = json!({
                "name": format!("{from}-out"), "from": from, "delivery": "ExactlyOnce",
                "files": {"path": scratch.join(from), "rolling": {"maxAge": "100ms"}},
                "format": {"json": {}},
            });
            if let Some(column) = change_kind {
                sink["changeKindColumn"] = json!(column);
            }
            sink
        };
        let spec = json!({
            "pipeline": {
                "sources": [{
                    "name": "orders",
                    "kinesis": stream.settings(json!({"startFrom": "Earliest"})),
                    "format": {"json": {}},
                    "schema": [
                        {"name": "id", "type": "BIGINT"}, {"name": "k", "type": "VARCHAR"},
                        {"name": "key", "type": "VARCHAR", "metadata": "PartitionKey"},
                        {"name": "shard", "type": "VARCHAR", "metadata": "Shard"},
                    ],
                }],
                "transforms": [
                    {"name": "copies", "sql": "SELECT id, k, key, shard FROM orders"},
                    {"name": "totals", "sql": "SELECT k, COUNT(*) AS n, MAX(id) AS latest FROM orders GROUP BY k"},
                ],
                "sinks": [sink("copies", None), sink("totals", Some("op"))],
            },
            "checkpoint": {
                "interval": "100ms", "timeout": "20s", "storage": {"uri": scratch.storage_uri("checkpoints")},
            },
            // A failure of the job itself must not hide behind a restart that repairs it.
            "restart": {"none": {}},
        });
        let job = scratch.write_job(&stream.name, &spec);
        Run { scratch, job }
    }

    fn weir(&self, command: &str) -> Weir {
        Weir::new(self.scratch.path(), [command.as_ref(), self.job.as_os_str()])
    }

    fn start(&self, start: &Start) -> Weir {
        let mut weir = self.weir("run").with(["-p", &start.parallelism.to_string()]);
        if let Some(workers) = start.workers {
            weir = weir.with(["--workers", &workers.to_string()]);
        }
        match start.death {
            Some(Death::Failpoint(name, nth)) => weir.env("WEIR_FAILPOINT", format!("{name}:{nth}")),
            Some(Death::After(_)) | None => weir,
        }
    }

    /// How many of the starts ended by a signal; that one fails by itself is an error.
    fn through(&self, starts: &[Start], feeder: Feeder) -> Result<u32, String> {
        let mut feeder = Some(feeder);
        for (deaths, start) in (0..).zip(starts) {
            let mut running = self.start(start).spawn();
            let (mut asked, mut passed) = (None, Duration::ZERO);
            let killed_after = match start.death {
                Some(Death::After(delay)) => delay,
                // It passes long before, or never: then the run is ended as well.
                Some(Death::Failpoint(..)) => Duration::from_secs(5),
                None => Duration::MAX,
            };
            if let Some((after, parallelism)) = start.rescale.filter(|(after, _)| *after < killed_after) {
                running.pass(after);
                passed = after;
                if !running.has_ended() {
                    // Not waited for: what kills the job may come while it is rescaled.
                    asked = Some(self.weir("rescale").with(["-p", &parallelism.to_string()]).spawn());
                }
            }
            if start.death.is_none() {
                feeder.take().expect("the last start is the only one that lives").finish()?;
                self.await_all(&mut running)?;
                drop(asked);
                let stopped = self.weir("stop").run();
                let finished = running.wait();
                if !stopped.status.success() || !finished.status.success() {
                    return Err(format!("{stopped}{finished}"));
                }
                return Ok(deaths);
            }
            running.pass(killed_after.saturating_sub(passed));
            let workers = running.children();
            let finished = running.kill();
            workers.into_iter().for_each(|pid| support::signal(pid, libc::SIGKILL));
            drop(asked);
            if finished.status.signal().is_none() && start.workers.is_none() {
                return Err(format!("a start failed by itself: {finished}"));
            }
        }
        Err("no start lived".into())
    }

    fn await_all(&self, running: &mut Running) -> Result<(), String> {
        let copies = self.scratch.join("copies");
        await_condition("all records are written", || {
            let is_over = running.has_ended();
            // All may be there before it is, and nobody else can be asked to stop.
            let written = running.stderr().contains("Running") && finished_lines(&copies).len() >= RECORDS as usize;
            (written || is_over).then_some(())
        });
        if running.has_ended() { Err(format!("it ended by itself: {}", running.stderr())) } else { Ok(()) }
    }

    /// What is wrong with what was written.
    fn verify(&self) -> Result<(), String> {
        let mut ids = vec![];
        for copy in self.rows("copies")? {
            let id = int(&copy, "id");
            let key = json!(format!("k{}", id % KEYS));
            if copy["k"] != key || copy["key"] != key {
                return Err(format!("a copy is not what it was made from: {copy}"));
            }
            ids.push(id);
        }
        ids.sort_unstable();
        if ids != (0..RECORDS).collect::<Vec<_>>() {
            let missing: Vec<i64> = (0..RECORDS).filter(|id| ids.binary_search(id).is_err()).collect();
            let twice = ids.windows(2).filter(|pair| pair[0] == pair[1]).count();
            let some = &missing[..missing.len().min(10)];
            return Err(format!("{} records are missing, such as {some:?}; {twice} are there twice", missing.len()));
        }
        let mut last = BTreeMap::new();
        for total in self.rows("totals")? {
            let (n, latest) = (int(&total, "n"), int(&total, "latest"));
            let key: i64 = total["k"].as_str().and_then(|key| key.strip_prefix('k')?.parse().ok()).unwrap_or(-1);
            // The nth of a key: had one come before its turn, the latest would be a later one.
            if latest != key + (n - 1) * KEYS {
                return Err(format!("a key's records were not read in their order: {total}"));
            }
            let most = last.entry(key).or_insert(n);
            *most = n.max(*most);
        }
        let expected: BTreeMap<i64, i64> = (0..KEYS).map(|key| (key, (RECORDS - key + KEYS - 1) / KEYS)).collect();
        if last == expected { Ok(()) } else { Err(format!("totals are {last:?}, not {expected:?}")) }
    }

    fn rows(&self, sink: &str) -> Result<Vec<Value>, String> {
        let lines = finished_lines(&self.scratch.join(sink));
        lines.iter().map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))).collect()
    }
}

fn int(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or(-1)
}
