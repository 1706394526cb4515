//! Every decision as a row: what there is, what is done, and why.

mod rescale;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use weir_crds::StreamJobStatus;
use weir_crds::conditions::{ConditionType, find_condition};
use weir_crds::streamjob::{
    ApprovalMode, Beginning, BeginningFrom, CertificatesStatus, DeletionPolicy, JobPhase, OnUpgradeFailure,
    PreflightStatus, RunStatus, SpecVersion, UpgradeMode, UpgradeResult,
};

use super::{Action, Change, Decision, decide};
use crate::outcome::Outcome;
use crate::spec_hash::SpecHashes;
use crate::status::status;
use crate::world::{
    Coordinator, CoordinatorPod, Leaving, PodState, Policy, Restore, RunSpec, Runtime, SavepointState,
    ScheduledSavepoint, Workers, World,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn hashes(run: &str) -> SpecHashes {
    SpecHashes { run: run.to_owned(), rescale: run.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned() }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Good for so long from now on.
fn certificates(left: Duration) -> CertificatesStatus {
    let not_after = at(0).checked_add(left).unwrap();
    CertificatesStatus { authority: "ca1".to_owned(), issued_at: Time(at(-10)), not_after: Time(not_after) }
}

/// A job that was just applied.
fn applied() -> World {
    World {
        now: at(0),
        generation: 1,
        deleted_at: None,
        has_finalizer: true,
        is_suspended: false,
        invalid: None,
        target: hashes("a1"),
        storage_id: "ns.job".to_owned(),
        savepoint_prefix: "job-u1".to_owned(),
        copies: "s3://b/savepoints/ns.job-of-".to_owned(),
        policy: Policy {
            mode: UpgradeMode::Savepoint,
            approval: ApprovalMode::Automatic,
            approved: false,
            verify_checkpoints: 1,
            verify_deadline: Duration::from_secs(600),
            on_failure: OnUpgradeFailure::Rollback,
            on_delete: DeletionPolicy::Retain,
            checkpointing: true,
            checkpoint_interval: Duration::from_secs(10),
            checkpoint_timeout: Duration::from_secs(600),
        },
        run_spec: RunSpec::NoRun,
        coordinator: Coordinator::Absent,
        workers: Workers::default(),
        leaving: Leaving::default(),
        runtime: None,
        restart_asked: None,
        run_parallelism: 0,
        can_preflight: false,
        restore: Restore::AsWritten,
        restore_nonce: None,
        savepoints: BTreeMap::new(),
        scheduled: None,
        surplus_savepoints: Vec::new(),
        authority: "ca1".to_owned(),
        certificate_lifetime: DAY * 14,
        status: StreamJobStatus { certificates: Some(certificates(DAY * 14)), ..StreamJobStatus::default() },
    }
}

/// One that runs and has completed checkpoints.
fn running() -> World {
    let run = RunStatus {
        number: 1,
        generation: 1,
        hash: "a1".to_owned(),
        rescale_hash: "a".to_owned(),
        storage_id: "ns.job".to_owned(),
        since: Time(at(-100)),
        restore_nonce: None,
        beginning: None,
        verified: true,
        stopped: false,
        fallback: None,
    };
    World {
        run_spec: RunSpec::Known,
        coordinator: pod(1, PodState::Running),
        workers: Workers {
            is_current: true,
            exists: true,
            replicas: 2,
            needed: 2,
            ready: 2,
            pods: 2,
            ..Workers::default()
        },
        runtime: Some(Runtime { is_running: true, completed: 5, parallelism: 1, ..Runtime::default() }),
        run_parallelism: 1,
        status: StreamJobStatus { run: Some(run), last_good_generation: Some(1), ..applied().status },
        ..applied()
    }
}

fn pod(run: u64, state: PodState) -> Coordinator {
    let created_at = Some(at(-100));
    Coordinator::Present(CoordinatorPod {
        run,
        is_terminating: false,
        state,
        restarts: 0,
        last_crash: None,
        created_at,
        is_hurried: false,
        is_current: true,
    })
}

fn terminating(run: u64) -> Coordinator {
    match pod(run, PodState::Running) {
        Coordinator::Present(pod) => Coordinator::Present(CoordinatorPod { is_terminating: true, ..pod }),
        absent => absent,
    }
}

fn stopped_with(savepoint: Option<&str>) -> Coordinator {
    pod(1, PodState::Ended(Outcome::Stopped { savepoint: savepoint.map(str::to_owned) }))
}

/// The running job with another spec applied.
fn changed(hash: &str) -> World {
    World { generation: 2, target: hashes(hash), ..running() }
}

/// After the acts that only write have been written.
fn written(mut world: World) -> World {
    while let Decision { action: Action::Record(change), .. } = decide(&world) {
        change.apply(&mut world.status);
        world.run_spec = RunSpec::Known;
    }
    world
}

/// Reason and action of the decision, in one line.
fn says(world: &World) -> String {
    let Decision { action, reason, .. } = decide(world);
    let action = match action {
        Action::Record(change) => {
            let Change {
                run,
                upgrade,
                intention,
                last_good_generation,
                preflight: _,
                certificates: _,
                last_scheduled_savepoint,
            } = *change;
            let mut words = Vec::new();
            words.extend(run.map(|run| format!("run {} of generation {}", run.number, run.generation)));
            words.extend(
                upgrade
                    .map(|upgrade| format!("upgrade {} {:?} {:?}", upgrade.generation, upgrade.mode, upgrade.result)),
            );
            words.extend(intention.flatten().map(|intention| intention.id));
            words.extend(last_scheduled_savepoint.map(|at| format!("scheduled {}", at.0)));
            words.extend(last_good_generation.map(|generation| format!("good {generation}")));
            format!("Record({})", words.join(", "))
        }
        other => format!("{other:?}"),
    };
    format!("{reason}: {action}")
}

#[test]
fn a_first_start() {
    let rows = [
        (World { has_finalizer: false, ..applied() }, "Adopted: AddFinalizer"),
        (applied(), "Starting: Record(run 1 of generation 1)"),
        (World { invalid: Some("x".into()), ..applied() }, "InvalidSpec: Wait"),
        (World { is_suspended: true, ..applied() }, "Suspended: Wait"),
    ];
    check(rows);
    let mut started = written(applied());
    started.workers.needed = 2;
    assert_eq!(says(&started), "Applying: ApplyObjects { workers: 2 }");
    started.workers = running().workers;
    assert_eq!(says(&started), "StartingCoordinator: CreateCoordinator");
    started.coordinator =
        pod(1, PodState::Waiting { reason: "ImagePullBackOff".into(), message: "no such image".into() });
    assert_eq!(says(&started), "CoordinatorWaits: Wait");
    started.coordinator = pod(1, PodState::Running);
    assert_eq!(says(&started), "CoordinatorUnreachable: Wait");
    started.runtime = running().runtime;
    assert_eq!(says(&started), "Verified: Record(run 1 of generation 1, good 1)");
}

#[test]
fn a_job_at_work() {
    let rows = [
        (running(), "Running: Wait"),
        (World { coordinator: Coordinator::Absent, ..running() }, "StartingCoordinator: CreateCoordinator"),
        (World { coordinator: terminating(1), ..running() }, "CoordinatorLeaving: Wait"),
        (
            World { coordinator: pod(1, PodState::Lost { message: "evicted".into() }), ..running() },
            "CoordinatorLost: DeleteCoordinator",
        ),
        (World { coordinator: pod(0, PodState::Running), ..running() }, "Stopping: DeleteCoordinator"),
        (World { restart_asked: Some("1".into()), ..running() }, "Restarting: DeleteCoordinator"),
        (World { coordinator: stopped_with(None), ..running() }, "Restarting: DeleteCoordinator"),
        (
            World { coordinator: pod(1, PodState::Ended(Outcome::Finished)), ..running() },
            "Finished: ApplyObjects { workers: 0 }",
        ),
        (
            World { coordinator: pod(1, PodState::Ended(Outcome::Failed { reason: "x".into() })), ..running() },
            "JobFailed: ApplyObjects { workers: 0 }",
        ),
        (World { run_spec: RunSpec::Lost, generation: 1, ..running() }, "SpecLost: Wait"),
        // A change that needs no restart is taken up as it is.
        (World { generation: 2, ..running() }, "SpecAdopted: Record(run 1 of generation 2, good 2)"),
        (World { generation: 2, invalid: Some("x".into()), target: hashes("b1"), ..running() }, "Running: Wait"),
    ];
    check(rows);
}

#[test]
fn pods_of_a_lost_node_are_replaced() {
    let lost = |world| World { leaving: Leaving { pods: 2, lost: vec!["job-worker-1".into()] }, ..world };
    let expected = "NodeLost: RemoveLostPods([\"job-worker-1\"])";
    check([
        (lost(running()), expected),
        (lost(changed("b1")), expected),
        (lost(World { is_suspended: true, coordinator: terminating(1), ..running() }), expected),
        (lost(World { deleted_at: Some(at(-1)), coordinator: terminating(1), ..running() }), expected),
        (World { leaving: Leaving { pods: 2, lost: vec![] }, ..running() }, "Running: Wait"),
    ]);
}

/// Up to the new version's start.
fn upgraded() -> World {
    let world = written(changed("b1"));
    let mut world = written(World { coordinator: stopped_with(Some("s3://b/sp")), runtime: None, ..world });
    world.coordinator = Coordinator::Absent;
    World { coordinator: pod(2, PodState::Running), ..written(world) }
}

#[test]
fn a_start_without_state_is_an_entry_of_the_same_log() {
    let mut world = changed("b1");
    world.policy.mode = UpgradeMode::Stateless;
    // Although the spec names something for a job that begins.
    world.restore = Restore::At { path: "s3://b/monday".to_owned() };
    let started = written(World { coordinator: Coordinator::Absent, ..written(world) });
    let run = started.status.run.clone().unwrap();
    assert_eq!(run.storage_id, "ns.job", "whoever makes the job again finds it");
    let once = |from, checkpoint| Some(Beginning { once: "job-u1-g2".to_owned(), from, checkpoint });
    assert_eq!(run.beginning, once(BeginningFrom::Nothing, None));
    // A version that supersedes it before it has begun has to begin so, too.
    let mut next = World { generation: 3, target: hashes("c1"), ..started };
    next.policy.mode = UpgradeMode::Savepoint;
    let next = written(next);
    let run = next.status.run.unwrap();
    assert_eq!((run.generation, run.beginning), (3, once(BeginningFrom::Nothing, None)));
}

#[test]
fn set_back_to_a_checkpoint() {
    let there = Restore::Checkpoint { id: 12 };
    let asked = World { generation: 2, restore_nonce: Some(1), restore: there, ..running() };
    let started = written(World { coordinator: Coordinator::Absent, ..written(asked) });
    let expected = Beginning { once: "job-u1-g2".to_owned(), from: BeginningFrom::Checkpoint, checkpoint: Some(12) };
    assert_eq!(started.status.run.unwrap().beginning, Some(expected));
}

#[test]
fn set_back_to_a_savepoint() {
    let there = || Restore::At { path: "s3://b/monday".to_owned() };
    let asked = || World { generation: 2, restore_nonce: Some(1), restore: there(), ..running() };
    assert_eq!(says(&asked()), "UpgradeStarted: Record(upgrade 2 Stateless InProgress)");
    let begun = written(asked());
    assert_eq!(begun.status.upgrades[0].mode, UpgradeMode::Stateless, "nothing of what there is is gone on with");
    assert_eq!(says(&begun), "Stopping: DeleteCoordinator");
    let started = written(World { coordinator: Coordinator::Absent, ..begun });
    let run = started.status.run.clone().unwrap();
    assert_eq!((run.storage_id.as_str(), run.restore_nonce, run.number), ("ns.job", Some(1), 2));
    let beginning = run.beginning.clone().unwrap();
    assert_eq!((beginning.once.as_str(), beginning.from), ("job-u1-g2", BeginningFrom::Spec));
    assert!(!started.is_set_back(), "once");
    // A new spec without a new number goes on from where the job is.
    let later = World { generation: 3, target: hashes("b1"), ..asked() };
    let later =
        World { status: StreamJobStatus { run: Some(RunStatus { verified: true, ..run }), ..later.status }, ..later };
    let later = World { coordinator: pod(2, PodState::Running), ..later };
    assert_eq!(written(later).status.upgrades[0].mode, UpgradeMode::Savepoint);
    // Nothing is stopped for what is not there.
    let missing = Restore::Missing { reason: "there is no Savepoint `monday`".to_owned() };
    assert_eq!(says(&World { restore: missing, ..asked() }), "RestorePointMissing: Wait");
    // Another parallelism along with it is no rescale.
    let rescaled = World { target: hashes("a8"), run_parallelism: 1, ..asked() };
    assert_eq!(written(rescaled).status.upgrades[0].mode, UpgradeMode::Stateless);
    let failed = pod(1, PodState::Ended(Outcome::Failed { reason: "x".into() }));
    let failed = written(World { coordinator: failed, runtime: None, ..asked() });
    assert_eq!(says(&failed), "Stopping: DeleteCoordinator");
}

#[test]
fn standing_still() {
    let suspended = || World { is_suspended: true, generation: 2, ..running() };
    let without_pod = || World { coordinator: Coordinator::Absent, ..suspended() };
    let alone = || World { workers: Workers { replicas: 0, ..running().workers }, ..without_pod() };
    let rows = [
        (suspended(), "Suspending: DeleteCoordinator"),
        (World { coordinator: terminating(1), ..suspended() }, "Suspending: Wait"),
        (without_pod(), "Suspending: ApplyObjects { workers: 0 }"),
        (alone(), "Suspended: Record(run 1 of generation 1)"),
        (written(alone()), "Suspended: Wait"),
        (World { is_suspended: false, generation: 1, ..written(alone()) }, "Resuming: Record(run 1 of generation 1)"),
        // With another spec: nothing runs that a savepoint could be taken of, and nothing is newer than the checkpoint.
        (
            World { is_suspended: false, target: hashes("b1"), ..written(alone()) },
            "UpgradeStarted: Record(upgrade 2 LastCheckpoint InProgress)",
        ),
    ];
    check(rows);
}

#[test]
fn a_deletion_has_a_bound() {
    let deleted = |second| World { deleted_at: Some(at(0)), now: at(second), ..running() };
    let discarding = |second| {
        let mut world = deleted(second);
        world.policy.on_delete = DeletionPolicy::Delete;
        world
    };
    let rows = [
        (deleted(1), "Deleting: DeleteCoordinator"),
        (World { coordinator: terminating(1), ..deleted(5) }, "Deleting: Wait"),
        // A namespace goes: there is nobody left to take a checkpoint with.
        (
            World { coordinator: terminating(1), workers: Workers::default(), ..deleted(5) },
            "WorkersGone: HurryCoordinator",
        ),
        (World { coordinator: terminating(1), ..deleted(121) }, "DeletedUnfinished: RemoveFinalizer"),
        (World { coordinator: Coordinator::Absent, ..deleted(2) }, "Deleted: RemoveFinalizer"),
        (discarding(1), "Discarding: Discard"),
        (World { runtime: None, ..discarding(1) }, "Discarding: Wait"),
        (World { runtime: None, ..discarding(301) }, "Deleting: DeleteCoordinator"),
        (
            World { coordinator: pod(1, PodState::Ended(Outcome::Cancelled)), ..discarding(9) },
            "Deleting: DeleteCoordinator",
        ),
    ];
    check(rows);
}

#[derive(Clone, Copy, Debug)]
enum Crash {
    Operator,
    Coordinator,
}

fn begun_with(savepoint: &str) -> World {
    let mut world = running();
    if let Some(runtime) = &mut world.runtime {
        runtime.restored_from = Some(savepoint.to_owned());
    }
    world
}

#[test]
fn why_checkpoints_fail_is_said_while_the_job_restarts() {
    let mut world = running();
    let failing = Runtime {
        is_restarting: true,
        failed_in_a_row: 1,
        checkpoint_failure: Some("S3 says 503 Slow Down".to_owned()),
        ..Runtime::default()
    };
    world.runtime = Some(failing);
    world.policy.checkpointing = true;
    let said = status("job", &world, &decide(&world), &world.status);
    let found = find_condition(&said.conditions, ConditionType::CheckpointingHealthy).unwrap();
    assert_eq!((said.phase, found.status.as_str()), (Some(JobPhase::Restarting), "False"), "{found:?}");
    assert!(found.message.contains("503 Slow Down"), "{found:?}");
}

#[test]
fn savepoints_by_the_clock_and_by_retention() {
    let scheduled = |exists| {
        let due = ScheduledSavepoint { at: at(0), name: "job-30000000".to_owned(), exists };
        World { scheduled: Some(due), ..running() }
    };
    let rows = [
        (
            scheduled(false),
            "SavepointScheduled: CreateSavepoint(NewSavepoint { name: \"job-30000000\", trigger: Scheduled, path: None })",
        ),
        (scheduled(true), "SavepointScheduled: Record(scheduled 2027-01-15T08:00:00Z)"),
        // Not while there is nobody to take it.
        (World { runtime: None, ..scheduled(false) }, "CoordinatorUnreachable: Wait"),
        (
            World { surplus_savepoints: vec!["old".to_owned()], ..running() },
            "SavepointsPruned: PruneSavepoints([\"old\"])",
        ),
        // It began with a copy of another job's checkpoint, which nobody lists yet; then with one that is listed.
        (
            begun_with("s3://b/savepoints/ns.job-of-ns.other-4"),
            "SavepointListed: CreateSavepoint(NewSavepoint { name: \"ns.job-of-ns.other-4\", trigger: Manual, path: \
             Some(\"s3://b/savepoints/ns.job-of-ns.other-4\") })",
        ),
        (
            World {
                savepoints: [("s3://b/savepoints/ns.job-of-ns.other-4".to_owned(), "copy".to_owned())].into(),
                ..begun_with("s3://b/savepoints/ns.job-of-ns.other-4")
            },
            "Running: Wait",
        ),
        (begun_with("s3://b/savepoints/monday"), "Running: Wait"),
    ];
    check(rows);
}

#[test]
fn certificates_come_before_pods_and_are_replaced_in_time() {
    let with = |certificates| {
        let mut world = running();
        world.status.certificates = certificates;
        world
    };
    let issue = "IssuingCertificates: IssueCertificates";
    let rows = [
        (World { coordinator: Coordinator::Absent, workers: Workers::default(), ..with(None) }, issue),
        (with(Some(certificates(DAY * 8))), "Running: Wait"),
        (with(Some(certificates(DAY * 6))), issue),
        (with(Some(certificates(Duration::ZERO))), issue),
        (World { authority: "ca2".to_owned(), ..running() }, issue),
    ];
    check(rows);
    // Pods of an operator before this one know no certificates: they stop together, with a last checkpoint.
    let Coordinator::Present(pod) = running().coordinator else { panic!("it runs") };
    let old = Coordinator::Present(CoordinatorPod { is_current: false, ..pod });
    assert_eq!(says(&World { coordinator: old, ..running() }), "ReplacingPods: DeleteCoordinator");
}

#[test]
fn a_first_start_waits_for_its_restore_point() {
    let missing = Restore::Missing { reason: "there is no Savepoint `x`".to_owned() };
    let there = Restore::At { path: "s3://b/x".to_owned() };
    let rows = [
        (World { restore: missing.clone(), ..applied() }, "RestorePointMissing: Wait"),
        (World { restore: there, ..applied() }, "Starting: Record(run 1 of generation 1)"),
        // Once it has begun, nobody asks for it any more.
        (World { restore: missing, ..running() }, "Running: Wait"),
    ];
    check(rows);
}

fn check<const N: usize>(rows: [(World, &str); N]) {
    for (index, (world, expected)) in rows.iter().enumerate() {
        assert_eq!(says(world), *expected, "row {index}");
    }
}
