//! From one version of the spec to the next: savepoint, stop, start. What follows, the new version's verification and
//! the way back, is in `steady`.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weir_crds::streamjob::{
    ApprovalMode, Beginning, BeginningFrom, Intention, RunStatus, UpgradeMode, UpgradeRecord, UpgradeResult,
};

use super::{Action, Change, Decision, STOP_WITH_SAVEPOINT, act, ended, new_run, record, wait};
use crate::outcome::Outcome;
use crate::world::{Coordinator, CoordinatorPod, PodState, Restore, SavepointState, World};

/// How long an upgrade waits for a coordinator that could take its savepoint.
const SAVEPOINT_PATIENCE: Duration = Duration::from_secs(600);

/// A version whose state did not fit is asked about again so often: what is in the way may go by itself.
const PREFLIGHT_AGAIN: Duration = Duration::from_secs(60);
/// How long after an upgrade was held before anything had stopped it is tried again.
const HELD_AGAIN: Duration = Duration::from_secs(120);

/// The spec asks for another version than the one that runs.
pub(super) fn roll_out(world: &World, run: &RunStatus) -> Decision {
    let current = world.upgrade().filter(|upgrade| upgrade.generation == world.generation);
    let Some(upgrade) = current else { return preflight(world, run).unwrap_or_else(|| begin(world, run)) };
    match (&world.coordinator, upgrade.mode) {
        (Coordinator::Present(pod), _) if pod.is_terminating => wait("Stopping", "the version before is stopping"),
        (Coordinator::Present(CoordinatorPod { state: PodState::Ended(outcome), .. }), UpgradeMode::Savepoint) => {
            ended_for(upgrade, outcome)
        }
        (Coordinator::Present(_), UpgradeMode::Savepoint) if upgrade.savepoint.is_none() => {
            with_savepoint(world, run, upgrade)
        }
        (Coordinator::Present(_), _) => {
            act(Action::DeleteCoordinator, "Stopping", "the version before takes a last checkpoint and stops")
        }
        // Lost in the middle of its savepoint: it has to come back, and is asked for the same one.
        (Coordinator::Absent, UpgradeMode::Savepoint) if upgrade.savepoint.is_none() => super::steady::keep(world, run),
        (Coordinator::Absent, _) => start(world, run, upgrade),
    }
}

/// An upgrade that ended before the old version was stopped for it: what was in the way may be gone by now.
pub(super) fn may_be_tried_again(world: &World, run: &RunStatus, upgrade: &UpgradeRecord) -> bool {
    let took = upgrade.took.map_or(Duration::ZERO, |took| took.get());
    let ended = upgrade.started_at.as_ref().map(|since| world.now.duration_since(since.0).unsigned_abs());
    let is_untouched = upgrade.result == UpgradeResult::Held && run.generation != upgrade.generation;
    is_untouched && ended.is_some_and(|age| age.saturating_sub(took) >= HELD_AGAIN)
}

/// Asks what runs whether its state fits, before anything is stopped. `None`: it does, or nobody can be asked.
fn preflight(world: &World, run: &RunStatus) -> Option<Decision> {
    let asks = world.can_preflight && world.policy.checkpointing && world.policy.mode != UpgradeMode::Stateless;
    let runs = world.runtime.as_ref().is_some_and(|runtime| runtime.is_running && !runtime.is_ending);
    let answer = world.status.preflight.as_ref().filter(|answer| answer.generation == world.generation);
    // What runs knows nothing of the state to which it is set back.
    if !asks || !run.verified || world.upgrade().is_some() || world.is_set_back() {
        return None;
    }
    match answer {
        Some(answer) if answer.fits => None,
        Some(answer) if world.now.duration_since(answer.at.0).unsigned_abs() < PREFLIGHT_AGAIN => {
            Some(match super::steady::keep(world, run) {
                Decision { action: Action::Wait, .. } => {
                    wait("PreflightRefused", answer.message.clone().unwrap_or_default())
                }
                other => other,
            })
        }
        _ if runs => {
            let text = format!("whether the state fits generation {} is asked of what runs", world.generation);
            Some(act(Action::Preflight, "Preflight", text))
        }
        // What was refused stays so until somebody can be asked again.
        Some(_) => Some(super::steady::keep(world, run)),
        None => None,
    }
}

