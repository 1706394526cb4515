//! Every decision as a row: what there is, what is done, and why.

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
    Coordinator, CoordinatorPod, PodState, Policy, Restore, RunSpec, Runtime, SavepointState, ScheduledSavepoint,
    Workers, World,
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
    assert_eq!(says(&world), "SavepointCompleted: Record(upgrade 2 Savepoint InProgress)");
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
    world.runtime = Some(Runtime { is_running: true, completed: 1, parallelism: 1, ..Runtime::default() });
    assert_eq!(
        says(&world),
        "SavepointListed: CreateSavepoint(NewSavepoint { name: \"job-u1-upgrade-2\", trigger: Upgrade, path: \
         Some(\"s3://b/sp\") })"
    );
    world.savepoints = [("s3://b/sp".to_owned(), "job-u1-upgrade-2".to_owned())].into();
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
            let parallelism = world.run_parallelism;
            world.runtime = Some(Runtime { is_running: true, completed: 1, parallelism, ..Runtime::default() });
        }
        Action::CreateCoordinator => {}
        Action::CreateSavepoint(new) => {
            world.savepoints.insert(new.path.clone().unwrap_or_default(), new.name.clone());
        }
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

fn refused(second: i64) -> Option<PreflightStatus> {
    let message = Some("state `sum` does not fit".to_owned());
    Some(PreflightStatus { generation: 2, fits: false, at: Time(at(second)), message })
}

#[test]
fn what_runs_is_asked_before_it_is_stopped() {
    let asks = || World { can_preflight: true, ..changed("b1") };
    let answered = |preflight| {
        let mut world = asks();
        world.status.preflight = preflight;
        world
    };
    let fits = || Some(PreflightStatus { generation: 2, fits: true, at: Time(at(-1)), message: None });
    let of_another = || Some(PreflightStatus { generation: 1, ..fits().unwrap() });
    let manual = |world: World| {
        let policy = Policy { approval: ApprovalMode::Manual, ..world.policy.clone() };
        World { policy, ..world }
    };
    let silent = |world: World| World { runtime: None, ..world };
    let rows = [
        (asks(), "Preflight: Preflight"),
        (answered(of_another()), "Preflight: Preflight"),
        (answered(fits()), "UpgradeStarted: Record(upgrade 2 Savepoint InProgress)"),
        (answered(refused(-10)), "PreflightRefused: Wait"),
        // What was in the way may be gone.
        (answered(refused(-61)), "Preflight: Preflight"),
        (silent(answered(refused(-61))), "CoordinatorUnreachable: Wait"),
        // Meanwhile it is looked after.
        (
            World { coordinator: Coordinator::Absent, ..answered(refused(-10)) },
            "StartingCoordinator: CreateCoordinator",
        ),
        (manual(asks()), "Preflight: Preflight"),
        (manual(answered(fits())), "AwaitingApproval: Wait"),
        // Another image: what runs does not know its operators.
        (World { can_preflight: false, ..asks() }, "UpgradeStarted: Record(upgrade 2 Savepoint InProgress)"),
    ];
    check(rows);
}

#[test]
fn a_held_upgrade_is_tried_again_with_another_savepoint() {
    let mut world = written(changed("b1"));
    let failed = SavepointState::Failed { reason: "S3 refuses".into() };
    world.runtime.as_mut().unwrap().savepoints.insert("job-u1-upgrade-2".into(), failed);
    let held = written(world);
    assert_eq!(says(&World { now: at(100), ..held.clone() }), "Running: Wait");
    let again = World { now: at(121), ..held };
    assert_eq!(says(&again), "UpgradeStarted: Record(upgrade 2 Savepoint InProgress)");
    let again = written(again);
    assert_eq!(says(&again), "TakingSavepoint: StopWithSavepoint { id: \"job-u1-upgrade-2-1800000121\" }");
    // One that ran and was no good is not.
    let bad = World { now: at(601), ..upgraded() };
    let bad = World { policy: Policy { on_failure: OnUpgradeFailure::Hold, ..bad.policy.clone() }, ..bad };
    let bad = World { now: at(9_000), ..written(bad) };
    assert_eq!(says(&bad), "CoordinatorUnreachable: Wait");
}

