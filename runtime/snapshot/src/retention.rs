//! What stays and what goes.

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use crate::envelope;
use crate::folder::{
    JobFolder, PINNED_FOLDER, checkpoint_of_object, log_entry_number, log_entry_path, origin_of_object, pinned_path,
};
use crate::log::{CloseReason, CommitLog, JobHistory, LogEntry, LogError, LogRecord, RestorePoint};
use crate::manifest::CheckpointManifest;
use crate::storage::{ObjectPath, Operation, StorageError, list_all};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use weir_model::{CheckpointId, Epoch};

/// Age at which an unfinished write is taken for one that a crash left behind.
const UNFINISHED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Pinned checkpoints are held in memory and read at each start.
const MAX_PINNED: usize = 1000;

/// How many completed checkpoints stay. The latest always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At least 1.
    pub count: u32,
    /// Older ones go although `count` would keep them.
    pub max_age_ms: Option<u64>,
}

/// The first log entry to keep once `new` is complete under `number`.
///
/// Never so high that a checkpoint goes which retention keeps, which a task may still build on (`protect_from`; if
/// that isn't known, the last one before `new`), or which the job was restored from before it has completed one of its own; nor so high that `number`'s predecessor goes,
/// by whose absence a writer sees that the job was deleted.
pub(crate) fn low_water(
    history: &JobHistory,
    new: &CheckpointManifest,
    number: u64,
    retention: &Retention,
    protect_from: Option<CheckpointId>,
    now_ms: u64,
) -> u64 {
    let kept_before_new = (retention.count.max(1) - 1) as usize;
    let is_young = |manifest: &CheckpointManifest| {
        retention.max_age_ms.is_none_or(|max_age_ms| manifest.completed_at_ms.saturating_add(max_age_ms) >= now_ms)
    };
    let mut completed = history.live().iter().rev().filter_map(|entry| Some((entry.number, entry.manifest()?)));
    let kept = completed.clone().take(kept_before_new).take_while(|(_, manifest)| is_young(manifest));
    if kept.clone().count() == completed.clone().count() {
        // Nothing goes; then the openings before the first checkpoint may stay as well.
        return history.low_water_mark().max(1);
    }
    let oldest_kept = kept.last().map_or(number, |(number, _)| number);

    // What runs builds on a checkpoint that it has been told of, which may lag one behind the last.
    let previous = completed.clone().next().map_or(new.checkpoint, |(_, manifest)| manifest.checkpoint);
    let protect_from = protect_from.unwrap_or(previous);
    let protected = completed.rfind(|(_, manifest)| manifest.checkpoint >= protect_from);
    let protected = protected.map_or(number, |(number, _)| number);
    let base = base_of_epoch(history, protect_from).unwrap_or(number);

    let floor = oldest_kept.min(protected).min(base).min(number - 1);
    floor.max(history.low_water_mark()).max(1)
}

/// The entry that the running epoch was restored from, as long as `protect_from` lies before the epoch's own.
fn base_of_epoch(history: &JobHistory, protect_from: CheckpointId) -> Option<u64> {
    let live = history.live();
    let opened_at = live.iter().rposition(|entry| matches!(entry.record, LogRecord::Opened(_)))?;
    let own_first = live[opened_at..].iter().find_map(|entry| entry.manifest());
    if own_first.is_some_and(|own| own.checkpoint <= protect_from) {
        return None;
    }
    match &history.opened()?.restored_from {
        Some(RestorePoint::Checkpoint { checkpoint }) => history.number_of(*checkpoint),
        _ => None,
    }
}

/// Which of `candidates` (paths in the job's folder) no retained checkpoint needs. `epoch`: the one that has the job.
///
/// Left alone: whatever isn't a checkpoint's object by its name, and objects of checkpoints after the last completed
/// one that this epoch, or a later one, has begun: they may be in the making. Any other checkpoint that is not complete
/// never will be: one that was in the making when a later one completed, and, whatever its number, one of an earlier
/// epoch. Such an epoch's workers may write long after it was fenced, and nobody's number need ever come to theirs.
pub fn deletable<'a>(
    retained: impl IntoIterator<Item = &'a CheckpointManifest>,
    epoch: Epoch,
    candidates: impl IntoIterator<Item = ObjectPath>,
) -> Vec<ObjectPath> {
    let (mut needed, mut last) = (BTreeSet::new(), None);
    for manifest in retained {
        needed.extend(manifest.objects.iter().map(|object| object.path.as_str()));
        last = last.max(Some(manifest.checkpoint));
    }
    let candidates = candidates.into_iter().collect::<BTreeSet<_>>();
    let dead = candidates.into_iter().filter(|path| {
        let is_over = |(checkpoint, began)| Some(checkpoint) <= last || began < epoch;
        origin_of_object(path).is_some_and(is_over) && !needed.contains(path.as_str())
    });
    dead.collect()
}

/// Where garbage is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepScope {
    /// Among what this coordinator has let go: no listing. For after each checkpoint.
    Trimmed,
    /// In the whole folder, by listing it: also what crashes and aborted checkpoints left. For the start, and after aborts.
    Everything,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub log_entries: u64,
    pub objects: u64,
}

/// What has left the log and still stands on storage, and what must stay there although it left.
#[derive(Debug)]
pub(crate) struct Garbage {
    pub(crate) trimmed: Vec<Arc<LogEntry>>,
    pub(crate) pinned: Vec<CheckpointManifest>,
}

