//! The rows of docs/failure-matrix.md that concern one job: each on a job of its own, beside the others.

use std::time::Duration;

use weir_crds::conditions::{ConditionType, find_condition};
use weir_crds::streamjob::{JobPhase, RestorePointKind, UpgradeResult};
use weir_e2e::Namespace;
use weir_e2e::matrix::{bound, rows};
use weir_e2e::processes::Process;
use weir_e2e::store::{Mood, Store};
use weir_e2e::trial::{Storage, Trial, completed, phase};

/// Heartbeats are missed after 10 s.
const PAUSE: Duration = Duration::from_secs(15);
const REFUSAL: Duration = Duration::from_secs(20);

#[test]
fn every_row_has_a_test() {
    let tests = [include_str!("failure_matrix.rs"), include_str!("../cluster_alone.rs")].concat();
    for row in rows() {
        assert!(bound(row) > Duration::ZERO);
        assert!(tests.contains(&format!("\"{row}\"")), "no test has the row `{row}`");
    }
}

#[test]
fn pods_are_deleted() {
    let Some(trial) = Trial::start("pods", 3) else { return };
    trial.is_ready();
    trial.recovers("coordinator-deleted", || trial.delete_pod("coordinator"));
    trial.recovers("worker-deleted", || trial.delete_pod("worker-0"));
    trial.recovers("all-pods-deleted", || {
        let all = format!("weir.dev/job={}", trial.name);
        trial.cluster.kubectl(&["delete", "pods", "-l", &all, "--grace-period=0", "--force"]).unwrap();
    });
    trial.ends_exactly();
}

/// The pod's process, once it runs. `None`: it runs on another machine.
fn process(trial: &Trial, suffix: &str) -> Option<Process> {
    let found = Process::of(&trial.cluster, &trial.pod(suffix));
    if found.is_none() {
        eprintln!("{suffix}: no process of it is on this machine; nothing is sent to it");
    }
    found
}

#[test]
fn processes_are_killed() {
    let Some(trial) = Trial::start("killed", 2) else { return };
    trial.is_ready();
    for (row, suffix) in [("coordinator-killed", "coordinator"), ("worker-killed", "worker-1")] {
        let Some(process) = process(&trial, suffix) else { return };
        trial.recovers(row, || process.signal("KILL"));
    }
    trial.ends_exactly();
}

#[test]
fn processes_are_stopped() {
    let Some(trial) = Trial::start("stopped", 6) else { return };
    trial.is_ready();
    let Some(worker) = process(&trial, "worker-0") else { return };
    worker.signal("STOP");
    let lost = "the pause is longer than heartbeats are missed for";
    let since = std::time::Instant::now();
    trial.cluster.await_true(lost, PAUSE * 2, || since.elapsed() >= PAUSE);
    trial.recovers("worker-paused", || worker.signal("CONT"));
    for (row, suffix) in [("worker-stopped", "worker-1"), ("coordinator-stopped", "coordinator")] {
        let Some(process) = process(&trial, suffix) else { return };
        process.signal("STOP");
        trial.cluster.await_true(&format!("{row}: the kubelet ends it"), bound(row), || !process.lives());
        trial.recovers(row, || {});
    }
    trial.ends_exactly();
}

#[test]
fn pods_are_evicted() {
    let Some(trial) = Trial::start("evicted", 2) else { return };
    trial.is_ready();
    let evict = |suffix: &str| trial.cluster.evict(&trial.pod(suffix));
    // The budget counts pods that are ready, which the kubelet finds a few seconds after they are.
    trial.cluster.await_true("a worker may go", bound("evicted"), || evict("worker-0").is_ok());
    let refused = evict("worker-1");
    assert!(refused.as_ref().is_err_and(|why| why.contains("disruption budget")), "{refused:?}");
    trial.recovers("evicted", || {});
    trial.recovers("evicted", || evict("coordinator").map(drop).unwrap());
    trial.ends_exactly();
}

#[test]
fn a_disk_is_full() {
    let Some(trial) = Trial::start("disk", 6) else { return };
    trial.change("{slots: 1}", "{slots: 1, localStorage: {size: 16Mi}}");
    trial.is_ready();
    let row = bound("disk-full");
    let pod = || trial.cluster.get("pod", &trial.pod("worker-0"));
    let uid = |pod: &serde_json::Value| pod["metadata"]["uid"].as_str().map(str::to_owned);
    let full = pod().and_then(|pod| uid(&pod)).expect("the worker is there");
    let Some(folder) = trial.cluster.scratch_of(&trial.pod("worker-0")) else {
        eprintln!("the worker's disk is on another machine: nothing fills it");
        return;
    };
    std::fs::write(folder.join("filler"), vec![1; 32 << 20]).unwrap();
    trial.cluster.await_true("another pod takes its place", row, || {
        pod().and_then(|pod| uid(&pod)).is_some_and(|uid| uid != full)
    });
    trial.recovers("disk-full", || {});
    trial.ends_exactly();
}

