//! What the user is told: phase, conditions, numbers. Pure.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weir_crds::conditions::{ConditionStatus, ConditionType, Observation, set_condition};
use weir_crds::streamjob::{
    AttemptStatus, CheckpointsStatus, CompletedCheckpoint, JobPhase, RestartRecord, RestartsStatus, RestorePointKind,
    RestorePointRef,
};
use weir_crds::{HumanDuration, StreamJobStatus};

use crate::decide::{Action, Decision, RESCALE, bounded};
use crate::names;
use crate::outcome::Outcome;
use crate::world::{PodState, Restore, Runtime, World};

/// Restarts of the tasks under one coordinator from which on it is taken for a loop.
const RESTART_LOOP: u64 = 3;
/// How long after the last failure it still is one.
const RESTART_LOOP_MEMORY: Duration = Duration::from_secs(300);

/// The status that follows from an observation and what was decided on it. `base` has what the decision wrote down.
pub fn status(job: &str, world: &World, decision: &Decision, base: &StreamJobStatus) -> StreamJobStatus {
    let mut next = base.clone();
    let phase = phase(world, base);
    next.observed_generation = Some(world.generation);
    next.phase = Some(phase);
    next.selector = Some(format!("{}={job},{}={}", names::JOB_LABEL, names::COMPONENT_LABEL, names::WORKER));
    next.replicas =
        Some(world.runtime.as_ref().filter(|runtime| runtime.is_running).map_or(0, |runtime| runtime.parallelism));
    if let Some(runtime) = &world.runtime {
        of_runtime(job, world, runtime, &mut next);
    }
    if let (None, Restore::At { path }) = (world.run(), &world.restore) {
        next.next_restore = Some(savepoint_at(path, world, "SpecRestore"));
    }
    for observation in conditions(world, decision, phase, &next) {
        set_condition(&mut next.conditions, observation, Time(world.now));
    }
    next
}

/// Whether anything differs that a user or a machine waits for: else it may be written later.
pub fn is_significant(old: &StreamJobStatus, new: &StreamJobStatus, now: Time, interval: Duration) -> bool {
    if old == new {
        return false;
    }
    if without_progress(old) != without_progress(new) {
        return true;
    }
    let completed =
        |status: &StreamJobStatus| Some(status.checkpoints.as_ref()?.last_completed.as_ref()?.completed_at.0);
    match (completed(old), completed(new)) {
        (Some(old), _) => now.0.duration_since(old).unsigned_abs() >= interval,
        (None, _) => true,
    }
}

/// The status without what each completed checkpoint changes.
pub fn without_progress(status: &StreamJobStatus) -> StreamJobStatus {
    StreamJobStatus { checkpoints: None, next_restore: None, ..status.clone() }
}

fn of_runtime(job: &str, world: &World, runtime: &Runtime, next: &mut StreamJobStatus) {
    next.attempt =
        Some(AttemptStatus { epoch: runtime.epoch, number: runtime.attempt, started_at: runtime.started_at.map(Time) });
    if runtime.is_running {
        next.restored_from = Some(restored_from(job, world, runtime.restored_from.as_deref()));
    }
    let last_completed = runtime.last_completed.as_ref().map(|last| CompletedCheckpoint {
        id: last.id,
        completed_at: Time(last.completed_at),
        duration: millis(last.duration),
        size: last.new_bytes,
        state_size: last.full_bytes,
    });
    let before = next.checkpoints.take().and_then(|checkpoints| checkpoints.last_completed);
    if let Some(last) = &last_completed {
        next.next_restore = Some(RestorePointRef {
            kind: RestorePointKind::Checkpoint,
            name: Some(names::checkpoint(job, last.id)),
            path: None,
            reason: Some("LatestCheckpoint".to_owned()),
        });
    }
    next.checkpoints = Some(CheckpointsStatus {
        last_completed: last_completed.or(before),
        failed_in_a_row: runtime.failed_in_a_row,
        last_failure: runtime.checkpoint_failure.as_deref().map(bounded),
    });
    next.restarts = Some(RestartsStatus {
        count: runtime.restarts,
        last: runtime.last_failure_at.map(|at| RestartRecord {
            at: Time(at),
            reason: "AttemptFailed".to_owned(),
            message: runtime.last_failure.as_deref().map(bounded),
        }),
    });
}

/// From the coordinator's words: `checkpoint 12`, or a savepoint's address.
fn restored_from(job: &str, world: &World, words: Option<&str>) -> RestorePointRef {
    let point = |kind, name, path, reason: &str| RestorePointRef { kind, name, path, reason: Some(reason.to_owned()) };
    let Some(words) = words else { return point(RestorePointKind::Empty, None, None, "FirstStart") };
    match words.strip_prefix("checkpoint ").and_then(|id| id.parse().ok()) {
        Some(id) => point(RestorePointKind::Checkpoint, Some(names::checkpoint(job, id)), None, "LatestCheckpoint"),
        None => {
            let is_of_upgrade = world.status.upgrades.iter().any(|upgrade| upgrade.savepoint.as_deref() == Some(words));
            savepoint_at(words, world, if is_of_upgrade { "Upgrade" } else { "SpecRestore" })
        }
    }
}