impl CommitLog {
    /// Removes what the log says no longer counts: first the entries, ascending, then the objects that no retained or
    /// pinned checkpoint names. May stop anywhere; the next run goes on.
    pub async fn collect_garbage(&mut self, scope: SweepScope) -> Result<Swept, StorageError> {
        let folder = self.folder().clone();
        let low_water = self.history().low_water_mark();
        let listed = match scope {
            SweepScope::Trimmed => vec![],
            SweepScope::Everything => {
                folder.storage().sweep_unfinished(folder.folder(), UNFINISHED_AFTER).await?;
                list_folder(&folder).await?
            }
        };
        let mut numbers = self.garbage.trimmed.iter().map(|entry| entry.number).collect::<BTreeSet<_>>();
        numbers.extend(listed.iter().filter_map(log_entry_number));
        let mut swept = Swept::default();
        for number in numbers.into_iter().filter(|number| *number < low_water) {
            folder.storage().delete(&folder.path(&log_entry_path(number))).await?;
            swept.log_entries += 1;
        }
        let retained = self.history().checkpoints().chain(&self.garbage.pinned);
        let of_trimmed = self.garbage.trimmed.iter().filter_map(|entry| entry.manifest());
        let of_trimmed = of_trimmed.flat_map(|manifest| manifest.objects.iter().map(|object| object.path.clone()));
        // What an entry names that cannot be read, nobody knows: of older epochs only what later ones have overtaken goes.
        let epoch = if self.history().broken.is_empty() { self.epoch() } else { Epoch(0) };
        for path in deletable(retained, epoch, of_trimmed.chain(listed)) {
            folder.storage().delete(&folder.path(&path)).await?;
            swept.objects += 1;
        }
        self.garbage.trimmed.clear();
        Ok(swept)
    }

    /// Keeps a retained checkpoint beyond retention, until it is unpinned: for a rollback, or because a user says so.
    pub async fn pin(&mut self, checkpoint: CheckpointId) -> Result<(), LogError> {
        if self.garbage.pinned.iter().any(|pinned| pinned.checkpoint == checkpoint) {
            return Ok(());
        }
        let refused = |reason: &str| LogError::Refused(format!("pinning checkpoint {checkpoint}: {reason}"));
        if self.garbage.pinned.len() >= MAX_PINNED {
            return Err(refused("1000 are pinned; unpin some first"));
        }
        let manifest = self.history().checkpoint(checkpoint).cloned();
        let manifest = manifest.ok_or_else(|| refused("no such checkpoint is retained"))?;
        let file = envelope::seal(&manifest).map_err(|error| LogError::Refused(error.to_string()))?;
        let path = self.folder().path(&pinned_path(checkpoint));
        self.folder().storage().put(&path, file).await?;
        self.garbage.pinned.push(manifest);
        Ok(())
    }

    /// Lets a pinned checkpoint go; the next sweep of everything removes what only it needed.
    pub async fn unpin(&mut self, checkpoint: CheckpointId) -> Result<(), LogError> {
        let running_from = self.history().opened().and_then(|opened| opened.restored_from.clone());
        if running_from == Some(RestorePoint::Checkpoint { checkpoint }) {
            let reason = "the job was restored from it and may still build on it";
            return Err(LogError::Refused(format!("unpinning checkpoint {checkpoint}: {reason}")));
        }
        let path = self.folder().path(&pinned_path(checkpoint));
        self.folder().storage().delete(&path).await?;
        self.garbage.pinned.retain(|pinned| pinned.checkpoint != checkpoint);
        Ok(())
    }

    /// Checkpoints kept by `pin`.
    pub fn pinned(&self) -> &[CheckpointManifest] {
        &self.garbage.pinned
    }

    /// Deletes everything the job has on storage (not its savepoints), the log last.
    ///
    /// The log says so first: after a crash on the way nothing of the rest is taken for a checkpoint. A call for a job
    /// of which a part is already deleted deletes the rest.
    pub async fn delete_job(mut self, now_ms: u64) -> Result<(), LogError> {
        self.close(CloseReason::Deleted, "the job's data is deleted", now_ms).await?;
        let folder = self.folder().clone();
        let all = list_folder(&folder).await?;
        // Not what somebody else put into the folder: it isn't ours to delete.
        let ours = |path: &&ObjectPath| checkpoint_of_object(path).is_some() || is_pinned_path(path);
        for path in all.iter().filter(ours) {
            folder.storage().delete(&folder.path(path)).await?;
        }
        let numbers = all.iter().filter_map(log_entry_number).collect::<BTreeSet<_>>();
        for number in numbers {
            folder.storage().delete(&folder.path(&log_entry_path(number))).await?;
        }
        Ok(())
    }
}

/// Paths in the job's folder.
async fn list_folder(folder: &JobFolder) -> Result<Vec<ObjectPath>, StorageError> {
    let listed = list_all(&**folder.storage(), folder.folder()).await?;
    Ok(listed.iter().filter_map(|info| info.path.relative_to(folder.folder())).collect())
}

/// The pinned checkpoints of a job's folder, oldest first.
pub async fn read_pinned(folder: &JobFolder) -> Result<Vec<CheckpointManifest>, StorageError> {
    let below = folder.path(&ObjectPath::parse(PINNED_FOLDER).expect("a valid path"));
    let mut pinned = Vec::new();
    for info in list_all(&**folder.storage(), &below).await? {
        let file = match folder.storage().get(&info.path).await {
            Err(error) if error.is_not_found() => continue,
            other => other?,
        };
        let manifest: CheckpointManifest = envelope::open(&file)
            .map_err(|error| StorageError::corrupt(Operation::Get, folder.storage().address(&info.path), error))?;
        pinned.push(manifest);
    }
    pinned.sort_by_key(|manifest| manifest.checkpoint);
    Ok(pinned)
}

fn is_pinned_path(path: &ObjectPath) -> bool {
    path.as_str().strip_prefix(PINNED_FOLDER).is_some_and(|rest| rest.starts_with('/'))
}
