//! What can go wrong between us and a broker.

use kafka_protocol::ResponseError;

pub type Result<T, E = KafkaError> = std::result::Result<T, E>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum KafkaError {
    /// No connection, or one that broke or gave nonsense: worth trying again.
    #[error("{0}")]
    Connection(String),
    /// What a broker answered.
    #[error("{what}: {code} (Kafka error {})", .code.code())]
    Broker { code: ResponseError, what: String },
    /// Asked for again and again, and nobody has heard of it.
    #[error("there is no topic `{0}` (UnknownTopicOrPartition)")]
    NoTopic(String),
    /// Will be the same however often it is tried.
    #[error("{0}")]
    Unusable(String),
}

impl KafkaError {
    pub(crate) fn broker(code: ResponseError, what: impl Into<String>) -> Self {
        KafkaError::Broker { code, what: what.into() }
    }

    pub fn code(&self) -> Option<ResponseError> {
        match self {
            KafkaError::Broker { code, .. } => Some(*code),
            KafkaError::NoTopic(_) => Some(ResponseError::UnknownTopicOrPartition),
            KafkaError::Connection(_) | KafkaError::Unusable(_) => None,
        }
    }

    /// Whether another try may go well.
    pub fn is_retriable(&self) -> bool {
        match self {
            KafkaError::Connection(_) => true,
            KafkaError::Broker { code, .. } => code.is_retriable() || *code == ResponseError::ConcurrentTransactions,
            KafkaError::NoTopic(_) | KafkaError::Unusable(_) => false,
        }
    }

    /// Whether somebody else has taken the producer's identity, or the broker has: the transaction is not ours any more.
    pub fn is_fenced(&self) -> bool {
        matches!(
            self.code(),
            Some(
                ResponseError::InvalidProducerEpoch
                    | ResponseError::ProducerFenced
                    | ResponseError::InvalidProducerIdMapping
                    | ResponseError::InvalidTxnState
                    | ResponseError::UnknownProducerId
            )
        )
    }
}

/// The error that a response's code stands for, if it does.
pub(crate) fn check(code: i16, what: impl FnOnce() -> String) -> Result<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(code) => Err(KafkaError::broker(code, what())),
    }
}
