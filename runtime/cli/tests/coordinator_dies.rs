//! The coordinator of a job dies, again and again and at each moment of a checkpoint, while its workers go on. Another
//! takes over what runs: nothing is restored, unless a part of it is gone; and the committed output is that of a run
//! which nobody disturbed.

mod support;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Finished, Running, Scratch, Weir, await_condition};

const WORKERS: usize = 2;
/// What the coordinator says when it has taken over what runs.
const ADOPTED: &str = "was gone on with";
/// What it says when tasks were made anew, from a checkpoint or empty.
const STARTED: &str = "the attempt's tasks run";

#[test]
fn a_coordinator_that_dies_again_and_again_costs_no_restore() {
    let seed = rand::random();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Ten seconds of input, most of which pass with coordinators that live.
    let cluster = Cluster::new(&format!("coordinator-dies-{seed}"), Checkpoints::Unhurried);
    if rng.random_bool(0.5) {
        traffic::make_unaligned(&cluster.job, 0);
    }
    let workers = cluster.workers();
    let mut coordinator = cluster.coordinator(None);
    let mut latest = 0;
    for kill in 0..3 {
        // With a checkpoint of this coordinator the attempt runs, and is its own.
        cluster.await_checkpoint_after(latest);
        let until = Instant::now() + Duration::from_millis(rng.random_range(0..150));
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let died = coordinator.kill();
        assert!(died.status.signal().is_some(), "seed {seed}: it had finished: {died}");
        let (adopted, started) = counts(&died);
        let expected = if kill == 0 { (0, 1) } else { (1, 0) };
        assert_eq!((adopted, started), expected, "seed {seed}, coordinator {kill}: {died}");
        latest = latest_checkpoint(&cluster.scratch, &cluster.job).unwrap_or(0);
        coordinator = cluster.coordinator(None);
    }
    let finished = coordinator.wait();
    assert!(finished.status.success(), "seed {seed}: {finished}");
    assert_eq!(counts(&finished), (1, 0), "seed {seed}: {finished}");
    cluster.end_well(workers, &format!("seed {seed}"));
}

#[test]
fn each_moment_of_a_checkpoint() {
    for (failpoint, expected) in [
        // The checkpoint is written and not in the log: it is given up, what its sinks prepared belongs to the next.
        ("before-manifest:3", (1, 0)),
        // It stands in the log, and nobody was told to commit it.
        ("after-manifest:3", (1, 0)),
        ("mid-retention:3", (1, 0)),
        // Tasks are made and do not run: that is no attempt to go on with.
        ("before-settle:1", (0, 1)),
    ] {
        let cluster =
            Cluster::new(&format!("coordinator-dies-{}", failpoint.replace(':', "-")), Checkpoints::Unhurried);
        let workers = cluster.workers();
        let died = cluster.coordinator(Some(failpoint)).wait();
        assert!(died.status.signal().is_some(), "{failpoint} was not passed: {died}");
        let finished = cluster.coordinator(None).wait();
        assert!(finished.status.success(), "{failpoint}: {finished}");
        assert_eq!(counts(&finished), expected, "{failpoint}: {finished}");
        cluster.end_well(workers, failpoint);
    }
}

#[test]
fn what_is_in_flight_of_a_checkpoint_that_dies_with_its_coordinator_is_given_up() {
    let cluster = Cluster::new("coordinator-dies-in-flight", Checkpoints::Unhurried);
    traffic::make_unaligned(&cluster.job, 0);
    let workers = cluster.workers();
    let died = cluster.coordinator(Some("before-manifest:3")).wait();
    assert!(died.status.signal().is_some(), "the checkpoint was not passed: {died}");
    let coordinator = cluster.coordinator(None);
    // Behind the given-up one come others, which are unaligned too.
    let of_new = cluster.await_checkpoint_after(3);
    cluster.await_checkpoint_after(of_new);
    let listed = checkpoints(&cluster.scratch, &cluster.job);
    let finished = coordinator.wait();
    let mut periodic = listed.iter().filter(|checkpoint| checkpoint["type"] == "Checkpoint");
    assert!(periodic.all(|checkpoint| checkpoint["unaligned"] == true), "{listed:?}");
    assert!(finished.status.success(), "{finished}");
    assert_eq!(counts(&finished), (1, 0), "{finished}");
    cluster.end_well(workers, "in flight");
}