/// By its resource's name, where there is one.
fn savepoint_at(path: &str, world: &World, reason: &str) -> RestorePointRef {
    let name = world.savepoints.get(path).cloned();
    RestorePointRef {
        kind: if name.is_some() { RestorePointKind::Savepoint } else { RestorePointKind::Path },
        name,
        path: Some(bounded(path)),
        reason: Some(reason.to_owned()),
    }
}

fn phase(world: &World, base: &StreamJobStatus) -> JobPhase {
    if world.deleted_at.is_some() {
        return JobPhase::Deleting;
    }
    let Some(run) = &base.run else {
        return if world.is_suspended { JobPhase::Suspended } else { JobPhase::Pending };
    };
    if world.is_suspended {
        return if world.coordinator_pod().is_some() { JobPhase::Stopping } else { JobPhase::Suspended };
    }
    if base.upgrades.first().is_some_and(|upgrade| upgrade.result == weir_crds::streamjob::UpgradeResult::InProgress) {
        return JobPhase::Upgrading;
    }
    let is_rescaling = base.intention.as_ref().is_some_and(|intention| intention.action == RESCALE);
    if is_rescaling && world.runtime.as_ref().is_some_and(|runtime| !runtime.is_running && !runtime.is_ending) {
        return JobPhase::Upgrading;
    }
    match (world.outcome(), &world.runtime) {
        (Some(Outcome::Finished), _) => JobPhase::Finished,
        (Some(Outcome::Stopped { .. }), _) => JobPhase::Restarting,
        (Some(_), _) => JobPhase::Failed,
        (None, Some(runtime)) if runtime.is_running => JobPhase::Running,
        (None, _) if run.verified => JobPhase::Restarting,
        (None, _) => JobPhase::Starting,
    }
}

fn conditions(world: &World, decision: &Decision, phase: JobPhase, next: &StreamJobStatus) -> Vec<Observation> {
    let checkpoints = checkpointing(world, phase, next);
    let degraded = degraded(world);
    let ready = match (phase, checkpoints.0, &degraded) {
        (JobPhase::Finished, _, _) => Saying(ConditionStatus::True, "Finished", "all input was read".into()),
        _ if world.invalid.is_some() => Saying(ConditionStatus::False, "InvalidSpec", "the spec cannot be run".into()),
        _ if world.preflight_refused().is_some() => Saying(
            ConditionStatus::False,
            "PreflightRefused",
            "the version before goes on: its state does not fit the spec".into(),
        ),
        _ if world.gave_up_on_current().is_some() => {
            Saying(ConditionStatus::False, "UpgradeFailed", "another version than the spec's runs".into())
        }
        (JobPhase::Running, ConditionStatus::True, _) => {
            Saying(ConditionStatus::True, "CheckpointsComplete", "the job runs and its checkpoints complete".into())
        }
        (JobPhase::Running, _, _) if !world.policy.checkpointing => {
            Saying(ConditionStatus::True, "Running", "the job runs; it takes no checkpoints".into())
        }
        (JobPhase::Running, _, _) => Saying(ConditionStatus::False, checkpoints.1, checkpoints.2.clone()),
        _ => Saying(ConditionStatus::False, decision.reason, decision.message.clone()),
    };
    let is_moving = match phase {
        JobPhase::Running | JobPhase::Suspended | JobPhase::Finished | JobPhase::Failed => {
            decision.action != Action::Wait
        }
        JobPhase::Pending => world.invalid.is_none() && !world.is_suspended,
        _ => true,
    };
    let progressing = match is_moving {
        true => Saying(ConditionStatus::True, decision.reason, decision.message.clone()),
        false if decision.reason == "AwaitingApproval" => {
            Saying(ConditionStatus::False, decision.reason, decision.message.clone())
        }
        false => Saying(ConditionStatus::False, "Stable", String::new()),
    };
    // Without its number, which would make each checkpoint a change that has to be written.
    let has_checkpoint = next.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.last_completed.is_some());
    let restore = match has_checkpoint {
        true => Saying(ConditionStatus::True, "CheckpointRetained", "status.nextRestore names it".into()),
        false => Saying(ConditionStatus::False, "NoneYet", "no checkpoint has completed".into()),
    };
    let suspended = match phase {
        JobPhase::Suspended => Saying(ConditionStatus::True, "SpecSuspended", "the spec says so".into()),
        _ => Saying(ConditionStatus::False, "SpecRunning", String::new()),
    };
    let all = [
        (ConditionType::Ready, ready),
        (ConditionType::Progressing, progressing),
        (ConditionType::Degraded, degraded),
        (ConditionType::CheckpointingHealthy, checkpoints),
        (ConditionType::RestorePointAvailable, restore),
        (ConditionType::Suspended, suspended),
    ];
    all.into_iter().map(|(condition, saying)| saying.about(condition, world.generation)).collect()
}

