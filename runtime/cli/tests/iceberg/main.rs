//! The Iceberg sink: real processes, killed at random and at chosen moments, as is the catalog: Iceberg's own, which speaks
//! REST, and one in PostgreSQL. What pyiceberg reads at the end must be what a run would have written that nobody disturbed, each checkpoint in
//! one snapshot. `cargo xtask test` brings the catalog's libraries and a store.
//!
//! `WEIR_ICEBERG_RUNS` says how many random runs there are and `WEIR_ICEBERG_SEED` what the first one's seed is.

#[path = "../support/mod.rs"]
mod support;

mod sql;
mod tables;
mod ways;

use rand::Rng;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::iceberg::{Catalog, Kind};
use support::inputs::Inputs;
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Finished, Scratch, Weir, await_condition, random_runs};
use ways::{Fate, LossyWay, SwapWay};

const DEFAULT_RUNS: u64 = 2;
/// The commits of four sinks, one after the other.
const INTERVAL: &str = "400ms";
/// After the files and before the manifest; between the manifest and the first commit; between the commits of several sinks;
/// while a restore commits.
const FAILPOINTS: [&str; 4] = ["before-manifest", "after-manifest", "mid-commit", "before-settle"];
/// A run lasts 20 seconds, where it is to die at a certain point long before.
const SLOW_ROWS_PER_SECOND: u32 = 3_000;
const TABLES: [&str; 4] = ["copy", "windows", "sessions", "totals"];

/// A job that writes into tables.
struct Session {
    scratch: Scratch,
    job: PathBuf,
    catalog: Catalog,
}

enum Death {
    After(Duration),
    Failpoint(&'static str, u32),
    /// At a commit in the catalog's database.
    AtSwap(Fate, u32),
    /// The catalog's, and no process of ours.
    OfCatalog(Duration),
}

impl Session {
    /// The job of the other kill tests, with its results in tables.
    fn new(name: &str, kind: Kind) -> Option<Self> {
        let scratch = Scratch::new(name);
        let catalog = Catalog::start(kind, scratch.path())?;
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        let session = Session { scratch, job, catalog };
        session.change(|spec| {
            spec["checkpoint"]["interval"] = json!(INTERVAL);
            for sink in spec["pipeline"]["sinks"].as_array_mut().expect("sinks") {
                let table = sink["from"].as_str().expect("a step").to_owned();
                sink.as_object_mut().expect("a sink").retain(|field, _| field != "files" && field != "format");
                sink["iceberg"] = session.catalog.sink(&format!("shop.{table}"));
            }
        });
        Some(session)
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(&self.job).expect("read the job");
        let mut job: Value = serde_json::from_str(&text).expect("the job is JSON");
        change(&mut job["spec"]);
        std::fs::write(&self.job, serde_json::to_string_pretty(&job).expect("JSON is written to memory"))
            .expect("write");
    }

    fn weir(&self, command: &str, options: &[&str]) -> Weir {
        weir(&self.scratch, command, &self.job, options)
    }

    /// Starts the job and lets it die, or its catalog; whether that came to pass before the job had finished.
    fn start(&mut self, parallelism: u32, death: &Death) -> Result<bool, String> {
        let weir = self.weir("run", &["-p", &parallelism.to_string()]);
        let slowly = traffic::slowly(&self.job, SLOW_ROWS_PER_SECOND);
        let mut met_catalog = false;
        let finished = match *death {
            Death::Failpoint(name, nth) => weir.with(slowly).env("WEIR_FAILPOINT", format!("{name}:{nth}")).run(),
            Death::After(delay) => weir.with(slowly).kill_after(delay),
            Death::OfCatalog(delay) => {
                let restarts = "spec.restart={fixedDelay: {attempts: 1000, delay: 200ms}}";
                let mut running = weir.with(["--set", restarts]).spawn();
                running.pass(delay);
                met_catalog = !running.has_ended();
                self.catalog.crash();
                running.wait()
            }
            Death::AtSwap(fate, nth) => self.die_at_swap(weir, fate, nth)?,
        };
        Ok(finished.was_killed()? || met_catalog)
    }

    /// Lets a swap meet its fate, and then the process die that asked for it.
    fn die_at_swap(&self, weir: Weir, fate: Fate, nth: u32) -> Result<Finished, String> {
        let postgres = self.catalog.postgres().ok_or("the catalog makes no swaps")?;
        let way = SwapWay::to(postgres, fate, nth);
        let urls = (0..TABLES.len()).flat_map(|sink| {
            let url = format!("spec.pipeline.sinks[{sink}].iceberg.catalog.sql.url={{value: '{}'}}", way.url);
            ["--set".to_owned(), url]
        });
        let slowly = traffic::slowly(&self.job, SLOW_ROWS_PER_SECOND);
        let mut running = weir.with(urls).with(slowly).spawn();
        await_condition("a swap, or the end", || (way.met() > 0 || running.has_ended()).then_some(()));
        Ok(if way.met() > 0 { running.kill() } else { running.wait() })
    }

    /// Brings the rows into the scratch folder, as the files sink would have written them; the snapshots' summaries.
    fn fetch(&self) -> Result<Vec<Value>, String> {
        let mut summaries = vec![];
        for table in TABLES {
            let folder = self.scratch.join("out").join(table).display().to_string();
            let told = self.catalog.client("read", &format!("shop.{table}"), &[&folder])?;
            let told: Vec<Value> = serde_json::from_str(&told).map_err(|error| error.to_string())?;
            summaries.extend(told);
        }
        Ok(summaries)
    }

