//! A job whose checkpoints and savepoints stand on S3: the whole way, with real processes and a real server, whose
//! address WEIR_TEST_S3 holds. `cargo xtask test` brings one.

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Finished, Running, Scratch, Weir, await_condition, s3_server};

const BUCKET: &str = "weir-test";
/// Rows of the generator per second: it has 60,000.
const SLOW: u32 = 3_000;
const HURRY: [&str; 2] = ["--set", "spec.pipeline.sources[0].generator.rowsPerSecond=60000"];

/// A job on S3, in a scratch folder that has no checkpoints of its own.
struct Session {
    scratch: Scratch,
    job: PathBuf,
    /// `s3://bucket/prefix`, which nobody else uses.
    uri: String,
}

impl Session {
    fn new(name: &str, server: &str) -> Self {
        let scratch = Scratch::new(name);
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        let uri = format!("s3://{BUCKET}/cli/{name}-{}", std::process::id());
        let text = std::fs::read_to_string(&job).expect("read the job");
        let mut spec: Value = serde_json::from_str(&text).expect("the job is JSON");
        spec["spec"]["checkpoint"]["storage"] = serde_json::json!({
            "uri": uri,
            "endpoint": server,
            "region": "us-east-1",
            "credentials": {"env": "WEIR_TEST"},
        });
        // Long enough for what happens while it runs; the last run of each test hurries.
        spec["spec"]["pipeline"]["sources"][0]["generator"]["rowsPerSecond"] = serde_json::json!(SLOW);
        std::fs::write(&job, serde_json::to_string_pretty(&spec).expect("JSON is written to memory")).expect("write");
        Session { scratch, job, uri }
    }

    fn weir(&self, command: &str, options: &[&str]) -> Weir {
        let arguments = [Path::new(command).as_os_str(), self.job.as_os_str()];
        let weir = Weir::new(self.scratch.path(), arguments).with(options);
        weir.env("WEIR_TEST_ACCESS_KEY_ID", "testkey").env("WEIR_TEST_SECRET_ACCESS_KEY", "testsecret")
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

#[test]
fn killed_and_started_again_the_output_is_right() {
    let Some(server) = s3_server() else { return };
    let session = Session::new("s3-killed", &server);
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
    let session = Session::new("s3-savepoint", &server);
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
    let session = Session::new("s3-wrong", &server);
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
