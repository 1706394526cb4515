//! The log as it reads from its low-water mark to its last entry.

use super::entry::{CloseReason, Closed, LogEntry, LogRecord, Mark, Opened, RestorePoint};
use super::{LogError, READ_ATTEMPTS, READ_CONCURRENCY};
use crate::folder::{JobFolder, LOG_FOLDER, log_entry_number, log_entry_path};
use crate::manifest::CheckpointManifest;
use crate::storage::{ObjectPath, Operation, StorageError, StorageErrorKind, list_all};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_model::{CheckpointId, Epoch, Fence};

/// What a log says.
#[derive(Clone, Debug, Default)]
pub struct JobHistory {
    /// In order of their numbers, from the low-water mark on.
    pub entries: Vec<Arc<LogEntry>>,
    /// Entries that should be there and can't be read. A log with such is opened only with the user's consent.
    pub broken: Vec<BrokenEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenEntry {
    pub number: u64,
    /// With its storage's address.
    pub object: String,
    pub reason: String,
}

impl JobHistory {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.broken.is_empty()
    }

    /// Completed checkpoints that are retained, oldest first.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = &CheckpointManifest> {
        self.live().iter().filter_map(|entry| entry.manifest())
    }

    pub fn checkpoint(&self, id: CheckpointId) -> Option<&CheckpointManifest> {
        self.checkpoints().find(|manifest| manifest.checkpoint == id)
    }

    /// What the job starts from if nobody says otherwise: the last completed checkpoint, or, where the last
    /// coordinator was told to start elsewhere and has completed none since, that.
    pub fn restore_point(&self) -> Option<RestorePoint> {
        self.live().iter().rev().find_map(|entry| match &entry.record {
            LogRecord::CheckpointCompleted(manifest) => {
                Some(Some(RestorePoint::Checkpoint { checkpoint: manifest.checkpoint }))
            }
            LogRecord::Opened(opened) => Some(opened.restored_from.clone()),
            LogRecord::Closed(_) => None,
        })?
    }

    /// The checkpoint before `id` in the history that led to it: an older one of the same run, or one that the run was
    /// restored from. `None`: the run began empty or from elsewhere, or no older one is retained.
    pub fn checkpoint_before(&self, id: CheckpointId) -> Option<&CheckpointManifest> {
        let live = self.live();
        let mut at =
            live.iter().position(|entry| entry.manifest().is_some_and(|manifest| manifest.checkpoint == id))?;
        while at > 0 {
            at -= 1;
            match &live[at].record {
                LogRecord::CheckpointCompleted(manifest) => return Some(manifest),
                LogRecord::Opened(Opened { restored_from: Some(RestorePoint::Checkpoint { checkpoint }), .. }) => {
                    return self.checkpoint(*checkpoint);
                }
                LogRecord::Opened(_) => return None,
                LogRecord::Closed(_) => {}
            }
        }
        None
    }

    /// The last opening.
    pub fn opened(&self) -> Option<&Opened> {
        self.entries.iter().rev().find_map(|entry| match &entry.record {
            LogRecord::Opened(opened) => Some(opened),
            _ => None,
        })
    }

    /// What the coordinator before the one that opened the log last may have left running: an attempt that can be gone
    /// on with, rather than restored. `None` also where the last opening starts from elsewhere, or with another job.
    pub fn left_running(&self) -> Option<LeftRunning> {
        let (last, before) = self.live().split_last()?;
        let LogRecord::Opened(opened) = &last.record else { return None };
        let begun = before.iter().rposition(|entry| matches!(entry.record, LogRecord::Opened(_)));
        let since = &before[begun.map_or(0, |at| at + 1)..];
        let completed = since.iter().rev().find_map(|entry| entry.manifest());
        let (began, previous) = match (begun.map(|at| &before[at]), completed) {
            (Some(entry), _) => (Began::Under(entry.number), entry.opened()),
            // The entry itself is trimmed. No other attempt has begun since, or its entry would stand there.
            (None, Some(manifest)) => (Began::As(manifest.fence()), None),
            (None, None) => return None,
        };
        let point = match completed {
            Some(manifest) => Some(RestorePoint::Checkpoint { checkpoint: manifest.checkpoint }),
            None => previous.and_then(|previous| previous.restored_from.clone()),
        };
        let has_ended = since.iter().any(|entry| matches!(entry.record, LogRecord::Closed(_)));
        let is_same_job = previous.is_none_or(|previous| previous.job_fingerprint == opened.job_fingerprint);
        let goes_on = !has_ended && is_same_job && self.broken.is_empty() && opened.restored_from == point;
        let stands_on = match point {
            Some(RestorePoint::Checkpoint { checkpoint }) => Some(checkpoint),
            Some(RestorePoint::Location { .. }) | None => None,
        };
        goes_on.then_some(LeftRunning { began, stands_on })
    }

    /// Whether the start of this name was made.
    pub fn has(&self, mark: &Mark) -> bool {
        self.marks().contains(mark)
    }

    /// Of the last entry that counts: a job whose data was deleted has had no start.
    pub(super) fn marks(&self) -> &[Mark] {
        self.live().last().map_or(&[], |entry| &entry.marks)
    }

    /// How the job ended; `None` while it runs, or after a crash.
    pub fn closed(&self) -> Option<&Closed> {
        match &self.entries.last()?.record {
            LogRecord::Closed(closed) => Some(closed),
            _ => None,
        }
    }

    /// The number from which on the log counts.
    pub(crate) fn low_water_mark(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.low_water)
    }

    /// Entries since the job's data was last deleted: what stands before names objects that may be gone.
    pub(crate) fn live(&self) -> &[Arc<LogEntry>] {
        let is_deletion =
            |record: &LogRecord| matches!(record, LogRecord::Closed(Closed { reason: CloseReason::Deleted, .. }));
        let deleted = self.entries.iter().rposition(|entry| is_deletion(&entry.record));
        &self.entries[deleted.map_or(0, |at| at + 1)..]
    }

    /// The number of the entry that completed this checkpoint.
    pub(crate) fn number_of(&self, id: CheckpointId) -> Option<u64> {
        let mut entries = self.live().iter();
        let completing = |entry: &&Arc<LogEntry>| entry.manifest().is_some_and(|manifest| manifest.checkpoint == id);
        entries.find(completing).map(|entry| entry.number)
    }

    pub(super) fn last_number(&self) -> Option<u64> {
        let last = self.entries.last().map(|entry| entry.number);
        last.max(self.broken.iter().map(|broken| broken.number).max())
    }

    /// Above every epoch that stands in the log, those of unreadable entries included.
    pub(super) fn next_epoch(&self) -> Epoch {
        let highest = self.entries.iter().map(|entry| entry.epoch.0).max().unwrap_or(0);
        Epoch(highest + 1 + self.broken.len() as u64)
    }
}

