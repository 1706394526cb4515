//! What a user does to a running job: savepoint, stop, cancel, start again elsewhere and otherwise.

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::session::{await_checkpoint, checkpoints, command, run};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Scratch, Weir, finished_lines};

#[test]
fn a_savepoint_goes_to_another_parallelism() {
    for (before, after) in [("heap", "heap"), ("rocksdb", "rocksdb"), ("heap", "spilled"), ("spilled", "heap")] {
        let scratch = Scratch::new(&format!("session-parallelism-{before}-{after}"));
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        let running = run(&scratch, &job, &["-p", "2", "--set", traffic::backend(before)]).spawn();
        await_checkpoint(&scratch, &job, &running);
        let savepoint = scratch.join("saved");
        let stop = command(&scratch, "stop", &job, &["--savepoint".as_ref(), savepoint.as_os_str()]).succeed();
        assert!(stop.stdout.contains("saved"), "the place is not named: {stop}");
        let stopped = running.wait();
        assert!(stopped.status.success(), "{stopped}");
        let go_on = run(&scratch, &job, &["-p", "5", "--set", traffic::backend(after)]);
        go_on.with(["--from".as_ref(), savepoint.as_os_str()]).succeed();
        traffic::verify(&scratch, Guarantee::ExactlyOnce)
            .unwrap_or_else(|problem| panic!("from {before} to {after}: {problem}"));
    }
}

/// A checkpoint, too, though its files are one backend's.
#[test]
fn a_checkpoint_goes_to_the_other_backend_and_another_parallelism() {
    for (before, after) in [("heap", "rocksdb"), ("heap", "spilled"), ("spilled", "heap"), ("rocksdb", "spilled")] {
        let scratch = Scratch::new(&format!("session-backend-{before}-{after}"));
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        let running = run(&scratch, &job, &["-p", "3", "--set", traffic::backend(before)]).spawn();
        await_checkpoint(&scratch, &job, &running);
        running.signal(libc::SIGTERM);
        running.wait();
        run(&scratch, &job, &["-p", "2", "--set", traffic::backend(after)]).succeed();
        traffic::verify(&scratch, Guarantee::ExactlyOnce)
            .unwrap_or_else(|problem| panic!("from {before} to {after}: {problem}"));
    }
}

