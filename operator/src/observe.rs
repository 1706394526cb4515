//! From the watched objects and the coordinator's answers to a [`World`].

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use weir_crds::streamjob::{JobState, UpgradePolicy};
use weir_crds::validate::{Severity, validate};
use weir_crds::{Checkpoint, Savepoint, SavepointPhase, StreamJob, StreamJobSpec, StreamJobStatus, defaults};

use crate::build::template_problems;
use crate::leaving;
use crate::names::{
    self, APPROVE_ANNOTATION, CONTAINER, FINALIZER, HURRIED_GRACE_S, LAYOUT, LAYOUT_ANNOTATION, MADE_FROM_ANNOTATION,
    RESTART_ANNOTATION, RUN_ANNOTATION,
};
use crate::outcome::Outcome;
use crate::restore::{Retained, resolve};
use crate::schedule;
use crate::spec_hash::SpecHashes;
use crate::world::{
    Coordinator, CoordinatorPod, PodState, Policy, RunSpec, Runtime, ScheduledSavepoint, Workers, World,
};

/// What was read of the cluster for one job.
pub struct Seen<'a> {
    pub job: &'a StreamJob,
    pub run_spec: RunSpec,
    pub coordinator: Option<&'a Pod>,
    pub workers: Option<&'a StatefulSet>,
    pub worker_pods: Vec<&'a Pod>,
    /// Of the run: how many workers it needs, and what their objects are made from.
    pub wanted: Option<Wanted>,
    pub runtime: Option<Runtime>,
    /// All of the namespace.
    pub savepoints: Vec<Arc<Savepoint>>,
    /// Asked for where the spec names a checkpoint, and somebody can be asked.
    pub retained: Option<Result<Retained, String>>,
    /// The Checkpoint of another job that the spec names.
    pub foreign: Option<Checkpoint>,
    /// The CA that would sign the job's certificates now.
    pub authority: String,
    pub certificate_lifetime: Duration,
}

pub struct Wanted {
    pub workers: u32,
    pub parallelism: u32,
    /// The run's own image.
    pub image: Option<String>,
    pub made_from: String,
}

pub fn world(seen: Seen<'_>, now: Timestamp) -> World {
    let Seen {
        job,
        run_spec,
        coordinator,
        workers,
        worker_pods,
        wanted,
        runtime,
        savepoints,
        retained,
        foreign,
        authority,
        certificate_lifetime,
    } = seen;
    let status = job.status.clone().unwrap_or_default();
    let own = Own { job, status: &status, savepoints: &savepoints, now };
    let (scheduled, surplus_savepoints) = (own.scheduled(), own.surplus());
    let complete = savepoints.iter().filter_map(|savepoint| Some((completed_at(savepoint)?, savepoint.name_any())));
    let spec = &job.spec;
    let annotation = |name: &str| job.annotations().get(name).cloned();
    let restart = annotation(RESTART_ANNOTATION);
    let restart_asked =
        restart.filter(|asked| coordinator.is_some_and(|pod| pod.annotations().get(RESTART_ANNOTATION) != Some(asked)));
    let parallelism = wanted.as_ref().map_or(0, |wanted| wanted.parallelism);
    // Another image may have other operators, of which the one that runs knows nothing.
    let can_preflight = wanted.as_ref().is_some_and(|wanted| wanted.image == spec.image);
    World {
        now,
        generation: job.metadata.generation.unwrap_or_default(),
        deleted_at: job.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        has_finalizer: job.finalizers().iter().any(|finalizer| finalizer == FINALIZER),
        is_suspended: spec.state() == JobState::Suspended,
        invalid: invalid(job),
        target: SpecHashes::of(spec),
        storage_id: names::storage_id(job),
        savepoint_prefix: names::savepoint_prefix(job),
        copies: names::copies(job),
        policy: policy(job, annotation(APPROVE_ANNOTATION).as_deref()),
        run_spec,
        coordinator: coordinator.map_or(Coordinator::Absent, |pod| Coordinator::Present(coordinator_pod(pod))),
        workers: workers_of(workers, &worker_pods, wanted),
        leaving: leaving::of(worker_pods.iter().copied().chain(coordinator), now),
        runtime,
        restart_asked,
        run_parallelism: parallelism,
        can_preflight,
        restore: resolve(
            &job.name_any(),
            spec,
            savepoints.iter().map(Arc::as_ref),
            retained.as_ref(),
            foreign.as_ref(),
        ),
        restore_nonce: spec.restore.as_ref().and_then(|restore| restore.nonce),
        savepoints: complete.collect(),
        scheduled,
        surplus_savepoints,
        authority,
        certificate_lifetime,
        status,
    }
}

