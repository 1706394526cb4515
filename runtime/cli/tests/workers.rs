//! A job over several processes: workers and their coordinator, killed and paused while it runs. The committed output
//! must be that of a run which nobody disturbed.

mod support;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::time::{Duration, Instant};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Scratch, Weir, await_condition, signal};

/// Longer than the silence after which a worker is taken for lost.
const PAUSE: Duration = Duration::from_secs(12);

#[test]
fn over_three_workers() {
    let scratch = Scratch::new("workers-3");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    run(&scratch, &job, 4).succeed();
    verify(&scratch, "nobody disturbed it");
}

#[test]
fn workers_are_killed() {
    let seed = rand::random();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let scratch = Scratch::new(&format!("workers-killed-{seed}"));
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    if rng.random_bool(0.5) {
        traffic::make_unaligned(&job, 0);
    }
    let mut running = run(&scratch, &job, 4).spawn();
    let mut killed = 0;
    for _ in 0..3 {
        let until = Instant::now() + Duration::from_millis(rng.random_range(200..1_500));
        while Instant::now() < until && !running.has_ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let workers = running.children();
        if !workers.is_empty() {
            signal(workers[rng.random_range(0..workers.len())], libc::SIGKILL);
            killed += 1;
        }
    }
    let finished = running.wait();
    assert!(finished.status.success(), "seed {seed}: {finished}");
    assert!(killed > 0, "the job was over before a worker could be killed: {finished}");
    verify(&scratch, &format!("seed {seed}"));
}

#[test]
fn with_local_recovery_restarts_read_the_disk() {
    for (backend, options) in [
        ("heap", "heap: {localRecovery: true}"),
        ("rocksdb", "rocksdb: {localRecovery: true}"),
        ("spilled", "rocksdb: {localRecovery: true, memory: 8Mi, writeBufferRatio: 0.005}"),
    ] {
        let scratch = Scratch::new(&format!("workers-local-{backend}"));
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
        let running = run(&scratch, &job, 4)
            .with(["--set", &format!("spec.stateBackend={{{options}}}")])
            .env("TMPDIR", scratch.path().display().to_string())
            .env("WEIR_LOG", "warn,weir_node=info")
            .spawn();
        await_checkpoints(&scratch, &job, 2);
        let workers = running.children();
        signal(workers[0], libc::SIGKILL);
        let finished = running.wait();
        assert!(finished.status.success(), "{backend}: {finished}");
        let bytes = |name: &str| -> u64 {
            let name = format!("{name}=");
            let read = finished.stderr.split(&name).skip(1);
            read.filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok()).sum()
        };
        let (local, fetched) = (bytes("local_bytes"), bytes("fetched_bytes"));
        assert!(local > 0 && local > fetched, "{backend}: {local} bytes from disks, {fetched} fetched: {finished}");
        verify(&scratch, backend);
    }
}

#[test]
fn the_coordinator_is_killed() {
    let scratch = Scratch::new("coordinator-killed");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let running = run(&scratch, &job, 4).spawn();
    await_checkpoints(&scratch, &job, 3);
    let orphans = running.children();
    let died = running.kill();
    assert!(!died.status.success(), "it had finished: {died}");
    run(&scratch, &job, 3).succeed();
    verify(&scratch, "the coordinator was killed");
    await_condition("the workers of the dead coordinator leave", || {
        orphans.iter().all(|pid| !Path::new(&format!("/proc/{pid}/exe")).exists()).then_some(())
    });
}

#[test]
fn rescaled_while_workers_are_killed() {
    let seed = rand::random();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let scratch = Scratch::new(&format!("workers-rescaled-{seed}"));
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
    let backend = traffic::BACKENDS[rng.random_range(0..traffic::BACKENDS.len())];
    let mut running = run(&scratch, &job, 2).with(["--set", traffic::backend(backend)]).spawn();
    await_checkpoints(&scratch, &job, 1);
    let stayed = running.children();
    for parallelism in [4, 3] {
        let said = rescale(&scratch, &job, parallelism).succeed().stdout;
        assert!(said.contains(&format!("runs with parallelism {parallelism}")), "seed {seed}: {said}");
    }
    assert_eq!(running.children(), stayed, "a worker was started anew: seed {seed}");
    rescale(&scratch, &job, 129).fail();
    for _ in 0..4 {
        let asked = rescale(&scratch, &job, rng.random_range(1..=7)).spawn();
        let until = Instant::now() + Duration::from_millis(rng.random_range(0..400));
        while Instant::now() < until && !running.has_ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let workers = running.children();
        if !workers.is_empty() {
            signal(workers[rng.random_range(0..workers.len())], libc::SIGKILL);
        }
        // Done or failed: that it doesn't wait for ever is all that can be said.
        asked.wait();
    }
    let finished = running.wait();
    assert!(finished.status.success(), "seed {seed}, {backend}: {finished}");
    verify(&scratch, &format!("seed {seed}, {backend}"));
}

/// Its stores stay open, and are linked, parted and joined.
#[test]
fn spilled_state_is_rescaled() {
    let scratch = Scratch::new("workers-rescaled-spilled");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
    let running = run(&scratch, &job, 2).with(["--set", traffic::backend("spilled")]).spawn();
    await_checkpoints(&scratch, &job, 1);
    for parallelism in [5, 2] {
        rescale(&scratch, &job, parallelism).succeed();
    }
    for parallelism in [7, 1, 3] {
        // The job may have come to its end by then.
        rescale(&scratch, &job, parallelism).spawn().wait();
    }
    let finished = running.wait();
    assert!(finished.status.success(), "{finished}");
    verify(&scratch, "rescaled with spilled state");
}

#[test]
fn a_paused_worker_comes_back_too_late() {
    let scratch = Scratch::new("workers-paused");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
    // One slot more than needed: the job goes on without the paused worker.
    let running = run(&scratch, &job, 2).spawn();
    await_checkpoints(&scratch, &job, 2);
    let workers = running.children();
    signal(workers[0], libc::SIGSTOP);
    let paused = Instant::now();
    while paused.elapsed() < PAUSE {
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(workers[0], libc::SIGCONT);
    let finished = running.wait();
    assert!(finished.status.success(), "{finished}");
    assert!(finished.stderr.contains("lost"), "nobody noticed the pause: {finished}");
    verify(&scratch, "a worker was paused");
}

fn run(scratch: &Scratch, job: &Path, parallelism: u32) -> Weir {
    let parallelism = parallelism.to_string();
    Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()])
        .with(["--workers", "3", "-p", &parallelism])
        .with(["--set", "spec.restart={fixedDelay: {attempts: 20, delay: 100ms}}"])
}

fn rescale(scratch: &Scratch, job: &Path, parallelism: u32) -> Weir {
    let parallelism = parallelism.to_string();
    Weir::new(scratch.path(), ["rescale".as_ref(), job.as_os_str()]).with(["-p", &parallelism])
}

fn verify(scratch: &Scratch, what: &str) {
    traffic::verify(scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{what}: {problem}"));
}

fn await_checkpoints(scratch: &Scratch, job: &Path, count: usize) {
    await_condition(&format!("{count} checkpoints"), || {
        let listed = Weir::new(scratch.path(), ["checkpoints".as_ref(), job.as_os_str()]);
        let listed = listed.with(["--output", "json"]).succeed();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout).expect("a list");
        let latest = listed.iter().filter_map(|checkpoint| checkpoint["id"].as_u64()).max();
        (latest.unwrap_or(0) >= count as u64).then_some(())
    });
}
