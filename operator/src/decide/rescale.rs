//! Another parallelism and nothing else: the job's processes stay. Pods are added before, and removed after.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weir_crds::streamjob::{Intention, RunStatus};

use super::{Action, Change, Decision, act, record, wait};
use crate::world::{CoordinatorPod, PodState, World};

/// The rescale that stands in the status as being done.
pub const RESCALE: &str = "Rescale";
/// After so long the job is restarted at the new parallelism instead: state is moved by any start.
const RESCALE_PATIENCE: Duration = Duration::from_secs(300);

/// Whether the spec's version is the one that runs, with another parallelism, and what runs can be rescaled: if not now,
/// then when its coordinator answers again. The pod that takes the place of one that is going starts so.
pub(super) fn is_possible(world: &World, run: &RunStatus) -> bool {
    let is_ending = world.runtime.as_ref().is_some_and(|runtime| runtime.is_ending);
    let is_over = world.coordinator_pod().is_some_and(|pod| {
        let has_ended = matches!(pod.state, PodState::Ended(_)) || is_ending && !pod.is_terminating;
        has_ended || pod.run != run.number
    });
    let is_same_version = world.target.rescale == run.rescale_hash && run.verified;
    is_same_version && world.upgrade().is_none() && !run.stopped && !is_over
}

/// The run is that of the new spec from here on: whatever starts it again starts it so.
pub(super) fn adopt(world: &World, run: &RunStatus) -> Decision {
    let run = RunStatus { generation: world.generation, hash: world.target.run.clone(), ..run.clone() };
    let change = Change {
        run: Some(run),
        last_good_generation: Some(world.generation),
        intention: Some(Some(intention(world))),
        ..Change::default()
    };
    act(record(change), "Rescaling", "the parallelism changes; the job's processes stay")
}

fn intention(world: &World) -> Intention {
    Intention {
        action: RESCALE.to_owned(),
        id: format!("generation-{}", world.generation),
        generation: world.generation,
        since: Time(world.now),
    }
}

/// What brings the running job to the run's parallelism. `None`: it is there.
pub(super) fn move_on(world: &World, run: &RunStatus) -> Option<Decision> {
    let under_way = world.status.intention.as_ref().filter(|intention| intention.action == RESCALE);
    let Some(runtime) = &world.runtime else { return await_answer(world, under_way?) };
    if runtime.is_ending {
        return None;
    }
    let (is, wanted, workers) = (runtime.parallelism, world.run_parallelism, &world.workers);
    // What runs was never heard of, or the run's spec is not known.
    if is == 0 || wanted == 0 {
        return None;
    }
    if is == wanted {
        let has_surplus = workers.replicas > workers.needed;
        return match under_way {
            // It says so before all tasks run.
            Some(_) if !runtime.is_running => Some(wait("Rescaling", format!("{wanted} subtasks of each step start"))),
            _ if has_surplus => {
                let action = Action::ApplyObjects { workers: workers.needed };
                Some(act(action, "RemovingWorkers", format!("{} workers are enough", workers.needed)))
            }
            Some(_) => {
                let change = Change { intention: Some(None), ..Change::default() };
                Some(act(record(change), "Rescaled", format!("the job runs with parallelism {wanted}")))
            }
            None => None,
        };
    }
    let Some(intention) = under_way else {
        // The coordinator's container was started again, and read the job as it was when its pod was made.
        run.verified.then_some(())?;
        let change = Change { intention: Some(Some(intention(world))), ..Change::default() };
        return Some(act(record(change), "Rescaling", format!("the job runs with parallelism {is}, not {wanted}")));
    };
    if is_late(world, intention) {
        let text = format!("not rescaled to {wanted} within {RESCALE_PATIENCE:?}: the job is restarted with it");
        return Some(act(Action::DeleteCoordinator, "RescaleByRestart", text));
    }
    if workers.replicas < workers.needed {
        let action = Action::ApplyObjects { workers: workers.needed };
        return Some(act(action, "AddingWorkers", format!("{} workers are needed", workers.needed)));
    }
    if workers.ready < workers.needed {
        let text = format!("{} of {} workers are there", workers.ready, workers.needed);
        return Some(wait("AddingWorkers", workers.trouble.clone().unwrap_or(text)));
    }
    match runtime.is_running {
        true => Some(act(Action::Rescale { parallelism: wanted }, "Rescaling", format!("from {is} to {wanted}"))),
        false => Some(wait("Rescaling", "the job has to run before it can be rescaled")),
    }
}

/// The coordinator restarts, or is cut off. Bounded: a pod that was made before the intention is replaced by one that
/// starts with the new parallelism.
fn await_answer(world: &World, intention: &Intention) -> Option<Decision> {
    let CoordinatorPod { state, created_at, .. } = world.coordinator_pod()?;
    let wanted = world.run_parallelism;
    let is_older = created_at.is_none_or(|created_at| created_at <= intention.since.0);
    if is_older && is_late(world, intention) {
        let text = format!(
            "the coordinator has not answered for {RESCALE_PATIENCE:?}: the job is restarted with parallelism {wanted}"
        );
        return Some(act(Action::DeleteCoordinator, "RescaleByRestart", text));
    }
    let text = format!("to parallelism {wanted} as soon as the coordinator answers");
    // Of one that waits itself, for its image or after a crash, that is said.
    (*state == PodState::Running).then(|| wait("AwaitingCoordinator", text))
}

fn is_late(world: &World, intention: &Intention) -> bool {
    world.now.duration_since(intention.since.0).unsigned_abs() > RESCALE_PATIENCE
}
