//! One look at one Savepoint: observe, decide, act, tell.

mod decide;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use serde_json::json;
use weir_crds::streamjob::DeletionPolicy;
use weir_crds::{Savepoint, SavepointPhase, SavepointStatus, StreamJob};

use crate::act::ActError;
use crate::looks::Again;
use crate::names::{self, FIELD_MANAGER, PATH_ANNOTATION, PRUNED_ANNOTATION, SAVEPOINT_FINALIZER};
use crate::observe::pod_state;
use crate::reconcile::Context;
use crate::world::PodState;
use decide::{Action, Decision, Job, World, decide};

/// After an act, what follows is looked at again so soon.
const SOON: Duration = Duration::from_millis(200);
/// One that is being written, or waits for its job.
const WAITING: Duration = Duration::from_secs(1);
/// One that has ended, or whose job is not there.
const AT_REST: Duration = Duration::from_secs(60);
/// After an error.
const AGAIN: Duration = Duration::from_secs(5);

/// What the look at a Savepoint works with.
pub struct SavepointContext {
    pub jobs: Store<StreamJob>,
    pub shared: Arc<Context>,
}

pub async fn reconcile(savepoint: &Savepoint, context: &SavepointContext) -> Again {
    match look_after(savepoint, context).await {
        Ok(again) => again,
        Err(error) if error.is_conflict() => Again::next_step(SOON),
        Err(error) => {
            tracing::warn!(savepoint = savepoint.name_any(), %error, "the look at a savepoint failed");
            Again::by_the_clock(AGAIN)
        }
    }
}

async fn look_after(savepoint: &Savepoint, context: &SavepointContext) -> Result<Again, ActError> {
    let shared = &context.shared;
    let namespace = savepoint.namespace().unwrap_or_default();
    let world = observe(savepoint, &namespace, context).await?;
    let decision = decide(&world);
    let api: Api<Savepoint> = Api::namespaced(shared.client.clone(), &namespace);
    let coordinator = shared.coordinators.of_job(&namespace, &savepoint.spec.job)?;
    match &decision.action {
        Action::Wait => {}
        Action::AddFinalizer => set_finalizer(savepoint, &api, true).await?,
        Action::RemoveFinalizer => set_finalizer(savepoint, &api, false).await?,
        Action::Record(status) => write_status(savepoint, &api, status).await?,
        Action::Ask { id, folder } => {
            coordinator.savepoint(id, folder.clone()).await.map_err(ActError::Coordinator)?;
        }
        Action::Remove { path } => {
            coordinator.remove_savepoint(path).await.map_err(ActError::Coordinator)?;
            set_finalizer(savepoint, &api, false).await?;
        }
    }
    tell(savepoint, &decision, shared).await;
    Ok(requeue(&world, &decision))
}

async fn observe(savepoint: &Savepoint, namespace: &str, context: &SavepointContext) -> Result<World, ActError> {
    let spec = &savepoint.spec;
    let annotation = |name: &str| savepoint.annotations().get(name).cloned();
    let id = names::savepoint_id(savepoint);
    Ok(World {
        now: Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default(),
        generation: savepoint.metadata.generation,
        deleted_at: savepoint.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        has_finalizer: savepoint.finalizers().iter().any(|finalizer| finalizer == SAVEPOINT_FINALIZER),
        on_delete: spec.on_delete.unwrap_or(DeletionPolicy::Retain),
        is_pruned: annotation(PRUNED_ANNOTATION).is_some(),
        adopted: annotation(PATH_ANNOTATION),
        folder: spec.path.as_ref().map(|path| format!("{}/{id}", path.trim_end_matches('/'))),
        id,
        job: job(savepoint, namespace, context).await?,
        status: savepoint.status.clone().unwrap_or_default(),
    })
}

/// The job's coordinator is asked only for a savepoint that waits for something.
async fn job(savepoint: &Savepoint, namespace: &str, context: &SavepointContext) -> Result<Job, ActError> {
    let name = &savepoint.spec.job;
    let silent = |why: &str| Ok(Job::Silent { why: why.to_owned() });
    let Some(job) = context.jobs.get(&ObjectRef::new(name).within(namespace)) else { return Ok(Job::Absent) };
    let phase = savepoint.status.as_ref().and_then(|status| status.phase);
    let has_ended = matches!(phase, Some(SavepointPhase::Completed | SavepointPhase::Failed));
    if has_ended && savepoint.metadata.deletion_timestamp.is_none() {
        return silent("nothing is asked");
    }
    let Some(run) = job.status.as_ref().and_then(|status| status.run.clone()) else {
        return silent("the job was never started");
    };
    let pod = context.shared.pod(namespace, &names::coordinator(name));
    if !pod.is_some_and(|pod| pod_state(&pod) == PodState::Running) {
        return silent("the job does not run at the moment");
    }
    let api = context.shared.coordinators.of_job(namespace, name)?;
    match api.runtime_with_savepoints(&run.storage_id).await {
        Some(runtime) => Ok(Job::Answers {
            storage_id: run.storage_id,
            generation: Some(run.generation),
            runtime: Box::new(runtime),
        }),
        None => silent("the job's coordinator does not answer at the moment"),
    }
}

async fn set_finalizer(savepoint: &Savepoint, api: &Api<Savepoint>, stands: bool) -> Result<(), ActError> {
    let mut finalizers: Vec<&str> = savepoint.finalizers().iter().map(String::as_str).collect();
    finalizers.retain(|finalizer| *finalizer != SAVEPOINT_FINALIZER);
    if stands {
        finalizers.push(SAVEPOINT_FINALIZER);
    }
    let metadata = json!({"resourceVersion": savepoint.resource_version(), "finalizers": finalizers});
    let patch = Patch::Merge(json!({"metadata": metadata}));
    match api.patch(&savepoint.name_any(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// On the version that was seen: what was decided on an old one is refused.
async fn write_status(savepoint: &Savepoint, api: &Api<Savepoint>, status: &SavepointStatus) -> Result<(), ActError> {
    let mut savepoint = savepoint.clone();
    savepoint.status = Some(status.clone());
    savepoint.metadata.managed_fields = None;
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    api.replace_status(&savepoint.name_any(), &parameters, &savepoint).await?;
    Ok(())
}

async fn tell(savepoint: &Savepoint, decision: &Decision, context: &Context) {
    let Some(reason) = decision.reason else { return };
    tracing::info!(savepoint = savepoint.name_any(), reason, message = decision.message, "acts");
    let is_bad = matches!(reason, "SavepointFailed" | "DataKept");
    let event = Event {
        type_: if is_bad { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(decision.message.chars().take(1_000).collect()),
        action: reason.to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &savepoint.object_ref(&())).await {
        tracing::debug!(savepoint = savepoint.name_any(), %error, "an event could not be written");
    }
}

fn requeue(world: &World, decision: &Decision) -> Again {
    let has_ended = matches!(world.status.phase, Some(SavepointPhase::Completed | SavepointPhase::Failed));
    match (&decision.action, &world.job) {
        (Action::Wait, Job::Absent) => Again::by_the_clock(AT_REST),
        (Action::Wait, _) if has_ended && world.deleted_at.is_none() => Again::by_the_clock(AT_REST),
        (Action::Wait, _) => Again::by_the_clock(WAITING),
        _ => Again::next_step(SOON),
    }
}
