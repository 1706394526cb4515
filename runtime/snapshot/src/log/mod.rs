//! The commit log: the truth about a job's checkpoints, and what fences its coordinators.
//!
//! Entries are numbered and each is written with put-if-absent, so that one writer wins each number. A coordinator
//! takes over by appending `Opened` with a higher epoch; who finds its number taken by another is fenced.
//!
//! Old entries are trimmed, and a writer that was paused meanwhile could then create a number that was taken before.
//! Two rules make that harmless:
//! - Entries are deleted in ascending order, and never the last. So a writer that created its entry checks that the
//!   entry before it, which it knows by content, is still there: if its number was ever taken and trimmed, that
//!   predecessor was trimmed first. (The very first entry has none: its writer lists the log instead.)
//! - Each entry says from which number on the log counts (`low_water`). What such a writer left below is ignored.

mod entry;
mod history;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;
mod writer;

pub use entry::{CloseReason, Closed, LogEntry, LogRecord, Opened, RestorePoint, WriterId};
pub(crate) use history::list_numbers;
pub use history::{BrokenEntry, JobHistory, read_history};
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
