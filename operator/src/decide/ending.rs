//! Standing still: because the spec says so, or because the resource is being deleted.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use weir_crds::streamjob::{DeletionPolicy, RunStatus};

use super::{Action, Change, Decision, act, record, wait};
use crate::world::{CoordinatorPod, PodState, World};

/// How long a deletion waits for a last checkpoint. What is committed by then stays; the rest is processed again by
/// whoever adopts the job.
const STOP_BOUND: Duration = Duration::from_secs(120);
/// How long a deletion waits for the job's checkpoints to be removed.
const DISCARD_BOUND: Duration = Duration::from_secs(300);

/// `spec.state: Suspended`: the coordinator stops after a last checkpoint, then the workers go.
pub(super) fn suspend(world: &World, run: &RunStatus) -> Decision {
    if let Some(pod) = world.coordinator_pod() {
        return stop(pod, "Suspending", "the job is suspended: it takes a last checkpoint");
    }
    if world.workers.exists && world.workers.replicas > 0 {
        return act(Action::ApplyObjects { workers: 0 }, "Suspending", "the workers are let go");
    }
    if !run.stopped {
        let change = Change { run: Some(RunStatus { stopped: true, ..run.clone() }), ..Change::default() };
        return act(record(change), "Suspended", "the job stands still; it goes on from its latest checkpoint");
    }
    wait("Suspended", "the job stands still; it goes on from its latest checkpoint")
}

/// The resource is going: the job stops after a last checkpoint, so that whoever makes it again loses nothing. Bounded.
pub(super) fn delete(world: &World, since: Timestamp) -> Decision {
    if !world.has_finalizer {
        return wait("Deleting", "nothing is left to be done");
    }
    let age = world.now.duration_since(since).unsigned_abs();
    let Some(pod) = world.coordinator_pod() else {
        return act(Action::RemoveFinalizer, "Deleted", "the job has stopped; what it made goes with it");
    };
    let discards = world.policy.on_delete == DeletionPolicy::Delete && world.policy.checkpointing;
    if discards && !pod.is_terminating && !matches!(pod.state, PodState::Ended(_)) && age < DISCARD_BOUND {
        return match world.runtime {
            Some(_) => act(Action::Discard, "Discarding", "onDelete: Delete: the job ends and removes its checkpoints"),
            None => wait("Discarding", "the coordinator has to answer before it can remove the checkpoints"),
        };
    }
    let bound = if discards { DISCARD_BOUND + STOP_BOUND } else { STOP_BOUND };
    if age >= bound {
        let text = format!("the job did not stop within {bound:?}; it is let go as it is");
        return act(Action::RemoveFinalizer, "DeletedUnfinished", text);
    }
    // A namespace takes everything away at once. The job goes on from its latest checkpoint, whoever makes it again.
    if pod.is_terminating && !pod.is_hurried && !world.workers.exists {
        let text = "the workers are gone, and with them the last checkpoint: it is not waited for";
        return act(Action::HurryCoordinator, "WorkersGone", text);
    }
    stop(pod, "Deleting", "the job takes a last checkpoint")
}

fn stop(pod: &CoordinatorPod, reason: &'static str, text: &str) -> Decision {
    match pod.is_terminating {
        true => wait(reason, text),
        false => act(Action::DeleteCoordinator, reason, text),
    }
}
