//! Another version takes the place of one that runs.

use super::*;

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
