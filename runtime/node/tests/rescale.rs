//! Jobs that are given another parallelism while they run: again and again, up, down and unevenly, on both backends,
//! on a storage that is well and on one that fails. Their output is that of an undisturbed run.
//!
//! `WEIR_RESCALE_SEED` repeats one random run.

mod support;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use support::{Guarantee, job, verify};
use weir_node::{LocalJob, Outcome, Request, RequestSender, RescaleAnswer, StartFrom};
use weir_snapshot::Storage;
use weir_snapshot::storage::{FaultPlan, FaultRates, FaultyStorage, MemoryStorage};

const ROWS: i64 = 5_000;
const ROWS_PER_SECOND: u64 = 2_500;
const MAX_PARALLELISM: u32 = 8;
/// A run mostly waits for its rate-limited source.
const RUNS: u64 = 6;

#[test]
fn rescaled_at_random() {
    let repeated: Option<u64> = std::env::var("WEIR_RESCALE_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let first = repeated.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let runs = if repeated.is_some() { 1 } else { RUNS };
    println!("{runs} runs, the first with seed {first}");
    std::thread::scope(|scope| {
        for seed in first..first + runs {
            scope.spawn(move || rescale_at_random(seed));
        }
    });
}

fn rescale_at_random(seed: u64) {
    let what = format!("WEIR_RESCALE_SEED={seed} cargo test --test rescale");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backend = if seed.is_multiple_of(2) { json!({"heap": {}}) } else { json!({"rocksdb": {}}) };
    let small = job(folder.path(), ROWS, ROWS_PER_SECOND, |spec| {
        spec["stateBackend"] = backend;
        spec["restart"] = json!({"fixedDelay": {"attempts": 50, "delay": "1ms"}});
        spec["checkpoint"]["tolerableFailures"] = json!(1_000);
    });
    let healthy: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let is_faulty = seed % 4 >= 2;
    let rates = FaultRates { fail_before: 0.02, fail_after: 0.02, delay: 0.05, ..FaultRates::default() };
    let storage: Arc<dyn Storage> = match is_faulty {
        true => Arc::new(FaultyStorage::new(healthy.clone(), FaultPlan::Seeded { seed, rates })),
        false => healthy.clone(),
    };
    let mut done = 0;
    match LocalJob::start_on(Arc::clone(&small), &StartFrom::Spec, storage) {
        Err(error) if is_faulty => println!("{what}: not started: {error}"),
        Err(error) => panic!("{what}: {error}"),
        Ok(local) => {
            let requests = local.requests();
            let user = std::thread::spawn(move || {
                let mut answers = vec![];
                // Ends with the job.
                while let Some(answer) = ask(&requests, rng.random_range(1..=MAX_PARALLELISM)) {
                    answers.push(answer);
                    std::thread::sleep(Duration::from_millis(rng.random_range(0..150)));
                }
                answers
            });
            let outcome = local.run();
            let answers = user.join().expect("the requests were sent");
            done = answers.iter().filter(|answer| matches!(answer, RescaleAnswer::Done { .. })).count();
            println!("{what}: {outcome:?} after {done} of {} rescales", answers.len());
            if !is_faulty {
                assert_eq!(outcome, Outcome::Finished, "{what}: {answers:?}");
            }
        }
    }
    if is_faulty {
        // What the faults left to do, if anything.
        match LocalJob::start_on(small, &StartFrom::Spec, healthy) {
            Ok(local) => assert_eq!(local.run(), Outcome::Finished, "{what}"),
            Err(weir_node::StartError::AlreadyFinished) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    } else {
        assert!(done >= 2, "{what}: {done} rescales in a run that lasts two seconds");
    }
    verify(folder.path(), ROWS, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{what}: {problem}"));
}

#[test]
fn what_cannot_be_is_refused_and_the_job_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let small = job(folder.path(), ROWS, ROWS_PER_SECOND, |_| {});
    let local = LocalJob::start_on(small, &StartFrom::Spec, Arc::new(MemoryStorage::default())).expect("it starts");
    let requests = local.requests();
    let user = std::thread::spawn(move || {
        for parallelism in [0, MAX_PARALLELISM + 1, u32::MAX] {
            let answer = ask(&requests, parallelism);
            let Some(RescaleAnswer::Refused { reason }) = &answer else { panic!("{parallelism}: {answer:?}") };
            assert!(reason.contains("from 1 to 8, the maxParallelism"), "{reason}");
        }
        ask(&requests, 3)
    });
    assert_eq!(local.run(), Outcome::Finished);
    let answer = user.join().expect("the requests were answered");
    assert!(matches!(answer, Some(RescaleAnswer::Done { parallelism: 3, .. })), "{answer:?}");
    verify(folder.path(), ROWS, Guarantee::ExactlyOnce).expect("nothing was disturbed");
}

/// How it ended; none if the job had.
fn ask(requests: &RequestSender, parallelism: u32) -> Option<RescaleAnswer> {
    let (answer, answers) = channel();
    requests.send(Request::Rescale { parallelism, leaving: vec![], answer }).then_some(())?;
    answers.into_iter().find(|answer| *answer != RescaleAnswer::Accepted)
}
