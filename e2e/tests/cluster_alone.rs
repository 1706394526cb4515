//! The rows of docs/failure-matrix.md that concern all of a cluster: one after the other, with nothing beside them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weir_crds::streamjob::{JobPhase, UpgradeResult};
use weir_e2e::matrix::bound;
use weir_e2e::processes::Process;
use weir_e2e::second_node::SecondNode;
use weir_e2e::trial::{Storage, Trial, phase};
use weir_e2e::{Namespace, cluster_script, operator};

/// How often the acting replica goes, unless [`KILLS`] says so.
const MANY_KILLS: u32 = 20;
const KILLS: &str = "WEIR_E2E_KILLS";
const AWAY: Duration = Duration::from_secs(60);
/// Of pods whose kubelet hears late that they have to go.
const LATE_END: Duration = Duration::from_secs(90);
/// Another seed: another order of moments. Said at the start.
const SEED: &str = "WEIR_E2E_SEED";

/// Random, and the same again for the seed that is printed.
fn moments() -> ChaCha8Rng {
    let seed = std::env::var(SEED).ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("{SEED}={seed} cargo xtask e2e operators_are_killed repeats it");
    ChaCha8Rng::seed_from_u64(seed)
}

#[test]
fn operators_are_killed() {
    let kills = std::env::var(KILLS).ok().and_then(|text| text.parse().ok()).unwrap_or(MANY_KILLS);
    // Its input has to last until the last one.
    let Some(trial) = Trial::start("operators", 2 + u64::from(kills / 6)) else { return };
    trial.is_ready();
    let row = bound("operator-killed");
    let is_over = AtomicBool::new(false);
    let (mut changes, mut savepoints) = (0_u32, 0_usize);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut moments = moments();
            for _ in 0..kills {
                operator::kill_the_leader(Duration::from_millis(moments.random_range(0..4_000)));
            }
            is_over.store(true, Ordering::SeqCst);
        });
        // Until all have gone; and the last change sees an operator that lives.
        loop {
            let was_over = is_over.load(Ordering::SeqCst);
            let (from, to) = if changes.is_multiple_of(2) {
                ("COUNT(*) AS n", "COUNT(*) + 0 AS n")
            } else {
                ("COUNT(*) + 0 AS n", "COUNT(*) AS n")
            };
            trial.change(from, to);
            trial.has_upgraded(row);
            savepoints += 1;
            let parallelism = 1 + changes % 3;
            trial.scale(parallelism);
            trial.has_rescaled(parallelism, row);
            changes += 1;
            if was_over {
                break;
            }
        }
    });
    let job = trial.job();
    let upgrades = job.status.as_ref().map(|status| status.upgrades.clone()).unwrap_or_default();
    assert!(upgrades.iter().all(|upgrade| upgrade.result == UpgradeResult::Verified), "{upgrades:?}");
    let listed = trial.cluster.kubectl(&["get", "savepoints", "-o", "name"]).unwrap();
    // Seven are kept; each upgrade has taken one.
    assert_eq!(listed.lines().count(), savepoints.min(7), "{listed}");
    let run = job.status.and_then(|status| status.run).map(|run| run.number);
    assert_eq!(run, Some(1 + savepoints as u64), "one start for each upgrade");
    eprintln!("{kills} kills in {savepoints} upgrades and {changes} rescales");
    trial.ends_exactly();
}