#[test]
fn with_a_worker_gone_too_it_is_restored() {
    let cluster = Cluster::new("coordinator-dies-worker", Checkpoints::Unhurried);
    let mut workers = cluster.workers();
    let coordinator = cluster.coordinator(None);
    cluster.await_checkpoint_after(1);
    coordinator.kill();
    workers.pop().expect("there are some").kill();
    workers.push(cluster.worker());
    let finished = cluster.coordinator(None).wait();
    assert!(finished.status.success(), "{finished}");
    assert_eq!(counts(&finished), (0, 1), "{finished}");
    cluster.end_well(workers, "a worker was killed with its coordinator");
}

/// The next coordinator goes by the job's own parallelism: its tasks are others than those that run, though these have as
/// many slots, for a source keeps a parallelism of its own.
#[test]
fn what_was_rescaled_is_restored_at_the_jobs_own_parallelism() {
    let cluster = Cluster { parallelism: 1, ..Cluster::new("coordinator-dies-rescaled", Checkpoints::Unhurried) };
    let text = std::fs::read_to_string(&cluster.job).expect("read the job");
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("the job is JSON");
    spec["spec"]["pipeline"]["sources"][0]["parallelism"] = serde_json::json!(WORKERS);
    std::fs::write(&cluster.job, spec.to_string()).expect("write the job");
    let workers = cluster.workers();
    let coordinator = cluster.coordinator(None);
    cluster.await_checkpoint_after(0);
    let rescale = Weir::new(cluster.scratch.path(), ["rescale".as_ref(), cluster.job.as_os_str()]);
    rescale.with(["-p", "2"]).succeed();
    let latest = latest_checkpoint(&cluster.scratch, &cluster.job).unwrap_or(0);
    cluster.await_checkpoint_after(latest);
    coordinator.kill();
    let finished = cluster.coordinator(None).wait();
    assert!(finished.status.success(), "{finished}");
    assert_eq!(counts(&finished), (0, 1), "{finished}");
    cluster.end_well(workers, "the attempt was rescaled");
}

/// A job, and the address of whoever coordinates it.
struct Cluster {
    scratch: Scratch,
    job: PathBuf,
    port: u16,
    parallelism: usize,
}

impl Cluster {
    fn new(name: &str, checkpoints: Checkpoints) -> Self {
        let scratch = Scratch::new(name);
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, checkpoints);
        Cluster { scratch, job, port: free_port(), parallelism: WORKERS }
    }

    fn coordinator(&self, failpoint: Option<&str>) -> Running {
        let weir = Weir::new(self.scratch.path(), ["coordinator".as_ref(), self.job.as_os_str()])
            .with(["--listen", &self.address(), "--workers", &WORKERS.to_string(), "-p", &self.parallelism.to_string()])
            .with(["--quiet"])
            .env("WEIR_LOG", "warn,weir_node=info");
        match failpoint {
            Some(failpoint) => weir.env("WEIR_FAILPOINT", failpoint).spawn(),
            None => weir.spawn(),
        }
    }

    fn workers(&self) -> Vec<Running> {
        (0..WORKERS).map(|_| self.worker()).collect()
    }

    fn worker(&self) -> Running {
        Weir::new(self.scratch.path(), ["worker", "--coordinator", &self.address(), "--slots", "1"]).spawn()
    }

    fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    fn await_checkpoint_after(&self, id: u64) -> u64 {
        await_condition(&format!("a checkpoint after {id}"), || {
            latest_checkpoint(&self.scratch, &self.job).filter(|latest| *latest > id)
        })
    }

    /// The workers were let go, and the output is right.
    fn end_well(&self, workers: Vec<Running>, what: &str) {
        for worker in workers {
            let ended = worker.wait();
            assert!(ended.status.success(), "{what}: {ended}");
        }
        traffic::verify(&self.scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{what}: {problem}"));
    }
}

fn checkpoints(scratch: &Scratch, job: &Path) -> Vec<serde_json::Value> {
    let listed = Weir::new(scratch.path(), ["checkpoints".as_ref(), job.as_os_str()]);
    let listed = listed.with(["--output", "json"]).succeed();
    serde_json::from_str(&listed.stdout).expect("a list")
}

fn latest_checkpoint(scratch: &Scratch, job: &Path) -> Option<u64> {
    checkpoints(scratch, job).iter().filter_map(|checkpoint| checkpoint["id"].as_u64()).max()
}

/// How often a coordinator went on with what ran, and how often it had tasks made anew.
fn counts(coordinator: &Finished) -> (usize, usize) {
    (coordinator.stderr.matches(ADOPTED).count(), coordinator.stderr.matches(STARTED).count())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of this machine");
    listener.local_addr().expect("it is bound").port()
}
