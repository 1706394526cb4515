//! One Checkpoint object for each checkpoint that the job's storage retains, so that `kubectl get checkpoints` lists
//! them. The storage is the truth; the objects follow it.

use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use weir_api::view::{CheckpointKind as ApiKind, RestorePoint};
use weir_crds::checkpoint::{Checkpoint, CheckpointKind, CheckpointPhase, CheckpointStatus, TriState};
use weir_crds::streamjob::CheckpointMode;
use weir_crds::{ByteSize, HumanDuration, StreamJob, StreamJobStatus};

use crate::act::{ActError, Hands};
use crate::coordinator_api::{CoordinatorApi, timestamp};
use crate::names::{self, FIELD_MANAGER, JOB_LABEL};
use crate::reconcile::Context;
use crate::world::World;

/// More are not shown: who retains more looks at the storage.
const SHOWN: usize = 100;

/// Brings the objects up to date where the status that was just written names another latest checkpoint.
pub async fn mirror(
    job: &StreamJob,
    world: &World,
    written: &StreamJobStatus,
    hands: &Hands,
    context: &Context,
) -> Result<(), ActError> {
    let latest = |status: &StreamJobStatus| Some(status.checkpoints.as_ref()?.last_completed.as_ref()?.id);
    let is_news = latest(&world.status) != latest(written);
    if world.runtime.is_none() || world.deleted_at.is_some() || !is_news {
        return Ok(());
    }
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let api = CoordinatorApi::of(&context.settings.token_key, &namespace, &name);
    let points = match api.restore_points().await {
        Ok(points) => points.checkpoints,
        // Next time: the objects are a view.
        Err(error) => {
            tracing::debug!(job = name, error, "restore points are not known");
            return Ok(());
        }
    };
    let objects: Api<Checkpoint> = hands.checkpoints();
    let selector = ListParams::default().labels(&format!("{JOB_LABEL}={name}"));
    let standing: Vec<String> = objects.list_metadata(&selector).await?.into_iter().map(|one| one.name_any()).collect();
    let shown: Vec<&RestorePoint> = points.iter().rev().take(SHOWN).collect();
    for point in &shown {
        let object = names::checkpoint(&name, point.id);
        if !standing.contains(&object) {
            write(job, world, point, &objects).await?;
        }
    }
    for gone in standing.iter().filter(|one| !shown.iter().any(|point| names::checkpoint(&name, point.id) == **one)) {
        match objects.delete(gone, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(())
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
        retained_because: if point.is_pinned { vec!["Pinned".to_owned()] } else { vec!["RetainCount".to_owned()] },
    };
    let patch = json!({"apiVersion": weir_crds::API_VERSION, "kind": "Checkpoint", "status": status});
    objects.patch_status(&object, &parameters, &Patch::Apply(&patch)).await?;
    Ok(())
}
