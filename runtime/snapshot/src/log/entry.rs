//! One entry of the commit log.

use crate::envelope::{self, EnvelopeError};
use crate::folder::log_entry_path;
use crate::manifest::CheckpointManifest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use weir_model::{CheckpointId, Epoch};

/// Who writes: a new one for each opening of a log. Tells "my put succeeded and the response was lost" from
/// "another was faster".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(String);

impl WriterId {
    pub fn random() -> Self {
        WriterId(uuid::Uuid::new_v4().to_string())
    }

    /// For tests and simulations, which choose their own.
    pub fn named(name: impl Into<String>) -> Self {
        WriterId(name.into())
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    pub number: u64,
    pub epoch: Epoch,
    pub owner: WriterId,
    /// The first entry that still counts. What has a lower number was trimmed, or is about to be,
    /// or was put there by a paused writer that has been fenced since.
    pub low_water: u64,
    /// Milliseconds since the Unix epoch, by the writer's clock.
    pub written_at_ms: u64,
    pub record: LogRecord,
    /// The names of the last starts that are made once, oldest first. Every entry says them again, for the one that they
    /// came with is trimmed in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
}

/// A forgotten coordinator that was told an older one would begin anew once more: so many are remembered.
pub(super) const MAX_MARKS: usize = 8;

/// The name of a start that is made once, however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(String);

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const CHARS: usize = 100;
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        match !text.is_empty() && text.len() <= CHARS && text.chars().all(is_allowed) {
            true => Ok(Mark(text.to_owned())),
            false => Err(format!(
                "`{text}` names no start; write letters, digits, `-`, `_` and `.`, and at most {CHARS} of them"
            )),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LogRecord {
    Opened(Opened),
    CheckpointCompleted(CheckpointManifest),
    Closed(Closed),
}

/// A coordinator took over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    /// Where the job starts from. `None`: empty, because it never had a checkpoint or the user said so.
    pub restored_from: Option<RestorePoint>,
    /// Tells versions of the job apart: a hash of the spec.
    pub job_fingerprint: String,
}

/// What a job can start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestorePoint {
    /// A checkpoint of this log.
    Checkpoint { checkpoint: CheckpointId },
    /// A savepoint folder, or a checkpoint in another job's folder.
    Location { uri: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closed {
    pub reason: CloseReason,
    /// For people.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CloseReason {
    /// The input came to its end, and everything is committed.
    Finished,
    /// Stopped with a savepoint.
    Stopped,
    Cancelled,
    /// No restart was left.
    Failed,
    /// The job's data is being deleted: nothing of it can be restored any more.
    Deleted,
}

impl LogEntry {
    pub(crate) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        envelope::seal(self)
    }

    /// Reads the entry that stands under `number`.
    pub(crate) fn decode(number: u64, file: &[u8]) -> Result<Self, EnvelopeError> {
        let entry: LogEntry = envelope::open(file)?;
        if entry.number != number {
            let found = log_entry_path(entry.number);
            return Err(EnvelopeError::Malformed(format!("it holds the entry of `{found}`")));
        }
        Ok(entry)
    }

    pub(crate) fn opened(&self) -> Option<&Opened> {
        match &self.record {
            LogRecord::Opened(opened) => Some(opened),
            LogRecord::CheckpointCompleted(_) | LogRecord::Closed(_) => None,
        }
    }

    pub fn manifest(&self) -> Option<&CheckpointManifest> {
        match &self.record {
            LogRecord::CheckpointCompleted(manifest) => Some(manifest),
            LogRecord::Opened(_) | LogRecord::Closed(_) => None,
        }
    }
}