#[test]
fn a_savepoint_works_where_it_is_copied_to() {
    let scratch = Scratch::new("session-relocated");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
    let running = run(&scratch, &job, &["-p", "3"]).spawn();
    await_checkpoint(&scratch, &job, &running);
    let savepoint = scratch.join("saved");
    command(&scratch, "stop", &job, &["--savepoint".as_ref(), savepoint.as_os_str()]).succeed();
    running.wait();
    // The savepoint is the user's: it outlives the job's storage, and needs nothing of it.
    std::fs::remove_dir_all(scratch.join("checkpoints")).expect("remove the job's storage");
    let moved = scratch.join("elsewhere");
    std::fs::rename(&savepoint, &moved).expect("move the savepoint");
    let state = Weir::new(scratch.path(), ["state".as_ref(), moved.as_os_str()]).succeed();
    assert!(state.stdout.contains("totals") && state.stdout.contains("usr"), "{state}");
    run(&scratch, &job, &["-p", "1"]).with(["--from".as_ref(), moved.as_os_str()]).succeed();
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn a_cancelled_job_keeps_its_checkpoints() {
    let scratch = Scratch::new("session-cancel");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let running = run(&scratch, &job, &[]).spawn();
    await_checkpoint(&scratch, &job, &running);
    command(&scratch, "cancel", &job, &[]).succeed();
    let cancelled = running.wait();
    assert!(cancelled.stdout.to_lowercase().contains("cancel"), "{cancelled}");
    let checkpoints = checkpoints(&scratch, &job);
    assert!(!checkpoints.is_empty(), "cancelling removed the checkpoints");
    let latest = &checkpoints.last().expect("there is one")["id"];
    run(&scratch, &job, &["--from", &latest.to_string()]).succeed();
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn an_interrupted_job_goes_on() {
    let scratch = Scratch::new("session-interrupt");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let running = run(&scratch, &job, &[]).spawn();
    await_checkpoint(&scratch, &job, &running);
    running.signal(libc::SIGTERM);
    running.wait();
    run(&scratch, &job, &[]).succeed();
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn checkpoints_are_listed_and_retained_by_count() {
    let scratch = Scratch::new("session-list");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let none = command(&scratch, "checkpoints", &job, &[]).succeed();
    assert!(none.stdout.to_lowercase().contains("no checkpoint"), "{none}");
    run(&scratch, &job, &[]).succeed();
    let checkpoints = checkpoints(&scratch, &job);
    assert_eq!(checkpoints.len(), 2, "retain.count is 2: {checkpoints:?}");
    for field in ["id", "type", "completedAtMs", "durationMs", "sizeBytes", "fullSizeBytes", "restorable"] {
        assert!(
            checkpoints.iter().all(|checkpoint| !checkpoint[field].is_null()),
            "{field} is missing: {checkpoints:?}"
        );
    }
    assert!(checkpoints.iter().all(|checkpoint| checkpoint["restorable"] == json!(true)), "{checkpoints:?}");
}

#[test]
fn two_processes_cannot_run_one_job() {
    let scratch = Scratch::new("session-fenced");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let first = run(&scratch, &job, &[]).spawn();
    await_checkpoint(&scratch, &job, &first);
    let second = run(&scratch, &job, &[]).run();
    let first = first.wait();
    // Whichever wins, the other stops, and nothing is there twice.
    assert!(first.status.success() || second.status.success(), "{first}\n{second}");
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}\n{first}\n{second}"));
}

#[test]
fn nothing_starts_from_what_is_not_there() {
    let scratch = Scratch::new("session-missing");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Last);
    for from in ["17", "nowhere/saved"] {
        let refused = run(&scratch, &job, &["--from", from]).fail();
        assert!(refused.stderr.contains(from), "the error does not name `{from}`: {refused}");
    }
    assert!(finished_lines(&scratch.join("out")).is_empty(), "a refused start wrote something");
}

/// How a savepoint's state fits a changed job: what a user sees.
mod compatibility {
    use super::*;

    const COUNTS: &str = "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr";

    #[test]
    fn an_aggregate_may_be_added() {
        let changed = "SELECT usr, COUNT(*) AS n, SUM(cents) AS cents FROM clicks GROUP BY usr";
        let scratch = Scratch::new("compatible-added");
        let job = changed_job(&scratch, "counts", changed, "BIGINT");
        let planned = plan(&scratch, &job).succeed();
        assert!(planned.stdout.contains("is new and starts as null"), "{planned}");
        let restored = restore(&scratch, &job).succeed();
        let totals = totals(&scratch);
        assert!(totals.iter().all(|row| row["n"] == json!(200)), "{totals:?}: {restored}");
        // The sum began at the savepoint.
        let cents: i64 = totals.iter().map(|row| row["cents"].as_i64().expect("a sum")).sum();
        assert!(cents > 0 && cents < 60_000 * 7, "{cents}");
    }

    #[test]
    fn a_type_may_be_widened() {
        let scratch = Scratch::new("compatible-widened");
        // The key `usr` is an INT before and a BIGINT after; equal numbers hash alike.
        let job = changed_job_from(&scratch, "counts", COUNTS, "INT", "BIGINT");
        let planned = plan(&scratch, &job).succeed();
        assert!(planned.stdout.contains("key `usr` was Int32 and is now Int64"), "{planned}");
        restore(&scratch, &job).succeed();
        let totals = totals(&scratch);
        assert!(totals.len() == 300 && totals.iter().all(|row| row["n"] == json!(200)), "{totals:?}");
    }

    #[test]
    fn a_renamed_step_is_refused() {
        let scratch = Scratch::new("incompatible-renamed");
        let job = changed_job(&scratch, "tallies", COUNTS, "BIGINT");
        let planned = plan(&scratch, &job).fail();
        for part in ["unmatched: no step of this job takes it", "new: starts empty"] {
            assert!(planned.stdout.contains(part), "no word of {part}: {planned}");
        }
        for refused in [planned, restore(&scratch, &job).fail()] {
            for part in ["counts", "allowNonRestoredState"] {
                assert!(refused.stderr.contains(part), "no word of {part}: {refused}");
            }
        }
        assert_untouched(&scratch);
    }

    #[test]
    fn a_removed_step_is_refused_unless_allowed() {
        let scratch = Scratch::new("incompatible-removed");
        let job = changed_job(&scratch, "counts", "SELECT usr, CAST(1 AS BIGINT) AS n FROM clicks", "BIGINT");
        for refused in [plan(&scratch, &job).fail(), restore(&scratch, &job).fail()] {
            assert!(refused.stderr.contains("counts"), "{refused}");
        }
        assert_untouched(&scratch);
        let planned = plan(&scratch, &job).with(["--set", "spec.upgrade.allowNonRestoredState=true"]).succeed();
        assert!(planned.stdout.contains("let go"), "{planned}");
        restore(&scratch, &job).with(["--set", "spec.upgrade.allowNonRestoredState=true"]).succeed();
    }

    #[test]
    fn a_changed_key_is_refused() {
        let scratch = Scratch::new("incompatible-key");
        let changed = "SELECT cents AS usr, COUNT(*) AS n FROM clicks GROUP BY cents";
        let job = changed_job(&scratch, "counts", changed, "BIGINT");
        let planned = plan(&scratch, &job).fail();
        assert!(planned.stdout.contains("incompatible: its key was (usr) and is now (cents)"), "{planned}");
        for refused in [planned, restore(&scratch, &job).fail()] {
            for part in ["counts", "key", "usr", "cents"] {
                assert!(refused.stderr.contains(part), "no word of {part}: {refused}");
            }
        }
        assert_untouched(&scratch);
    }

    fn changed_job(scratch: &Scratch, step: &str, sql: &str, user_type: &str) -> PathBuf {
        changed_job_from(scratch, step, sql, user_type, user_type)
    }

    /// Runs the job with COUNTS to a savepoint, and writes its successor, whose output is another folder.
    fn changed_job_from(scratch: &Scratch, step: &str, sql: &str, old_type: &str, new_type: &str) -> PathBuf {
        let old = write(scratch, "before", "counts", COUNTS, old_type, Some(6_000));
        let running = run(scratch, &old, &[]).spawn();
        await_checkpoint(scratch, &old, &running);
        command(scratch, "stop", &old, &["--savepoint".as_ref(), scratch.join("saved").as_os_str()]).succeed();
        running.wait();
        write(scratch, "after", step, sql, new_type, None)
    }

    /// What a user asks before the old job is stopped for good.
    fn plan(scratch: &Scratch, job: &Path) -> Weir {
        command(scratch, "plan", job, &["--from".as_ref(), scratch.join("saved").as_os_str()])
    }

    /// The refused job left no output, and nothing in its storage.
    fn assert_untouched(scratch: &Scratch) {
        assert!(!scratch.join("after").exists(), "a refused job made its output's folder");
        assert!(!scratch.join("checkpoints/after").exists(), "a refused job opened its log");
    }

    fn restore(scratch: &Scratch, job: &Path) -> Weir {
        run(scratch, job, &[]).with(["--from".as_ref(), scratch.join("saved").as_os_str()])
    }

    fn write(scratch: &Scratch, name: &str, step: &str, sql: &str, user_type: &str, rate: Option<u64>) -> PathBuf {
        let mut generator = json!({
            "count": 60_000,
            "columns": [
                {"name": "usr", "sequence": {"cardinality": 300}},
                {"name": "cents", "sequence": {"cardinality": 7}},
            ],
        });
        if let Some(rate) = rate {
            generator["rowsPerSecond"] = json!(rate);
        }
        scratch.write_job(
            name,
            &json!({
                "parallelism": 2,
                "pipeline": {
                    "sources": [{
                        "name": "clicks",
                        "generator": generator,
                        "schema": [{"name": "usr", "type": user_type}, {"name": "cents", "type": "BIGINT"}],
                    }],
                    "transforms": [{"name": step, "sql": sql}],
                    "sinks": [{
                        "name": "out",
                        "from": step,
                        "delivery": "ExactlyOnce",
                        "files": {"path": scratch.join(name)},
                        "format": {"json": {}},
                        "changeKindColumn": "op",
                    }],
                },
                "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
                "restart": {"none": {}},
            }),
        )
    }

    /// The last row of each user, by its count.
    fn totals(scratch: &Scratch) -> Vec<Value> {
        let mut latest = std::collections::BTreeMap::new();
        for line in finished_lines(&scratch.join("after")) {
            let row: Value = serde_json::from_str(&line).expect("a JSON line");
            if row["op"] == "+I" || row["op"] == "+U" {
                let usr = row["usr"].as_i64().expect("a user");
                let is_later = latest.get(&usr).is_none_or(|before: &Value| before["n"].as_i64() < row["n"].as_i64());
                if is_later {
                    latest.insert(usr, row);
                }
            }
        }
        latest.into_values().collect()
    }
}
