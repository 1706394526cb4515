//! The commit log: the truth about a job's checkpoints, and what fences its coordinators.
//!
//! Entries are numbered and each is written with put-if-absent, so that one writer wins each number. A coordinator
//! takes over by appending `Opened` with a higher epoch; who finds its number taken by another is fenced.
//!
//! Old entries are trimmed, and a writer that was paused meanwhile could then create a number that was taken before.
//! Three rules make that harmless:
//! - The last entry is never trimmed, so there always is one above a number that was. A writer that created its entry
//!   therefore lists what stands above; if anything does, it is fenced.
//! - Each entry says from which number on the log counts (`low_water`). What such a writer left below is ignored.
//! - A reader takes what it has read for the log only if the last entry still is the last.

mod completion;
mod entry;
mod history;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;
mod writer;

pub use completion::Completion;
pub use entry::{CloseReason, Closed, LogEntry, LogRecord, Mark, Opened, RestorePoint, WriterId};
pub use history::{Began, BrokenEntry, JobHistory, LeftRunning, read_history};
pub use writer::{CommitLog, LogOptions};

use crate::storage::StorageError;
use weir_model::Epoch;

/// So often is a log read again when it changes meanwhile.
const READ_ATTEMPTS: u32 = 8;
/// Entries read at a time.
const READ_CONCURRENCY: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another coordinator has taken over. This one must stop: its job runs elsewhere.
    #[error("fenced: {reason}")]
    Fenced {
        /// Of the one that took over, where it is known.
        by: Option<Epoch>,
        reason: String,
    },
    /// The entry may stand in the log, or come to stand there: the storage gave no answer. The next append finds out.
    #[error("it is not known whether the entry was written: {0}")]
    Unknown(StorageError),
    /// Nothing was written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Nothing was written: the entry would have broken what the log promises.
    #[error("refused: {0}")]
    Refused(String),
    #[error("the commit log is damaged: {}", describe_broken(.0))]
    Broken(Vec<BrokenEntry>),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError<E> {
    #[error(transparent)]
    Log(#[from] LogError),
    /// The caller found no valid place to start from.
    #[error(transparent)]
    Refused(E),
}

fn describe_broken(broken: &[BrokenEntry]) -> String {
    let all = broken.iter().map(|entry| format!("`{}`: {}", entry.object, entry.reason));
    all.collect::<Vec<_>>().join("; ")
}