#[test]
fn the_api_server_goes_away() {
    let Some(script) = cluster_script("api-server") else { return };
    // It has to outlast the minute, and the node that is ready again only a minute after on a busy machine.
    let Some(trial) = Trial::start("api-server", 6) else { return };
    trial.is_ready();
    let (coordinator, worker) = (trial.pod("coordinator"), trial.pod("worker-0"));
    let [Some(coordinator), Some(worker)] = [coordinator, worker].map(|pod| Process::of(&trial.cluster, &pod)) else {
        panic!("the pods' processes are on this machine");
    };
    let before = trial.committed();
    let folder = trial.cluster.folder_of_claim("state").expect("the volume is here");
    script(&["stop-part", "apiserver"]);
    let since = Instant::now();
    worker.signal("KILL");
    let committed = || weir_e2e::trial::committed_in(&folder);
    trial.cluster.await_true("it commits without the API server", AWAY, || {
        since.elapsed() > AWAY / 2 && Some(committed()) > before
    });
    trial.cluster.await_true("a minute is over", AWAY * 2, || since.elapsed() >= AWAY);
    let at_the_end = committed();
    script(&["up"]);
    trial.recovers("api-server-away", || {});
    assert!(coordinator.lives(), "the coordinator went on");
    assert!(Some(at_the_end) > before, "{before:?} rows before, {at_the_end} at the end of the minute");
    assert_eq!(phase(&trial.job()), Some(JobPhase::Running));
    trial.ends_exactly();
}

/// On a cluster of one node nothing can come back before it is uncordoned. What is drained is this job alone.
#[test]
fn the_node_is_drained() {
    let Some(cluster) = Namespace::create("drained") else { return };
    let Some(trial) = Trial::start_on(cluster, "drained", 2, Storage::default()) else { return };
    trial.is_ready();
    let worker = trial.cluster.get("pod", &trial.pod("worker-0")).expect("the worker is there");
    let node = worker["spec"]["nodeName"].as_str().expect("it is on a node").to_owned();
    let drained = trial.cluster.kubectl(&[
        "drain",
        &node,
        "--pod-selector=weir.dev/job=drained",
        "--delete-emptydir-data",
        "--ignore-daemonsets",
        "--force",
        "--timeout=20s",
    ]);
    let waiting = trial.cluster.kubectl(&["get", "pods", "--no-headers"]);
    // Before anything is asserted: the node is everybody's.
    let uncordoned = trial.cluster.kubectl(&["uncordon", &node]);
    eprintln!("drain: {drained:?}\n{}", waiting.unwrap_or_default());
    uncordoned.unwrap();
    assert!(drained.as_ref().is_err_and(|why| why.contains("disruption budget")), "{drained:?}");
    trial.recovers("drained", || {});
    trial.ends_exactly();
}

/// All of a job's pods are on a node that is cut off: they run on there, with a coordinator that reaches the storage,
/// while others take their places.
#[test]
fn a_node_is_lost() {
    let Some(node) = SecondNode::add("node-lost") else { return };
    let Some(trial) = node.start("node-lost", 4) else { return };
    let pods = node.of_pods(&trial);
    let processes: Vec<Process> = pods.iter().filter_map(|(pod, _)| Process::of(&trial.cluster, pod)).collect();
    assert_eq!(processes.len(), pods.len(), "the pods' processes are on this machine");
    let before = trial.committed();
    trial.recovers("node-lost", || node.cut());
    node.is_left(&trial);
    let still = processes.iter().filter(|process| process.lives()).count();
    eprintln!("{still} processes still run on the node that is cut off; {before:?} rows were committed before");
    assert!(still >= 2, "the workers there know of nothing");
    node.join();
    let have_ended = || processes.iter().all(|process| !process.lives());
    trial.cluster.await_true("what ran on the lost node has ended", LATE_END, have_ended);
    trial.ends_exactly();
}

#[test]
fn a_node_is_drained_onto_another() {
    let Some(node) = SecondNode::add("moved") else { return };
    let Some(trial) = node.start("moved", 2) else { return };
    let selector = format!("--pod-selector=weir.dev/job={}", trial.name);
    trial.recovers("moved", || {
        let drain = [
            "drain",
            node.name(),
            &selector,
            "--delete-emptydir-data",
            "--ignore-daemonsets",
            "--force",
            "--timeout=120s",
        ];
        let drained = trial.cluster.kubectl(&drain);
        eprintln!("drain: {drained:?}");
        drained.unwrap();
    });
    node.is_left(&trial);
    trial.ends_exactly();
}