#[test]
fn a_rescale_adds_pods_before_and_removes_them_after() {
    let scaled = World { generation: 2, target: hashes("a3"), ..running() };
    assert_eq!(says(&scaled), "Rescaling: Record(run 1 of generation 2, generation-2, good 2)");
    let Decision { action: Action::Record(change), .. } = decide(&scaled) else { panic!("it is written down first") };
    let mut world = scaled;
    change.apply(&mut world.status);
    (world.run_parallelism, world.workers.needed) = (3, 3);
    let at_3 = |world: &World, is_running| {
        let runtime = Runtime { parallelism: 3, is_running, ..world.runtime.clone().unwrap() };
        World { runtime: Some(runtime), ..world.clone() }
    };
    let pods = |world: &World, replicas, ready| {
        let workers = Workers { replicas, ready, pods: replicas, ..world.workers.clone() };
        World { workers, ..world.clone() }
    };
    let rows = [
        (world.clone(), "AddingWorkers: ApplyObjects { workers: 3 }"),
        (pods(&world, 3, 2), "AddingWorkers: Wait"),
        (pods(&world, 3, 3), "Rescaling: Rescale { parallelism: 3 }"),
        (at_3(&pods(&world, 3, 3), false), "Rescaling: Wait"),
        (at_3(&pods(&world, 3, 3), true), "Rescaled: Record()"),
        (World { now: at(301), ..pods(&world, 3, 3) }, "RescaleByRestart: DeleteCoordinator"),
        // The coordinator does not answer for a moment.
        (World { runtime: None, ..pods(&world, 2, 2) }, "AwaitingCoordinator: Wait"),
        (
            World { coordinator: Coordinator::Absent, runtime: None, ..pods(&world, 2, 2) },
            "Applying: ApplyObjects { workers: 3 }",
        ),
    ];
    check(rows);
    let done = written(at_3(&pods(&world, 3, 3), true));
    assert_eq!(says(&done), "Running: Wait");
    // The container of the coordinator was started again, with the job as it was when its pod was made.
    let runtime = Runtime { parallelism: 1, ..done.runtime.clone().unwrap() };
    assert_eq!(says(&World { runtime: Some(runtime), ..done.clone() }), "Rescaling: Record(generation-2)");

    let mut down = World { generation: 3, target: hashes("a1"), ..done };
    let Decision { action: Action::Record(change), .. } = decide(&down) else { panic!("it is written down first") };
    change.apply(&mut down.status);
    (down.run_parallelism, down.workers.needed) = (1, 1);
    assert_eq!(says(&down), "Rescaling: Rescale { parallelism: 1 }");
    let is = |is_running| {
        let runtime = Runtime { parallelism: 1, is_running, ..down.runtime.clone().unwrap() };
        World { runtime: Some(runtime), ..down.clone() }
    };
    assert_eq!(says(&is(false)), "Rescaling: Wait", "pods stay while tasks move");
    assert_eq!(says(&is(true)), "RemovingWorkers: ApplyObjects { workers: 1 }");
    assert_eq!(says(&pods(&is(true), 1, 1)), "Rescaled: Record()");
}

/// What would stop all of the job to reach what the coordinator does at once, if it answers again.
#[test]
fn a_rescale_waits_for_a_coordinator_that_does_not_answer() {
    let scaled = World { generation: 2, target: hashes("a3"), ..running() };
    let silent = World { runtime: None, ..scaled.clone() };
    let begun = "Rescaling: Record(run 1 of generation 2, generation-2, good 2)";
    let upgraded = "UpgradeStarted: Record(upgrade 2 LastCheckpoint InProgress)";
    let ending = |is_ending| Some(Runtime { is_ending, ..running().runtime.unwrap() });
    let failed = pod(1, PodState::Ended(Outcome::Failed { reason: "x".into() }));
    let rows = [
        (silent.clone(), begun),
        (World { coordinator: Coordinator::Absent, ..silent.clone() }, begun),
        (World { coordinator: terminating(1), runtime: ending(true), ..scaled.clone() }, begun),
        // It ends of itself: there will be nobody to ask.
        (World { runtime: ending(true), ..scaled.clone() }, upgraded),
        (World { coordinator: failed, ..silent.clone() }, upgraded),
    ];
    check(rows);

    let mut world = silent;
    let Decision { action: Action::Record(change), .. } = decide(&world) else { panic!("it is written down first") };
    change.apply(&mut world.status);
    world.run_parallelism = 3;
    let after = |seconds| World { now: at(seconds), ..world.clone() };
    let waiting = pod(1, PodState::Waiting { reason: "CrashLoopBackOff".into(), message: "x".into() });
    let next = |created: i64| match pod(1, PodState::Running) {
        Coordinator::Present(pod) => Coordinator::Present(CoordinatorPod { created_at: Some(at(created)), ..pod }),
        absent => absent,
    };
    let rows = [
        (after(300), "AwaitingCoordinator: Wait"),
        (World { runtime: running().runtime, ..after(300) }, "Rescaling: Rescale { parallelism: 3 }"),
        (World { coordinator: waiting.clone(), ..after(300) }, "CoordinatorWaits: Wait"),
        (after(301), "RescaleByRestart: DeleteCoordinator"),
        (World { coordinator: waiting, ..after(301) }, "RescaleByRestart: DeleteCoordinator"),
        (World { coordinator: Coordinator::Absent, ..after(302) }, "StartingCoordinator: CreateCoordinator"),
        // The one that was made for it is not replaced once more.
        (World { coordinator: next(302), ..after(900) }, "AwaitingCoordinator: Wait"),
        (World { coordinator: terminating(1), ..after(1) }, "CoordinatorLeaving: Wait"),
    ];
    check(rows);
    let said = status("job", &after(300), &decide(&after(300)), &world.status);
    let found = find_condition(&said.conditions, ConditionType::Progressing).unwrap();
    assert_eq!((found.status.as_str(), found.reason.as_str()), ("True", "AwaitingCoordinator"), "{found:?}");
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
