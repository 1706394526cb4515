//! Whole jobs on a storage that fails, loses answers, tears, loses and flips what is written and read, at each of its
//! calls and at random. Started again on the healthy storage, the job's output is right, or an error names an object.
//!
//! `WEIR_FAULT_SEED` repeats one random run; `WEIR_FAULT_RUNS` says how many there are.

mod support;

use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{Guarantee, job, verify};
use weir_node::{LocalJob, Outcome, StartError, StartFrom};
use weir_snapshot::Storage;
use weir_snapshot::storage::{Call, Fault, FaultPlan, FaultRates, FaultyStorage, MemoryStorage};

/// So that a run has some ten checkpoints, and time for them.
const ROWS: i64 = 1_500;
const ROWS_PER_SECOND: u64 = 7_500;
/// Runs at once: a run mostly waits for its rate-limited source.
const THREADS: u64 = 6;
const RANDOM_RUNS: u64 = 24;
/// More starts than any fault here leaves to do.
const STARTS: u32 = 4;

#[test]
fn nothing_comes_out_wrong_after_a_fault_at_any_call() {
    let faults = [
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::Refuse,
        Fault::Delay,
        Fault::Lost,
        Fault::Torn { keep_bytes: 30 },
        Fault::Flip { byte: 11 },
        Fault::Flip { byte: 150 },
    ];
    let calls = calls_of_a_run();
    assert!(calls > 15, "{calls} calls are too few to have taken checkpoints");
    let refused = AtomicU64::new(0);
    in_parallel(faults.len() as u64 * calls, |index| {
        let (fault, number) = (faults[(index % faults.len() as u64) as usize], index / faults.len() as u64);
        let named = check(&format!("{fault:?} at call {number}"), FaultPlan::NthCall { number, fault });
        refused.fetch_add(u64::from(named), Ordering::Relaxed);
    });
    let refused = refused.into_inner();
    println!("{} faults, {refused} of which ended in an error that names an object", faults.len() as u64 * calls);
    assert!(refused > 0, "no fault did any harm: the walk did not reach what a restore reads");
}

#[test]
fn nothing_comes_out_wrong_with_faults_at_random() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let repeated: Option<u64> = from_environment("WEIR_FAULT_SEED");
    let first = repeated.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let runs = if repeated.is_some() { 1 } else { from_environment("WEIR_FAULT_RUNS").unwrap_or(RANDOM_RUNS) };
    println!("{runs} runs, the first with seed {first}");
    in_parallel(runs, |index| {
        let seed = first + index;
        let rates = match seed % 4 {
            // A bad day of a good store: whatever it says is true.
            0 => FaultRates { fail_before: 0.05, fail_after: 0.05, delay: 0.1, ..FaultRates::default() },
            1 => FaultRates { torn: 0.03, fail_after: 0.05, ..FaultRates::default() },
            2 => FaultRates { lost: 0.03, delay: 0.1, ..FaultRates::default() },
            _ => FaultRates { fail_before: 0.02, fail_after: 0.02, torn: 0.01, lost: 0.01, flip: 0.02, delay: 0.05 },
        };
        check(
            &format!("WEIR_FAULT_SEED={seed} cargo test -p weir-node --test faults"),
            FaultPlan::Seeded { seed, rates },
        );
    });
}

/// Runs the job under the plan and then, until it ends by itself, on the storage as that left it. True: it doesn't, and
/// an error names the object.
fn check(what: &str, plan: FaultPlan) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let healthy: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let faulty = FaultyStorage::new(healthy.clone(), plan);
    let small = job(folder.path(), ROWS, ROWS_PER_SECOND, |_| {});
    let disturbed = run(&small, Arc::new(faulty.clone()));
    let injected = faulty.injected();
    let is_honest =
        |fault: &Fault| matches!(fault, Fault::FailBefore | Fault::FailAfter | Fault::Refuse | Fault::Delay);
    let was_honest = injected.iter().all(|(_, fault)| is_honest(fault));
    let context = || format!("{what}: the disturbed run: {disturbed:?}; faults: {injected:?}");

    let mut last = disturbed.clone();
    for _ in 0..STARTS {
        // With every start the pace of the source begins anew; what is there already is not waited for.
        last = run(&small, healthy.clone());
        if last == Ok(()) {
            break;
        }
    }
    match last {
        Ok(()) => {
            // A store that took a log entry and has it no more has forgotten a checkpoint whose output is visible.
            let forgot = |(call, fault): &(Call, Fault)| !is_honest(fault) && call.path.as_str().contains("/log/");
            let guarantee = if injected.iter().any(forgot) { Guarantee::AtLeastOnce } else { Guarantee::ExactlyOnce };
            verify(folder.path(), ROWS, guarantee).unwrap_or_else(|problem| panic!("{problem}\n{}", context()));
            false
        }
        Err(reason) => {
            assert!(!was_honest, "it does not start again: {reason}\n{}", context());
            assert!(reason.contains("memory://small/"), "no object is named: {reason}\n{}", context());
            true
        }
    }
}

/// `Err`: why it did not start, or failed.
fn run(job: &Arc<weir_node::Job>, storage: Arc<dyn Storage>) -> Result<(), String> {
    let local = match LocalJob::start_on(Arc::clone(job), &StartFrom::Latest, storage) {
        Ok(local) => local,
        Err(StartError::AlreadyFinished) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    match local.run() {
        Outcome::Finished => Ok(()),
        Outcome::Failed { reason } => Err(reason),
        Outcome::Fenced { by } => Err(by),
        other => panic!("nobody asked for {other:?}"),
    }
}

fn calls_of_a_run() -> u64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::default()), FaultPlan::None);
    let small = job(folder.path(), ROWS, ROWS_PER_SECOND, |_| {});
    assert_eq!(run(&small, Arc::new(storage.clone())), Ok(()));
    verify(folder.path(), ROWS, Guarantee::ExactlyOnce).expect("undisturbed");
    storage.calls()
}

fn in_parallel(count: u64, run: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    run(index);
                }
            });
        }
    });
}