#[test]
fn the_store_refuses_and_is_slow() {
    let Some(store) = Store::start("store") else { return };
    let Some(cluster) = Namespace::create("store") else { return };
    let (uri, objects) = store.of_job(cluster.name());
    let Some(trial) = Trial::start_on(cluster, "numbers", 4, Storage { uri, objects, ..Storage::default() }) else {
        return;
    };
    trial.is_ready();
    store.becomes(Mood::Slow(Duration::from_millis(500)));
    trial.recovers("store-slow", || {});
    store.becomes(Mood::Refuses);
    let since = std::time::Instant::now();
    let refused = trial.cluster.await_condition(
        &trial.name,
        ConditionType::CheckpointingHealthy,
        "False",
        bound("store-refuses"),
    );
    let conditions = refused.status.unwrap_or_default().conditions;
    eprintln!("{:?}", find_condition(&conditions, ConditionType::CheckpointingHealthy));
    trial.cluster.await_true("it has refused for long enough", REFUSAL * 2, || since.elapsed() >= REFUSAL);
    trial.recovers("store-refuses", || store.becomes(Mood::Fine));

    // The savepoint of an upgrade.
    store.becomes(Mood::RefusesSavepoints);
    let before = Process::of(&trial.cluster, &trial.pod("coordinator"));
    trial.change("COUNT(*) AS n", "COUNT(*) + 0 AS n");
    let held = trial.upgraded(trial.generation(), bound("savepoint-fails"));
    assert_eq!(held.result, UpgradeResult::Held, "{held:?}");
    assert!(held.message.as_ref().is_some_and(|why| why.contains("savepoint")), "{held:?}");
    trial.cluster.await_condition(&trial.name, ConditionType::Degraded, "True", bound("savepoint-fails"));
    assert_eq!(Process::of(&trial.cluster, &trial.pod("coordinator")), before, "nothing was stopped");
    trial.goes_on("savepoint-fails", bound("savepoint-fails"));
    store.becomes(Mood::Fine);
    trial.change("COUNT(*) + 0 AS n", "COUNT(*) + 1 - 1 AS n");
    trial.has_upgraded(bound("savepoint-fails"));
    trial.ends_exactly();
}

#[test]
fn specs_are_no_good() {
    let Some(trial) = Trial::start("specs", 6) else { return };
    trial.is_ready();
    let coordinator = Process::of(&trial.cluster, &trial.pod("coordinator"));
    for (row, from, to, named) in [
        ("bad-query", "COUNT(*) AS n", "COUNT(nothing) AS n", "nothing"),
        ("incompatible-state", "id % 50", "CAST(id % 50 AS VARCHAR)", "counted"),
    ] {
        trial.change(from, to);
        let refused = trial.cluster.await_condition(&trial.name, ConditionType::Degraded, "True", bound(row));
        let why = refused.status.and_then(|status| status.preflight?.message).unwrap_or_default();
        assert!(why.contains(named), "{row}: {why}");
        trial.change(to, from);
        trial.cluster.await_condition(&trial.name, ConditionType::Ready, "True", bound(row));
    }
    assert_eq!(Process::of(&trial.cluster, &trial.pod("coordinator")), coordinator, "nothing was stopped");

    trial.change("deadline: 60s", "deadline: 20s");
    let image = "  image: weir.local/nothing:0\n  pipeline:";
    trial.change("  pipeline:", image);
    let back = trial.upgraded(trial.generation(), bound("bad-image"));
    assert_eq!(back.result, UpgradeResult::RolledBack, "{back:?}");
    assert!(back.message.as_ref().is_some_and(|why| why.contains("Image")), "{back:?}");
    trial.recovers("bad-image", || trial.change(image, "  pipeline:"));
    trial.change("deadline: 20s", "deadline: 300s");
    trial.change("  pipeline:", image);
    let generation = trial.generation();
    trial.cluster.await_job(&trial.name, "the bad image is started", bound("superseded"), |job| {
        job.status.as_ref().and_then(|status| status.run.as_ref()).is_some_and(|run| run.generation == generation)
    });
    trial.change(image, "  pipeline:");
    trial.change("COUNT(*) AS n", "COUNT(*) + 0 AS n");
    trial.has_upgraded(bound("superseded"));
    trial.recovers("superseded", || {});

    let query = || trial.job().spec.pipeline.transforms.into_iter().find_map(|step| step.sql);
    assert!(query().is_some_and(|sql| sql.contains("+ 0")));
    let said = trial.cluster.weir(&["rollback", &trial.name]).unwrap();
    eprintln!("{said}");
    assert!(query().is_some_and(|sql| !sql.contains("+ 0")), "the spec before is applied");
    trial.has_upgraded(bound("rolled-back"));
    trial.ends_exactly();
}

