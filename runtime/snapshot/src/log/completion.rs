//! Completing a checkpoint to a certain end: it stands in the log, or it never will, or this writer is no more.

use super::{CommitLog, LogError};
use crate::manifest::CheckpointManifest;
use crate::retention::Retention;
use std::time::Duration;
use weir_model::{CheckpointId, Durable};

/// Tries to learn whether an entry stands in the log, before the job is given up to whoever can.
const APPEND_TRIES: u32 = 10;
const LONGEST_PAUSE_MS: u64 = 10_000;

/// What became of a checkpoint.
#[derive(Debug)]
pub enum Completion {
    Completed(Durable<CheckpointId>),
    /// It does not stand in the log, and never will.
    Failed {
        reason: String,
    },
    /// Another writer has the log, or it cannot be said who has: this one must stop.
    Fenced {
        by: String,
    },
}

impl CommitLog {
    /// As `complete`, asking again for as long as the storage gives no answer, within bounds.
    pub async fn complete_for_certain(
        &mut self,
        manifest: CheckpointManifest,
        retention: &Retention,
        protect_from: Option<CheckpointId>,
        now_ms: u64,
    ) -> Completion {
        let checkpoint = manifest.checkpoint;
        let mut pause_ms = self.options().backoff_ms;
        for _ in 0..APPEND_TRIES {
            // The same entry each time, so that one of which no answer came is known again.
            match self.complete(manifest.clone(), retention, protect_from, now_ms).await {
                Ok(checkpoint) => return Completion::Completed(checkpoint),
                Err(LogError::Fenced { reason, .. }) => return Completion::Fenced { by: reason },
                Err(LogError::Unknown(error)) => {
                    tracing::warn!(%checkpoint, %error, "the storage gave no answer; asking again");
                    if pause_ms > 0 {
                        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    }
                    pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
                }
                Err(error @ (LogError::Storage(_) | LogError::Refused(_) | LogError::Broken(_))) => {
                    return Completion::Failed { reason: error.to_string() };
                }
            }
        }
        // Going on would be guessing: a new start reads the log afresh.
        Completion::Fenced { by: format!("the storage doesn't say whether checkpoint {checkpoint} stands in the log") }
    }
}
