//! What the coordinator does, as text: a line with time and event, and below it the commands that come of it.
//!
//! Tasks are `source#0` and `sink#0` unless `deployed` names others (those that begin with `source` are sources).

#![allow(clippy::disallowed_methods, reason = "the tests play the commit log, which attests")]

mod rescale;

use std::fmt::Write;
use weir_coordinator::*;
use weir_model::{CheckpointId, Durable, Epoch, Fence, OperatorUid, SubtaskId};

fn config() -> Config {
    Config {
        checkpoints: Some(CheckpointConfig {
            interval_ms: 1_000,
            min_pause_ms: 300,
            max_concurrent: 1,
            mode: CheckpointMode::ExactlyOnce,
            aligned_timeout_ms: None,
        }),
        timeout_ms: 2_000,
        tolerable_failures: 1,
        restart: RestartStrategy::FixedDelay { attempts: 1, delay_ms: 50 },
    }
}

/// Plays the events of `scenario` and compares the commands with those it says.
fn check(config: Config, scenario: &str) {
    let mut coordinator = Coordinator::new(config, Epoch(1), CheckpointId(1));
    let mut played = String::new();
    for line in scenario.lines().filter(|line| !line.trim().is_empty()) {
        if line.starts_with("  ") {
            continue;
        }
        writeln!(played, "{line}").unwrap();
        let (now_ms, words) = line.split_once(' ').unwrap();
        let words = words.split_whitespace().collect::<Vec<_>>();
        let commands = match words[..] {
            ["start"] => coordinator.start(),
            _ => coordinator.on(event(&words, coordinator.fence()), now_ms.parse().unwrap()),
        };
        for command in commands {
            writeln!(played, "  {}", show(&command)).unwrap();
        }
    }
    let expected = scenario.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n");
    assert_eq!(played.trim_end(), expected, "\n--- played:\n{played}");
}

fn event(words: &[&str], mut fence: Fence) -> Event<String> {
    let (words, is_stale) = if words[0] == "stale" { (&words[1..], true) } else { (words, false) };
    if is_stale {
        fence.attempt.0 -= 1;
    }
    let task = |name: &str| {
        let (operator, index) = name.split_once('#').unwrap();
        SubtaskId { operator: OperatorUid::new(operator), index: index.parse().unwrap() }
    };
    let id = |text: &str| CheckpointId(text.parse().unwrap());
    let request = |text: &str| RequestId(text.parse().unwrap());
    match words {
        ["tick"] => Event::Tick,
        ["deployed", names @ ..] => {
            let names = if names.is_empty() { &["source#0", "sink#0"] } else { names };
            let tasks = names.iter().map(|name| task(name)).collect::<Vec<_>>();
            let is_source = |task: &&SubtaskId| task.operator.as_str().starts_with("source");
            let sources = tasks.iter().filter(is_source).cloned().collect();
            Event::Deployed { fence, tasks, sources }
        }
        ["deploy-failed"] => Event::DeployFailed { fence, reason: "no slot".into(), is_fatal: false, random: 0.5 },
        ["misfit"] => Event::DeployFailed { fence, reason: "state doesn't fit".into(), is_fatal: true, random: 0.5 },
        ["ack", checkpoint, name] => {
            Event::Acknowledged { fence, checkpoint: id(checkpoint), task: task(name), payload: format!("of {name}") }
        }
        ["declined", checkpoint, name] => {
            Event::Declined { fence, checkpoint: id(checkpoint), task: task(name), reason: "disk full".into() }
        }
        ["end-of-input", name] => Event::EndOfInput { fence, task: task(name) },
        ["appended", checkpoint] => Event::Appended { checkpoint: Durable::attest(id(checkpoint)) },
        ["append-failed", checkpoint] => {
            Event::AppendFailed { checkpoint: id(checkpoint), reason: "storage away".into() }
        }
        ["fenced"] => Event::Fenced { by: "epoch 2".into() },
        ["committed", checkpoint, name] => Event::Committed { fence, checkpoint: id(checkpoint), task: task(name) },
        ["failed", name] => Event::TaskFailed {
            fence,
            task: task(name),
            reason: "boom".into(),
            is_fatal: false,
            is_of_data: false,
            random: 0.5,
        },
        ["stopped"] => Event::Stopped { fence },
        ["savepoint", number] => Event::SavepointRequested { request: request(number), stop: false },
        ["savepoint-and-stop", number] => Event::SavepointRequested { request: request(number), stop: true },
        ["savepoint-written", number] => {
            Event::SavepointWritten { request: request(number), result: Ok(format!("/sp/{number}")) }
        }
        ["savepoint-failed", number] => {
            Event::SavepointWritten { request: request(number), result: Err("no space".into()) }
        }
        ["cancel"] => Event::StopRequested { mode: StopMode::Cancel },
        ["drain"] => Event::StopRequested { mode: StopMode::Drain },
        ["rescale", number, parallelism] => {
            Event::RescaleRequested { request: request(number), parallelism: parallelism.parse().unwrap() }
        }
        other => panic!("no such event: {other:?}"),
    }
}

