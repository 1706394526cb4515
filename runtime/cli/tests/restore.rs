//! Where a job starts from: as its spec says, and when what it would start from is missing or damaged.

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::session::{checkpoints, command, run};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Scratch, await_condition, files_below};

const CONSENT: [&str; 2] = ["--set", "spec.restore.ifBroken=OlderCheckpoint"];

/// What happens to the newest checkpoint.
#[derive(Clone, Copy, Debug)]
enum Harm {
    FlippedByte,
    MissingObject,
    FlippedLogEntry,
}

#[test]
fn a_damaged_checkpoint_is_refused_and_passed_over_with_consent() {
    for harm in [Harm::FlippedByte, Harm::MissingObject, Harm::FlippedLogEntry] {
        let scratch = Scratch::new("restore-damaged");
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        let newest = killed_after_checkpoints(&scratch, &job);
        let harmed = do_harm(&scratch, &job, newest, harm);

        let before = traffic::listing(&scratch);
        let refused = run(&scratch, &job, &[]).fail();
        for part in [harmed.as_str(), "restore.ifBroken: OlderCheckpoint"] {
            assert!(refused.stderr.contains(part), "{harm:?}: no word of {part}: {refused}");
        }
        // A flipped byte is found by who reads it, and what the checkpoint itself holds may be visible by then.
        if !matches!(harm, Harm::FlippedByte) {
            assert_eq!(before, traffic::listing(&scratch), "{harm:?}: a refused start wrote something");
        }

        let restored = run(&scratch, &job, &CONSENT).succeed();
        let meaning = ["goes back to checkpoint", "stays visible and is written once more", "`copy-files`"];
        for part in meaning.into_iter().chain([harmed.as_str(), "`totals-files`"]) {
            assert!(restored.stderr.contains(part), "{harm:?}: no word of {part}: {restored}");
        }
        // Nothing is lost and every count ends right; rows since the older checkpoint stand there twice, as was said.
        traffic::verify(&scratch, Guarantee::AtLeastOnce)
            .unwrap_or_else(|problem| panic!("{harm:?}: {problem}\n{restored}"));
    }
}

#[test]
fn without_an_older_checkpoint_nothing_is_started() {
    let scratch = Scratch::new("restore-none-left");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    killed_after_checkpoints(&scratch, &job);
    let before = traffic::listing(&scratch);
    for checkpoint in checkpoints(&scratch, &job) {
        let id = checkpoint["id"].as_u64().expect("an id");
        do_harm(&scratch, &job, id, Harm::MissingObject);
    }
    let refused = run(&scratch, &job, &CONSENT).fail();
    assert!(refused.stderr.contains("no older checkpoint is retained"), "{refused}");
    assert_eq!(before, traffic::listing(&scratch), "a refused start wrote something");
    // One that is asked for by its number is started from, or nothing is.
    let latest = checkpoints(&scratch, &job).last().expect("it is listed still")["id"].to_string();
    let refused = run(&scratch, &job, &["--from", &latest]).with(CONSENT).fail();
    assert!(refused.stderr.contains(&format!("checkpoint {latest} cannot be restored")), "{refused}");
}

#[test]
fn the_first_start_is_from_where_the_spec_says() {
    let scratch = Scratch::new("restore-spec");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let running = run(&scratch, &job, &["-p", "2"]).spawn();
    await_checkpoints(&scratch, &job, 1);
    // Relative to where this command is started.
    let saved = command(&scratch, "stop", &job, &["--savepoint".as_ref(), "saved/here".as_ref()]).succeed();
    assert!(saved.stdout.contains(&scratch.join("saved/here").display().to_string()), "{saved}");
    running.wait();

    let successor = with_spec(&scratch, &job, "elsewhere", |spec| {
        spec["checkpoint"]["storage"]["uri"] = json!("file://./other-checkpoints");
        spec["restore"] = json!({"from": {"path": scratch.join("saved/here")}});
    });
    let first = run(&scratch, &successor, &[]).env("WEIR_FAILPOINT", "after-manifest:1").run();
    // Its log stands where `file://./` is for who started it, and says where it began.
    let log = files_below(&scratch.join("other-checkpoints/elsewhere/log"));
    let opened = std::fs::read_to_string(&log[0]).expect("read the first entry");
    assert!(opened.contains("saved/here"), "it did not start from the savepoint: {opened}: {first}");
    // Now it has something of its own to go on with.
    let second = run(&scratch, &successor, &[]).succeed();
    assert!(second.stderr.contains("from checkpoint"), "{second}");
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}\n{first}\n{second}"));
}

