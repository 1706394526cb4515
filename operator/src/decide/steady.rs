//! Keeping a run going, and telling whether the version it runs is good.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weir_crds::SavepointTrigger;
use weir_crds::streamjob::{OnUpgradeFailure, RunStatus, UpgradeMode, UpgradeRecord, UpgradeResult};

use super::rescale::RESCALE;
use super::{Action, Change, Decision, NewSavepoint, act, ended, record, upgrade_savepoint_id, wait};
use crate::outcome::Outcome;
use crate::world::{Coordinator, CoordinatorPod, PodState, RunSpec, ScheduledSavepoint, World};

/// What the current run needs next.
pub(super) fn keep(world: &World, run: &RunStatus) -> Decision {
    if world.run_spec == RunSpec::Lost {
        let text = "the ConfigMap with the spec of the version that runs is gone: apply a spec that changes something";
        return wait("SpecLost", text);
    }
    if run.stopped {
        let run = RunStatus { stopped: false, ..run.clone() };
        return act(record(Change { run: Some(run), ..Change::default() }), "Resuming", "the job goes on");
    }
    match &world.coordinator {
        // Of a version before: it has to be gone before this one begins.
        Coordinator::Present(pod) if pod.run != run.number => match pod.is_terminating {
            true => wait("Stopping", "the version before takes its last checkpoint"),
            false => act(Action::DeleteCoordinator, "Stopping", "the version before is stopped"),
        },
        Coordinator::Present(CoordinatorPod { is_terminating: true, .. }) => {
            wait("CoordinatorLeaving", "the coordinator's pod is going; a new one takes its place")
        }
        Coordinator::Present(CoordinatorPod { state: PodState::Ended(outcome), .. }) => over(world, run, outcome),
        Coordinator::Present(CoordinatorPod { state: PodState::Lost { message }, .. }) => {
            act(Action::DeleteCoordinator, "CoordinatorLost", format!("the coordinator's pod is lost: {message}"))
        }
        coordinator => alive(world, run, coordinator),
    }
}

/// The coordinator has ended for good, and said how.
fn over(world: &World, run: &RunStatus, outcome: &Outcome) -> Decision {
    let (reason, text) = match outcome {
        Outcome::Finished if world.workers.replicas > 0 => {
            return act(Action::ApplyObjects { workers: 0 }, "Finished", "all input was read; the workers are let go");
        }
        Outcome::Finished => return finished(world, run),
        // Somebody told the coordinator, and not the resource, which says that the job runs.
        Outcome::Stopped { .. } => {
            return act(Action::DeleteCoordinator, "Restarting", "the job was stopped, and its spec says that it runs");
        }
        Outcome::Cancelled => ("Cancelled", "somebody cancelled the job".to_owned()),
        Outcome::Failed { reason } => ("JobFailed", reason.clone()),
        Outcome::Refused { reason } => ("Refused", reason.clone()),
        Outcome::Fenced { reason } => ("Fenced", reason.clone()),
    };
    if let Some(upgrade) = world.upgrade().filter(|upgrade| upgrade.generation == run.generation) {
        return give_up(world, run, upgrade, text);
    }
    if world.restart_asked.is_some() {
        return act(Action::DeleteCoordinator, "Restarting", "a restart was asked for");
    }
    if world.workers.replicas > 0 {
        return act(Action::ApplyObjects { workers: 0 }, reason, text);
    }
    wait(reason, text)
}

fn finished(world: &World, run: &RunStatus) -> Decision {
    match world.upgrade().filter(|upgrade| upgrade.generation == run.generation) {
        Some(upgrade) => verified(world, run, upgrade, "it finished"),
        None => wait("Finished", "all input was read and everything is committed"),
    }
}