/// The id of an upgrade's savepoint; of another try at the same generation it is another one.
pub fn upgrade_savepoint_id(prefix: &str, upgrades: &[UpgradeRecord], upgrade: &UpgradeRecord) -> String {
    let id = format!("{prefix}-upgrade-{}", upgrade.generation);
    let is_before = |other: &&UpgradeRecord| {
        other.generation == upgrade.generation && other.started_at.as_ref() < upgrade.started_at.as_ref()
    };
    match (upgrades.iter().find(is_before), &upgrade.started_at) {
        (Some(_), Some(since)) => format!("{id}-{}", since.0.as_second()),
        _ => id,
    }
}

/// Writes down what will be done.
fn begin(world: &World, run: &RunStatus) -> Decision {
    let Some((mode, why)) = mode(world, run) else {
        let plan = world.status.preflight.as_ref().filter(|plan| plan.generation == world.generation);
        let text = format!(
            "generation {} waits for the annotation {}: \"{}\"; {}",
            world.generation,
            crate::names::APPROVE_ANNOTATION,
            world.generation,
            plan.and_then(|plan| plan.message.as_deref()).unwrap_or("what would change is not known")
        );
        return match super::steady::keep(world, run) {
            Decision { action: Action::Wait, .. } => wait("AwaitingApproval", text),
            other => other,
        };
    };
    // A version that was never verified is no place to come back to: the one before it is.
    let superseded = world.upgrade();
    let from = super::fallback(Some(run)).map_or(run.generation, |version| version.generation);
    let upgrade = UpgradeRecord {
        generation: world.generation,
        mode,
        result: UpgradeResult::InProgress,
        from,
        started_at: Some(Time(world.now)),
        savepoint: None,
        took: None,
        message: Some(why.to_owned()),
    };
    let text = format!("from generation {from} to {}: {why}", world.generation);
    match superseded {
        // One record at a time: first the old one is closed, then the new one begins.
        Some(old) => {
            let old = ended(world, old, UpgradeResult::Superseded, Some(format!("by generation {}", world.generation)));
            let change = Change { upgrade: Some(old), intention: Some(None), ..Change::default() };
            act(record(change), "UpgradeSuperseded", text)
        }
        None => act(record(Change { upgrade: Some(upgrade), ..Change::default() }), "UpgradeStarted", text),
    }
}

/// What the new version starts from, and why that. `None`: a person has to allow it first.
fn mode(world: &World, run: &RunStatus) -> Option<(UpgradeMode, &'static str)> {
    let policy = &world.policy;
    if policy.approval == ApprovalMode::Manual && !policy.approved {
        return None;
    }
    let last = |why| Some((UpgradeMode::LastCheckpoint, why));
    if world.is_set_back() {
        let why = "it is set back to the spec's restore point; what it did since goes by retention";
        return Some((UpgradeMode::Stateless, why));
    }
    if policy.mode == UpgradeMode::Stateless {
        return Some((
            UpgradeMode::Stateless,
            "the spec says so; the checkpoints of the version before go by retention",
        ));
    }
    if !policy.checkpointing {
        return last("the job takes no checkpoints");
    }
    if run.stopped {
        return last("nothing runs that could take a savepoint");
    }
    if !run.verified {
        return last("the version that runs has not completed a checkpoint, so there is nothing newer to save");
    }
    if matches!(world.outcome(), Some(Outcome::Failed { .. } | Outcome::Refused { .. } | Outcome::Cancelled)) {
        return last("the version before has failed");
    }
    if world.target.rescale == run.rescale_hash {
        return last("only the parallelism changes, and checkpoints can be rescaled");
    }
    match policy.mode {
        UpgradeMode::Savepoint => Some((UpgradeMode::Savepoint, "a savepoint is taken first")),
        _ => last("the spec says so"),
    }
}