    /// Lets the job run to its end, and compares.
    fn finish(&mut self, parallelism: u32) -> Result<Vec<Value>, String> {
        let finished = self.weir("run", &["-p", &parallelism.to_string()]).run();
        if finished.was_killed()? {
            return Err(format!("the last start was ended by a signal: {finished}"));
        }
        let summaries = self.fetch().map_err(|problem| format!("{problem}\n{finished}"))?;
        traffic::verify(&self.scratch, Guarantee::ExactlyOnce).map_err(|problem| format!("{problem}\n{finished}"))?;
        Ok(summaries)
    }
}

fn weir(scratch: &Scratch, command: &str, job: &Path, options: &[&str]) -> Weir {
    Weir::new(scratch.path(), [Path::new(command).as_os_str(), job.as_os_str()]).with(options)
}

#[test]
fn killed_at_random_the_tables_are_those_of_an_undisturbed_run() {
    if !Catalog::is_installed() {
        return;
    }
    let inputs = Inputs::default();
    let repeat = |seed| format!("cargo xtask iceberg-test 1 {seed}");
    random_runs("ICEBERG", DEFAULT_RUNS, repeat, |seed, rng| {
        let kind = [Kind::Rest, Kind::SqlInStore, Kind::SqlInFolder][rng.random_range(0..3)];
        let mut session = Session::new(&format!("iceberg-{seed}"), kind).ok_or("the catalog can't be had here")?;
        let from = inputs.choose(rng, &session.job);
        if rng.random_bool(0.5) {
            traffic::make_unaligned(&session.job, 0);
        }
        // In half of the runs several checkpoints make one snapshot.
        if rng.random_bool(0.5) {
            session.change(|spec| {
                for sink in spec["pipeline"]["sinks"].as_array_mut().expect("sinks") {
                    if sink.get("iceberg").is_some() {
                        sink["iceberg"]["commitInterval"] = json!("1200ms");
                    }
                }
            });
        }
        let mut deaths = 0;
        for _ in 0..rng.random_range(1..=3) {
            let death = match rng.random_range(0..6) {
                0 | 1 => match FAILPOINTS[rng.random_range(0..FAILPOINTS.len())] {
                    // A restore that is passed once is passed once.
                    "before-settle" => Death::Failpoint("before-settle", 1),
                    name => Death::Failpoint(name, rng.random_range(1..=6)),
                },
                2 => Death::OfCatalog(Duration::from_millis(rng.random_range(0..3_000))),
                3 if kind != Kind::Rest => {
                    let fate = [Fate::Held, Fate::HeldAnswer][rng.random_range(0..2)];
                    Death::AtSwap(fate, rng.random_range(1..=12))
                }
                _ => Death::After(Duration::from_millis(rng.random_range(0..3_000))),
            };
            deaths += u32::from(session.start(rng.random_range(1..=3), &death)?);
        }
        session.finish(rng.random_range(1..=3))?;
        Ok(format!("{kind:?}, {from}, died {deaths} times"))
    });
}

#[test]
fn killed_at_each_moment_of_a_checkpoint() {
    // Of the commits of four sinks in a checkpoint, one that others precede and others follow.
    for (name, nth) in [("before-manifest", 2), ("after-manifest", 2), ("mid-commit", 6)] {
        let Some(mut session) = Session::new(&format!("iceberg-{name}"), Kind::Rest) else { return };
        let died = session.start(2, &Death::Failpoint(name, nth)).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        assert!(died, "{name} was not passed");
        session.finish(3).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    }
}

#[test]
fn an_answer_that_is_lost_commits_nothing_twice() {
    let Some(mut session) = Session::new("iceberg-lossy", Kind::Rest) else { return };
    let way = LossyWay::to(&session.catalog, 2);
    session.change(|spec| {
        for sink in spec["pipeline"]["sinks"].as_array_mut().expect("sinks") {
            sink["iceberg"]["catalog"]["rest"]["uri"] = json!(way.uri);
        }
    });
    session.finish(2).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(way.lost.load(Ordering::Relaxed) > 0, "no answer was lost, so that nothing is shown");
}

#[test]
fn what_is_wrong_is_said() {
    let Some(session) = Session::new("iceberg-wrong", Kind::Rest) else { return };
    let set = |field: &str, value: &str| format!("spec.pipeline.sinks[0].{field}={value}");
    let nobody = "http://127.0.0.1:1";
    for (changes, parts) in [
        (vec![set("iceberg.table", "copy")], ["`copy` is no table", "namespace.table"]),
        (vec![set("delivery", "Upsert")], ["iceberg can only append", "ExactlyOnce"]),
        (vec![set("iceberg.createTable", "{partitionBy: [nothing]}")], ["`nothing`", "it has id, usr, cents"]),
        (vec![set("iceberg.createTable", "{partitionBy: ['days(id)']}")], ["days(id)", "bucket(N, column)"]),
        (vec![set("iceberg.catalog.rest.uri", nobody)], [nobody, "refused"]),
        (vec![set("iceberg.storage.credentials.env", "NOTHING")], ["NOTHING_ACCESS_KEY_ID", "environment"]),
    ] {
        let options: Vec<&str> = changes.iter().flat_map(|change| ["--set", change]).collect();
        let refused = session.weir("run", &options).fail();
        for part in parts {
            let said = refused.stderr.contains(part) || refused.stdout.contains(part);
            assert!(said, "no word of {part}: {refused}");
        }
    }
    // An updating input, at its place in the file.
    session.change(|spec| {
        for sink in spec["pipeline"]["sinks"].as_array_mut().expect("sinks") {
            sink.as_object_mut().expect("a sink").retain(|field, _| field != "changeKindColumn");
        }
    });
    let refused = session.weir("validate", &[]).fail();
    for part in ["the input is updating", "delete files", "changeKindColumn", "sinks[3]"] {
        assert!(refused.stderr.contains(part) || refused.stdout.contains(part), "no word of {part}: {refused}");
    }
}
