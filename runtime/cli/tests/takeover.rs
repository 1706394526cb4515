//! Two coordinators of one job, on purpose. The first is paused at a chosen step of completing a checkpoint, the second
//! takes the job over, and then the first goes on: there is one history, sinks commit once, and the first says that it
//! is fenced.

mod support;

use std::path::Path;
use support::history;
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Scratch, Weir, await_condition, is_stopped, session, signal};
use weir_model::Epoch;

#[test]
fn paused_before_the_checkpoint_is_in_the_log() {
    take_over("before-manifest:3:stop", Workers::Own, None);
}

#[test]
fn paused_after_the_checkpoint_is_in_the_log() {
    take_over("after-manifest:3:stop", Workers::Own, None);
}

#[test]
fn paused_before_the_commits() {
    take_over("before-commit:3:stop", Workers::Own, None);
}

#[test]
fn paused_before_retention() {
    take_over("mid-retention:3:stop", Workers::Own, None);
}

#[test]
fn paused_in_the_middle_of_a_commit() {
    // The tasks are in the coordinator's process, and pause with it.
    take_over("mid-commit:9:stop", Workers::None, None);
}

#[test]
fn paused_with_its_tasks_before_the_checkpoint_is_in_the_log() {
    take_over("before-manifest:3:stop", Workers::None, None);
}

/// The worst moment for others: it has made sure that the job is its own, and is about to abort what no checkpoint
/// holds; when it goes on, that is the second coordinator's.
#[test]
fn paused_before_it_aborts_what_no_checkpoint_holds() {
    take_over("before-settle:2:stop", Workers::Own, Some(libc::SIGKILL));
}

#[derive(Clone, Copy, PartialEq)]
enum Workers {
    /// All in one process.
    None,
    /// Each coordinator has two of its own.
    Own,
}

/// `to_a_worker`: a signal to one of the first coordinator's workers, so that it starts another attempt.
fn take_over(failpoint: &str, workers: Workers, to_a_worker: Option<i32>) {
    let scratch = Scratch::new(&format!("takeover-{}-{}", failpoint.replace(':', "-"), workers == Workers::Own));
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
    let first = run(&scratch, &job, workers).env("WEIR_FAILPOINT", failpoint).spawn();
    if let Some(to_a_worker) = to_a_worker {
        session::await_checkpoint(&scratch, &job, &first);
        signal(*first.children().first().expect("a worker"), to_a_worker);
    }
    await_condition(&format!("the first coordinator pauses at {failpoint}"), || is_stopped(first.id()).then_some(()));

    let hurry: &[&str] = if to_a_worker.is_some() { &[] } else { &HURRY };
    let second = run(&scratch, &job, workers).with(hurry).spawn();
    await_condition("the second coordinator completes checkpoints", || {
        let entries = history::entries(&scratch, "traffic");
        let own = entries.iter().filter(|(epoch, is_checkpoint)| *epoch == Epoch(2) && *is_checkpoint);
        (own.count() >= 2).then_some(())
    });
    first.signal(libc::SIGCONT);
    let fenced = first.wait();
    assert!(!fenced.status.success() && fenced.stderr.contains("was taken over"), "{fenced}");
    let finished = second.wait();
    assert!(finished.status.success(), "{finished}");

    let epochs = history::epochs(&scratch, "traffic");
    assert!(epochs.is_sorted(), "the first wrote into the second's history: {epochs:?}");
    assert_eq!(epochs.last(), Some(&Epoch(2)), "{epochs:?}");
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{failpoint}: {problem}"));
}

/// The rest of the job in little time.
const HURRY: [&str; 2] = ["--set", "spec.pipeline.sources[0].generator.rowsPerSecond=30000"];

fn run(scratch: &Scratch, job: &Path, workers: Workers) -> Weir {
    let options: &[&str] = if workers == Workers::Own { &["--workers", "2"] } else { &[] };
    Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()])
        .with(["-p", "2", "--set", "spec.restart={fixedDelay: {attempts: 20, delay: 100ms}}"])
        .with(options)
}
