//! From the list of operations to handlers, and what every request passes on its way.

use super::access::Entry;
use super::problem::{Answer, Failure};
use super::{Shared, change, plan, read, restore_points};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use std::sync::Arc;
use weir_api::{Access, Operation, Problem};

pub(super) fn router(shared: Arc<Shared>, entry: Entry) -> Router {
    let routes = Operation::ALL.into_iter().fold(Router::new(), |router, operation| {
        let guard = Guard { shared: Arc::clone(&shared), entry, access: operation.access() };
        router.route(operation.path(), handler(operation).layer(from_fn_with_state(guard, pass)))
    });
    routes.fallback(no_such_path).method_not_allowed_fallback(no_such_method).with_state(shared)
}

fn handler(operation: Operation) -> MethodRouter<Arc<Shared>> {
    match operation {
        Operation::Job => get(read::job),
        Operation::Graph => get(read::graph),
        Operation::Subtasks => get(read::subtasks),
        Operation::Checkpoints => get(read::checkpoints),
        Operation::Checkpoint => get(read::checkpoint),
        Operation::RestorePoints => get(restore_points::restore_points),
        Operation::Savepoints => get(change::savepoints),
        Operation::Savepoint => get(change::savepoint),
        Operation::TriggerSavepoint => post(change::trigger_savepoint),
        Operation::RemoveSavepoint => post(change::remove_savepoint),
        Operation::PinCheckpoint => post(change::pin_checkpoint),
        Operation::Rescale => post(change::rescale),
        Operation::RescaleState => get(change::rescale_state),
        Operation::Stop => post(change::stop),
        Operation::Cancel => post(change::cancel),
        Operation::Plan => post(plan::plan),
        Operation::OpenApi => get(read::openapi),
        Operation::Metrics => get(read::metrics),
        Operation::Healthy => get(read::healthy),
        Operation::Ready => get(read::ready),
    }
}

#[derive(Clone)]
struct Guard {
    shared: Arc<Shared>,
    entry: Entry,
    access: Access,
}

async fn pass(State(guard): State<Guard>, request: Request, next: Next) -> Answer<Response> {
    let Guard { shared, entry, access } = guard;
    if access == Access::Open {
        // A probe is answered however many others ask.
        return Ok(next.run(request).await);
    }
    let Ok(_answering) = shared.answering.try_acquire() else {
        return Err(Failure::unavailable("too many requests at once; try again"));
    };
    shared.token.check(entry, access, request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

async fn no_such_path(request: Request) -> Failure {
    let path: String = request.uri().path().chars().take(100).collect();
    Failure::not_found(format!("there is nothing at `{path}`; /api/v1/openapi.json says what there is"))
}

async fn no_such_method(request: Request) -> Failure {
    let detail = format!("{} is not what `{}` takes", request.method(), request.uri().path());
    Failure(Problem::new(405, "Method not allowed", detail))
}