fn show(command: &Command<String>) -> String {
    match command {
        Command::Deploy { fence, parallelism: None } => format!("deploy attempt {}", fence.attempt),
        Command::Deploy { fence, parallelism: Some(parallelism) } => {
            format!("deploy attempt {} at parallelism {parallelism}", fence.attempt)
        }
        Command::Trigger { checkpoint, kind, is_unaligned, hold, sources, .. } => {
            let hold = if *hold { " and hold" } else { "" };
            let unaligned = if *is_unaligned { " unaligned" } else { "" };
            format!("trigger {checkpoint} {kind:?}{unaligned} at {} sources{hold}", sources.len())
        }
        Command::TurnUnaligned { checkpoint, .. } => format!("turn {checkpoint} unaligned"),
        Command::CancelCheckpoint { checkpoint, reason, .. } => format!("cancel {checkpoint}: {reason}"),
        Command::Complete(Acknowledged { checkpoint, parts, .. }) => {
            let payloads = parts.iter().map(|(_, payload)| payload.as_str()).collect::<Vec<_>>();
            format!("complete {checkpoint} {}", payloads.join(", "))
        }
        Command::Commit { permit, tasks } => format!("commit {} at {} tasks", permit.checkpoint(), tasks.len()),
        Command::Resume { .. } => "resume".into(),
        Command::WriteSavepoint { request, checkpoint } => format!("write savepoint {} of {checkpoint}", request.0),
        Command::AnswerSavepoint { request, result } => format!("answer {}: {result:?}", request.0),
        Command::AnswerRescale { request, answer } => match answer {
            RescaleAnswer::Refused { reason } => format!("refuse {}: {reason}", request.0),
            RescaleAnswer::Accepted => format!("accept {}", request.0),
            RescaleAnswer::Done { parallelism, duration_ms } => {
                format!("done {}: parallelism {parallelism} after {duration_ms} ms", request.0)
            }
            RescaleAnswer::Failed { reason } => format!("fail {}: {reason}", request.0),
        },
        Command::Retain => "retain".into(),
        Command::Finish { .. } => "finish".into(),
        Command::StopTasks { .. } => "stop tasks".into(),
        Command::Close { outcome } => format!("close {outcome:?}"),
    }
}

#[test]
fn a_checkpoint_from_trigger_to_commit() {
    check(
        config(),
        "
0 start
  deploy attempt 1
10 deployed
109 tick
110 tick
  trigger 1 Checkpoint at 1 sources
520 ack 1 source#0
530 ack 1 source#0
540 ack 1 sink#0
  complete 1 of sink#0, of source#0
550 tick
560 appended 1
  commit 1 at 2 tasks
  retain
1109 tick
1110 tick
  trigger 2 Checkpoint at 1 sources
",
    );
}