/// The old version runs, and has to stop with a savepoint.
fn with_savepoint(world: &World, run: &RunStatus, upgrade: &UpgradeRecord) -> Decision {
    let id = upgrade_savepoint_id(&world.savepoint_prefix, &world.status.upgrades, upgrade);
    let is_intended = world.status.intention.as_ref().is_some_and(|intention| intention.id == id);
    let waited =
        upgrade.started_at.as_ref().map_or(Duration::ZERO, |since| world.now.duration_since(since.0).unsigned_abs());
    let Some(runtime) = world.runtime.as_ref().filter(|runtime| runtime.is_running || is_intended) else {
        return match waited > SAVEPOINT_PATIENCE {
            true => hold(
                world,
                upgrade,
                "the version that runs cannot take a savepoint: it does not answer, or is restarting",
            ),
            // It is kept going meanwhile: it may be that very coordinator which has to come up.
            false => match super::steady::keep(world, run) {
                Decision { action: Action::Wait, message, .. } => wait("AwaitingSavepoint", message),
                other => other,
            },
        };
    };
    if !is_intended {
        let intention = Intention {
            action: STOP_WITH_SAVEPOINT.to_owned(),
            id: id.clone(),
            generation: upgrade.generation,
            since: Time(world.now),
        };
        let change = Change { intention: Some(Some(intention)), ..Change::default() };
        return act(record(change), "SavepointIntended", format!("savepoint {id} is about to be taken"));
    }
    match runtime.savepoints.get(&id) {
        None if runtime.is_ending => wait("Stopping", "the version before is ending"),
        None => {
            act(Action::StopWithSavepoint { id: id.clone() }, "TakingSavepoint", format!("savepoint {id} is taken"))
        }
        Some(SavepointState::InProgress) => wait("TakingSavepoint", format!("savepoint {id} is being written")),
        Some(SavepointState::Completed { .. }) => {
            wait("Stopping", "the savepoint stands; the version before is ending")
        }
        Some(SavepointState::Failed { reason }) => hold(world, upgrade, &format!("savepoint {id} failed: {reason}")),
    }
}

/// The old version has ended, with the savepoint or otherwise.
fn ended_for(upgrade: &UpgradeRecord, outcome: &Outcome) -> Decision {
    let (mode, savepoint, text) = match outcome {
        Outcome::Stopped { savepoint: Some(address) } => {
            (UpgradeMode::Savepoint, Some(address.clone()), format!("the savepoint stands: {address}"))
        }
        Outcome::Stopped { savepoint: None } | Outcome::Finished => {
            (UpgradeMode::LastCheckpoint, None, "the version before ended by itself, with a last checkpoint".to_owned())
        }
        Outcome::Cancelled | Outcome::Failed { .. } | Outcome::Refused { .. } | Outcome::Fenced { .. } => {
            (UpgradeMode::LastCheckpoint, None, "the version before failed before its savepoint".to_owned())
        }
    };
    if upgrade.savepoint == savepoint && upgrade.mode == mode {
        return act(Action::DeleteCoordinator, "Stopped", "the version before has ended; its pod goes");
    }
    let reason = if savepoint.is_some() { "SavepointCompleted" } else { "EndedByItself" };
    let upgrade = UpgradeRecord { mode, savepoint, message: Some(text.clone()), ..upgrade.clone() };
    act(record(Change { upgrade: Some(upgrade), intention: Some(None), ..Change::default() }), reason, text)
}

/// Nothing of the old version runs any more: the new one is written down as the one that runs.
fn start(world: &World, run: &RunStatus, upgrade: &UpgradeRecord) -> Decision {
    let mut next = new_run(world, run.number + 1, run.storage_id.clone());
    if upgrade.mode == UpgradeMode::Stateless {
        next.beginning = Some(beginning(world));
    }
    let text = format!("generation {} is started as run {}", world.generation, next.number);
    act(record(Change { run: Some(next), ..Change::default() }), "Upgrading", text)
}

/// In the log that the job has: whoever finds that finds the newest history, and what was left goes by retention.
fn beginning(world: &World) -> Beginning {
    let (from, checkpoint) = match world.restore {
        _ if !world.is_set_back() => (BeginningFrom::Nothing, None),
        Restore::Checkpoint { id } => (BeginningFrom::Checkpoint, Some(id)),
        Restore::AsWritten | Restore::At { .. } | Restore::Missing { .. } => (BeginningFrom::Spec, None),
    };
    // A resource of the same name that came before this one had generations, too.
    Beginning { once: format!("{}-g{}", world.savepoint_prefix, world.generation), from, checkpoint }
}

/// The old version keeps running; the condition says why.
fn hold(world: &World, upgrade: &UpgradeRecord, why: &str) -> Decision {
    let change = Change {
        upgrade: Some(ended(world, upgrade, UpgradeResult::Held, Some(why.to_owned()))),
        intention: Some(None),
        ..Change::default()
    };
    act(record(change), "UpgradeHeld", format!("the old version goes on: {why}"))
}
