//! What a user sees when something is wrong: in a record, in an expression, in a sink, in the job's file.

mod support;

use serde_json::{Value, json};
use std::path::PathBuf;
use support::{Finished, Scratch, Weir, finished_lines};

const GOOD_LINES: usize = 5_000;
/// From 1.
const BAD_LINE: usize = 3_001;

#[test]
fn a_bad_record_fails_the_job_and_is_named() {
    let scratch = Scratch::new("failure-bad-record");
    let job = job(&scratch, json!({"json": {}}), "SELECT id, v FROM lines", None);
    let failed = run(&scratch, &job).fail();
    // Its file, its line or byte, and the text itself.
    for part in ["lines", "input.jsonl", "no number"] {
        assert!(failed.stderr.contains(part), "no word of {part}: {failed}");
    }
    assert_eq!(restarts_said(&failed), 0, "no restart mends a record: {failed}");
    assert_eq!(committed(&scratch), 0, "rows of a job that never completed a checkpoint");
}

#[test]
fn a_bad_record_is_skipped_and_counted() {
    let scratch = Scratch::new("failure-skipped");
    let job = job(&scratch, json!({"json": {"onBadRecord": "Skip"}}), "SELECT id, v FROM lines", None);
    let finished = run(&scratch, &job).succeed();
    assert!(finished.stderr.contains("1 bad"), "the skipped record is not counted: {finished}");
    assert_eq!(committed(&scratch), GOOD_LINES);
}

#[test]
fn a_bad_record_goes_to_the_dead_letter_sink() {
    let scratch = Scratch::new("failure-dead-letter");
    let format = json!({"json": {"onBadRecord": "DeadLetter", "deadLetterSink": "dead"}});
    let dead = json!({
        "name": "dead",
        "delivery": "ExactlyOnce",
        "files": {"path": scratch.join("dead")},
        "format": {"json": {}},
    });
    let job = job(&scratch, format, "SELECT id, v FROM lines", Some(dead));
    run(&scratch, &job).succeed();
    assert_eq!(committed(&scratch), GOOD_LINES);
    let dead = finished_lines(&scratch.join("dead"));
    let [letter] = dead.as_slice() else { panic!("{dead:?}") };
    let letter: Value = serde_json::from_str(letter).expect("a JSON line");
    assert_eq!(letter["source"], "lines");
    assert!(letter["split"].as_str().is_some_and(|split| split.ends_with("input.jsonl")), "{letter}");
    assert!(letter["raw"].as_str().is_some_and(|raw| raw.contains("no number")), "{letter}");
    assert!(letter["error"].as_str().is_some_and(|error| error.contains('v')), "{letter}");
}

#[test]
fn a_poisoned_expression_fails_after_its_restarts() {
    let scratch = Scratch::new("failure-expression");
    let sql = "SELECT id, CAST(CASE WHEN id = 4000 THEN 'abc' ELSE '1' END AS INT) AS v FROM lines";
    let job = job(&scratch, json!({"json": {"onBadRecord": "Skip"}}), sql, None);
    let failed = run(&scratch, &job).fail();
    for part in ["out", "abc", "CAST"] {
        assert!(failed.stderr.to_uppercase().contains(&part.to_uppercase()), "no word of {part}: {failed}");
    }
    assert_gave_up(&failed);
}

#[test]
fn a_failing_sink_fails_after_its_restarts() {
    let scratch = Scratch::new("failure-sink");
    let job = job(&scratch, json!({"json": {"onBadRecord": "Skip"}}), "SELECT id, v FROM lines", None);
    // The folder that the sink is to make its folder in is a file, which no permission overcomes.
    scratch.write("out", "in the way");
    let failed = run(&scratch, &job).fail();
    assert!(failed.stderr.contains("out/result"), "the folder is not named: {failed}");
    assert!(failed.stderr.contains("files"), "the sink is not named: {failed}");
}

