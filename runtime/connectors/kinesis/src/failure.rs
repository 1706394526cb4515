//! What the service's errors mean to a reader.

use aws_sdk_kinesis::config::http::HttpResponse;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::RequestId;
use std::error::Error;
use weir_aws::Unanswered;
use weir_connectors::api::ConnectorError;

/// Codes of a service that will do it later; the SDK has tried again already.
const TRANSIENT_CODES: [&str; 11] = [
    "ExpiredNextTokenException",
    "ExpiredTokenException",
    "InternalFailure",
    "InternalFailureException",
    "KMSThrottlingException",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestTimeout",
    // The stream is being made or changed.
    "ResourceInUseException",
    "ServiceUnavailable",
    "ThrottlingException",
];
const CREDENTIALS_FIELD: &str = "kinesis.credentials";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Of an iterator, which lives for five minutes: another one can be had.
    Expired,
    Transient(String),
    Permanent(String),
}

impl Failure {
    pub(crate) fn of(self, what: impl std::fmt::Display) -> ConnectorError {
        match self {
            Failure::Expired => ConnectorError::Transient(format!("{what}: the iterator expired")),
            Failure::Transient(reason) => ConnectorError::Transient(format!("{what}: {reason}")),
            Failure::Permanent(reason) => ConnectorError::Permanent(format!("{what}: {reason}")),
        }
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
                let text = weir_aws::described(status, metadata.code(), metadata.message(), metadata.request_id());
                of_answer(status, metadata.code(), text)
            }
            SdkError::ConstructionFailure(_) => Failure::Permanent(weir_model::error_chain(&error)),
            _ => match weir_aws::unanswered(&error, CREDENTIALS_FIELD) {
                Unanswered { is_final: true, message } => Failure::Permanent(message),
                Unanswered { is_final: false, message } => Failure::Transient(message),
            },
        }
    }
}

fn of_answer(status: Option<u16>, code: Option<&str>, text: String) -> Failure {
    let remedy = match code {
        Some("ExpiredIteratorException") => return Failure::Expired,
        Some(code) if TRANSIENT_CODES.contains(&code) => return Failure::Transient(text),
        Some("ResourceNotFoundException") => "; create the stream, or correct its name and region",
        Some("AccessDeniedException") => {
            "; needed on the stream: kinesis:DescribeStreamSummary, kinesis:ListShards, kinesis:GetShardIterator and \
             kinesis:GetRecords"
        }
        Some("UnrecognizedClientException" | "InvalidSignatureException" | "IncompleteSignature") => {
            "; correct the credentials"
        }
        _ if status.is_some_and(|status| status == 429 || status >= 500) => return Failure::Transient(text),
        _ => "",
    };
    Failure::Permanent(text + remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_refused_says_what_to_do() {
        let of = |status, code| of_answer(Some(status), Some(code), code.to_owned());
        assert_eq!(of(400, "ExpiredIteratorException"), Failure::Expired);
        let throttled = "ProvisionedThroughputExceededException";
        assert_eq!(of(400, throttled), Failure::Transient(throttled.into()));
        assert_eq!(of(503, "Whatever"), Failure::Transient("Whatever".into()));
        assert_eq!(of(400, "ValidationException"), Failure::Permanent("ValidationException".into()));
        let Failure::Permanent(gone) = of(400, "ResourceNotFoundException") else { panic!("it stays away") };
        assert!(gone.contains("create the stream"), "{gone}");
        let Failure::Permanent(denied) = of(400, "AccessDeniedException") else { panic!("it stays refused") };
        assert!(denied.contains("kinesis:GetRecords"), "{denied}");
    }
}
