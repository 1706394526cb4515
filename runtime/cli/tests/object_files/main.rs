//! The files sink on S3: real processes, killed at random and at chosen moments, against a real server, whose address
//! WEIR_TEST_S3 holds. What boto3 finds at the end must be what a run would have written that nobody disturbed, and nothing
//! may be left of uploads. `cargo xtask test` brings the server.
//!
//! `WEIR_S3_FILES_RUNS` says how many random runs there are and `WEIR_S3_FILES_SEED` what the first one's seed is;
//! `cargo xtask s3-files-test RUNS SEED` sets both.

#[path = "../support/mod.rs"]
mod support;

use rand::Rng;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::inputs::Inputs;
use support::s3::Objects;
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Check, Mode, Oracle, Rows, Run, Scratch, Weir, random_runs, s3_server};

const DEFAULT_RUNS: u64 = 4;
/// The uploads of four sinks are a hundred requests.
const INTERVAL: &str = "300ms";
/// After the pre-commit and before the manifest; between the manifest and the first commit; between commits; while a
/// restore commits and aborts.
const FAILPOINTS: [&str; 4] = ["before-manifest", "after-manifest", "mid-commit", "before-settle"];
/// A run lasts 20 seconds, where it is to die at a certain point long before.
const SLOW_ROWS_PER_SECOND: u32 = 3_000;

/// A job that writes to S3.
struct Session {
    scratch: Scratch,
    job: PathBuf,
    objects: Objects,
}

enum Death {
    After(Duration),
    Failpoint(&'static str, u32),
}

impl Session {
    /// The job of the other kill tests, with its files on S3.
    fn new(name: &str, server: &str) -> Self {
        let scratch = Scratch::new(name);
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        let session = Session::of(scratch, job, name, server);
        session.change(|spec| {
            spec["checkpoint"]["interval"] = json!(INTERVAL);
            for sink in spec["pipeline"]["sinks"].as_array_mut().expect("sinks") {
                let folder = sink["files"]["path"].as_str().expect("a path").rsplit('/').next().expect("a name");
                sink["files"] = session.objects.sink(folder);
            }
        });
        session
    }

    fn of(scratch: Scratch, job: PathBuf, name: &str, server: &str) -> Self {
        Session { scratch, job, objects: Objects::new(server, name) }
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(&self.job).expect("read the job");
        let mut job: Value = serde_json::from_str(&text).expect("the job is JSON");
        change(&mut job["spec"]);
        std::fs::write(&self.job, serde_json::to_string_pretty(&job).expect("JSON is written to memory"))
            .expect("write");
    }

    fn weir(&self, command: &str, options: &[&str]) -> Weir {
        Weir::new(self.scratch.path(), [Path::new(command).as_os_str(), self.job.as_os_str()]).with(options)
    }

    /// Starts the job and lets it die; whether it did, rather than finish.
    fn start(&self, parallelism: u32, death: &Death) -> Result<bool, String> {
        let weir = self.weir("run", &["-p", &parallelism.to_string()]);
        let weir = weir.with(traffic::slowly(&self.job, SLOW_ROWS_PER_SECOND));
        let finished = match *death {
            Death::Failpoint(name, nth) => weir.env("WEIR_FAILPOINT", format!("{name}:{nth}")).run(),
            Death::After(delay) => weir.kill_after(delay),
        };
        finished.was_killed()
    }

    /// Brings the objects into the scratch folder; the uploads that are under way.
    fn fetch(&self) -> Result<Vec<String>, String> {
        self.objects.fetch(&self.scratch.join("out"))
    }

