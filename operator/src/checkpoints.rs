//! One Checkpoint object for each checkpoint that the job's storage retains, so that `kubectl get checkpoints` lists
//! them. The storage is the truth; the objects follow it.

use std::time::Instant;

use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::events::EventType;
use serde_json::json;
use weir_api::view::{CheckpointKind as ApiKind, RestorePoint};
use weir_crds::checkpoint::{Checkpoint, CheckpointKind, CheckpointPhase, CheckpointStatus, TriState};
use weir_crds::streamjob::CheckpointMode;
use weir_crds::{ByteSize, HumanDuration, StreamJob, StreamJobStatus};

use crate::act::{ActError, Hands};
use crate::coordinator_api::{CoordinatorApi, timestamp};
use crate::decide::{Action, Decision};
use crate::names::{self, FIELD_MANAGER, JOB_LABEL};
use crate::reconcile::{Context, publish};
use crate::world::World;

/// More are not shown: who retains more looks at the storage.
const SHOWN: usize = 100;

/// Among the reasons for which a checkpoint is kept.
const PINNED: &str = "Pinned";

/// Whether the resource asks for something else than is so. One that says nothing asks for nothing.
pub fn is_pin_asked(checkpoint: &Checkpoint) -> bool {
    let is_pinned = checkpoint.status.iter().flat_map(|status| &status.retained_because).any(|why| why == PINNED);
    checkpoint.spec.pinned.is_some_and(|wanted| wanted != is_pinned)
}

/// Brings the objects up to date where the status that was just written names another latest checkpoint, and does what
/// they ask for.
pub async fn mirror(
    job: &StreamJob,
    world: &World,
    decision: &Decision,
    written: Option<&StreamJobStatus>,
    hands: &Hands,
    context: &Context,
) -> Result<(), ActError> {
    if world.runtime.is_none() || world.deleted_at.is_some() || !is_due(job, world, decision, written, context) {
        return Ok(());
    }
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let api = context.coordinators.of_job(&namespace, &name)?;
    let objects: Api<Checkpoint> = hands.checkpoints();
    let selector = ListParams::default().labels(&format!("{JOB_LABEL}={name}"));
    context.pins.forget(job);
    let standing = objects.list(&selector).await?.items;
    for asked in standing.iter().filter(|one| is_pin_asked(one)) {
        pin(job, asked, &api, context).await;
    }
    let points = match api.restore_points().await {
        Ok(points) => points.checkpoints,
        // Next time: the objects are a view.
        Err(error) => {
            tracing::debug!(job = name, error, "restore points are not known");
            return Ok(());
        }
    };
    // What is pinned is shown, however many have come since.
    let (pinned, others): (Vec<&RestorePoint>, Vec<_>) = points.iter().rev().partition(|point| point.is_pinned);
    let shown: Vec<&RestorePoint> = pinned.into_iter().chain(others).take(SHOWN).collect();
    for point in &shown {
        let object = names::checkpoint(&name, point.id);
        let is_shown = |one: &Checkpoint| {
            let because = one.status.as_ref().map(|status| status.retained_because.as_slice()).unwrap_or_default();
            one.name_any() == object && because == retained_because(point)
        };
        if !standing.iter().any(is_shown) {
            write(job, world, point, &objects).await?;
        }
    }
    let is_gone = |one: &&Checkpoint| !shown.iter().any(|point| names::checkpoint(&name, point.id) == one.name_any());
    for gone in standing.iter().filter(is_gone) {
        match objects.delete(&gone.name_any(), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Somebody asks for a pin, or there are other checkpoints and it is time to show them.
fn is_due(
    job: &StreamJob,
    world: &World,
    decision: &Decision,
    written: Option<&StreamJobStatus>,
    context: &Context,
) -> bool {
    let latest = |status: &StreamJobStatus| Some(status.checkpoints.as_ref()?.last_completed.as_ref()?.id);
    let is_news = written.is_some_and(|written| latest(&world.status) != latest(written));
    // A job's first is shown at once.
    let is_first = latest(&world.status).is_none();
    // The next step of what is begun does not wait for it.
    let is_idle = decision.action == Action::Wait;
    let is_due = || is_idle && context.views.is_due(job, context.pace().view, Instant::now());
    let is_time = is_news && (is_first || is_due());
    is_time || context.pins.are_asked(job)
}

async fn pin(job: &StreamJob, asked: &Checkpoint, api: &CoordinatorApi, context: &Context) {
    let (name, is_pinned) = (asked.name_any(), asked.spec.pinned == Some(true));
    let (kind, reason, note) = match (api.pin_checkpoint(asked.spec.id, is_pinned).await, is_pinned) {
        (Ok(()), true) => (EventType::Normal, "CheckpointPinned", format!("{name} stays until it is unpinned")),
        (Ok(()), false) => (EventType::Normal, "CheckpointUnpinned", format!("{name} goes by retention")),
        (Err(error), _) => (EventType::Warning, "PinRefused", format!("{name}: {error}")),
    };
    publish(job, kind, reason, &note, context).await;
}

fn retained_because(point: &RestorePoint) -> [&'static str; 1] {
    if point.is_pinned { [PINNED] } else { ["RetainCount"] }
}

async fn write(
    job: &StreamJob,
    world: &World,
    point: &RestorePoint,
    objects: &Api<Checkpoint>,
) -> Result<(), ActError> {
    let Some(run) = world.run() else { return Ok(()) };
    let (name, object) = (job.name_any(), names::checkpoint(&job.name_any(), point.id));
    let uri = job.spec.storage_uri().unwrap_or_default().trim_end_matches('/').to_owned();
    let mode = job.spec.checkpoint.as_ref().map(|policy| policy.mode());
    let kind = match (point.kind, mode) {
        (ApiKind::Final, _) => CheckpointKind::Final,
        (_, Some(CheckpointMode::AtLeastOnce)) => CheckpointKind::AtLeastOnce,
        _ if point.is_unaligned => CheckpointKind::Unaligned,
        _ => CheckpointKind::Aligned,
    };
    let value = json!({
        "apiVersion": weir_crds::API_VERSION,
        "kind": "Checkpoint",
        "metadata": {
            "name": object,
            "labels": names::labels(&name),
            "ownerReferences": [kube::Resource::controller_owner_ref(job, &())],
        },
        "spec": {"job": name, "jobUid": run.storage_id, "id": point.id, "kind": kind, "path": format!("{uri}/{}", run.storage_id)},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    objects.patch(&object, &parameters, &Patch::Apply(&value)).await?;
    let status = CheckpointStatus {
        phase: Some(if point.is_restorable { CheckpointPhase::Completed } else { CheckpointPhase::Broken }),
        completed_at: timestamp(point.completed_at_ms).map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time),
        duration: Some(HumanDuration::from_millis(point.duration_ms)),
        size: Some(point.new_bytes),
        display_size: Some(ByteSize::from_bytes(point.new_bytes).approximate()),
        state_size: Some(point.full_bytes),
        restorable: Some(if point.is_restorable { TriState::True } else { TriState::False }),
        message: point.faults.first().cloned(),
        retained_because: retained_because(point).map(str::to_owned).into(),
    };
    let patch = json!({"apiVersion": weir_crds::API_VERSION, "kind": "Checkpoint", "status": status});
    objects.patch_status(&object, &parameters, &Patch::Apply(&patch)).await?;
    Ok(())
}