/// The coordinator runs, or should.
fn alive(world: &World, run: &RunStatus, coordinator: &Coordinator) -> Decision {
    let workers = &world.workers;
    if let Coordinator::Present(CoordinatorPod { is_current: false, .. }) = coordinator {
        let text =
            "its pod is one of another operator's version: the job takes a last checkpoint and goes on in new pods";
        return act(Action::DeleteCoordinator, "ReplacingPods", text);
    }
    if are_certificates_due(world) {
        return act(Action::IssueCertificates, "IssuingCertificates", "the job's pods get new certificates");
    }
    let rescale = super::rescale::move_on(world, run);
    // While it is rescaled, pods are added before and removed after.
    let is_rescaling = world.status.intention.as_ref().is_some_and(|intention| intention.action == RESCALE);
    let is_unknown = is_rescaling && world.runtime.is_none() && matches!(coordinator, Coordinator::Present(_));
    let has_its_pods = match rescale.is_some() || is_unknown {
        true => workers.replicas > 0,
        false => workers.replicas == workers.needed,
    };
    if !workers.is_current || !has_its_pods {
        let action = Action::ApplyObjects { workers: workers.needed };
        return act(action, "Applying", format!("services and {} workers are set up", workers.needed));
    }
    if !workers.stale.is_empty() {
        let text = format!("{} workers are of a version before", workers.stale.len());
        return act(Action::DeleteWorkers(workers.stale.clone()), "ReplacingWorkers", text);
    }
    let Coordinator::Present(pod) = coordinator else {
        return act(Action::CreateCoordinator, "StartingCoordinator", format!("run {} is started", run.number));
    };
    if let Some(upgrade) = world.upgrade().filter(|upgrade| upgrade.generation == run.generation) {
        return verify(world, run, upgrade, pod);
    }
    if world.restart_asked.is_some() {
        return act(Action::DeleteCoordinator, "Restarting", "a restart was asked for");
    }
    if !run.verified && is_good(world, 1) {
        let run = RunStatus { verified: true, ..run.clone() };
        let good = Some(run.generation);
        let change = Change { run: Some(run), last_good_generation: good, ..Change::default() };
        return act(record(change), "Verified", "the version has completed a checkpoint");
    }
    if let Some(decision) = rescale {
        return decision;
    }
    match (&pod.state, &world.runtime) {
        (PodState::Waiting { reason, message }, _) => wait("CoordinatorWaits", format!("{reason}: {message}")),
        (_, None) => wait("CoordinatorUnreachable", "the coordinator does not answer yet"),
        (_, Some(runtime)) if runtime.is_running => savepoints(world),
        (_, Some(runtime)) => {
            let waits_for = runtime.waits_for.clone().unwrap_or_else(|| "the tasks are being deployed".to_owned());
            wait("Deploying", workers.trouble.clone().unwrap_or(waits_for))
        }
    }
}

/// A job that runs as it should: what its schedule and its retention ask for.
fn savepoints(world: &World) -> Decision {
    match &world.scheduled {
        Some(ScheduledSavepoint { name, exists: false, .. }) => {
            let new = NewSavepoint { name: name.clone(), trigger: SavepointTrigger::Scheduled, path: None };
            return act(Action::CreateSavepoint(new), "SavepointScheduled", format!("savepoint {name} is due"));
        }
        Some(ScheduledSavepoint { name, at, exists: true }) => {
            let change = Change { last_scheduled_savepoint: Some(Time(*at)), ..Change::default() };
            return act(record(change), "SavepointScheduled", format!("savepoint {name} is on its way"));
        }
        None => {}
    }
    if let Some((name, path)) = unlisted_copy(world) {
        let text = format!("the copy of a checkpoint with which the job began is listed: {path}");
        let new = NewSavepoint { name, trigger: SavepointTrigger::Manual, path: Some(path) };
        return act(Action::CreateSavepoint(new), "SavepointListed", text);
    }
    if !world.surplus_savepoints.is_empty() {
        let text = format!("retention lets go of {}", world.surplus_savepoints.join(", "));
        return act(Action::PruneSavepoints(world.surplus_savepoints.clone()), "SavepointsPruned", text);
    }
    wait("Running", "the job runs")
}

/// Nobody else knows of it: with a resource it can be seen and removed.
fn unlisted_copy(world: &World) -> Option<(String, String)> {
    let path = world.runtime.as_ref()?.restored_from.as_ref()?;
    let is_copy = path.starts_with(&world.copies) && !world.savepoints.contains_key(path);
    Some((path.rsplit('/').next()?.to_owned(), path.clone())).filter(|_| is_copy)
}

