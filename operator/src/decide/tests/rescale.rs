//! Another parallelism.

use super::*;

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