#[test]
fn a_record_that_fails_every_attempt_ends_the_job() {
    let poisoned = "SELECT id, CAST(CASE WHEN id = 4000 THEN 'abc' ELSE '1' END AS INT) AS v FROM lines";
    let scratch = Scratch::new("failure-same");
    let file = job(&scratch, json!({"json": {"onBadRecord": "Skip"}}), poisoned, None);
    let spec = with_restart(&file, &json!({"exponentialDelay": {"initial": "1ms", "max": "2ms"}}));
    let failed = run(&scratch, &scratch.write("same.yaml", spec)).fail();
    for part in ["the same data has failed it 10 times", "maxSameFailures is 10"] {
        assert!(failed.stderr.contains(part), "no word of {part}: {failed}");
    }
    assert_eq!(restarts_said(&failed), 9, "{failed}");
}

/// What it reads is gone: the job ends at once, whatever the restart strategy.
#[test]
fn what_a_source_finds_gone_while_it_runs_ends_the_job() {
    let scratch = Scratch::new("failure-gone");
    let file = job(&scratch, json!({"json": {"onBadRecord": "Skip"}}), "SELECT id, v FROM lines", None);
    let text = std::fs::read_to_string(&file).expect("read the job");
    let mut job: Value = serde_json::from_str(&text).expect("the job is JSON");
    job["spec"]["restart"] = json!({"exponentialDelay": {"initial": "1ms", "max": "2ms"}});
    job["spec"]["checkpoint"]["interval"] = json!("100ms");
    let source = &mut job["spec"]["pipeline"]["sources"][0]["files"];
    (source["follow"], source["pollInterval"]) = (json!(true), json!("50ms"));
    let running = run(&scratch, &scratch.write("gone.yaml", job.to_string())).spawn();
    support::await_condition("the rows", || (committed(&scratch) == GOOD_LINES).then_some(()));
    scratch.write("input.jsonl", "{\"id\": 1, \"v\": 2}\n");
    let failed = running.wait();
    assert!(failed.status.code().is_some_and(|code| code != 0), "{failed}");
    assert!(failed.stderr.contains("input.jsonl"), "the file is not named: {failed}");
    assert_eq!(restarts_said(&failed), 0, "{failed}");
}

#[test]
fn each_restart_strategy_gives_up_in_its_way() {
    let sql = "SELECT id, CAST(CASE WHEN id = 4000 THEN 'abc' ELSE '1' END AS INT) AS v FROM lines";
    let cases = [
        (json!({"none": {}}), "none", 0),
        (json!({"fixedDelay": {"attempts": 3, "delay": "1ms"}}), "fixedDelay allows 3 restarts", 3),
        (
            json!({"exponentialDelay": {"initial": "1ms", "max": "4ms", "maxAttempts": 4}}),
            "exponentialDelay allows 4 restarts",
            4,
        ),
        (
            json!({"failureRate": {"maxFailures": 2, "interval": "1h", "delay": "1ms"}}),
            "failureRate allows 2 failures",
            2,
        ),
    ];
    for (strategy, reason, restarts) in cases {
        let scratch = Scratch::new("failure-restart");
        let file = job(&scratch, json!({"json": {"onBadRecord": "Skip"}}), sql, None);
        let spec = with_restart(&file, &strategy);
        let failed = run(&scratch, &scratch.write("strategy.yaml", spec)).fail();
        assert!(failed.stderr.contains(reason), "no word of `{reason}`: {failed}");
        assert_eq!(restarts_said(&failed), restarts, "{strategy}: {failed}");
    }
}

#[test]
fn every_mistake_in_a_file_is_named_at_once() {
    let scratch = Scratch::new("failure-validate");
    let text = "\
apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {name: wrong}
spec:
  paralelism: 2
  pipeline:
    sources:
    - name: lines
      files: {path: input.jsonl}
      format: {json: {}}
      schema:
      - {name: id, type: BIGINT}
      - {name: v, type: VARCHR}
    transforms:
    - name: out
      sql: |
        SELECT id,
               idd + 1 AS next_id
        FROM lines
    sinks:
    - name: files
      from: outt
      files: {path: out}
      format: {json: {}}
  checkpoint: {interval: 10}
";
    let file = scratch.write("wrong.yaml", text);
    for command in ["validate", "plan", "run"] {
        let refused = Weir::new(scratch.path(), [command.as_ref(), file.as_os_str()]).fail();
        let said = format!("{}{}", refused.stdout, refused.stderr);
        for (place, remedy) in [
            ("wrong.yaml:5:3", "parallelism"),
            ("wrong.yaml:13:25", "VARCHAR"),
            ("wrong.yaml:22:13", "out"),
            ("wrong.yaml:25:26", "10s"),
        ] {
            assert!(said.contains(place), "{command}: no word of {place}: {refused}");
            assert!(said.contains(remedy), "{command}: no word of {remedy}: {refused}");
        }
        assert_eq!(said.matches("error: spec.").count(), 5, "{command}: each mistake once: {refused}");
    }
    assert!(!scratch.join("out").exists(), "a refused job wrote something");
}