#[test]
fn what_the_spec_starts_from_must_be_there_unless_it_says_otherwise() {
    let scratch = Scratch::new("restore-spec-missing");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Last);
    let successor = with_spec(&scratch, &job, "missing", |spec| {
        spec["restore"] = json!({"from": {"path": scratch.join("nowhere")}});
    });
    let refused = run(&scratch, &successor, &[]).fail();
    for part in ["spec.restore.from", "nowhere"] {
        assert!(refused.stderr.contains(part), "no word of {part}: {refused}");
    }
    let named = with_spec(&scratch, &job, "named", |spec| spec["restore"] = json!({"from": {"savepoint": "nightly"}}));
    let refused = run(&scratch, &named, &[]).fail();
    assert!(refused.stderr.contains("savepoints/nightly"), "{refused}");
    // The flag overrides the spec, and what the user names must be there.
    let refused = run(&scratch, &successor, &["--from", "neither"]).fail();
    assert!(refused.stderr.contains("neither"), "{refused}");
    let empty = run(&scratch, &successor, &["--set", "spec.restore.ifMissing=StartEmpty"]).succeed();
    assert!(empty.stderr.contains("the job starts empty"), "{empty}");
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}\n{empty}"));
}

/// Runs the job until it has two checkpoints and kills it; the number of the newest.
fn killed_after_checkpoints(scratch: &Scratch, job: &Path) -> u64 {
    // Whatever the pace: it dies when the second one stands in the log.
    let died = run(scratch, job, &[]).env("WEIR_FAILPOINT", "after-manifest:2").run();
    assert!(!died.status.success(), "it did not take two checkpoints: {died}");
    checkpoints(scratch, job).last().expect("there are two")["id"].as_u64().expect("an id")
}

fn await_checkpoints(scratch: &Scratch, job: &Path, count: usize) {
    await_condition("checkpoints", || (checkpoints(scratch, job).len() >= count).then_some(()));
}

/// Harms the checkpoint on storage, and says what the error must name.
fn do_harm(scratch: &Scratch, job: &Path, checkpoint: u64, harm: Harm) -> String {
    let name = job.file_stem().and_then(|name| name.to_str()).expect("a job file has a name");
    let folder = scratch.join("checkpoints").join(name);
    let file = match harm {
        Harm::FlippedLogEntry => files_below(&folder.join("log")).pop().expect("the log has entries"),
        _ => files_below(&folder.join(format!("chk-{checkpoint}"))).pop().expect("the checkpoint has an object"),
    };
    match harm {
        Harm::MissingObject => std::fs::remove_file(&file).expect("remove the object"),
        Harm::FlippedByte | Harm::FlippedLogEntry => {
            let mut content = std::fs::read(&file).expect("read the object");
            let middle = content.len() / 2;
            content[middle] ^= 1;
            std::fs::write(&file, content).expect("write the object");
        }
    }
    file.strip_prefix(&folder).expect("it lies there").display().to_string()
}

/// Another job over the same data.
fn with_spec(scratch: &Scratch, job: &Path, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let text = std::fs::read_to_string(job).expect("read the job");
    let mut job: Value = serde_json::from_str(&text).expect("the job is JSON");
    change(&mut job["spec"]);
    scratch.write_job(name, &job["spec"])
}