    /// Lets the job run to its end, and compares.
    fn finish(&self, parallelism: u32) -> Result<(), String> {
        let finished = self.weir("run", &["-p", &parallelism.to_string()]).run();
        if finished.was_killed()? {
            return Err(format!("the last start was ended by a signal: {finished}"));
        }
        let uploads = self.fetch()?;
        if !uploads.is_empty() {
            return Err(format!("uploads were left behind: {uploads:?}\n{finished}"));
        }
        traffic::verify(&self.scratch, Guarantee::ExactlyOnce).map_err(|problem| format!("{problem}\n{finished}"))
    }
}

#[test]
fn killed_at_random_the_objects_are_those_of_an_undisturbed_run() {
    let Some(server) = s3_server() else { return };
    let inputs = Inputs::default();
    let repeat = |seed| format!("cargo xtask s3-files-test 1 {seed}");
    random_runs("S3_FILES", DEFAULT_RUNS, repeat, |seed, rng| {
        let session = Session::new(&format!("s3-files-{seed}"), &server);
        let from = inputs.choose(rng, &session.job);
        let is_unaligned = rng.random_bool(0.5);
        if is_unaligned {
            traffic::make_unaligned(&session.job, 0);
        }
        let mut deaths = 0;
        for _ in 0..rng.random_range(1..=3) {
            let death = match rng.random_range(0..4) {
                0 => match FAILPOINTS[rng.random_range(0..FAILPOINTS.len())] {
                    // A restore that is passed once is passed once.
                    "before-settle" => Death::Failpoint("before-settle", 1),
                    name => Death::Failpoint(name, rng.random_range(1..=6)),
                },
                _ => Death::After(Duration::from_millis(rng.random_range(0..3_000))),
            };
            deaths += u32::from(session.start(rng.random_range(1..=3), &death)?);
        }
        session.finish(rng.random_range(1..=3))?;
        let barriers = if is_unaligned { ", unaligned" } else { "" };
        Ok(format!("{from}{barriers}, died {deaths} times"))
    });
}

#[test]
fn killed_at_each_moment_of_a_checkpoint() {
    let Some(server) = s3_server() else { return };
    // Of the commits of eight sink subtasks in a checkpoint, one that others precede and others follow.
    for (name, nth) in [("before-manifest", 2), ("after-manifest", 2), ("mid-commit", 5)] {
        let session = Session::new(&format!("s3-files-{name}"), &server);
        let died = session.start(2, &Death::Failpoint(name, nth)).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        assert!(died, "{name} was not passed");
        let before = session.fetch().unwrap_or_else(|problem| panic!("{problem}"));
        assert!(!before.is_empty(), "{name}: no upload was under way, so that nothing is shown");
        session.finish(3).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    }
}

/// Folders, Parquet, parts of more than one upload's part, and a plan that says that it can be done.
#[test]
fn large_partitioned_files_of_every_format() {
    let Some(server) = s3_server() else { return };
    for (format, compression, read) in [
        (json!({"parquet": {}}), None, "read_parquet('{}/*/*.parquet', hive_partitioning = true)"),
        (json!({"csv": {}}), Some("Gzip"), "read_csv('{}/*/*.csv.gz', hive_partitioning = true)"),
        (json!({"json": {}}), None, "read_json('{}/*/*.jsonl', hive_partitioning = true)"),
    ] {
        let name = format!("s3-files-{}", format.as_object().and_then(|one| one.keys().next()).expect("one format"));
        let scratch = Scratch::new(&name);
        let job = scratch.write_job("copy", &json!({}));
        let session = Session::of(scratch, job, &name, &server);
        let mut files = session.objects.sink("out");
        files["partitionBy"] = json!(["part"]);
        if let Some(compression) = compression {
            files["compression"] = json!(compression);
        }
        session.change(|spec| {
            *spec = json!({
                "pipeline": {
                    "sources": [{
                        "name": "rows",
                        "generator": {"count": 120_000, "columns": [
                            {"name": "id", "sequence": {}},
                            {"name": "part", "sequence": {"cardinality": 2}},
                            {"name": "text", "random": {"length": 100}},
                        ]},
                        "schema": [
                            {"name": "id", "type": "BIGINT"},
                            {"name": "part", "type": "BIGINT"},
                            {"name": "text", "type": "VARCHAR"},
                        ],
                    }],
                    "sinks": [{"name": "out", "from": "rows", "delivery": "ExactlyOnce", "files": files, "format": format}],
                },
                "checkpoint": {"storage": {"uri": session.scratch.storage_uri("checkpoints")}},
            });
        });
        let plan = session.weir("plan", &[]).succeed();
        assert!(plan.stdout.contains("objects can be written below"), "{plan}");
        let finished = session.weir("run", &["-p", "1"]).succeed();
        assert_eq!(session.fetch(), Ok(vec![]), "uploads were left behind: {finished}");
        let folder = session.scratch.join("out/out").display().to_string();
        let oracle = Oracle {
            tables: vec![],
            checks: vec![Check {
                name: name.clone(),
                sql: "SELECT range AS id, range % 2 AS part, 100 AS length FROM range(120000)".into(),
                change_column: None,
                mode: Mode::Exact,
                may_be_empty: false,
                runs: vec![Run {
                    label: "S3".into(),
                    rows: Rows::Sql(format!("SELECT id, part, length(text) FROM {}", read.replace("{}", &folder))),
                }],
            }],
        };
        oracle.compare(&session.scratch.join("compare.json")).unwrap_or_else(|problem| panic!("{problem}\n{finished}"));
    }
}

#[test]
fn what_is_wrong_is_said() {
    let Some(server) = s3_server() else { return };
    let session = Session::new("s3-files-wrong", &server);
    for (field, value, parts) in [
        ("path", "s3://no-such-bucket/x", ["NoSuchBucket", "s3://no-such-bucket/x"]),
        ("storage.credentials.env", "NOTHING", ["NOTHING_ACCESS_KEY_ID", "environment"]),
        ("path", "gs://bucket/x", ["gs://", "s3://bucket/prefix"]),
        ("path", "s3://", ["names no bucket", "s3://bucket/prefix"]),
        ("path", "out", ["storage settings", "s3://bucket/prefix"]),
    ] {
        let set = format!("spec.pipeline.sinks[0].files.{field}={value}");
        for command in ["plan", "run"] {
            let refused = session.weir(command, &["--set", &set]).fail();
            for part in parts {
                let said = refused.stderr.contains(part) || refused.stdout.contains(part);
                assert!(said, "{command}: no word of {part}: {refused}");
            }
        }
    }
}