#[test]
fn what_comes_from_another_attempt_is_dropped() {
    check(
        config(),
        "
0 start
  deploy attempt 1
10 deployed
510 tick
  trigger 1 Checkpoint at 1 sources
520 ack 1 source#0
530 failed sink#0
  cancel 1: the attempt failed: sink#0: boom
  stop tasks
540 stopped
580 tick
  deploy attempt 2
600 stale deployed
610 deployed
620 stale failed source#0
630 stale ack 1 sink#0
1110 tick
  trigger 2 Checkpoint at 1 sources
1120 ack 1 sink#0
1130 ack 2 source#0
1140 stale ack 2 sink#0
1150 ack 2 sink#0
  complete 2 of sink#0, of source#0
",
    );
}

#[test]
fn a_late_checkpoint_is_given_up_and_the_pause_counts_from_there() {
    check(
        Config { tolerable_failures: 5, ..config() },
        "
0 start
  deploy attempt 1
0 deployed
500 tick
  trigger 1 Checkpoint at 1 sources
510 ack 1 source#0
2499 tick
2500 tick
  cancel 1: not complete after 2000 ms; waited for sink#0
2799 tick
2800 tick
  trigger 2 Checkpoint at 1 sources
2810 ack 1 sink#0
2820 declined 2 sink#0
  cancel 2: sink#0: disk full
3119 tick
3801 tick
  trigger 3 Checkpoint at 1 sources
3810 ack 3 source#0
3820 ack 3 sink#0
  complete 3 of sink#0, of source#0
9999 tick
10000 append-failed 3
  cancel 3: storage away
",
    );
}

#[test]
fn more_failures_than_tolerable_restart_the_job() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
500 tick
  trigger 1 Checkpoint at 1 sources
510 declined 1 sink#0
  cancel 1: sink#0: disk full
1500 tick
  trigger 2 Checkpoint at 1 sources
1510 declined 2 source#0
  cancel 2: source#0: disk full
  stop tasks
1560 tick
1570 stopped
  deploy attempt 2
",
    );
}

#[test]
fn when_no_restart_is_left_the_job_fails() {
    check(
        config(),
        "
0 start
  deploy attempt 1
5 deploy-failed
55 tick
  deploy attempt 2
60 deployed
70 failed source#0
  stop tasks
80 stopped
  close Failed { reason: \"source#0: boom (not restarted: fixedDelay allows 1 restarts, and this is failure 2)\" }
90 tick
",
    );
}

#[test]
fn what_no_restart_can_help_fails_at_once() {
    check(
        config(),
        "
0 start
  deploy attempt 1
5 misfit
  close Failed { reason: \"state doesn't fit (not restarted: no restart can help)\" }
",
    );
}

#[test]
fn a_failure_during_the_append_waits_for_its_outcome() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
500 tick
  trigger 1 Checkpoint at 1 sources
510 ack 1 source#0
520 ack 1 sink#0
  complete 1 of sink#0, of source#0
530 failed sink#0
  stop tasks
540 stopped
900 tick
910 appended 1
  retain
  deploy attempt 2
",
    );
}

#[test]
fn at_the_end_of_all_input_the_final_checkpoint_is_committed_before_the_job_finishes() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed source#0 source#1 sink#0
10 end-of-input source#0
20 end-of-input source#1
  trigger 1 Final at 2 sources
30 ack 1 source#0
31 ack 1 source#1
32 ack 1 sink#0
  complete 1 of sink#0, of source#0, of source#1
40 appended 1
  commit 1 at 3 tasks
  retain
50 committed 1 source#0
51 committed 1 source#1
5000 tick
5010 committed 1 sink#0
  finish
5020 stopped
  close Finished
",
    );
}

#[test]
fn a_final_checkpoint_that_fails_is_tried_again() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
10 end-of-input source#0
  trigger 1 Final at 1 sources
20 declined 1 sink#0
  cancel 1: sink#0: disk full
319 tick
320 tick
  trigger 2 Final at 1 sources
",
    );
}

#[test]
fn a_savepoint_while_the_job_runs_on() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
100 savepoint 7
  trigger 1 Savepoint at 1 sources
110 ack 1 source#0
120 ack 1 sink#0
  complete 1 of sink#0, of source#0
130 appended 1
  commit 1 at 2 tasks
  write savepoint 7 of 1
  retain
1200 tick
  trigger 2 Checkpoint at 1 sources
