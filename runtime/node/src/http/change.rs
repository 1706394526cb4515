//! What changes the job.

use super::Shared;
use super::problem::{Answer, Failure};
use crate::control::Request;
use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use weir_api::SavepointId;
use weir_api::view::*;
use weir_coordinator::StopMode;
use weir_model::CheckpointId;
use weir_snapshot::LogError;

/// Longest body, bytes: a StreamJob with all its SQL.
pub(super) const BODY_BYTES: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a savepoint in one request.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) async fn savepoints(State(shared): State<Arc<Shared>>) -> Json<SavepointsView> {
    Json(SavepointsView { savepoints: shared.savepoints.all() })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

pub(super) async fn savepoint(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<SavepointView>> {
    let id = SavepointId::try_from(id).map_err(Failure::bad_request)?;
    let Query(Wait { wait_ms }) = wait.map_err(|error| Failure::bad_request(error.body_text()))?;
    let waited = shared.savepoints.ended(&id, Duration::from_millis(wait_ms).min(MAX_WAIT)).await;
    waited.map(Json).ok_or_else(|| Failure::not_found(format!("this coordinator was asked for no savepoint `{id}`")))
}

pub(super) async fn trigger_savepoint(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Answer<(StatusCode, Json<SavepointView>)> {
    let request: SavepointRequest = json(body).await?;
    Ok((StatusCode::ACCEPTED, Json(super::savepoints::trigger(&shared, request, false).await?)))
}

pub(super) async fn remove_savepoint(State(shared): State<Arc<Shared>>, body: Body) -> Answer<Json<RemovedSavepoint>> {
    let RemoveSavepointRequest { address } = json(body).await?;
    let Ok(_heavy) = shared.heavy.try_acquire() else {
        return Err(Failure::unavailable("others are reading storage; try again"));
    };
    super::removal::remove(&shared, &address).await.map(|objects| Json(RemovedSavepoint { objects }))
}

pub(super) async fn pin_checkpoint(State(shared): State<Arc<Shared>>, body: Body) -> Answer<Json<PinView>> {
    let PinRequest { checkpoint, is_pinned } = json(body).await?;
    let (answer, answered) = tokio::sync::oneshot::channel();
    if !shared.requests.send(Request::Pin { checkpoint: CheckpointId(checkpoint), is_pinned, answer }) {
        return Err(Failure::ended());
    }
    match tokio::time::timeout(MAX_WAIT, answered).await {
        Ok(Ok(Ok(()))) => Ok(Json(PinView { checkpoint, is_pinned })),
        Ok(Ok(Err(error @ LogError::Refused(_)))) => Err(Failure::conflict(error.to_string())),
        Ok(Ok(Err(error))) => Err(Failure::unavailable(error.to_string())),
        Ok(Err(_)) => Err(Failure::ended()),
        Err(_) => Err(Failure::unavailable(format!("storage gave no answer for {} s", MAX_WAIT.as_secs()))),
    }
}

pub(super) async fn stop(State(shared): State<Arc<Shared>>, body: Body) -> Answer<(StatusCode, Json<Accepted>)> {
    let bytes = bytes(body).await?;
    let request: StopRequest = if bytes.is_empty() { StopRequest::default() } else { parse(&bytes)? };
    let savepoint = match request.savepoint {
        Some(request) => Some(super::savepoints::trigger(&shared, request, true).await?),
        None => {
            ask_to_stop(&shared, StopMode::Drain)?;
            None
        }
    };
    Ok((StatusCode::ACCEPTED, Json(Accepted { savepoint })))
}

pub(super) async fn cancel(State(shared): State<Arc<Shared>>) -> Answer<(StatusCode, Json<Accepted>)> {
    ask_to_stop(&shared, StopMode::Cancel)?;
    Ok((StatusCode::ACCEPTED, Json(Accepted::default())))
}

pub(super) async fn rescale(State(shared): State<Arc<Shared>>, body: Body) -> Answer<(StatusCode, Json<RescaleView>)> {
    let request: RescaleRequest = json(body).await?;
    Ok((StatusCode::ACCEPTED, Json(super::rescales::trigger(&shared, request).await?)))
}

pub(super) async fn rescale_state(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<RescaleView>> {
    let number = id.parse().map_err(|_| Failure::bad_request(format!("`{id:.40}` is not a rescale's number")))?;
    let Query(Wait { wait_ms }) = wait.map_err(|error| Failure::bad_request(error.body_text()))?;
    let waited = shared.rescales.ended(number, Duration::from_millis(wait_ms).min(MAX_WAIT)).await;
    waited.map(Json).ok_or_else(|| Failure::not_found(format!("this coordinator knows no rescale {number}")))
}

fn ask_to_stop(shared: &Shared, mode: StopMode) -> Answer<()> {
    if shared.requests.send(Request::Stop(mode)) { Ok(()) } else { Err(Failure::ended()) }
}

async fn json<T: DeserializeOwned>(body: Body) -> Answer<T> {
    parse(&bytes(body).await?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    serde_json::from_slice(bytes).map_err(|error| Failure::bad_request(format!("the body: {error}")))
}

pub(super) async fn bytes(body: Body) -> Answer<axum::body::Bytes> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES)).await {
        Err(_) => Err(Failure::bad_request(format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()))),
        Ok(Ok(bytes)) => Ok(bytes),
        // It is a length error, or the connection is gone and nobody reads the answer.
        Ok(Err(_)) => Err(Failure::too_large(BODY_BYTES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_bounded() {
        let status = |result: Answer<axum::body::Bytes>| result.map_or_else(|failure| failure.0.status, |_| 200);
        assert_eq!(status(bytes(Body::from(vec![b'x'; BODY_BYTES])).await), 200);
        assert_eq!(status(bytes(Body::from(vec![b'x'; BODY_BYTES + 1])).await), 413);
    }
}
