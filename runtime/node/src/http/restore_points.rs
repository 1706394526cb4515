//! What the job could be restored from, read from storage.

use super::Shared;
use super::problem::{Answer, Failure};
use super::view::checkpoint_kind;
use crate::start::{StartFrom, job_folder, restore_point};
use axum::Json;
use axum::extract::State;
use std::sync::Arc;
use std::time::Duration;
use weir_api::view::{RestorePoint, RestorePointsView};
use weir_snapshot::log::RestorePoint as Point;
use weir_snapshot::{CheckpointSummary, Restorable, list_checkpoints, read_history};

/// A store that doesn't answer keeps nobody longer.
const STORAGE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn restore_points(State(shared): State<Arc<Shared>>) -> Answer<Json<RestorePointsView>> {
    let Ok(_heavy) = shared.heavy.try_acquire() else {
        return Err(Failure::unavailable("others are reading storage; try again"));
    };
    match tokio::time::timeout(STORAGE_TIMEOUT, read(&shared)).await {
        Ok(Ok(view)) => Ok(Json(view)),
        Ok(Err(reason)) => Err(Failure::unavailable(reason)),
        Err(_) => Err(Failure::unavailable(format!("storage gave no answer for {} s", STORAGE_TIMEOUT.as_secs()))),
    }
}

async fn read(shared: &Shared) -> Result<RestorePointsView, String> {
    let job = shared.running_job();
    let folder = job_folder(&job).await.map_err(|error| error.to_string())?;
    let history = read_history(&folder).await.map_err(|error| error.to_string())?;
    let next = restore_point(&history, &StartFrom::Latest).map_err(|error| error.to_string())?;
    let list = list_checkpoints(&folder).await.map_err(|error| error.to_string())?;
    Ok(RestorePointsView {
        next: next.map(|point| match point {
            Point::Checkpoint { checkpoint } => format!("checkpoint {checkpoint}"),
            Point::Location { uri } => uri,
        }),
        checkpoints: list.checkpoints.into_iter().map(of_summary).collect(),
        broken: list.broken.into_iter().map(|broken| format!("`{}`: {}", broken.object, broken.reason)).collect(),
    })
}

fn of_summary(summary: CheckpointSummary) -> RestorePoint {
    let CheckpointSummary {
        checkpoint,
        kind,
        completed_at_ms,
        duration_ms,
        new_bytes,
        full_bytes,
        unaligned,
        in_flight_bytes,
        pinned,
        restorable,
    } = summary;
    let faults = match restorable {
        Restorable::Yes => vec![],
        Restorable::No(faults) => faults,
    };
    RestorePoint {
        id: checkpoint.0,
        kind: checkpoint_kind(kind),
        completed_at_ms,
        duration_ms,
        new_bytes,
        full_bytes,
        is_unaligned: unaligned,
        in_flight_bytes,
        is_pinned: pinned,
        is_restorable: faults.is_empty(),
        faults,
    }
}