1210 savepoint-written 7
  answer 7: Ok(\"/sp/7\")
",
    );
}

#[test]
fn the_end_waits_for_a_savepoint_that_is_being_written() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
100 savepoint 7
  trigger 1 Savepoint at 1 sources
110 ack 1 source#0
120 ack 1 sink#0
  complete 1 of sink#0, of source#0
130 appended 1
  commit 1 at 2 tasks
  write savepoint 7 of 1
  retain
140 end-of-input source#0
  trigger 2 Final at 1 sources
150 ack 2 source#0
160 ack 2 sink#0
  complete 2 of sink#0, of source#0
170 appended 2
  commit 2 at 2 tasks
  retain
180 committed 2 source#0
190 committed 2 sink#0
200 savepoint-written 7
  answer 7: Ok(\"/sp/7\")
  finish
210 stopped
  close Finished
",
    );
}

#[test]
fn stop_with_a_savepoint() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
100 savepoint-and-stop 1
  trigger 1 Savepoint at 1 sources and hold
110 ack 1 source#0
120 ack 1 sink#0
  complete 1 of sink#0, of source#0
130 appended 1
  commit 1 at 2 tasks
  write savepoint 1 of 1
  retain
140 savepoint-written 1
9000 tick
9010 committed 1 source#0
9020 committed 1 sink#0
  answer 1: Ok(\"/sp/1\")
  finish
9030 stopped
  close Stopped { savepoint: Some(\"/sp/1\") }
",
    );
}

#[test]
fn without_its_savepoint_the_job_does_not_stop() {
    let up_to_the_append = "
0 start
  deploy attempt 1
0 deployed
100 savepoint-and-stop 1
  trigger 1 Savepoint at 1 sources and hold
110 ack 1 source#0
120 ack 1 sink#0
  complete 1 of sink#0, of source#0
130 appended 1
  commit 1 at 2 tasks
  write savepoint 1 of 1
  retain
140 committed 1 source#0";
    check(
        config(),
        &format!(
            "{up_to_the_append}
150 savepoint-failed 1
  resume
  answer 1: Err(\"no space\")
160 committed 1 sink#0
1100 tick
  trigger 2 Checkpoint at 1 sources
"
        ),
    );
    // Nor does it if a sink can't commit: the user is told where the savepoint stands, and that the job runs on.
    check(
        config(),
        &format!(
            "{up_to_the_append}
150 savepoint-written 1
160 failed sink#0
  answer 1: Err(\"the savepoint stands in /sp/1, but the job failed before it stopped, and was restarted\")
  stop tasks
210 stopped
  deploy attempt 2
"
        ),
    );
}

#[test]
fn a_stop_whose_checkpoint_fails_lets_the_sources_go_on() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
100 savepoint-and-stop 1
  trigger 1 Savepoint at 1 sources and hold
110 declined 1 sink#0
  cancel 1: sink#0: disk full
  resume
  answer 1: Err(\"sink#0: disk full\")
1100 tick
  trigger 2 Checkpoint at 1 sources
",
    );
}

#[test]
fn drain_and_cancel() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
100 drain
  trigger 1 Final at 1 sources and hold
110 ack 1 source#0
120 ack 1 sink#0
  complete 1 of sink#0, of source#0
130 appended 1
  commit 1 at 2 tasks
  retain
140 committed 1 source#0
150 committed 1 sink#0
  finish
160 stopped
  close Stopped { savepoint: None }
",
    );
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
100 savepoint 3
  trigger 1 Savepoint at 1 sources
105 savepoint 4
110 cancel
  cancel 1: the job is being stopped
  answer 3: Err(\"the job is being stopped\")
  stop tasks
120 ack 1 source#0
130 stopped
  answer 4: Err(\"the job ended before the savepoint was taken\")
  close Cancelled
",
    );
}

#[test]
fn a_fenced_coordinator_stops_and_completes_nothing() {
    check(
        config(),
        "
0 start
  deploy attempt 1
0 deployed
100 savepoint 3
  trigger 1 Savepoint at 1 sources
110 ack 1 source#0
120 ack 1 sink#0
  complete 1 of sink#0, of source#0
130 fenced
  cancel 1: the job is being stopped
  answer 3: Err(\"the job is being stopped\")
  stop tasks
140 appended 1
150 stopped
  close Fenced { by: \"epoch 2\" }
",
    );
}

fn unaligned_after(aligned_timeout_ms: u64) -> Config {
    let checkpoints = config()
        .checkpoints
        .map(|checkpoints| CheckpointConfig { aligned_timeout_ms: Some(aligned_timeout_ms), ..checkpoints });
    Config { checkpoints, ..config() }
}

#[test]
fn an_aligned_checkpoint_turns_unaligned_after_its_time() {
    check(
        unaligned_after(200),
        "
0 start
  deploy attempt 1
10 deployed
510 tick
  trigger 1 Checkpoint at 1 sources
709 tick
710 tick
  turn 1 unaligned
800 tick
810 ack 1 source#0
820 ack 1 sink#0
  complete 1 of sink#0, of source#0
830 appended 1
  commit 1 at 2 tasks
  retain
1510 tick
  trigger 2 Checkpoint at 1 sources
1520 ack 2 source#0
1530 ack 2 sink#0
  complete 2 of sink#0, of source#0
1800 tick
",
    );
}

#[test]
fn a_checkpoint_under_way_says_whether_it_is_unaligned() {
    let mut coordinator = Coordinator::new(unaligned_after(200), Epoch(1), CheckpointId(1));
    coordinator.start();
    let mut shown_after = |now_ms: u64, words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        coordinator.on(event(&words, coordinator.fence()), now_ms);
        let shown = coordinator.under_way().next()?;
        Some((shown.is_unaligned, shown.turns_unaligned_ms))
    };
    for (now_ms, words, expected) in [
        (10, "deployed", None),
        (510, "tick", Some((false, Some(710)))),
        (709, "ack 1 source#0", Some((false, Some(710)))),
        (710, "tick", Some((true, None))),
        (720, "ack 1 sink#0", Some((true, None))),
        (730, "appended 1", None),
        // One that is complete in time only waits for the log.
        (1_510, "tick", Some((false, Some(1_710)))),
        (1_520, "ack 2 source#0", Some((false, Some(1_710)))),
        (1_530, "ack 2 sink#0", Some((false, None))),
    ] {
        assert_eq!(shown_after(now_ms, words), expected, "{now_ms} {words}");
    }
}

#[test]
fn a_savepoint_is_aligned_where_checkpoints_are_not() {
    check(
        unaligned_after(0),
        "
0 start
  deploy attempt 1
10 deployed
510 tick
  trigger 1 Checkpoint unaligned at 1 sources
520 savepoint 7
530 ack 1 source#0
540 ack 1 sink#0
  complete 1 of sink#0, of source#0
550 appended 1
  commit 1 at 2 tasks
  retain
  trigger 2 Savepoint at 1 sources
1400 tick
",
    );
}

#[test]
fn several_at_a_time() {
    let checkpoints = CheckpointConfig {
        interval_ms: 100,
        min_pause_ms: 0,
        max_concurrent: 2,
        mode: CheckpointMode::AtLeastOnce,
        aligned_timeout_ms: None,
    };
    check(
        Config { checkpoints: Some(checkpoints), ..config() },
        "
0 start
  deploy attempt 1
0 deployed
100 tick
  trigger 1 Checkpoint at 1 sources
200 tick
  trigger 2 Checkpoint at 1 sources
300 tick
310 ack 2 source#0
320 ack 2 sink#0
  complete 2 of sink#0, of source#0
330 appended 2
  cancel 1: checkpoint 2 completed first
  commit 2 at 2 tasks
  retain
  trigger 3 Checkpoint at 1 sources
",
    );
}

#[test]
fn without_checkpoints_a_bounded_job_still_commits_at_its_end() {
    check(
        Config { checkpoints: None, restart: RestartStrategy::None, ..config() },
        "
0 start
  deploy attempt 1
0 deployed
999999 tick
1000000 end-of-input source#0
  trigger 1 Final at 1 sources
",
    );
}
