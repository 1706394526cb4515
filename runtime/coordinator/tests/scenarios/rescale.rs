//! Another parallelism, asked for at any moment.

use super::{check, config};
use weir_coordinator::{CheckpointConfig, CheckpointMode, Config, RestartStrategy};

#[test]
fn a_rescale_is_a_checkpoint_and_an_attempt() {
    check(
        config(),
        "
0 start
  deploy attempt 1
10 deployed
510 tick
  trigger 1 Checkpoint at 1 sources
520 rescale 1 4
  accept 1
530 ack 1 source#0
530 ack 1 sink#0
  complete 1 of sink#0, of source#0
540 appended 1
  commit 1 at 2 tasks
  retain
  trigger 2 Checkpoint at 1 sources and hold
550 rescale 2 8
  refuse 2: a rescale to 4 is under way, with checkpoint 2; ask again when it is done
550 savepoint 3
560 ack 2 source#0
560 ack 2 sink#0
  complete 2 of sink#0, of source#0
570 appended 2
  stop tasks
580 stopped
  deploy attempt 2 at parallelism 4
600 deployed
  done 1: parallelism 4 after 80 ms
  trigger 3 Savepoint at 1 sources
610 failed source#0
  cancel 3: the attempt failed: source#0: boom
  answer 3: Err(\"the attempt failed: source#0: boom\")
  stop tasks
620 stopped
660 tick
  deploy attempt 3 at parallelism 4
",
    );
}

#[test]
fn a_failure_before_the_rescale_is_durable_goes_on_as_it_was_and_one_after_it_does_not() {
    check(
        Config { restart: RestartStrategy::FixedDelay { attempts: 3, delay_ms: 50 }, ..config() },
        "
0 start
  deploy attempt 1
10 deployed
20 rescale 1 4
  accept 1
  trigger 1 Checkpoint at 1 sources and hold
30 ack 1 source#0
40 failed sink#0
  cancel 1: the attempt failed: sink#0: boom
  resume
  fail 1: its checkpoint 1 failed: the attempt failed: sink#0: boom
  stop tasks
50 stopped
90 tick
  deploy attempt 2
100 deployed
110 rescale 2 4
  accept 2
  trigger 2 Checkpoint at 1 sources and hold
120 ack 2 source#0
120 ack 2 sink#0
  complete 2 of sink#0, of source#0
130 failed sink#0
  stop tasks
140 stopped
200 appended 2
  deploy attempt 3 at parallelism 4
210 deploy-failed
260 tick
  deploy attempt 4 at parallelism 4
270 deployed
  done 2: parallelism 4 after 160 ms
",
    );
}

#[test]
fn a_rescale_whose_checkpoint_fails_lets_the_sources_go_on() {
    check(
        config(),
        "
0 start
  deploy attempt 1
10 deployed
20 rescale 1 4
  accept 1
  trigger 1 Checkpoint at 1 sources and hold
30 declined 1 sink#0
  cancel 1: sink#0: disk full
  resume
  fail 1: its checkpoint 1 failed: sink#0: disk full
1020 tick
  trigger 2 Checkpoint at 1 sources
",
    );
}

#[test]
fn what_cannot_be_deployed_is_rescaled_without_a_checkpoint_and_what_then_cannot_either_goes_back() {
    check(
        config(),
        "
0 start
  deploy attempt 1
10 rescale 1 2
  accept 1
  stop tasks
20 stopped
  deploy attempt 2 at parallelism 2
30 rescale 2 1
  fail 1: a rescale to 1 was asked for after it
  accept 2
  stop tasks
40 stopped
  deploy attempt 3 at parallelism 1
50 misfit
  fail 2: the job cannot run with parallelism 1: state doesn't fit
100 tick
  deploy attempt 4 at parallelism 2
",
    );
}

#[test]
fn a_job_that_ends_is_not_rescaled() {
    check(
        config(),
        "
0 start
  deploy attempt 1
10 deployed
20 rescale 1 4
  accept 1
  trigger 1 Checkpoint at 1 sources and hold
30 drain
40 rescale 2 4
  refuse 2: the job is coming to its end
50 cancel
  cancel 1: the job is being stopped
  resume
  fail 1: its checkpoint 1 failed: the job is being stopped
  stop tasks
60 stopped
  close Cancelled
",
    );
}

#[test]
fn what_changed_long_since_is_written_before_the_sources_wait() {
    let checkpoints = CheckpointConfig {
        interval_ms: 60_000,
        min_pause_ms: 0,
        max_concurrent: 1,
        mode: CheckpointMode::ExactlyOnce,
        aligned_timeout_ms: None,
    };
    check(
        Config { checkpoints: Some(checkpoints), ..config() },
        "
0 start
  deploy attempt 1
10 deployed
510 tick
  trigger 1 Checkpoint at 1 sources
520 ack 1 source#0
520 ack 1 sink#0
  complete 1 of sink#0, of source#0
530 appended 1
  commit 1 at 2 tasks
  retain
20000 rescale 1 4
  accept 1
  trigger 2 Checkpoint at 1 sources
20010 ack 2 source#0
20010 ack 2 sink#0
  complete 2 of sink#0, of source#0
20020 appended 2
  commit 2 at 2 tasks
  retain
  trigger 3 Checkpoint at 1 sources and hold
",
    );
}