#[test]
fn a_mistake_in_sql_is_placed_in_the_file() {
    let scratch = Scratch::new("failure-sql");
    let text = "\
apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {name: wrong}
spec:
  pipeline:
    sources:
    - name: lines
      files: {path: input.jsonl}
      format: {json: {}}
      schema:
      - {name: id, type: BIGINT}
      - {name: name, type: VARCHAR}
    transforms:
    - name: out
      sql: |
        SELECT id,
               naem AS other
        FROM lines
    - {name: sorted, sql: SELECT id FROM lines ORDER BY id}
    sinks:
    - {name: files, from: out, files: {path: out}, format: {json: {}}}
    - {name: more-files, from: sorted, files: {path: sorted}, format: {json: {}}}
";
    let file = scratch.write("wrong.yaml", text);
    let refused = Weir::new(scratch.path(), ["validate".as_ref(), file.as_os_str()]).fail();
    let said = format!("{}{}", refused.stdout, refused.stderr);
    for part in ["wrong.yaml:17:16", "naem", "`name`", "wrong.yaml:19:", "ORDER BY"] {
        assert!(said.contains(part), "no word of {part}: {refused}");
    }
}

/// A job over 5,001 lines of which one cannot be read, with two restarts.
fn job(scratch: &Scratch, format: Value, sql: &str, dead_letter_sink: Option<Value>) -> PathBuf {
    let mut lines: Vec<String> = (1..=GOOD_LINES).map(|id| format!("{{\"id\": {id}, \"v\": {}}}\n", id * 2)).collect();
    lines.insert(BAD_LINE - 1, "{\"id\": 0, \"v\": \"no number\"}\n".to_owned());
    let input = scratch.write("input.jsonl", lines.concat());
    let mut sinks = vec![json!({
        "name": "files",
        "from": "out",
        "delivery": "ExactlyOnce",
        "files": {"path": scratch.join("out/result")},
        "format": {"json": {}},
    })];
    sinks.extend(dead_letter_sink);
    scratch.write_job(
        "lines",
        &json!({
            "pipeline": {
                "sources": [{
                    "name": "lines",
                    "files": {"path": input},
                    "format": format,
                    "schema": [{"name": "id", "type": "BIGINT"}, {"name": "v", "type": "BIGINT"}],
                }],
                "transforms": [{"name": "out", "sql": sql}],
                "sinks": sinks,
            },
            "checkpoint": {"interval": "1h", "storage": {"uri": scratch.storage_uri("checkpoints")}},
            "restart": {"fixedDelay": {"attempts": 2, "delay": "10ms"}},
        }),
    )
}

fn with_restart(job: &std::path::Path, strategy: &Value) -> String {
    let text = std::fs::read_to_string(job).expect("read the job");
    let mut job: Value = serde_json::from_str(&text).expect("the job is JSON");
    job["spec"]["restart"] = strategy.clone();
    job.to_string()
}

fn run(scratch: &Scratch, job: &std::path::Path) -> Weir {
    Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()])
}

fn committed(scratch: &Scratch) -> usize {
    finished_lines(&scratch.join("out/result")).len()
}

fn assert_gave_up(failed: &Finished) {
    assert!(failed.stderr.contains("fixedDelay allows 2 restarts"), "no word of why it gave up: {failed}");
    assert_eq!(restarts_said(failed), 2, "{failed}");
}

/// The number of the last restart that was announced.
fn restarts_said(failed: &Finished) -> u64 {
    let mut restarts = failed.stderr.lines().filter_map(|line| line.split_once("  restart ")?.1.split(' ').next());
    restarts.next_back().map_or(0, |number| number.parse().expect("a restart has a number"))
}
