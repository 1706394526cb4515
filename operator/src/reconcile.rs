//! One look at one job: observe, decide, act, tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use weir_crds::streamjob::{CertificatesStatus, PreflightStatus, RestoreOrigin, UpgradeResult};
use weir_crds::{Checkpoint, Savepoint, StreamJob};

use crate::act::{ActError, Hands};
use crate::build::{Parts, spec_text};
use crate::certificates::Authority;
use crate::checkpoints::mirror;
use crate::coordinator_api::{CoordinatorApi, Coordinators};
use crate::decide::{Action, Change, Decision, bounded, decide};
use crate::looks::Again;
use crate::names;
use crate::observe::{Seen, Wanted, world};
use crate::pace::Pace;
use crate::packed::Packed;
use crate::queue::Turn;
use crate::remembered::{Failures, Pins, Views, key};
use crate::restore::{Retained, resolved};
use crate::serve::Metrics;
use crate::settings::Settings;
use crate::status::{is_significant, status};
use crate::world::{PodState, Restore, RunSpec, Runtime, World, is_set_back};

/// After an act, what follows is looked at again so soon, even if no event comes.
const SOON: Duration = Duration::from_millis(200);
/// What is waited for by the clock (verification, bounds) is looked at so often.
const WAITING: Duration = Duration::from_secs(2);
/// A job at rest.
const AT_REST: Duration = Duration::from_secs(60);

/// What every reconcile works with.
pub struct Context {
    pub client: Client,
    pub coordinators: Coordinators,
    pub settings: Settings,
    pub jobs: Store<StreamJob>,
    pub pods: Store<Packed<Pod>>,
    pub sets: Store<Packed<StatefulSet>>,
    pub savepoints: Store<Savepoint>,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub failures: Failures,
    pub views: Views,
    pub pins: Arc<Pins>,
}

impl Context {
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.pods.get(&ObjectRef::new(name).within(namespace)).map(|pod| pod.unpacked())
    }

    fn set(&self, namespace: &str, name: &str) -> Option<StatefulSet> {
        self.sets.get(&ObjectRef::new(name).within(namespace)).map(|set| set.unpacked())
    }

    pub fn pace(&self) -> Pace {
        Pace::of(&self.settings, self.jobs.len())
    }
}

pub async fn reconcile(job: &StreamJob, turn: &Turn<ObjectRef<StreamJob>>, context: &Context) -> Again {
    let started = Instant::now();
    let result = look_after(job, context).await;
    let waited = started.saturating_duration_since(turn.due);
    context.metrics.reconciled(started.elapsed(), waited, turn.urgency, result.is_err());
    match result {
        Ok(again) => {
            context.failures.forget(job);
            again
        }
        // The object that was seen is an old one: the newer one is on its way.
        Err(error) if error.is_conflict() => Again { after: SOON, urgency: turn.urgency },
        Err(error) => {
            // Each job backs off by itself.
            let after = context.failures.next(job);
            tracing::warn!(job = %key(job), %error, retry_ms = after.as_millis(), "reconcile failed");
            Again { after, urgency: turn.urgency }
        }
    }
}

async fn look_after(job: &StreamJob, context: &Context) -> Result<Again, ActError> {
    let namespace = job.namespace().unwrap_or_default();
    let hands = Hands::new(context.client.clone(), &namespace);
    let run_job = run_job(job, &hands).await?;
    let world = observe(job, run_job.as_ref(), &namespace, &hands, context).await?;
    let decision = answered(job, run_job.as_ref(), decide(&world), &world, &hands, context).await?;
    let mut base = world.status.clone();
    if let Action::Record(change) = &decision.action {
        change.apply(&mut base);
    }
    let next = status(&job.name_any(), &world, &decision, &base);
    let interval = context.pace().progress;
    let now = Time(world.now);
    let must_write = matches!(decision.action, Action::Record(_));
    if let Action::Record(change) = &decision.action {
        write_spec(job, change, &world, &hands, context).await?;
    }
    let is_written = world.has_finalizer && (must_write || is_significant(&world.status, &next, now, interval));
    if is_written {
        hands.write_status(job, &next).await?;
        context.metrics.status_written();
    }
    if decision.action != Action::Wait {
        tracing::info!(job = %key(job), reason = decision.reason, message = decision.message, action = ?short(&decision.action), "acts");
    }
    let acted = act(job, run_job.as_ref(), &world, &decision, &hands, context).await;
    if let Err(ActError::Coordinator(reason)) = &acted {
        let refused = format!("{}, but the coordinator refused it: {reason}", decision.message);
        publish(job, EventType::Warning, "CoordinatorRefused", &refused, context).await;
    }
    acted?;
    let pruned = async {
        match &decision.action {
            Action::Record(change) => prune_specs(job, change, &hands).await,
            _ => Ok(()),
        }
    };
    let (pruned, ()) = tokio::join!(pruned, tell(job, &decision, context));
    pruned?;
    mirror(job, &world, &decision, is_written.then_some(&next), &hands, context).await?;
    Ok(requeue(&world, &decision, context))
}

