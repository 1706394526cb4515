//! Errors on their way out.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use weir_api::{PROBLEM_MEDIA_TYPE, Problem};

/// A request that is not carried out.
pub(super) struct Failure(pub(super) Problem);

pub(super) type Answer<T> = Result<T, Failure>;

impl Failure {
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Failure(Problem::new(400, "Bad request", detail))
    }

    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Failure(Problem::new(401, "Unauthorized", detail))
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Failure(Problem::new(403, "Forbidden", detail))
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Failure(Problem::new(404, "Not found", detail))
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Failure(Problem::new(409, "Conflict", detail))
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Failure(Problem::new(413, "Too large", format!("the body is longer than {limit} bytes")))
    }

    pub(super) fn too_many(detail: impl Into<String>) -> Self {
        Failure(Problem::new(429, "Too many requests", detail))
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Failure(Problem::new(503, "Unavailable", detail))
    }

    pub(super) fn ended() -> Self {
        Failure::conflict("the job has ended")
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        match status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