/// A condition's status, reason and message.
struct Saying(ConditionStatus, &'static str, String);

impl Saying {
    fn about(self, condition: ConditionType, observed_generation: i64) -> Observation {
        let Saying(status, reason, message) = self;
        Observation { condition, status, reason: reason.to_owned(), message: bounded(&message), observed_generation }
    }
}

fn checkpointing(world: &World, phase: JobPhase, next: &StreamJobStatus) -> Saying {
    let unknown = |reason, text: &str| Saying(ConditionStatus::Unknown, reason, text.to_owned());
    if !world.policy.checkpointing {
        return unknown("Disabled", "the spec has no section `checkpoint`");
    }
    let failed = next.checkpoints.as_ref().filter(|checkpoints| checkpoints.failed_in_a_row > 0);
    // One that the job may not tolerate restarts it: the reason must not wait until it runs again.
    if let (JobPhase::Running | JobPhase::Restarting, Some(checkpoints)) = (phase, failed) {
        let why = checkpoints.last_failure.clone().unwrap_or_default();
        let text = format!("{} failed in a row: {why}", checkpoints.failed_in_a_row);
        return Saying(ConditionStatus::False, "CheckpointsFail", text);
    }
    if phase != JobPhase::Running {
        return unknown("NotRunning", "checkpoints are taken while the job runs");
    }
    if next.checkpoints.is_none() {
        return unknown("NoneYet", "no checkpoint has been tried");
    }
    let own = world.runtime.as_ref().and_then(|runtime| runtime.last_completed.as_ref());
    let Some(last) = own else { return unknown("NoneYet", "no checkpoint has completed since the start") };
    let age = world.now.duration_since(last.completed_at).unsigned_abs();
    if age > world.policy.checkpoint_interval + world.policy.checkpoint_timeout {
        return Saying(ConditionStatus::False, "TooOld", format!("the last one completed {} s ago", age.as_secs()));
    }
    Saying(ConditionStatus::True, "WithinLimits", String::new())
}

fn degraded(world: &World) -> Saying {
    let yes = |reason, text: String| Saying(ConditionStatus::True, reason, text);
    if let Some(invalid) = &world.invalid {
        return yes("InvalidSpec", invalid.clone());
    }
    match world.outcome() {
        Some(Outcome::Failed { reason }) => return yes("JobFailed", reason.clone()),
        Some(Outcome::Refused { reason }) => return yes("Refused", reason.clone()),
        Some(Outcome::Fenced { reason }) => return yes("Fenced", reason.clone()),
        Some(Outcome::Cancelled) => return yes("Cancelled", "somebody cancelled the job".into()),
        Some(Outcome::Finished | Outcome::Stopped { .. }) | None => {}
    }
    if let Some(upgrade) = world.gave_up_on_current() {
        return yes("UpgradeFailed", upgrade.message.clone().unwrap_or_default());
    }
    if let Some(refused) = world.preflight_refused() {
        return yes("PreflightRefused", refused.to_owned());
    }
    let is_awaited = world.run().is_none() || world.is_set_back();
    if let (true, Restore::Missing { reason }) = (is_awaited, &world.restore) {
        return yes("RestorePointMissing", reason.clone());
    }
    if let Some(pod) = world.coordinator_pod() {
        match &pod.state {
            PodState::Waiting { reason, message } if !matches!(reason.as_str(), "ContainerCreating" | "Pending") => {
                return yes("CoordinatorFails", format!("{reason}: {message}"));
            }
            _ => {}
        }
    }
    if let Some(trouble) = &world.workers.trouble {
        return yes("WorkersFail", trouble.clone());
    }
    if let Some(runtime) = &world.runtime {
        let is_recent =
            runtime.last_failure_at.is_some_and(|at| world.now.duration_since(at).unsigned_abs() < RESTART_LOOP_MEMORY);
        if runtime.restarts >= RESTART_LOOP && is_recent {
            let why = runtime.last_failure.clone().unwrap_or_default();
            return yes("RestartLoop", format!("{} restarts; the last: {why}", runtime.restarts));
        }
    }
    Saying(ConditionStatus::False, "AsExpected", String::new())
}

fn millis(duration: Duration) -> HumanDuration {
    HumanDuration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