#[test]
fn it_is_scaled_during_checkpoints() {
    let Some(trial) = Trial::start("scaled", 3) else { return };
    trial.change("interval: 1s", "interval: 500ms");
    trial.is_ready();
    for parallelism in [4, 1, 3, 2] {
        trial.scale(parallelism);
        trial.has_rescaled(parallelism, bound("scaled"));
    }
    for parallelism in [3, 1, 4] {
        trial.scale(parallelism);
    }
    trial.has_rescaled(4, bound("scaled"));
    trial.ends_exactly();
}

#[test]
fn a_job_is_deleted_and_made_again() {
    let Some(trial) = Trial::start("deleted", 2) else { return };
    for _ in 0..2 {
        trial.is_ready();
        trial.cluster.kubectl(&["delete", "sj", &trial.name, "--timeout=120s"]).unwrap();
        trial.recovers("deleted-and-made-again", || trial.apply());
        let from = trial.job().status.and_then(|status| status.restored_from);
        assert!(from.as_ref().is_some_and(|from| from.name.is_some()), "from its checkpoint: {from:?}");
    }
    trial.ends_exactly();
}

#[test]
fn a_job_is_set_back_and_made_again() {
    let Some(trial) = Trial::start("set-back", 3) else { return };
    trial.change("timeout: 20s", "timeout: 20s, retain: {count: 30}");
    trial.is_ready();
    let row = bound("set-back");
    let said = trial.cluster.weir(&["savepoint", &trial.name, "--name", "monday"]).unwrap();
    eprintln!("{said}");
    let gone_on = || {
        let before = completed(&trial.job());
        trial.cluster.await_job(&trial.name, "three checkpoints", row, |job| completed(job) > before.map(|id| id + 2));
    };
    let restored_from = || trial.job().status.and_then(|status| status.restored_from).expect("it began somewhere");
    let set_back = |to: &[&str], kind, name: &str| {
        trial.cluster.weir(&[&["restore", &trial.name], to].concat()).unwrap();
        trial.has_upgraded(row);
        let from = restored_from();
        assert_eq!((from.kind, from.name.as_deref()), (kind, Some(name)), "{from:?}");
    };
    gone_on();
    set_back(&["monday"], RestorePointKind::Savepoint, "monday");
    gone_on();
    let id = completed(&trial.job()).expect("a checkpoint");
    set_back(&["--checkpoint", &id.to_string()], RestorePointKind::Checkpoint, &format!("{}-{id:08}", trial.name));

    // One that is not there stops nothing.
    let process = Process::of(&trial.cluster, &trial.pod("coordinator"));
    trial.cluster.weir(&["restore", &trial.name, "--checkpoint", "99999999"]).unwrap();
    let refused = trial.cluster.await_condition(&trial.name, ConditionType::Degraded, "True", row);
    let conditions = refused.status.unwrap_or_default().conditions;
    let why = find_condition(&conditions, ConditionType::Degraded).map(|found| found.message.clone());
    assert!(why.as_ref().is_some_and(|why| why.contains("checkpoint 99999999 is not retained")), "{why:?}");
    assert_eq!(Process::of(&trial.cluster, &trial.pod("coordinator")), process);

    // Made again, it goes on with the newest of all that.
    let newest = completed(&trial.job());
    trial.cluster.kubectl(&["delete", "sj", &trial.name, "--timeout=120s"]).unwrap();
    trial.recovers("set-back", || trial.apply());
    let from = restored_from();
    let number = from.name.as_ref().and_then(|name| name.rsplit('-').next()?.parse::<u64>().ok());
    assert!(from.kind == RestorePointKind::Checkpoint && number >= newest, "{from:?}, after {newest:?}");
    trial.ends_after_going_back(2);
}

#[test]
fn a_namespace_is_deleted() {
    let Some(store) = Store::start("namespace") else { return };
    let Some(cluster) = Namespace::create("namespace") else { return };
    let (uri, objects) = store.of_job(cluster.name());
    let claim = cluster.kept_claim();
    let Some(trial) = Trial::start_on(cluster, "numbers", 3, Storage { uri, objects, claim }) else { return };
    trial.is_ready();
    let row = bound("namespace-deleted");
    trial.cluster.delete_within(row);
    trial.cluster.make_again();
    trial.recovers("namespace-deleted", || trial.apply());
    assert_eq!(phase(&trial.job()), Some(JobPhase::Running));
    trial.ends_exactly();
}