/// None yet, none that is good for much longer, or of another CA than this operator's.
fn are_certificates_due(world: &World) -> bool {
    let Some(certificates) = &world.status.certificates else { return true };
    let left = certificates.not_after.0.duration_since(world.now);
    let is_late = !left.is_positive() || left.unsigned_abs() < world.certificate_lifetime / 2;
    is_late || certificates.authority != world.authority
}

/// A new version that has been started: good, not yet, or given up.
fn verify(world: &World, run: &RunStatus, upgrade: &UpgradeRecord, pod: &CoordinatorPod) -> Decision {
    let standing = upgrade.savepoint.as_ref().filter(|path| !world.savepoints.contains_key(*path));
    if let Some(path) = standing.filter(|_| world.runtime.is_some()) {
        let name = upgrade_savepoint_id(&world.savepoint_prefix, &world.status.upgrades, upgrade);
        let text = format!("savepoint {name} is listed: {path}");
        let new = NewSavepoint { name, trigger: SavepointTrigger::Upgrade, path: Some(path.clone()) };
        return act(Action::CreateSavepoint(new), "SavepointListed", text);
    }
    if is_good(world, world.policy.verify_checkpoints) {
        return verified(world, run, upgrade, "it completed its checkpoints");
    }
    let age = world.now.duration_since(run.since.0);
    if age.unsigned_abs() < world.policy.verify_deadline {
        return wait("Verifying", format!("generation {} has to complete a checkpoint", run.generation));
    }
    let why = match &pod.state {
        PodState::Waiting { reason, message } => format!("{reason}: {message}"),
        _ => {
            let failure = world.runtime.as_ref().and_then(|runtime| runtime.last_failure.clone());
            failure.or_else(|| world.workers.trouble.clone()).unwrap_or_else(|| "no reason is known".to_owned())
        }
    };
    give_up(world, run, upgrade, format!("not verified within {:?}: {why}", world.policy.verify_deadline))
}

fn verified(world: &World, run: &RunStatus, upgrade: &UpgradeRecord, how: &str) -> Decision {
    let change = Change {
        run: Some(RunStatus { verified: true, ..run.clone() }),
        upgrade: Some(ended(world, upgrade, UpgradeResult::Verified, None)),
        intention: Some(None),
        last_good_generation: Some(run.generation),
        ..Change::default()
    };
    act(record(change), "Verified", format!("generation {} is good: {how}", run.generation))
}

/// Back to the version before, or a halt: as the spec says. State is never dropped for it: both versions go on from
/// the latest checkpoint, which is that of the savepoint.
fn give_up(world: &World, run: &RunStatus, upgrade: &UpgradeRecord, why: String) -> Decision {
    let can_go_back = world.policy.on_failure == OnUpgradeFailure::Rollback && upgrade.mode != UpgradeMode::Stateless;
    let Some(back) = run.fallback.as_ref().filter(|_| can_go_back) else {
        let change = Change {
            upgrade: Some(ended(world, upgrade, UpgradeResult::Held, Some(why.clone()))),
            intention: Some(None),
            ..Change::default()
        };
        return act(record(change), "UpgradeHeld", format!("generation {} failed: {why}", run.generation));
    };
    let change = Change {
        run: Some(RunStatus {
            number: run.number + 1,
            generation: back.generation,
            hash: back.hash.clone(),
            rescale_hash: back.rescale_hash.clone(),
            since: Time(world.now),
            verified: true,
            stopped: false,
            ..run.clone()
        }),
        upgrade: Some(ended(world, upgrade, UpgradeResult::RolledBack, Some(why.clone()))),
        intention: Some(None),
        ..Change::default()
    };
    let text = format!("generation {} failed, back to generation {}: {why}", run.generation, back.generation);
    act(record(change), "RolledBack", text)
}

/// It runs and has completed so many checkpoints since it was started; without checkpoints, it runs.
fn is_good(world: &World, checkpoints: u32) -> bool {
    let Some(runtime) = &world.runtime else { return false };
    match world.policy.checkpointing {
        true => runtime.completed >= u64::from(checkpoints) && !runtime.is_restarting,
        false => runtime.is_running,
    }
}
