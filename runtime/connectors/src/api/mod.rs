//! The connector traits. They know checkpoints, offsets and commits, and nothing of threads or channels:
//! a reader is polled and a writer is called by the task that owns it.

mod probe;
mod sink;
mod source;

pub use probe::*;
pub use sink::*;
pub use source::*;

/// A connector's failure.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Worth trying again: the other side was away, slow or busy. It fails the attempt; the restart strategy decides what
    /// follows.
    #[error("{0}")]
    Transient(String),
    /// Will fail again however often it is tried: bad configuration, a right that is not there, a record that can't be decoded.
    /// It ends the job, whatever the restart strategy.
    #[error("{0}")]
    Permanent(String),
}

impl ConnectorError {
    /// The same, with what was being done in front.
    #[must_use]
    pub fn during(self, what: impl std::fmt::Display) -> Self {
        match self {
            ConnectorError::Transient(reason) => ConnectorError::Transient(format!("{what}: {reason}")),
            ConnectorError::Permanent(reason) => ConnectorError::Permanent(format!("{what}: {reason}")),
        }
    }
}
