//! One job through all that is done to a job, and its output as if nothing had been.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weir_crds::StreamJob;
use weir_crds::conditions::ConditionType;
use weir_crds::streamjob::{JobPhase, RestorePointKind, UpgradeMode, UpgradeResult};
use weir_e2e::Namespace;

const JOB: &str = include_str!("job.yaml");
/// At 2,000 a second: as long as the rest of the test takes, and some more.
const ROWS: u64 = 300_000;
const LONG: Duration = Duration::from_secs(180);

fn completed(job: &StreamJob) -> Option<u64> {
    Some(job.status.as_ref()?.checkpoints.as_ref()?.last_completed.as_ref()?.id)
}

fn phase(job: &StreamJob) -> Option<JobPhase> {
    job.status.as_ref()?.phase
}

#[test]
fn a_job_lives_through_what_is_done_to_it() {
    let Some(cluster) = Namespace::create("lifecycle") else { return };
    let job = JOB.replace("ROWS", &ROWS.to_string());
    cluster.apply(&job).unwrap();
    let ready = cluster.await_condition("numbers", ConditionType::Ready, "True", LONG);
    assert!(completed(&ready).is_some(), "Ready means that a checkpoint has completed");
    let columns = cluster.kubectl(&["get", "sj", "numbers"]).unwrap();
    for column in ["STATE", "PARALLELISM", "LAST CHECKPOINT", "RESTARTS", "READY", "AGE"] {
        assert!(columns.contains(column), "{columns}");
    }
    eprintln!("{columns}");
    cluster.await_true("Checkpoint objects are listed", LONG, || {
        cluster.kubectl(&["get", "checkpoints", "-o", "name"]).is_ok_and(|list| list.contains("numbers-0000"))
    });
    eprintln!("{}", cluster.kubectl(&["get", "checkpoints"]).unwrap());

    // The coordinator's pod is lost, and a worker's.
    let moves_on = |what: &str| {
        let before = completed(&cluster.job("numbers").unwrap()).unwrap_or_default();
        cluster.await_job("numbers", &format!("it checkpoints again after {what}"), LONG, |job| {
            phase(job) == Some(JobPhase::Running) && completed(job).is_some_and(|id| id > before)
        })
    };
    cluster.kubectl(&["delete", "pod", "numbers-coordinator", "--grace-period=0", "--force"]).unwrap();
    moves_on("the loss of the coordinator");
    cluster.kubectl(&["delete", "pod", "numbers-worker-0", "--grace-period=0", "--force"]).unwrap();
    moves_on("the loss of a worker");

    // Another spec whose state still fits: a savepoint, and verified by a checkpoint.
    cluster.apply(&job.replace("COUNT(*) AS n", "COUNT(*) + 1 AS n").replace("interval: 2s", "interval: 1s")).unwrap();
    let upgraded = cluster.await_job("numbers", "the upgrade is decided", LONG, |job| {
        let upgrades = job.status.as_ref().map(|status| status.upgrades.as_slice()).unwrap_or_default();
        upgrades.first().is_some_and(|upgrade| upgrade.result != UpgradeResult::InProgress)
    });
    let upgrades = upgraded.status.unwrap().upgrades;
    assert_eq!(upgrades[0].result, UpgradeResult::Verified, "{upgrades:?}");
    let listed = cluster.kubectl(&["get", "savepoints"]).unwrap();
    assert!(listed.contains("Upgrade") && listed.contains("Completed"), "its savepoint is a resource: {listed}");

    // Suspended and resumed: no pods meanwhile.
    cluster.kubectl(&["patch", "sj", "numbers", "--type=merge", "-p", r#"{"spec":{"state":"Suspended"}}"#]).unwrap();
    cluster.await_condition("numbers", ConditionType::Suspended, "True", LONG);
    cluster.await_true("no pods", LONG, || {
        cluster.kubectl(&["get", "pods", "-o", "name"]).is_ok_and(|list| list.is_empty())
    });
    cluster.kubectl(&["patch", "sj", "numbers", "--type=merge", "-p", r#"{"spec":{"state":"Running"}}"#]).unwrap();
    cluster.await_condition("numbers", ConditionType::Ready, "True", LONG);

    // Rescaled.
    cluster.kubectl(&["scale", "sj/numbers", "--replicas=3"]).unwrap();
    cluster.await_job("numbers", "3 subtasks", LONG, |job| {
        job.status.as_ref().is_some_and(|status| status.replicas == Some(3) && status.phase == Some(JobPhase::Running))
    });

    // Deleted and made again: it goes on where it was.
    let current = cluster.job("numbers").unwrap();
    cluster.kubectl(&["delete", "sj", "numbers", "--timeout=120s"]).unwrap();
    let again = StreamJob { status: None, metadata: named("numbers"), ..current };
    cluster.apply(&serde_json::to_string(&again).unwrap()).unwrap();
    let finished = cluster
        .await_job("numbers", "finished", Duration::from_secs(400), |job| phase(job) == Some(JobPhase::Finished));
    let restored = finished.status.unwrap().restored_from;
    eprintln!("restored from {restored:?}");
    exactly_once(&cluster, ROWS);
}

/// What may not change while a job is rescaled in place: its processes.
fn processes(cluster: &Namespace) -> Vec<Value> {
    let pods = ["numbers-coordinator", "numbers-worker-0"];
    let pod = |name: &str| cluster.get("pod", name).unwrap_or_else(|| panic!("{name} is not there"));
    pods.map(pod).map(|pod| pod["metadata"]["uid"].clone()).into()
}

fn savepoint_phase(cluster: &Namespace, name: &str) -> Option<String> {
    cluster.get("savepoint", name)?["status"]["phase"].as_str().map(str::to_owned)
}

#[test]
fn savepoints_clones_and_rescales() {
    let Some(cluster) = Namespace::create("savepoints") else { return };
    let rows = 320_000;
    let every_minute =
        "upgrade: {verify: {deadline: 90s}}\n  savepoints: {schedule: \"* * * * *\", retain: {count: 1}}";
    let job = JOB.replace("ROWS", &rows.to_string()).replace("upgrade: {verify: {deadline: 90s}}", every_minute);
    let job = job.replace("{interval: 2s,", "{interval: 1s, retain: {count: 10},");
    cluster.apply(&job).unwrap();
    cluster.await_condition("numbers", ConditionType::Ready, "True", LONG);
    assert!(cluster.get("secret", "numbers-weir-tls").is_some(), "the pods have certificates");

    // Another parallelism: the processes stay, and one more comes and goes.
    let before = processes(&cluster);
    for parallelism in [4, 2] {
        cluster.kubectl(&["scale", "sj/numbers", &format!("--replicas={parallelism}")]).unwrap();
        cluster.await_job("numbers", &format!("{parallelism} subtasks"), LONG, |job| {
            let status = job.status.clone().unwrap_or_default();
            status.replicas == Some(parallelism)
                && status.phase == Some(JobPhase::Running)
                && status.intention.is_none()
        });
    }
    cluster.await_true("the workers that are not needed have gone", LONG, || {
        cluster.get("pod", "numbers-worker-2").is_none()
    });
    let rescaled = cluster.await_condition("numbers", ConditionType::Ready, "True", LONG).status.unwrap();
    assert_eq!(processes(&cluster), before, "no process was restarted");
    assert_eq!(rescaled.restarts.map(|restarts| restarts.count), Some(0), "and no attempt failed");
    assert!(rescaled.upgrades.is_empty(), "{:?}", rescaled.upgrades);

    // A savepoint by a resource, and one whose data goes with it.
    let savepoint = |name: &str, more: &str| {
        let text = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: Savepoint\nmetadata: {{name: {name}}}\nspec: {{job: numbers{more}}}\n"
        );
        cluster.apply(&text).unwrap();
        cluster.await_true(&format!("savepoint {name} is complete"), LONG, || {
            savepoint_phase(&cluster, name).as_deref() == Some("Completed")
        });
    };
    savepoint("monday", "");
    savepoint("gone", ", onDelete: Delete");
    eprintln!("{}", cluster.kubectl(&["get", "savepoints", "-o", "wide"]).unwrap());
    let path = cluster.get("savepoint", "gone").unwrap()["status"]["path"].as_str().unwrap().to_owned();
    cluster.kubectl(&["delete", "savepoint", "gone", "--timeout=60s"]).unwrap();
    if let Some(volume) = cluster.folder_of_claim("state") {
        let folder = volume.join(path.strip_prefix("file:///state/").unwrap());
        assert!(!folder.join("savepoint.json").exists(), "{} is still there", folder.display());
    }

    // A spec that the state does not fit stops nothing, and says why.
    let running = cluster.job("numbers").unwrap();
    cluster.apply(&job.replace("id % 100", "CAST(id % 100 AS VARCHAR)")).unwrap();
    let refused = cluster.await_condition("numbers", ConditionType::Degraded, "True", LONG);
    let status = refused.status.clone().unwrap();
    assert!(status.preflight.as_ref().is_some_and(|answer| !answer.fits), "{:?}", status.preflight);
    eprintln!("refused: {:?}", status.preflight);
    assert!(status.upgrades.is_empty(), "nothing was begun: {:?}", status.upgrades);
    assert_eq!(processes(&cluster), before, "nothing was stopped");
    cluster.await_job("numbers", "it checkpoints all the same", LONG, |job| completed(job) > completed(&running));
    cluster.apply(&job).unwrap();
    cluster.await_condition("numbers", ConditionType::Ready, "True", LONG);

    let (_, job_only) = job.split_once("---\n").unwrap();
    pinned_and_cloned(&cluster, job_only);

    // Another job begins with the savepoint of this one.
    let clone = job_only
        .replace("{name: numbers}\nspec:", "{name: copy}\nspec:\n  restore: {from: {savepoint: monday}}")
        .replace("path: /state/out", "path: /state/copied");
    cluster.apply(&clone).unwrap();
    let copied = cluster.await_condition("copy", ConditionType::Ready, "True", LONG);
    let from = copied.status.unwrap().restored_from.unwrap();
    assert_eq!((from.kind, from.name.as_deref()), (RestorePointKind::Savepoint, Some("monday")), "{from:?}");

    // Set back to it again, once it has done something since.
    let since = completed(&cluster.job("copy").unwrap());
    cluster.await_job("copy", "it goes on", LONG, |job| completed(job) > since);
    let patch = r#"{"spec":{"restore":{"from":{"savepoint":"monday"},"nonce":1}}}"#;
    cluster.kubectl(&["patch", "sj", "copy", "--type=merge", "-p", patch]).unwrap();
    let set_back = cluster.await_job("copy", "set back", LONG, |job| {
        let upgrades = job.status.as_ref().map(|status| status.upgrades.as_slice()).unwrap_or_default();
        upgrades.first().is_some_and(|upgrade| upgrade.result == UpgradeResult::Verified)
    });
    let status = set_back.status.unwrap();
    let from = status.restored_from.unwrap();
    assert_eq!((from.kind, from.name.as_deref()), (RestorePointKind::Savepoint, Some("monday")), "{from:?}");
    assert!(status.run.as_ref().is_some_and(|run| run.beginning.is_some()), "{:?}", status.run);

    let by_schedule = || {
        let text = cluster.kubectl(&["get", "savepoints", "-o", "json"]).unwrap_or_default();
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        let is_done = |one: &&Value| one["spec"]["trigger"] == "Scheduled" && one["status"]["phase"] == "Completed";
        list["items"].as_array().into_iter().flatten().filter(is_done).count()
    };
    cluster.await_true("the schedule has taken one", LONG, || by_schedule() > 0);
    for name in ["numbers", "copy"] {
        cluster.await_job(name, "finished", Duration::from_secs(300), |job| phase(job) == Some(JobPhase::Finished));
    }
    exactly_once(&cluster, rows);
    if let Some(folder) = cluster.folder_of_claim("state") {
        let mut seen = BTreeMap::new();
        read(&folder.join("copied"), &mut seen);
        let first = seen.keys().next().copied().unwrap_or(rows);
        eprintln!("the copy has written {} rows from {first} on", seen.len());
        // Each subtask was somewhere else when the savepoint was taken; by half of the rows all were past it.
        assert!(first > 0, "it began with the savepoint, and not empty");
        let missing: Vec<u64> = (rows / 2..rows).filter(|id| !seen.contains_key(id)).take(5).collect();
        assert!(missing.is_empty(), "missing: {missing:?}");
        assert!(
            seen.values().all(|count| *count <= 2),
            "each once, and what was written before it was set back once more"
        );
        assert!(seen.values().any(|count| *count == 2), "it had written something before it was set back");
    }
}

/// A checkpoint that is pinned stays, and a third job begins with it; what it began with is listed.
fn pinned_and_cloned(cluster: &Namespace, job: &str) {
    let id = completed(&cluster.job("numbers").unwrap()).unwrap();
    let name = format!("numbers-{id:08}");
    cluster.await_true("the checkpoint is listed", LONG, || cluster.get("checkpoint", &name).is_some());
    cluster.kubectl(&["patch", "checkpoint", &name, "--type=merge", "-p", r#"{"spec":{"pinned":true}}"#]).unwrap();
    let is_kept_as = |why: &str| {
        let because = |one: Value| one["status"]["retainedBecause"][0].as_str().map(str::to_owned);
        cluster.get("checkpoint", &name).and_then(because).as_deref() == Some(why)
    };
    cluster.await_true("it is pinned", LONG, || is_kept_as("Pinned"));
    cluster.await_job("numbers", "retention would have let go of it", LONG, |job| completed(job) > Some(id + 13));
    let third = job
        .replace(
            "{name: numbers}\nspec:",
            &format!("{{name: third}}\nspec:\n  restore: {{from: {{checkpoint: {name}}}}}"),
        )
        .replace("path: /state/out", "path: /state/third");
    cluster.apply(&third).unwrap();
    let begun = cluster.await_condition("third", ConditionType::Ready, "True", LONG);
    let from = begun.status.unwrap().restored_from.unwrap();
    assert!(from.path.as_ref().is_some_and(|path| path.ends_with(&format!(".numbers-{id}"))), "{from:?}");
    assert!(is_kept_as("Pinned"), "it is there as it was");
    cluster.await_true("the copy is listed", LONG, || {
        let listed = cluster.kubectl(&["get", "savepoints", "-o", "name"]).unwrap_or_default();
        listed.lines().any(|one| one.contains("third-of-") && one.ends_with(&format!("-{id}")))
    });
    cluster.kubectl(&["patch", "checkpoint", &name, "--type=merge", "-p", r#"{"spec":{"pinned":false}}"#]).unwrap();
    cluster.await_true("it goes", LONG, || cluster.get("checkpoint", &name).is_none());
    cluster.kubectl(&["delete", "sj", "third", "--timeout=120s"]).unwrap();
}

#[test]
fn a_version_that_is_no_good_is_rolled_back() {
    let Some(cluster) = Namespace::create("rollback") else { return };
    let job = JOB.replace("ROWS", "100000000").replace("deadline: 90s", "deadline: 20s");
    cluster.apply(&job).unwrap();
    cluster.await_condition("numbers", ConditionType::Ready, "True", LONG);
    // It passes the schema, and planning finds the mistake: before anything is stopped.
    cluster.apply(&job.replace("COUNT(*) AS n", "COUNT(nothing_of_that_name) AS n")).unwrap();
    let refused = cluster.await_condition("numbers", ConditionType::Degraded, "True", LONG).status.unwrap();
    let why = refused.preflight.and_then(|answer| answer.message).unwrap_or_default();
    assert!(why.contains("nothing_of_that_name"), "{why}");
    assert!(refused.upgrades.is_empty(), "{:?}", refused.upgrades);
    // An image that is not there is seen by a start alone.
    cluster.apply(&job.replace("  parallelism: 2", "  parallelism: 2\n  image: weir.local/nothing:0")).unwrap();
    let back = cluster.await_job("numbers", "rolled back", LONG, |job| {
        let status = job.status.as_ref();
        status
            .and_then(|status| status.upgrades.first())
            .is_some_and(|upgrade| upgrade.result == UpgradeResult::RolledBack)
            && phase(job) == Some(JobPhase::Running)
    });
    let status = back.status.unwrap();
    let upgrade = &status.upgrades[0];
    assert_eq!((upgrade.mode, upgrade.from), (UpgradeMode::Savepoint, 1));
    assert!(upgrade.message.as_ref().is_some_and(|why| why.contains("Image")), "{upgrade:?}");
    let degraded = cluster.await_condition("numbers", ConditionType::Degraded, "True", LONG);
    eprintln!("{:#?}", degraded.status.unwrap().conditions);
    // The spec that was good is taken as what runs.
    cluster.apply(&job).unwrap();
    cluster.await_condition("numbers", ConditionType::Ready, "True", LONG);
    cluster.kubectl(&["delete", "sj", "numbers", "--timeout=120s"]).unwrap();
}

fn named(name: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}

/// Every number once, where this machine can look into the volume.
fn exactly_once(cluster: &Namespace, rows: u64) {
    let Some(folder) = cluster.folder_of_claim("state") else {
        eprintln!("the volume is on another machine: its content is not compared");
        return;
    };
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    read(&folder.join("out"), &mut seen);
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).take(5).collect();
    let missing: Vec<_> = (0..rows).filter(|id| !seen.contains_key(id)).take(5).collect();
    assert!(twice.is_empty() && missing.is_empty(), "twice: {twice:?}, missing: {missing:?}, of {}", seen.len());
    eprintln!("{} numbers, each once", seen.len());
}

fn read(folder: &Path, seen: &mut BTreeMap<u64, u32>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
        match path.is_dir() {
            _ if is_hidden => {}
            true => read(&path, seen),
            false => {
                for line in std::fs::read_to_string(&path).unwrap().lines() {
                    let row: serde_json::Value = serde_json::from_str(line).unwrap();
                    *seen.entry(row["id"].as_u64().unwrap()).or_default() += 1;
                }
            }
        }
    }
}