/// Where a savepoint stands that is complete.
fn completed_at(savepoint: &Savepoint) -> Option<String> {
    let status = savepoint.status.as_ref().filter(|status| status.phase == Some(SavepointPhase::Completed))?;
    status.path.clone()
}

/// The job's own savepoints, and what its policy makes of them.
struct Own<'a> {
    job: &'a StreamJob,
    status: &'a StreamJobStatus,
    savepoints: &'a [Arc<Savepoint>],
    now: Timestamp,
}

impl Own<'_> {
    fn scheduled(&self) -> Option<ScheduledSavepoint> {
        let created = self.job.metadata.creation_timestamp.as_ref();
        let after = self.status.last_scheduled_savepoint.as_ref().or(created)?.0;
        let at = schedule::due(self.job.spec.savepoints.as_ref()?, after, self.now)?;
        let name = names::scheduled_savepoint(&self.job.name_any(), at.as_second());
        let exists = self.savepoints.iter().any(|savepoint| savepoint.name_any() == name);
        Some(ScheduledSavepoint { at, name, exists })
    }

    fn surplus(&self) -> Vec<String> {
        let name = self.job.name_any();
        let is_own = |one: &&Arc<Savepoint>| one.spec.job == name && one.metadata.deletion_timestamp.is_none();
        let retained = self.savepoints.iter().filter(is_own).filter_map(|savepoint| {
            Some(schedule::Retained {
                name: savepoint.name_any(),
                trigger: savepoint.spec.trigger?,
                path: completed_at(savepoint)?,
                created_at: savepoint.metadata.creation_timestamp.as_ref()?.0,
            })
        });
        let points = [&self.status.restored_from, &self.status.next_restore];
        let points = points.into_iter().flatten().filter_map(|point| point.path.clone());
        let under_way = self.status.upgrades.first().and_then(|upgrade| upgrade.savepoint.clone());
        let policy = self.job.spec.savepoints.as_ref().and_then(|policy| policy.retain.as_ref());
        schedule::surplus(policy, retained.collect(), &points.chain(under_way).collect(), self.now)
    }
}

/// Everything that is wrong with the spec, in one text.
fn invalid(job: &StreamJob) -> Option<String> {
    let errors = validate(job).into_iter().filter(|violation| violation.severity == Severity::Error);
    let mut texts: Vec<String> = errors
        .map(|violation| format!("{}: {}; {}", violation.field_path, violation.reason, violation.remedy))
        .collect();
    texts.extend(template_problems(&job.spec));
    texts.extend(job.spec.savepoints.as_ref().and_then(schedule::zone_problem));
    let memory = job.spec.storage_uri().is_some_and(|uri| uri.starts_with("memory://"));
    if memory {
        texts.push(
            "spec.checkpoint.storage.uri: memory:// is gone with the process; name a storage that all pods reach"
                .into(),
        );
    }
    if job.spec.checkpointing_enabled() && job.spec.storage_uri().is_none() {
        let remedy = "name a storage that all pods reach: s3://bucket/prefix";
        texts.push(format!("spec.checkpoint.storage: in a cluster checkpoints need one; {remedy}"));
    }
    (!texts.is_empty()).then(|| texts.join("\n"))
}

fn policy(job: &StreamJob, approved: Option<&str>) -> Policy {
    let StreamJobSpec { checkpoint, .. } = &job.spec;
    let UpgradePolicy { mode, approval, verify, on_failure, allow_non_restored_state: _ } = job.spec.upgrade();
    let verify = verify.unwrap_or_default();
    Policy {
        mode: mode.unwrap_or(defaults::UPGRADE_MODE),
        approval: approval.unwrap_or(defaults::UPGRADE_APPROVAL),
        approved: approved.and_then(|text| text.parse().ok()) == job.metadata.generation,
        verify_checkpoints: verify.checkpoints.unwrap_or(defaults::UPGRADE_VERIFY_CHECKPOINTS),
        verify_deadline: verify.deadline.unwrap_or(defaults::UPGRADE_VERIFY_DEADLINE).get(),
        on_failure: on_failure.unwrap_or(defaults::UPGRADE_ON_FAILURE),
        on_delete: checkpoint.as_ref().map_or(defaults::CHECKPOINT_ON_DELETE, |policy| policy.on_delete()),
        checkpointing: checkpoint.is_some(),
        checkpoint_interval: checkpoint.as_ref().map_or(Duration::ZERO, |policy| policy.interval()),
        checkpoint_timeout: checkpoint.as_ref().map_or(Duration::ZERO, |policy| policy.timeout()),
    }
}

