//! What the SDK's errors mean to a caller.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use std::error::Error;
use weir_aws::Unanswered;
use weir_snapshot::StorageErrorKind;

/// Codes of a service that will do it later; the SDK has tried again already.
const TRANSIENT_CODES: [&str; 9] = [
    "ConditionalRequestConflict",
    "OperationAborted",
    "ExpiredToken",
    "InternalError",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
];

/// What a failed call was about.
#[derive(Debug)]
pub struct Failure {
    pub kind: StorageErrorKind,
    pub message: String,
    /// Of the answer, where there was one.
    pub status: Option<u16>,
    pub code: Option<String>,
}

impl Failure {
    pub(crate) fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// The condition of a write was not met.
    pub(crate) fn is_precondition(&self) -> bool {
        self.status == Some(412) || self.has_code("PreconditionFailed")
    }

    /// Another conditional write of the same key was under way.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status == Some(409) && !self.has_code("BucketNotEmpty")
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let status = error.raw_response().map(|response| response.status().as_u16());
        match &error {
            SdkError::ServiceError(service) => {
                let metadata = service.err().meta();
                let code = metadata.code().map(str::to_owned);
                let message = described(status, metadata.code(), metadata.message(), metadata.request_id());
                Failure { kind: kind_of(status, metadata.code()), message, status, code }
            }
            SdkError::ConstructionFailure(_) => Failure {
                kind: StorageErrorKind::Permanent,
                message: weir_model::error_chain(&error),
                status,
                code: None,
            },
            _ => {
                let Unanswered { is_final, message } = weir_aws::unanswered(&error, CREDENTIALS_FIELD);
                let kind = if is_final { StorageErrorKind::Permanent } else { StorageErrorKind::Transient };
                Failure { kind, message, status, code: None }
            }
        }
    }
}

const CREDENTIALS_FIELD: &str = "storage.credentials";

fn kind_of(status: Option<u16>, code: Option<&str>) -> StorageErrorKind {
    match (status, code) {
        (_, Some(code)) if TRANSIENT_CODES.contains(&code) => StorageErrorKind::Transient,
        (_, Some("NoSuchBucket")) => StorageErrorKind::Permanent,
        (Some(404), _) => StorageErrorKind::NotFound,
        // A service that is not fully there, or has too much to do.
        (Some(408 | 409 | 429 | 500 | 502..=599), _) => StorageErrorKind::Transient,
        _ => StorageErrorKind::Permanent,
    }
}

fn described(status: Option<u16>, code: Option<&str>, message: Option<&str>, request: Option<&str>) -> String {
    let mut text = weir_aws::described(status, code, message, request);
    match (status, code) {
        (_, Some("NoSuchBucket")) => text.push_str("; create the bucket, or correct its name"),
        (Some(301), _) | (_, Some("AuthorizationHeaderMalformed")) => {
            text.push_str("; the bucket is in another region: correct `storage.region`");
        }
        (Some(403), _) => text.push_str(
            "; needed on the prefix: s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload, and on the \
             bucket: s3:ListBucket, s3:ListBucketMultipartUploads",
        ),
        (Some(501), _) => text.push_str("; the store lacks something that is needed here"),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (status, code, expected) in [
            (404, Some("NoSuchKey"), StorageErrorKind::NotFound),
            (404, None, StorageErrorKind::NotFound),
            (404, Some("NoSuchBucket"), StorageErrorKind::Permanent),
            (403, Some("AccessDenied"), StorageErrorKind::Permanent),
            (400, Some("ExpiredToken"), StorageErrorKind::Transient),
            (409, Some("ConditionalRequestConflict"), StorageErrorKind::Transient),
            (501, Some("NotImplemented"), StorageErrorKind::Permanent),
            (503, Some("SlowDown"), StorageErrorKind::Transient),
            (500, None, StorageErrorKind::Transient),
        ] {
            assert_eq!(kind_of(Some(status), code), expected, "{status} {code:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_needed() {
        let text = described(Some(403), Some("AccessDenied"), Some("Access Denied."), Some("42"));
        assert!(text.starts_with("AccessDenied: Access Denied. (HTTP 403, request 42); needed"), "{text}");
    }
}