/// A decision that is a question, or makes something of which the status has to tell: with what came of it.
async fn answered(
    job: &StreamJob,
    run_job: Option<&StreamJob>,
    decision: Decision,
    world: &World,
    hands: &Hands,
    context: &Context,
) -> Result<Decision, ActError> {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let settings = &context.settings;
    let parts = match (world.run(), run_job) {
        (Some(run), Some(run_job)) => Parts { job, spec: &run_job.spec, run, settings },
        _ => return Ok(decision),
    };
    let change = match decision.action {
        Action::Preflight => {
            let spec = resolved(&job.spec, &world.restore);
            let text = spec_text(&Parts { spec: &spec, ..parts })?;
            let (fits, said) = match context.coordinators.of_job(&namespace, &name)?.plan(&text).await {
                Ok(answer) => answer,
                Err(reason) => (false, format!("what runs could not be asked whether its state fits: {reason}")),
            };
            let generation = world.generation;
            let message = Some(bounded(&said));
            let preflight = PreflightStatus { generation, fits, at: Time(world.now), message };
            let reason = if fits { "PreflightPassed" } else { "PreflightRefused" };
            let change = Change { preflight: Some(preflight), ..Change::default() };
            return Ok(Decision { action: Action::Record(Box::new(change)), reason, message: said });
        }
        Action::IssueCertificates => {
            let not_after = issue(&parts, world, hands, context).await?;
            let authority = world.authority.clone();
            let certificates = CertificatesStatus { authority, issued_at: Time(world.now), not_after };
            Change { certificates: Some(certificates), ..Change::default() }
        }
        _ => return Ok(decision),
    };
    Ok(Decision { action: Action::Record(Box::new(change)), ..decision })
}

/// Writes the Secret with new certificates. Returns until when they are good.
async fn issue(parts: &Parts<'_>, world: &World, hands: &Hands, context: &Context) -> Result<Time, ActError> {
    let authority = Authority::of(&context.settings.token_key, parts.namespace(), parts.name());
    let issued = authority.and_then(|authority| authority.issue(world.now, world.certificate_lifetime));
    let issued = issued.map_err(ActError::Certificates)?;
    hands.apply_secret(&parts.certificates(&issued)).await?;
    Ok(Time(issued.not_after))
}