fn coordinator_pod(pod: &Pod) -> CoordinatorPod {
    let status = container(pod);
    CoordinatorPod {
        run: pod.annotations().get(RUN_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or_default(),
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
        state: pod_state(pod),
        restarts: status.map_or(0, |status| u32::try_from(status.restart_count).unwrap_or_default()),
        last_crash: status.and_then(last_crash),
        created_at: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        is_hurried: pod.metadata.deletion_grace_period_seconds.is_some_and(|grace| grace <= HURRIED_GRACE_S.into()),
        is_current: pod.annotations().get(LAYOUT_ANNOTATION).is_some_and(|layout| layout == LAYOUT),
    }
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

fn last_crash(status: &ContainerStatus) -> Option<String> {
    let ended = status.last_state.as_ref()?.terminated.as_ref()?;
    let words = ended.message.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let reason = ended.reason.as_deref().unwrap_or("Error");
    Some(words.map_or_else(|| format!("{reason}, exit code {}", ended.exit_code), str::to_owned))
}

pub fn pod_state(pod: &Pod) -> PodState {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let state = container(pod).and_then(|status| status.state.clone()).unwrap_or_default();
    if let Some(ended) = &state.terminated
        && let Some(outcome) = ended.message.as_deref().and_then(Outcome::parse).filter(|_| ended.exit_code == 0)
    {
        return PodState::Ended(outcome);
    }
    if phase == "Failed" || phase == "Succeeded" {
        let words = [status.reason, status.message, state.terminated.and_then(|ended| ended.message)];
        let words: Vec<String> = words.into_iter().flatten().collect();
        let message = if words.is_empty() { format!("its pod is {phase}") } else { words.join(": ") };
        return PodState::Lost { message };
    }
    if state.running.is_some() {
        return PodState::Running;
    }
    let waiting = state.waiting.unwrap_or_default();
    let unscheduled =
        status.conditions.iter().flatten().find(|found| found.type_ == "PodScheduled" && found.status == "False");
    let crash = container(pod).and_then(last_crash);
    let reason = waiting.reason.or_else(|| unscheduled.and_then(|found| found.reason.clone()));
    let message = waiting.message.or_else(|| unscheduled.and_then(|found| found.message.clone())).unwrap_or_default();
    PodState::Waiting {
        reason: reason.unwrap_or_else(|| "Pending".to_owned()),
        message: crash.map_or(message, |crash| crash.lines().last().unwrap_or_default().to_owned()),
    }
}

/// What keeps a pod from coming up, where that will not pass by itself.
fn trouble(pod: &Pod) -> Option<String> {
    match pod_state(pod) {
        PodState::Waiting { reason, message } if reason != "ContainerCreating" && reason != "Pending" => {
            Some(format!("{}: {reason}: {message}", pod.name_any()))
        }
        _ => None,
    }
}

fn workers_of(set: Option<&StatefulSet>, pods: &[&Pod], wanted: Option<Wanted>) -> Workers {
    let needed = wanted.as_ref().map_or(0, |wanted| wanted.workers);
    let Some(set) = set else { return Workers { needed, ..Workers::default() } };
    let status = set.status.clone().unwrap_or_default();
    let is_settled = status.observed_generation == set.metadata.generation;
    let revision = status.update_revision.filter(|_| is_settled);
    let is_stale = |pod: &&&Pod| {
        let own = pod.labels().get("controller-revision-hash");
        pod.metadata.deletion_timestamp.is_none() && revision.is_some() && own != revision.as_ref()
    };
    let count = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
    Workers {
        is_current: wanted.is_some_and(|wanted| set.annotations().get(MADE_FROM_ANNOTATION) == Some(&wanted.made_from)),
        exists: true,
        replicas: set.spec.as_ref().map_or(0, |spec| count(spec.replicas)),
        needed,
        ready: count(status.ready_replicas),
        pods: u32::try_from(pods.len()).unwrap_or(u32::MAX),
        stale: pods.iter().filter(is_stale).map(|pod| pod.name_any()).collect(),
        trouble: pods.iter().find_map(|pod| trouble(pod)),
    }
}