/// An attempt that may still run although its coordinator is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftRunning {
    pub began: Began,
    /// The last checkpoint that it completed, or began from: its commit may not have been told to everybody. `None`: it
    /// has begun elsewhere, and completed none.
    pub stands_on: Option<CheckpointId>,
}

/// What tells the last attempt that began from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// The number of the entry under which its sinks were settled.
    Under(u64),
    /// The fence under which it has completed checkpoints.
    As(Fence),
}

/// Reads a job's log. A job that never ran has an empty one.
pub async fn read_history(folder: &JobFolder) -> Result<JobHistory, LogError> {
    let mut numbers = list_numbers(folder).await?;
    for _ in 0..READ_ATTEMPTS {
        let files = fetch(folder, &numbers).await?;
        // If the last entry still is the last, none that counts was trimmed in between, and none of what was read is
        // an entry that a paused writer put in the place of a trimmed one.
        let after = list_numbers(folder).await?;
        if after.last() == numbers.last() {
            return Ok(replay(folder, numbers.last().copied(), files));
        }
        numbers = after;
    }
    let object = folder.describe(&log_folder());
    let reason = "it changes faster than it can be read: is more than one coordinator running?";
    Err(LogError::Storage(StorageError::new(Operation::Get, object, StorageErrorKind::Transient, reason)))
}

/// The numbers of the entries that stand on storage.
async fn list_numbers(folder: &JobFolder) -> Result<Vec<u64>, StorageError> {
    let listed = list_all(&**folder.storage(), &folder.path(&log_folder())).await?;
    let relative = listed.iter().filter_map(|info| info.path.relative_to(folder.folder()));
    Ok(relative.filter_map(|path| log_entry_number(&path)).collect())
}

pub(super) fn log_folder() -> ObjectPath {
    ObjectPath::parse(LOG_FOLDER).expect("a valid path")
}

async fn fetch(folder: &JobFolder, numbers: &[u64]) -> Result<BTreeMap<u64, Bytes>, LogError> {
    // Within this task: a reader needs no runtime of its own around it.
    let mut reads = stream::iter(numbers.iter().copied().map(|number| async move {
        let path = folder.path(&log_entry_path(number));
        (number, folder.storage().get(&path).await)
    }))
    .buffer_unordered(READ_CONCURRENCY);
    let mut files = BTreeMap::new();
    while let Some((number, read)) = reads.next().await {
        match read {
            Ok(file) => {
                files.insert(number, file);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(files)
}

fn replay(folder: &JobFolder, last: Option<u64>, files: BTreeMap<u64, Bytes>) -> JobHistory {
    let mut history = JobHistory::default();
    let Some(last) = last else { return history };
    let decoded = files.iter().map(|(number, file)| (*number, LogEntry::decode(*number, file)));
    let decoded = decoded.collect::<BTreeMap<_, _>>();
    // The mark of the last readable entry. If that isn't the last of all, the one that can't be read may have trimmed
    // more: then a gap says nothing, and what stands before it counts no longer.
    let mark = decoded.values().rev().filter_map(|entry| entry.as_ref().ok()).map(|entry| entry.low_water).next();
    let low_water = match decoded.get(&last) {
        Some(Ok(entry)) => entry.low_water,
        _ => {
            let mut run = last;
            while run > 0 && decoded.contains_key(&(run - 1)) {
                run -= 1;
            }
            mark.unwrap_or(0).max(run)
        }
    };
    let mut expected = low_water;
    for (number, entry) in decoded.into_iter().filter(|(number, _)| *number >= low_water) {
        if number > expected {
            // One remark for a whole gap: a stray file with an absurd number must not make a million of them.
            history.broken.push(missing(folder, expected, number - 1));
        }
        expected = number.saturating_add(1);
        match entry {
            Ok(entry) => history.entries.push(Arc::new(entry)),
            Err(error) => {
                let object = folder.describe(&log_entry_path(number));
                history.broken.push(BrokenEntry { number, object, reason: error.to_string() });
            }
        }
    }
    if expected <= last {
        history.broken.push(missing(folder, expected, last));
    }
    history
}

fn missing(folder: &JobFolder, first: u64, last: u64) -> BrokenEntry {
    let reason = match last - first {
        0 => "it is missing".to_owned(),
        more => format!("it and the {more} after it are missing"),
    };
    BrokenEntry { number: last, object: folder.describe(&log_entry_path(first)), reason }
}
