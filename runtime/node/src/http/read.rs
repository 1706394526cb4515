//! What is read of the running job.

use super::problem::{Answer, Failure};
use super::{Shared, metrics, view};
use crate::storage_thread::now_ms;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::sync::{Arc, PoisonError};
use weir_api::view::*;

pub(super) async fn job(State(shared): State<Arc<Shared>>) -> Json<JobView> {
    let status = shared.status.lock();
    Json(view::job(&status, &shared.job, now_ms()))
}

pub(super) async fn graph(State(shared): State<Arc<Shared>>) -> Json<GraphView> {
    Json(view::graph(&shared.running_job().graph))
}

pub(super) async fn subtasks(State(shared): State<Arc<Shared>>) -> Json<SubtasksView> {
    let rates = shared.rates.lock().unwrap_or_else(PoisonError::into_inner);
    let status = shared.status.lock();
    Json(view::subtasks(&status, &rates))
}

pub(super) async fn checkpoints(State(shared): State<Arc<Shared>>) -> Json<CheckpointsView> {
    let rates = shared.rates.lock().unwrap_or_else(PoisonError::into_inner);
    let status = shared.status.lock();
    Json(view::checkpoints(&status, &rates))
}

pub(super) async fn checkpoint(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Answer<Json<CheckpointDetail>> {
    let number = id.parse().map_err(|_| Failure::bad_request(format!("`{id:.40}` is not a checkpoint's number")))?;
    let status = shared.status.lock();
    match view::checkpoint(&status, number) {
        Some(detail) => Ok(Json(detail)),
        None => Err(Failure::not_found(format!(
            "checkpoint {number} is none of the last {} that this coordinator has ended",
            status.checkpoints.len()
        ))),
    }
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], weir_api::openapi::document()).into_response()
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    // The runner waits for the lock no longer than it takes to copy numbers.
    let samples = metrics::Samples::of(&shared.status.lock(), &shared.job, now_ms());
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], samples.text()).into_response()
}

pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Answer<&'static str> {
    let status = shared.status.lock();
    match view::phase(&status) {
        JobPhase::Running => Ok("ok\n"),
        phase => {
            let waits = status.waits_for.as_ref().map(|wait| format!(", has {wait}")).unwrap_or_default();
            Err(Failure::unavailable(format!("the job is {phase:?}{waits}")))
        }
    }
}
