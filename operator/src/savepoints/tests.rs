//! Every decision about a Savepoint as a row.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use weir_crds::streamjob::DeletionPolicy;
use weir_crds::{SavepointPhase, SavepointStatus};

use super::decide::{Action, Job, World, decide};
use crate::world::{Runtime, SavepointState};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn applied() -> World {
    World {
        now: at(0),
        generation: Some(1),
        deleted_at: None,
        has_finalizer: false,
        on_delete: DeletionPolicy::Retain,
        is_pruned: false,
        adopted: None,
        id: "monday-u1".to_owned(),
        folder: None,
        job: answers(Runtime { is_running: true, ..Runtime::default() }),
        status: SavepointStatus::default(),
    }
}

fn answers(runtime: Runtime) -> Job {
    Job::Answers { storage_id: "ns.orders".to_owned(), generation: Some(3), runtime: Box::new(runtime) }
}

fn with(state: SavepointState) -> Job {
    answers(Runtime { is_running: true, savepoints: [("monday-u1".to_owned(), state)].into(), ..Runtime::default() })
}

fn phase(phase: SavepointPhase) -> SavepointStatus {
    let path = (phase == SavepointPhase::Completed).then(|| "s3://b/monday-u1".to_owned());
    SavepointStatus { phase: Some(phase), path, ..SavepointStatus::default() }
}

fn in_progress() -> World {
    World { status: phase(SavepointPhase::InProgress), ..applied() }
}

fn gone(second: i64) -> World {
    World {
        deleted_at: Some(at(0)),
        now: at(second),
        has_finalizer: true,
        on_delete: DeletionPolicy::Delete,
        status: phase(SavepointPhase::Completed),
        ..applied()
    }
}

fn says(world: &World) -> String {
    let decision = decide(world);
    let action = match decision.action {
        Action::Record(status) => {
            let message = status.message.map(|text| format!(", {text}")).unwrap_or_default();
            format!("Record({:?}{message})", status.phase.unwrap())
        }
        Action::Ask { id, .. } => format!("Ask({id})"),
        other => format!("{other:?}"),
    };
    decision.reason.map_or(action.clone(), |reason| format!("{reason}: {action}"))
}

#[test]
fn a_savepoint_from_wish_to_end() {
    let silent = || Job::Silent { why: "the job is suspended".to_owned() };
    let done = || SavepointState::Completed {
        address: "s3://b/monday-u1".to_owned(),
        checkpoint: Some(7),
        bytes: Some(2048),
        took: Some(Duration::from_millis(1500)),
    };
    let failed = || SavepointState::Failed { reason: "S3 refuses".to_owned() };
    let restarting = || answers(Runtime { is_running: false, is_restarting: true, ..Runtime::default() });
    let rows = [
        (
            World { job: Job::Absent, ..applied() },
            "Record(Pending, there is no StreamJob of that name in this namespace)",
        ),
        (World { job: silent(), ..applied() }, "Record(Pending, the job is suspended)"),
        (World { job: restarting(), ..applied() }, "Record(Pending, the job does not run at the moment)"),
        // First it is written down, then it is asked for.
        (applied(), "SavepointStarted: Record(InProgress)"),
        (in_progress(), "Ask(monday-u1)"),
        (World { job: with(SavepointState::InProgress), ..in_progress() }, "Wait"),
        (World { job: with(done()), ..in_progress() }, "SavepointCompleted: Record(Completed)"),
        (World { job: with(failed()), ..in_progress() }, "SavepointFailed: Record(Failed, S3 refuses)"),
        // The coordinator is lost, or the job restarts: asked again it is the same one.
        (World { job: silent(), ..in_progress() }, "Wait"),
        (World { job: restarting(), ..in_progress() }, "Wait"),
        // The status was lost, and the coordinator knows it.
        (World { job: with(done()), ..applied() }, "SavepointCompleted: Record(Completed)"),
        (World { status: phase(SavepointPhase::Completed), ..applied() }, "Wait"),
        (World { status: phase(SavepointPhase::Failed), ..applied() }, "Wait"),
        (
            World { adopted: Some("s3://b/upgrade".to_owned()), job: silent(), ..applied() },
            "SavepointCompleted: Record(Completed)",
        ),
        (World { on_delete: DeletionPolicy::Delete, ..applied() }, "AddFinalizer"),
    ];
    for (index, (world, expected)) in rows.iter().enumerate() {
        assert_eq!(says(world), *expected, "row {index}");
    }
}

#[test]
fn what_becomes_of_its_data() {
    let silent = || Job::Silent { why: String::new() };
    let remove = "DataRemoved: Remove { path: \"s3://b/monday-u1\" }";
    let rows = [
        (gone(1), remove),
        (World { job: silent(), ..gone(1) }, "Wait"),
        (World { job: silent(), ..gone(301) }, "DataKept: RemoveFinalizer"),
        // A namespace goes at once: its job is gone before.
        (World { job: Job::Absent, ..gone(1) }, "DataKept: RemoveFinalizer"),
        (World { on_delete: DeletionPolicy::Retain, ..gone(1) }, "RemoveFinalizer"),
        (World { on_delete: DeletionPolicy::Retain, is_pruned: true, ..gone(1) }, remove),
        (World { status: phase(SavepointPhase::Failed), ..gone(1) }, "RemoveFinalizer"),
        (World { has_finalizer: false, ..gone(1) }, "Wait"),
    ];
    for (index, (world, expected)) in rows.iter().enumerate() {
        assert_eq!(says(world), *expected, "row {index}");
    }
}
