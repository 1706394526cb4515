//! Every decision as a row: what there is, what is done, and why.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use weir_crds::StreamJobStatus;
use weir_crds::streamjob::{
    ApprovalMode, DeletionPolicy, OnUpgradeFailure, RunStatus, SpecVersion, UpgradeMode, UpgradeResult,
};

use super::{Action, Change, Decision, decide};
use crate::outcome::Outcome;
use crate::spec_hash::SpecHashes;
use crate::world::{Coordinator, CoordinatorPod, PodState, Policy, RunSpec, Runtime, SavepointState, Workers, World};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn hashes(run: &str) -> SpecHashes {
    SpecHashes { run: run.to_owned(), rescale: run.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned() }
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
        runtime: None,
        restart_asked: None,
        status: StreamJobStatus::default(),
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
        runtime: Some(Runtime { is_running: true, completed: 5, ..Runtime::default() }),
        status: StreamJobStatus { run: Some(run), last_good_generation: Some(1), ..StreamJobStatus::default() },
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
            let Change { run, upgrade, intention, last_good_generation } = *change;
            let mut words = Vec::new();
            words.extend(run.map(|run| format!("run {} of generation {}", run.number, run.generation)));
            words.extend(
                upgrade
                    .map(|upgrade| format!("upgrade {} {:?} {:?}", upgrade.generation, upgrade.mode, upgrade.result)),
            );
            words.extend(intention.flatten().map(|intention| intention.id));
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
fn an_upgrade_with_a_savepoint() {
    assert_eq!(says(&changed("b1")), "UpgradeStarted: Record(upgrade 2 Savepoint InProgress)");
    let mut world = changed("b1");
    let Decision { action: Action::Record(change), .. } = decide(&world) else { panic!("it begins with a record") };
    change.apply(&mut world.status);
    assert_eq!(says(&world), "SavepointIntended: Record(job-u1-upgrade-2)");
    world = written(world);
    assert_eq!(says(&world), "TakingSavepoint: StopWithSavepoint { id: \"job-u1-upgrade-2\" }");
    let with = |world: &World, state| {
        let mut world = world.clone();
        world.runtime.as_mut().unwrap().savepoints.insert("job-u1-upgrade-2".into(), state);
        world
    };
    assert_eq!(says(&with(&world, SavepointState::InProgress)), "TakingSavepoint: Wait");
    let failed = with(&world, SavepointState::Failed { reason: "S3 refuses".into() });
    assert_eq!(says(&failed), "UpgradeHeld: Record(upgrade 2 Savepoint Held)");
    // The old version goes on, until there is another spec.
    assert_eq!(says(&written(failed)), "Running: Wait");
    // The coordinator was lost meanwhile: it comes back, and is asked for the same savepoint.
    let lost = World { coordinator: Coordinator::Absent, runtime: None, ..world.clone() };
    assert_eq!(says(&lost), "StartingCoordinator: CreateCoordinator");

    let mut world = World { coordinator: stopped_with(Some("s3://b/sp")), runtime: None, ..world };
    assert_eq!(says(&world), "Stopped: Record(upgrade 2 Savepoint InProgress)");
    world = written(world);
    assert_eq!(says(&world), "Stopped: DeleteCoordinator");
    world.coordinator = Coordinator::Absent;
    assert_eq!(says(&world), "Upgrading: Record(run 2 of generation 2)");
    world = written(world);
    assert_eq!(
        world.status.run.as_ref().unwrap().fallback,
        Some(SpecVersion { generation: 1, hash: "a1".into(), rescale_hash: "a".into() })
    );
    assert_eq!(says(&world), "StartingCoordinator: CreateCoordinator");
    world.coordinator = pod(2, PodState::Running);
    assert_eq!(says(&world), "Verifying: Wait");
    world.runtime = Some(Runtime { is_running: true, completed: 1, ..Runtime::default() });
    assert_eq!(says(&world), "Verified: Record(run 2 of generation 2, upgrade 2 Savepoint Verified, good 2)");
}

/// Up to the new version's start.
fn upgraded() -> World {
    let world = written(changed("b1"));
    let mut world = written(World { coordinator: stopped_with(Some("s3://b/sp")), runtime: None, ..world });
    world.coordinator = Coordinator::Absent;
    World { coordinator: pod(2, PodState::Running), ..written(world) }
}

#[test]
fn a_version_that_is_no_good() {
    let refused = pod(2, PodState::Ended(Outcome::Refused { reason: "bad SQL".into() }));
    let late = World { now: at(601), ..upgraded() };
    let rows = [
        (
            World { coordinator: refused.clone(), ..upgraded() },
            "RolledBack: Record(run 3 of generation 1, upgrade 2 Savepoint RolledBack)",
        ),
        (late.clone(), "RolledBack: Record(run 3 of generation 1, upgrade 2 Savepoint RolledBack)"),
        (
            World { policy: Policy { on_failure: OnUpgradeFailure::Hold, ..late.policy.clone() }, ..late.clone() },
            "UpgradeHeld: Record(upgrade 2 Savepoint Held)",
        ),
        // A newer spec supersedes a start that never completed a checkpoint, without waiting for it.
        (
            World { generation: 3, target: hashes("c1"), ..upgraded() },
            "UpgradeSuperseded: Record(upgrade 2 Savepoint Superseded)",
        ),
    ];
    check(rows);
    let back = written(late);
    assert_eq!(says(&back), "Stopping: DeleteCoordinator");
    let mut back = World { coordinator: Coordinator::Absent, ..back };
    assert_eq!(says(&back), "StartingCoordinator: CreateCoordinator");
    back.coordinator = pod(3, PodState::Running);
    back.runtime = running().runtime;
    // It is not tried again by itself.
    assert_eq!(says(&back), "Running: Wait");
    // Who applies the old spec again has what runs.
    assert_eq!(
        says(&World { generation: 3, target: hashes("a1"), ..back.clone() }),
        "SpecAdopted: Record(run 3 of generation 3, good 3)"
    );
    let newer = written(World { generation: 3, target: hashes("c1"), ..upgraded() });
    let upgrades: Vec<_> = newer.status.upgrades.iter().map(|one| (one.generation, one.result, one.from)).collect();
    assert_eq!(upgrades, [(3, UpgradeResult::InProgress, 1), (2, UpgradeResult::Superseded, 1)]);
    assert_eq!(says(&newer), "Stopping: DeleteCoordinator");
}

#[test]
fn what_an_upgrade_starts_from() {
    let mode = |world: World| written(world).status.upgrades[0].mode;
    let policy = running().policy;
    let with = |change: fn(&mut World)| {
        let mut world = changed("b1");
        change(&mut world);
        world
    };
    assert_eq!(mode(with(|_| {})), UpgradeMode::Savepoint);
    assert_eq!(mode(with(|world| world.target = hashes("a8"))), UpgradeMode::LastCheckpoint);
    assert_eq!(mode(with(|world| world.policy.mode = UpgradeMode::LastCheckpoint)), UpgradeMode::LastCheckpoint);
    assert_eq!(mode(with(|world| world.policy.mode = UpgradeMode::Stateless)), UpgradeMode::Stateless);
    assert_eq!(mode(with(|world| world.status.run.as_mut().unwrap().verified = false)), UpgradeMode::LastCheckpoint);
    assert_eq!(
        mode(with(|world| world.coordinator = pod(1, PodState::Ended(Outcome::Failed { reason: "x".into() })))),
        UpgradeMode::LastCheckpoint
    );
    let manual = Policy { approval: ApprovalMode::Manual, ..policy };
    assert_eq!(says(&World { policy: manual.clone(), ..changed("b1") }), "AwaitingApproval: Wait");
    assert_eq!(mode(World { policy: Policy { approved: true, ..manual }, ..changed("b1") }), UpgradeMode::Savepoint);
}

#[test]
fn a_start_without_state_leaves_the_old_state_where_it_is() {
    let mut world = changed("b1");
    world.policy.mode = UpgradeMode::Stateless;
    world = written(World { coordinator: Coordinator::Absent, ..written(world) });
    assert_eq!(world.status.run.unwrap().storage_id, "ns.job.g2");
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

/// Whatever is lost at whichever step of an upgrade, the next decisions come to the end, with one savepoint and all state.
#[test]
fn an_upgrade_converges_from_every_crash_point() {
    for (crash, crash_at) in
        [Crash::Operator, Crash::Coordinator].into_iter().flat_map(|crash| (0..20).map(move |at| (crash, at)))
    {
        let mut world = changed("b1");
        let mut savepoints = BTreeSet::new();
        let mut step = 0;
        while world.status.upgrades.first().is_none_or(|upgrade| upgrade.result == UpgradeResult::InProgress) {
            assert!(step < 100, "{crash:?} at {crash_at}: it does not end: {}", says(&world));
            let action = decide(&world).action;
            carry_out(&mut world, &action, &mut savepoints);
            match crash {
                // It ended after the act, before it saw what came of it: the next one does the same again.
                Crash::Operator if step == crash_at && action != Action::Wait => {
                    carry_out(&mut world, &action, &mut savepoints)
                }
                Crash::Coordinator if step == crash_at => {
                    (world.coordinator, world.runtime) = (Coordinator::Absent, None)
                }
                _ => {}
            }
            step += 1;
        }
        assert!(savepoints.len() <= 1, "{crash:?} at {crash_at}: {savepoints:?}");
        assert_eq!(world.status.upgrades.len(), 1, "{crash:?} at {crash_at}");
        assert_eq!(world.status.upgrades[0].result, UpgradeResult::Verified, "{crash:?} at {crash_at}");
        let run = world.status.run.as_ref().unwrap();
        assert_eq!((run.number, run.generation), (2, 2), "{crash:?} at {crash_at}");
        assert_eq!(run.storage_id, "ns.job", "state is never dropped");
    }
}

#[derive(Clone, Copy, Debug)]
enum Crash {
    Operator,
    Coordinator,
}

/// As the cluster and the coordinator do: a pod that is there is not made again, a savepoint that is known not taken again.
fn carry_out(world: &mut World, action: &Action, savepoints: &mut BTreeSet<String>) {
    match action {
        Action::Wait => pass(world),
        Action::Record(change) => change.apply(&mut world.status),
        Action::StopWithSavepoint { id } => {
            savepoints.insert(id.clone());
            if let Some(runtime) = &mut world.runtime {
                runtime.savepoints.insert(id.clone(), SavepointState::InProgress);
            }
        }
        Action::DeleteCoordinator => (world.coordinator, world.runtime) = (Coordinator::Absent, None),
        Action::CreateCoordinator if world.coordinator == Coordinator::Absent => {
            world.coordinator = pod(world.status.run.as_ref().unwrap().number, PodState::Running);
            world.runtime = Some(Runtime { is_running: true, completed: 1, ..Runtime::default() });
        }
        Action::CreateCoordinator => {}
        other => panic!("not in an upgrade: {other:?}"),
    }
}

/// What happens by itself while the operator waits.
fn pass(world: &mut World) {
    world.now = world.now.checked_add(SignedDuration::from_secs(1)).unwrap();
    let writing = world.runtime.as_ref().and_then(|runtime| runtime.savepoints.keys().next().cloned());
    if let Some(id) = writing {
        world.coordinator = stopped_with(Some(&format!("s3://b/{id}")));
        world.runtime = None;
    }
}

fn check<const N: usize>(rows: [(World, &str); N]) {
    for (index, (world, expected)) in rows.iter().enumerate() {
        assert_eq!(says(world), *expected, "row {index}");
    }
}
