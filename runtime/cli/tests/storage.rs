//! A job whose checkpoints and savepoints stand on S3 or on GCS: the whole way, with real processes and a real server, whose
//! address WEIR_TEST_S3 or WEIR_TEST_GCS holds. `cargo xtask test` brings the first, `cargo xtask test-storage` both.

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Finished, Running, Scratch, Weir, await_condition, s3_server};

const BUCKET: &str = "weir-test";
/// Rows of the generator per second: it has 60,000.
const SLOW: u32 = 3_000;
const HURRY: [&str; 2] = ["--set", "spec.pipeline.sources[0].generator.rowsPerSecond=60000"];

/// A job on a store, in a scratch folder that has no checkpoints of its own.
struct Session {
    scratch: Scratch,
    job: PathBuf,
    /// `s3://bucket/prefix`, which nobody else uses.
    uri: String,
}

impl Session {
    fn on_s3(name: &str, server: &str) -> Self {
        let more = json!({"endpoint": server, "region": "us-east-1", "credentials": {"env": "WEIR_TEST"}});
        Session::new(name, "s3", more)
    }

    fn on_gcs(name: &str, server: &str) -> Self {
        Session::new(name, "gs", json!({"endpoint": server}))
    }

    /// `storage`: what the job says of it beside its address.
    fn new(name: &str, scheme: &str, mut storage: Value) -> Self {
        let scratch = Scratch::new(name);
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        let uri = format!("{scheme}://{BUCKET}/cli/{name}-{}", std::process::id());
        let text = std::fs::read_to_string(&job).expect("read the job");
        let mut spec: Value = serde_json::from_str(&text).expect("the job is JSON");
        storage["uri"] = json!(uri);
        spec["spec"]["checkpoint"]["storage"] = storage;
        // Long enough for what happens while it runs; the last run of each test hurries.
        spec["spec"]["pipeline"]["sources"][0]["generator"]["rowsPerSecond"] = json!(SLOW);
        std::fs::write(&job, serde_json::to_string_pretty(&spec).expect("JSON is written to memory")).expect("write");
        Session { scratch, job, uri }
    }

    fn weir(&self, command: &str, options: &[&str]) -> Weir {
        let arguments = [Path::new(command).as_os_str(), self.job.as_os_str()];
        Weir::new(self.scratch.path(), arguments).with(options)
    }

    fn checkpoints(&self) -> Vec<Value> {
        let listed = self.weir("checkpoints", &["--output", "json"]).succeed();
        serde_json::from_str(&listed.stdout).unwrap_or_else(|error| panic!("{error}: {listed}"))
    }

    fn await_checkpoint_after(&self, last: u64, running: &Running) -> u64 {
        await_condition(&format!("a checkpoint\n{}{}", running.stdout(), running.stderr()), || {
            let latest = self.checkpoints().last().and_then(|checkpoint| checkpoint["id"].as_u64());
            latest.filter(|id| *id > last)
        })
    }

    fn verify(&self, said: &Finished) {
        let verified = traffic::verify(&self.scratch, Guarantee::ExactlyOnce);
        verified.unwrap_or_else(|problem| panic!("{problem}\n{said}"));
        assert!(!self.scratch.join("checkpoints").exists(), "something was written to the local folder");
    }
}

/// Without one the test is passed over, which is said.
fn gcs_server() -> Option<String> {
    let server = std::env::var("WEIR_TEST_GCS").ok();
    if server.is_none() {
        eprintln!("skipped: WEIR_TEST_GCS names no server; `cargo xtask test-storage gcs` starts one");
    }
    server
}

#[test]
fn killed_and_started_again_the_output_is_right() {
    let Some(server) = s3_server() else { return };
    is_right_when_killed(&Session::on_s3("s3-killed", &server));
}

#[test]
fn killed_and_started_again_on_gcs_the_output_is_right() {
    let Some(server) = gcs_server() else { return };
    is_right_when_killed(&Session::on_gcs("gcs-killed", &server));
}

fn is_right_when_killed(session: &Session) {
    let mut last = 0;
    for parallelism in ["2", "3"] {
        let running = session.weir("run", &["-p", parallelism]).spawn();
        last = session.await_checkpoint_after(last, &running);
        running.kill();
    }
    let finished = session.weir("run", &["-p", "2"]).with(HURRY).succeed();
    session.verify(&finished);
    let checkpoints = session.checkpoints();
    assert_eq!(checkpoints.len(), 2, "retain.count is 2: {checkpoints:?}");
    assert!(checkpoints.iter().all(|checkpoint| checkpoint["restorable"] == true), "{checkpoints:?}");
}

#[test]
fn a_savepoint_on_s3_starts_another_job() {
    let Some(server) = s3_server() else { return };
    let session = Session::on_s3("s3-savepoint", &server);
    let running = session.weir("run", &["-p", "2"]).spawn();
    session.await_checkpoint_after(0, &running);
    let savepoint = format!("{}-saved/here", session.uri);
    let stop = session.weir("stop", &["--savepoint", &savepoint]).succeed();
    assert!(stop.stdout.contains(&savepoint), "the place is not named: {stop}");
    let stopped = running.wait();
    assert!(stopped.status.success(), "{stopped}");
    // Without a job: what the environment says.
    let state = Weir::new(session.scratch.path(), ["state", &savepoint])
        .env("AWS_ENDPOINT_URL", server.as_str())
        .env("AWS_ACCESS_KEY_ID", "testkey")
        .env("AWS_SECRET_ACCESS_KEY", "testsecret")
        .succeed();
    assert!(state.stdout.contains("totals") && state.stdout.contains("usr"), "{state}");
    let finished = session.weir("run", &["-p", "5", "--from", &savepoint]).with(HURRY).succeed();
    session.verify(&finished);
}

#[test]
fn what_is_wrong_with_a_storage_is_said_at_the_start() {
    let Some(server) = s3_server() else { return };
    let session = Session::on_s3("s3-wrong", &server);
    for (field, value, parts) in [
        ("uri", "s3://no-such-bucket/x", ["NoSuchBucket", "no-such-bucket"]),
        ("uri", "gopher://x/y", ["gopher", "scheme"]),
        ("credentials.env", "NOTHING", ["NOTHING_ACCESS_KEY_ID", "environment"]),
    ] {
        let set = format!("spec.checkpoint.storage.{field}={value}");
        let refused = session.weir("run", &["--set", &set]).fail();
        for part in parts {
            assert!(refused.stderr.contains(part), "no word of {part}: {refused}");
        }
    }
}
