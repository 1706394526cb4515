//! The HTTP sink against a receiver in a process of its own, which is busy, loses answers, is killed and refuses.

mod support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::{Finished, Scratch, Weir, await_condition, certificates};

const ROWS: u64 = 6_000;
const BATCH_ROWS: u64 = 25;

/// Killed when it goes out of scope.
struct Receiver {
    child: Child,
    port: u16,
}

impl Receiver {
    /// `port` 0: a free one.
    fn start(scratch: &Scratch, port: u16, mood: &str, certificate: Option<&Path>) -> Self {
        let python = std::env::var("WEIR_ORACLE_PYTHON").unwrap_or_else(|_| {
            panic!("WEIR_ORACLE_PYTHON is not set: run `cargo xtask test`, or `eval \"$(cargo xtask env)\"` first")
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/webhook.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).arg(port.to_string()).arg(received(scratch)).arg(mood);
        if let Some(folder) = certificate {
            command.arg(folder.join("tls.crt")).arg(folder.join("tls.key"));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start Python");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("its port");
        let port = line.trim().parse().expect("the receiver tells its port");
        Receiver { child, port }
    }

    fn kill(mut self) -> u16 {
        self.child.kill().expect("kill the receiver");
        self.child.wait().expect("its end");
        self.port
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn received(scratch: &Scratch) -> PathBuf {
    scratch.join("received.jsonl")
}

fn write_job(scratch: &Scratch, url: &str, rows_per_second: u64) -> PathBuf {
    let spec = json!({
        "pipeline": {
            "sources": [{
                "name": "rows",
                "generator": {
                    "count": ROWS,
                    "rowsPerSecond": rows_per_second,
                    "columns": [{"name": "id", "sequence": {}}, {"name": "amount", "random": {"min": 1, "max": 500}}],
                },
                "schema": [{"name": "id", "type": "BIGINT"}, {"name": "amount", "type": "BIGINT"}],
            }],
            "sinks": [{
                "name": "hook",
                "from": "rows",
                "http": {
                    "url": url,
                    "batchRows": BATCH_ROWS,
                    "secretHeaders": {"Authorization": {"env": "HOOK_TOKEN"}},
                },
                "format": {"json": {}},
            }],
        },
        "checkpoint": {"interval": "150ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
        "restart": {"fixedDelay": {"attempts": 1000, "delay": "50ms"}},
    });
    scratch.write_job("hook", &spec)
}

fn weir(scratch: &Scratch, command: &str, job: &Path) -> Weir {
    Weir::new(scratch.path(), [command.as_ref(), job.as_os_str()]).env("HOOK_TOKEN", "Bearer hush")
}

/// What a receiver keeps that passes over keys which it had before: how often each id is there. `repeated`: how many
/// requests it passed over.
struct Kept {
    ids: BTreeMap<u64, usize>,
    repeated: usize,
}

fn kept(scratch: &Scratch, said: &Finished) -> Kept {
    let mut bodies: BTreeMap<String, Value> = BTreeMap::new();
    let mut kept = Kept { ids: BTreeMap::new(), repeated: 0 };
    for line in std::fs::read_to_string(received(scratch)).expect("what was received").lines() {
        let (key, content_type, body): (String, String, String) = serde_json::from_str(line).expect("a line");
        assert_eq!(content_type, "application/json");
        let body: Value = serde_json::from_str(&body).expect("a body of JSON");
        if let Some(earlier) = bodies.get(&key) {
            assert_eq!(earlier, &body, "one key for two bodies: {said}");
            kept.repeated += 1;
            continue;
        }
        for row in body.as_array().expect("an array") {
            *kept.ids.entry(row["id"].as_u64().expect("an id")).or_default() += 1;
        }
        bodies.insert(key, body);
    }
    let ids: BTreeSet<u64> = kept.ids.keys().copied().collect();
    assert!(ids.iter().copied().eq(0..ROWS), "{} of {ROWS} rows came: {said}", ids.len());
    kept
}

#[test]
fn with_its_keys_a_busy_receiver_has_each_record_once() {
    let scratch = Scratch::new("webhook-busy");
    let receiver = Receiver::start(&scratch, 0, "moody", None);
    let job = write_job(&scratch, &format!("http://127.0.0.1:{}/in", receiver.port), 1_000_000);
    let planned = weir(&scratch, "plan", &job).succeed();
    assert!(planned.stdout.contains("answers (HEAD: 405)"), "{planned}");
    let finished = weir(&scratch, "run", &job).succeed();
    let kept = kept(&scratch, &finished);
    assert!(kept.repeated > 0, "no answer was lost, so that nothing is shown");
    assert!(kept.ids.values().all(|times| *times == 1), "a receiver that knows keys has some rows twice: {finished}");
}

#[test]
fn nothing_is_lost_when_both_are_killed() {
    let scratch = Scratch::new("webhook-killed");
    let receiver = Receiver::start(&scratch, 0, "moody", None);
    let job = write_job(&scratch, &format!("http://127.0.0.1:{}/in", receiver.port), 2_000);
    let requests = || std::fs::read_to_string(received(&scratch)).unwrap_or_default().lines().count();
    let running = weir(&scratch, "run", &job).with(["-p", "2"]).spawn();
    await_condition("some requests", || (requests() > 30).then_some(()));
    let port = receiver.kill();
    let before = requests();
    let receiver = Receiver::start(&scratch, port, "moody", None);
    await_condition("requests after the receiver's death", || (requests() > before + 20).then_some(()));
    running.kill();
    let running = weir(&scratch, "run", &job).with(["-p", "3"]).spawn();
    let before = requests();
    await_condition("requests after the job's death", || (requests() > before + 10).then_some(()));
    let port = receiver.kill();
    let _receiver = Receiver::start(&scratch, port, "fair", None);
    let finished = running.wait();
    assert!(finished.status.success(), "{finished}");
    kept(&scratch, &finished);
}

#[test]
fn what_is_refused_ends_the_job() {
    let scratch = Scratch::new("webhook-refused");
    let receiver = Receiver::start(&scratch, 0, "strict", None);
    let job = write_job(&scratch, &format!("http://127.0.0.1:{}/in", receiver.port), 1_000_000);
    let refused = weir(&scratch, "run", &job).fail();
    for part in ["hook", "status 422", "the receiver wants something else"] {
        assert!(refused.stderr.contains(part), "no word of {part}: {refused}");
    }
    assert!(!refused.stderr.contains("restart 1"), "no restart makes it take them: {refused}");
    let stranger = weir(&scratch, "run", &job).env("HOOK_TOKEN", "Bearer guessed").fail();
    assert!(stranger.stderr.contains("status 401") && stranger.stderr.contains("secretHeaders"), "{stranger}");
    assert!(!stranger.stderr.contains("guessed"), "a secret is shown: {stranger}");
    for (field, value, part) in [
        ("http.url", "ftp://x/y", "neither http:// nor https://"),
        ("http.url", "http://me:pass@x/y", "secretHeaders.Authorization"),
        ("delivery", "ExactlyOnce", "at least once"),
    ] {
        let set = format!("spec.pipeline.sinks[0].{field}={value}");
        let refused = weir(&scratch, "validate", &job).with(["--set", &set]).run();
        let refused =
            if refused.status.success() { weir(&scratch, "run", &job).with(["--set", &set]).run() } else { refused };
        assert!(!refused.status.success(), "{refused}");
        assert!(format!("{}{}", refused.stdout, refused.stderr).contains(part), "no word of {part}: {refused}");
    }
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    let scratch = Scratch::new("webhook-tls");
    let authority = certificates::authority();
    let folder = scratch.join("certificates");
    certificates::write(&folder, &authority, "localhost");
    let receiver = Receiver::start(&scratch, 0, "fair", Some(&folder));
    let job = write_job(&scratch, &format!("https://localhost:{}/in", receiver.port), 1_000_000);
    let stranger = weir(&scratch, "plan", &job).fail();
    assert!(format!("{}{}", stranger.stdout, stranger.stderr).contains("certificate"), "{stranger}");
    let believed = format!("spec.pipeline.sinks[0].http.caFile={}", folder.join("ca.crt").display());
    let finished = weir(&scratch, "run", &job).with(["--set", &believed]).succeed();
    assert!(kept(&scratch, &finished).ids.values().all(|times| *times == 1), "{finished}");
}
