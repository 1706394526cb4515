//! From the client's errors to those of connectors.

use weir_connectors::api::ConnectorError;
use weir_kafka_client::{KafkaError, ResponseError};

/// What broke, may break again or has been lost is tried again by a restart; what was refused is not.
pub(crate) fn connector_error(context: &str, error: &KafkaError) -> ConnectorError {
    let text = format!("{context}: {error}{}", remedy(error));
    // A producer that was fenced is replaced by the next attempt's.
    if error.is_retriable() || error.is_fenced() || is_of_attempt(error) {
        ConnectorError::Transient(text)
    } else {
        ConnectorError::Permanent(text)
    }
}

fn is_of_attempt(error: &KafkaError) -> bool {
    matches!(
        error.code(),
        Some(
            ResponseError::OutOfOrderSequenceNumber
                | ResponseError::DuplicateSequenceNumber
                | ResponseError::TransactionAbortable
                | ResponseError::UnknownServerError
        )
    )
}

fn remedy(error: &KafkaError) -> &'static str {
    match error.code() {
        Some(ResponseError::UnknownTopicOrPartition) => ". Create the topic, or correct its name",
        Some(ResponseError::SaslAuthenticationFailed) => {
            ". Correct sasl.username and sasl.password (or the token), or give this user an account for the mechanism"
        }
        Some(ResponseError::TopicAuthorizationFailed) => {
            ". Allow this user the topic (READ for a source, WRITE for a sink)"
        }
        Some(ResponseError::GroupAuthorizationFailed) => ". Allow this user to READ the group, or set another groupId",
        Some(ResponseError::TransactionalIdAuthorizationFailed) => {
            ". Allow this user to WRITE and DESCRIBE transactional ids of this prefix"
        }
        Some(ResponseError::ClusterAuthorizationFailed) => ". Allow this user IDEMPOTENT_WRITE on the cluster",
        Some(ResponseError::InvalidTransactionTimeout) => {
            ". Lower transactionTimeout, or raise transaction.max.timeout.ms of the brokers"
        }
        Some(ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge) => {
            ". Lower batch.size in properties, or raise max.message.bytes of the topic"
        }
        _ => "",
    }
}