/// The job with the spec of the current run. `None`: no run, or its spec is lost.
async fn run_job(job: &StreamJob, hands: &Hands) -> Result<Option<StreamJob>, ActError> {
    let Some(run) = job.status.as_ref().and_then(|status| status.run.as_ref()) else { return Ok(None) };
    if job.metadata.generation == Some(run.generation) {
        return Ok(Some(job.clone()));
    }
    match hands.spec_of(&job.name_any(), run.generation).await {
        Ok(stored) => Ok(Some(StreamJob { spec: stored.spec, ..job.clone() })),
        Err(ActError::SpecLost(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn observe(
    job: &StreamJob,
    run_job: Option<&StreamJob>,
    namespace: &str,
    hands: &Hands,
    context: &Context,
) -> Result<World, ActError> {
    let name = job.name_any();
    let run = job.status.as_ref().and_then(|status| status.run.clone());
    let coordinator = context.pod(namespace, &names::coordinator(&name));
    let coordinator = coordinator.filter(|pod| pod.controller_is(job));
    let set = context.set(namespace, &names::workers(&name));
    let wanted = match (&run, run_job) {
        (Some(run), Some(run_job)) => {
            let parts = Parts { job, spec: &run_job.spec, run, settings: &context.settings };
            Some(Wanted {
                workers: parts.workers_needed(),
                parallelism: run_job.spec.parallelism(),
                image: run_job.spec.image.clone(),
                made_from: parts.made_from()?,
            })
        }
        _ => None,
    };
    let highest = set.as_ref().and_then(|set| set.spec.as_ref()?.replicas).and_then(|count| u32::try_from(count).ok());
    let worker_pods: Vec<Pod> = (0..highest.unwrap_or_default())
        .filter_map(|ordinal| context.pod(namespace, &names::worker_pod(&name, ordinal)))
        .collect();
    let runs = |pod: &&Pod| crate::observe::pod_state(pod) == PodState::Running;
    let belongs = |pod: &&Pod| {
        let number = run.as_ref().map(|run| run.number.to_string());
        pod.annotations().get(names::RUN_ANNOTATION) == number.as_ref()
    };
    let api = context.coordinators.of_job(namespace, &name)?;
    let runtime = match (&run, coordinator.as_ref().filter(runs).filter(belongs)) {
        (Some(run), Some(_)) if takes_savepoint(job) => api.runtime_with_savepoints(&run.storage_id).await,
        (Some(run), Some(_)) => api.runtime(&run.storage_id).await,
        _ => None,
    };
    let is_up = coordinator.as_ref().is_some_and(|pod| runs(&pod));
    let retained = retained(job, run_job, runtime.as_ref(), is_up, &api).await;
    let foreign = foreign(job, hands).await?;
    let run_spec = match (&run, run_job) {
        (None, _) => RunSpec::NoRun,
        (Some(_), Some(_)) => RunSpec::Known,
        (Some(_), None) => RunSpec::Lost,
    };
    let is_here = |savepoint: &Arc<Savepoint>| savepoint.namespace().as_deref() == Some(namespace);
    let seen = Seen {
        job,
        run_spec,
        coordinator: coordinator.as_ref(),
        workers: set.as_ref(),
        worker_pods: worker_pods.iter().collect(),
        wanted,
        runtime,
        savepoints: context.savepoints.state().into_iter().filter(is_here).collect(),
        retained,
        foreign,
        authority: api.authority().to_owned(),
        certificate_lifetime: context.settings.certificate_lifetime,
    };
    // To the second, as times in objects are.
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    Ok(world(seen, now))
}

/// An upgrade is under way: it may wait for a savepoint.
fn takes_savepoint(job: &StreamJob) -> bool {
    let upgrade = job.status.as_ref().and_then(|status| status.upgrades.first());
    upgrade.is_some_and(|upgrade| upgrade.result == UpgradeResult::InProgress)
}

/// What the job that is to be set back to one of its checkpoints has of them. Storage is read for it: not at every look.
async fn retained(
    job: &StreamJob,
    run_job: Option<&StreamJob>,
    runtime: Option<&Runtime>,
    is_up: bool,
    api: &CoordinatorApi,
) -> Option<Result<Retained, String>> {
    let nonce = job.spec.restore.as_ref().and_then(|restore| restore.nonce);
    let run = job.status.as_ref().and_then(|status| status.run.as_ref());
    if !is_set_back(nonce, run) || !matches!(job.spec.restore_from(), RestoreOrigin::Checkpoint(_)) {
        return None;
    }
    match (runtime, run_job) {
        (Some(_), Some(run_job)) => {
            let count = run_job.spec.checkpoint.clone().unwrap_or_default().retain_count();
            Some(api.restore_points().await.map(|points| Retained {
                ids: points.checkpoints.iter().filter(|point| point.is_restorable).map(|point| point.id).collect(),
                pinned: points.checkpoints.iter().filter(|point| point.is_pinned).map(|point| point.id).collect(),
                count: usize::try_from(count).unwrap_or(usize::MAX),
            }))
        }
        // A moment's silence is no reason to stop a job for a checkpoint that may not be there.
        (None, _) if is_up => Some(Err("the coordinator does not answer".to_owned())),
        _ => None,
    }
}

/// The Checkpoint of another job that this one is to begin with. It is asked for where it counts.
async fn foreign(job: &StreamJob, hands: &Hands) -> Result<Option<Checkpoint>, ActError> {
    let nonce = job.spec.restore.as_ref().and_then(|restore| restore.nonce);
    let run = job.status.as_ref().and_then(|status| status.run.as_ref());
    match job.spec.restore_from() {
        RestoreOrigin::Checkpoint(name)
            if (run.is_none() || is_set_back(nonce, run)) && names::checkpoint_of(&job.name_any(), name).is_none() =>
        {
            hands.checkpoint(name).await
        }
        _ => Ok(None),
    }
}

/// A run's spec is written down before the run is.
async fn write_spec(
    job: &StreamJob,
    change: &Change,
    world: &World,
    hands: &Hands,
    context: &Context,
) -> Result<(), ActError> {
    let Some(run) = &change.run else { return Ok(()) };
    if Some(run.generation) == job.metadata.generation {
        let spec = resolved(&job.spec, &world.restore);
        let parts = Parts { job, spec: &spec, run, settings: &context.settings };
        hands.write_spec(&parts).await?;
    }
    Ok(())
}

/// Lets go of specs that neither this run nor a way back from it needs.
async fn prune_specs(job: &StreamJob, change: &Change, hands: &Hands) -> Result<(), ActError> {
    let Some(run) = &change.run else { return Ok(()) };
    let mut kept = vec![run.generation];
    kept.extend(job.metadata.generation);
    kept.extend(run.fallback.as_ref().map(|version| version.generation));
    kept.extend(job.status.as_ref().and_then(|status| status.run.as_ref()).map(|run| run.generation));
    hands.prune_specs(&job.name_any(), &kept).await
}

async fn act(
    job: &StreamJob,
    run_job: Option<&StreamJob>,
    world: &World,
    decision: &Decision,
    hands: &Hands,
    context: &Context,
) -> Result<(), ActError> {
    let name = job.name_any();
    let namespace = job.namespace().unwrap_or_default();
    let parts = match (world.run(), run_job) {
        (Some(run), Some(run_job)) => Some(Parts { job, spec: &run_job.spec, run, settings: &context.settings }),
        _ => None,
    };
    let pod = |name: &str| context.pod(&namespace, name);
    let api = context.coordinators.of_job(&namespace, &name)?;
    match (&decision.action, parts) {
        (Action::Wait | Action::Record(_), _) => {}
        (Action::AddFinalizer, _) => hands.set_finalizer(job, true).await?,
        (Action::RemoveFinalizer, _) => {
            hands.set_finalizer(job, false).await?;
            context.views.forget(job);
            context.coordinators.forget(&namespace, &name);
        }
        (Action::ApplyObjects { workers: 0 }, _) => hands.scale_workers(&name, 0).await?,
        (Action::ApplyObjects { workers }, Some(parts)) => hands.apply_objects(&parts, *workers).await?,
        (Action::CreateCoordinator, Some(parts)) => {
            // Without its Secrets a pod never comes up, and somebody may have removed them.
            hands.apply_secret(&parts.token()).await?;
            issue(&parts, world, hands, context).await?;
            hands.create_coordinator(&parts).await?;
        }
        (Action::ApplyObjects { .. } | Action::CreateCoordinator, None) => {
            return Err(ActError::SpecLost(world.generation));
        }
        (Action::DeleteCoordinator, _) => {
            if let Some(pod) = pod(&names::coordinator(&name)) {
                hands.delete_pod(&pod).await?;
            }
        }
        (Action::HurryCoordinator, _) => {
            if let Some(pod) = pod(&names::coordinator(&name)) {
                hands.hurry_pod(&pod).await?;
            }
        }
        (Action::DeleteWorkers(workers), _) => {
            for worker in workers {
                if let Some(pod) = pod(worker) {
                    hands.delete_pod(&pod).await?;
                }
            }
        }
        (Action::RemoveLostPods(lost), _) => {
            for pod in lost.iter().filter_map(|name| pod(name)) {
                hands.remove_pod(&pod).await?;
            }
        }
        (Action::StopWithSavepoint { id }, _) => {
            api.stop_with_savepoint(id).await.map_err(ActError::Coordinator)?;
        }
        (Action::Rescale { parallelism }, _) => {
            let needed = world.workers.needed..world.workers.replicas;
            let pods = needed.filter_map(|ordinal| pod(&names::worker_pod(&name, ordinal)));
            let addresses = pods.filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
            let leaving = addresses.map(|address| format!("{address}:{}", names::DATA_PORT)).collect();
            api.rescale(*parallelism, leaving).await.map_err(ActError::Coordinator)?;
        }
        (Action::CreateSavepoint(new), _) => hands.create_savepoint(&name, new).await?,
        (Action::PruneSavepoints(all), _) => {
            for one in all {
                hands.prune_savepoint(one).await?;
            }
        }
        // Answered before.
        (Action::Preflight | Action::IssueCertificates, _) => {}
        (Action::Discard, _) => api.cancel().await.map_err(ActError::Coordinator)?,
    }
    Ok(())
}

/// An event for everything that was done. One that cannot be written stops nothing.
async fn tell(job: &StreamJob, decision: &Decision, context: &Context) {
    if decision.action == Action::Wait {
        return;
    }
    let is_bad = matches!(
        decision.reason,
        "JobFailed"
            | "Refused"
            | "Fenced"
            | "RolledBack"
            | "UpgradeHeld"
            | "CoordinatorLost"
            | "NodeLost"
            | "DeletedUnfinished"
            | "PreflightRefused"
            | "RescaleByRestart"
    );
    let kind = if is_bad { EventType::Warning } else { EventType::Normal };
    publish(job, kind, decision.reason, &decision.message, context).await;
}

pub(crate) async fn publish(job: &StreamJob, type_: EventType, reason: &str, note: &str, context: &Context) {
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note.chars().take(1_000).collect()),
        action: reason.to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &job.object_ref(&())).await {
        tracing::debug!(job = %key(job), %error, "an event could not be written");
    }
}

fn requeue(world: &World, decision: &Decision, context: &Context) -> Again {
    if decision.action != Action::Wait {
        return Again::next_step(SOON);
    }
    if world.upgrade().is_some() || world.deleted_at.is_some() || world.status.intention.is_some() {
        return Again::next_step(WAITING);
    }
    if world.leaving.pods > 0 {
        return Again::by_the_clock(WAITING);
    }
    let is_held = world.gave_up_on_current().is_some() || world.preflight_refused().is_some();
    let awaits_restore_point = world.run().is_none() && matches!(world.restore, Restore::Missing { .. });
    if is_held || awaits_restore_point {
        return Again::by_the_clock(WAITING);
    }
    Again::by_the_clock(match (&world.runtime, world.coordinator_pod()) {
        (Some(runtime), _) if runtime.is_running && world.run().is_some_and(|run| run.verified) => context.pace().poll,
        (_, Some(pod)) if pod.state == PodState::Running => WAITING.min(context.settings.poll_interval),
        _ => AT_REST,
    })
}

fn short(action: &Action) -> &'static str {
    match action {
        Action::Wait => "Wait",
        Action::AddFinalizer => "AddFinalizer",
        Action::RemoveFinalizer => "RemoveFinalizer",
        Action::Record(_) => "Record",
        Action::ApplyObjects { .. } => "Apply",
        Action::DeleteWorkers(_) => "DeleteWorkers",
        Action::RemoveLostPods(_) => "RemoveLostPods",
        Action::CreateCoordinator => "CreateCoordinator",
        Action::DeleteCoordinator => "DeleteCoordinator",
        Action::HurryCoordinator => "HurryCoordinator",
        Action::StopWithSavepoint { .. } => "StopWithSavepoint",
        Action::Discard => "Discard",
        Action::Preflight => "Preflight",
        Action::Rescale { .. } => "Rescale",
        Action::IssueCertificates => "IssueCertificates",
        Action::CreateSavepoint(_) => "CreateSavepoint",
        Action::PruneSavepoints(_) => "PruneSavepoints",
    }
}

trait OwnedBy {
    fn controller_is(&self, job: &StreamJob) -> bool;
}

impl OwnedBy for Pod {
    /// A pod of a job that was deleted and made again under the same name is not this job's.
    fn controller_is(&self, job: &StreamJob) -> bool {
        self.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
    }
}
