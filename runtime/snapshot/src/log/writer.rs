//! Appending to the log, and being fenced.

use super::entry::{CloseReason, Closed, LogEntry, LogRecord, MAX_MARKS, Mark, Opened, RestorePoint, WriterId};
use super::history::{JobHistory, log_folder, read_history};
use super::{LogError, OpenError};
use crate::folder::{JobFolder, checkpoint_of_object, is_object_of, log_entry_number, log_entry_path};
use crate::manifest::CheckpointManifest;
use crate::retention::{self, Garbage, Retention, read_pinned};
use crate::storage::{ObjectPath, PutOutcome, StorageError, list_all};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use weir_model::{CheckpointId, Durable, Epoch};

/// Entries looked at after an append: there are one or two from the predecessor on, more only for one who is fenced.
const TAIL_ENTRIES: usize = 100;
/// A coordinator that loses the race for its opening reads again so often.
const OPEN_ATTEMPTS: u32 = 8;

#[derive(Clone, Debug)]
pub struct LogOptions {
    /// How often a call that failed transiently is made, the first time included.
    pub attempts: u32,
    /// Before the second; doubles with each. 0: none, and then no timer is needed.
    pub backoff_ms: u64,
    /// Open although entries can't be read: with the user's consent only, as their checkpoints are passed over.
    pub allow_broken: bool,
    /// The name of this start, which the log says from then on.
    pub mark: Option<Mark>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { attempts: 5, backoff_ms: 100, allow_broken: false, mark: None }
    }
}

/// A job's log, opened for writing by one coordinator.
#[derive(Debug)]
pub struct CommitLog {
    folder: JobFolder,
    options: LogOptions,
    owner: WriterId,
    epoch: Epoch,
    /// As the opening says it, which is trimmed in time.
    job_fingerprint: String,
    /// Of the next entry.
    next: u64,
    /// Whether there is an entry before it: not in a log that is new.
    has_predecessor: bool,
    history: JobHistory,
    next_checkpoint: CheckpointId,
    /// Of every entry from the opening on.
    marks: Vec<Mark>,
    fenced: Option<(Option<Epoch>, String)>,
    pub(crate) garbage: Garbage,
}

impl CommitLog {
    /// Takes the job over: whoever wrote to its log before is fenced from then on.
    ///
    /// `choose` says from what the job starts, given what the log says; it is asked again when another writer was faster.
    pub async fn open<E>(
        folder: JobFolder,
        owner: WriterId,
        options: LogOptions,
        now_ms: u64,
        mut choose: impl FnMut(&JobHistory) -> Result<Opened, E>,
    ) -> Result<Self, OpenError<E>> {
        for _ in 0..OPEN_ATTEMPTS {
            let history = read_history(&folder).await?;
            if !history.broken.is_empty() && !options.allow_broken {
                return Err(LogError::Broken(history.broken).into());
            }
            let opened = choose(&history).map_err(OpenError::Refused)?;
            let last = history.last_number();
            let mut marks: Vec<Mark> = history.marks().to_vec();
            marks.extend(options.mark.clone().filter(|mark| !history.has(mark)));
            marks.drain(..marks.len().saturating_sub(MAX_MARKS));
            let mut log = CommitLog {
                marks,
                options: options.clone(),
                owner: owner.clone(),
                epoch: history.next_epoch(),
                job_fingerprint: opened.job_fingerprint.clone(),
                next: last.map_or(1, |last| last + 1),
                has_predecessor: last.is_some(),
                next_checkpoint: next_checkpoint(&folder, &history).await.map_err(LogError::from)?,
                history,
                folder: folder.clone(),
                fenced: None,
                garbage: Garbage { trimmed: vec![], pinned: read_pinned(&folder).await.map_err(LogError::from)? },
            };
            let low_water = log.low_water_for_opening(&opened);
            match log.append(LogRecord::Opened(opened), low_water, now_ms).await {
                Ok(()) => return Ok(log),
                // Another coordinator opened it, or went on writing: what it says may have changed.
                Err(LogError::Fenced { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        let reason = format!("{OPEN_ATTEMPTS} times another coordinator was faster: is more than one running?");
        Err(LogError::Fenced { by: None, reason }.into())
    }

    pub fn folder(&self) -> &JobFolder {
        &self.folder
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn owner(&self) -> &WriterId {
        &self.owner
    }

    pub fn history(&self) -> &JobHistory {
        &self.history
    }

    pub(super) fn options(&self) -> &LogOptions {
        &self.options
    }

    /// The first checkpoint number that nothing on storage has had.
    pub fn next_checkpoint(&self) -> CheckpointId {
        self.next_checkpoint
    }

    /// Completes a checkpoint; the proof lets its commits begin.
    ///
    /// Checkpoints that `retention` lets go, and that are older than `protect_from`, leave the log with this entry;
    /// `collect_garbage` removes what belonged to them alone. `protect_from`: the oldest checkpoint that a task may
    /// still build on, or a savepoint be made from; if it isn't known, the last before this one is.
    pub async fn complete(
        &mut self,
        manifest: CheckpointManifest,
        retention: &Retention,
        protect_from: Option<CheckpointId>,
        now_ms: u64,
    ) -> Result<Durable<CheckpointId>, LogError> {
        self.check(&manifest)?;
        let checkpoint = manifest.checkpoint;
        let low_water = retention::low_water(&self.history, &manifest, self.next, retention, protect_from, now_ms);
        self.append(LogRecord::CheckpointCompleted(manifest), low_water, now_ms).await?;
        self.next_checkpoint = self.next_checkpoint.max(checkpoint.next());
        Ok(Durable::attest(checkpoint))
    }

    /// The job goes on from an older checkpoint than the log would have it, from now on: the newer ones cannot be read.
    /// Their entries stay, as what they made visible does.
    pub async fn fall_back(&mut self, checkpoint: CheckpointId, now_ms: u64) -> Result<(), LogError> {
        let refused = |reason: &str| LogError::Refused(format!("going back to checkpoint {checkpoint}: {reason}"));
        if self.history.checkpoint(checkpoint).is_none() {
            return Err(refused("it is not retained"));
        }
        self.append_opening(Some(RestorePoint::Checkpoint { checkpoint }), now_ms).await
    }

    /// Another attempt of this coordinator begins, from where the log says. Its sinks are settled under this entry: a
    /// coordinator that was taken over meanwhile learns of it here, before it touches what its successor's sinks
    /// prepare; and an attempt that began under an earlier entry is not gone on with by anybody.
    pub async fn begin_attempt(&mut self, now_ms: u64) -> Result<u64, LogError> {
        self.append_opening(self.history.restore_point(), now_ms).await?;
        Ok(self.next - 1)
    }

    /// The first attempt begins, under the entry with which the log was opened.
    ///
    /// # Errors
    /// `Fenced`: another coordinator has opened it since.
    pub async fn begin_first_attempt(&mut self) -> Result<u64, LogError> {
        self.verify().await?;
        Ok(self.next - 1)
    }

    /// Proof that a retained checkpoint is complete: for committing again, after a restore, what it holds.
    pub fn proof(&self, checkpoint: CheckpointId) -> Option<Durable<CheckpointId>> {
        self.history.checkpoint(checkpoint).map(|manifest| Durable::attest(manifest.checkpoint))
    }

    /// The job ended. The proof says that whoever asks will learn so.
    pub async fn close(
        &mut self,
        reason: CloseReason,
        message: impl Into<String>,
        now_ms: u64,
    ) -> Result<Durable<CloseReason>, LogError> {
        let closed = Closed { reason, message: message.into() };
        let low_water = match reason {
            // Nothing before counts any more.
            CloseReason::Deleted => self.next,
            _ => self.history.low_water_mark(),
        };
        self.append(LogRecord::Closed(closed), low_water, now_ms).await?;
        Ok(Durable::attest(reason))
    }

    /// Refuses what would break a restore later, while the checkpoint before it still stands.
    fn check(&self, manifest: &CheckpointManifest) -> Result<(), LogError> {
        let refuse = |reason: String| Err(LogError::Refused(format!("checkpoint {}: {reason}", manifest.checkpoint)));
        if manifest.epoch != self.epoch {
            return refuse(format!("it belongs to epoch {}, and this log is at {}", manifest.epoch, self.epoch));
        }
        let last = self.history.checkpoints().map(|manifest| manifest.checkpoint).max();
        if last.is_some_and(|last| manifest.checkpoint <= last) {
            return refuse(format!("checkpoint {} is already complete", last.unwrap_or(manifest.checkpoint)));
        }
        let held = self.history.checkpoints().chain(&self.garbage.pinned).flat_map(|manifest| &manifest.objects);
        let held = held.map(|object| &object.path).collect::<BTreeSet<_>>();
        let mut named = BTreeSet::new();
        for object in &manifest.objects {
            if !named.insert(&object.path) {
                return refuse(format!("`{}` stands in it twice", object.path));
            }
            if !held.contains(&object.path) && !is_object_of(&object.path, manifest.checkpoint, manifest.fence()) {
                let path = &object.path;
                return refuse(format!("`{path}` is neither its own nor held by a retained checkpoint"));
            }
        }
        Ok(())
    }

    /// Before a checkpoint completes, the log must keep what it restores from now.
    fn low_water_for_opening(&self, opened: &Opened) -> u64 {
        let current = self.history.low_water_mark();
        let needed = self.history.live().iter().find_map(|entry| entry.manifest().map(|_| entry.number));
        let restored = match &opened.restored_from {
            Some(RestorePoint::Checkpoint { checkpoint }) => self.history.number_of(*checkpoint),
            _ => None,
        };
        // Without any checkpoint the openings before count for nothing, but the predecessor stays (see `log`).
        let floor = needed.into_iter().chain(restored).min().unwrap_or(self.next).min(self.next.saturating_sub(1));
        floor.max(current).max(1)
    }

    /// Whether the job is still this coordinator's. Nothing is written; that another takes it over right after is told
    /// by the next append only.
    ///
    /// # Errors
    /// `Fenced`: it is not. Anything else: the storage doesn't say.
    pub async fn verify(&mut self) -> Result<(), LogError> {
        if let Some((by, reason)) = &self.fenced {
            return Err(LogError::Fenced { by: *by, reason: reason.clone() });
        }
        let verified = self.verify_tail().await;
        if let Err(LogError::Fenced { by, reason }) = &verified {
            self.fenced = Some((*by, reason.clone()));
        }
        verified
    }

    async fn verify_tail(&self) -> Result<(), LogError> {
        // Opening the log has written one.
        let last = self.next - 1;
        let numbers = self.numbers_after(last.checked_sub(1)).await?;
        let fenced = |reason: String| Err(LogError::Fenced { by: None, reason });
        if !numbers.contains(&last) {
            return fenced(format!("entry {last} is gone: another coordinator has the job, or it was deleted"));
        }
        match numbers.last().filter(|higher| **higher > last) {
            None => Ok(()),
            // Perhaps an entry of this writer's, of which no answer came.
            Some(higher) if *higher == self.next => {
                self.recognise(*higher, &self.read_taken(*higher).await?).map(|_own| ())
            }
            Some(higher) => fenced(format!("the log has gone on to entry {higher}: another coordinator has the job")),
        }
    }

    async fn append_opening(&mut self, restored_from: Option<RestorePoint>, now_ms: u64) -> Result<(), LogError> {
        let opened = Opened { restored_from, job_fingerprint: self.job_fingerprint.clone() };
        self.append(LogRecord::Opened(opened), self.history.low_water_mark(), now_ms).await
    }

    async fn append(&mut self, record: LogRecord, low_water: u64, now_ms: u64) -> Result<(), LogError> {
        if let Some((by, reason)) = &self.fenced {
            return Err(LogError::Fenced { by: *by, reason: reason.clone() });
        }
        let mut entry = LogEntry {
            number: self.next,
            epoch: self.epoch,
            owner: self.owner.clone(),
            low_water,
            written_at_ms: now_ms,
            record,
            marks: self.marks.clone(),
        };
        let result = loop {
            entry.number = self.next;
            // An earlier entry of unknown fate, found below, may have trimmed more than this one meant to.
            entry.low_water = low_water.max(self.history.low_water_mark());
            match self.append_at(&entry).await {
                // What stood there is of this writer's: an earlier append, whose answer never came. It counts.
                Ok(Some(earlier)) => self.accept(earlier),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(LogError::Fenced { by, reason }) = &result {
            self.fenced = Some((*by, reason.clone()));
        }
        result
    }

    /// Puts the entry. `Some`: its number holds an earlier entry of this writer, which is part of the log.
    async fn append_at(&mut self, entry: &LogEntry) -> Result<Option<LogEntry>, LogError> {
        let file = entry.encode().map_err(|error| LogError::Refused(error.to_string()))?;
        let earlier = match self.create(entry.number, &file).await? {
            PutOutcome::Created => None,
            PutOutcome::Exists => {
                let found = self.read_taken(entry.number).await?;
                if found == file { None } else { Some(self.recognise(entry.number, &found)?) }
            }
        };
        self.check_tail(entry.number).await?;
        if earlier.is_none() {
            self.accept(entry.clone());
        }
        Ok(earlier)
    }

    async fn create(&self, number: u64, file: &Bytes) -> Result<PutOutcome, LogError> {
        let path = self.folder.path(&log_entry_path(number));
        let storage = self.folder.storage();
        // A try again after a lost response finds `Exists`, and reads its own entry there.
        let outcome = self.retried(|| storage.put_if_absent(&path, file.clone())).await;
        outcome.map_err(|error| if error.is_transient() { LogError::Unknown(error) } else { error.into() })
    }

    async fn read_taken(&self, number: u64) -> Result<Bytes, LogError> {
        let path = self.folder.path(&log_entry_path(number));
        let storage = self.folder.storage();
        self.retried(|| storage.get(&path)).await.map_err(|error| {
            if error.is_not_found() {
                // Taken and trimmed again: the log has gone far beyond.
                LogError::Fenced { by: None, reason: format!("entry {number} was written and trimmed by another") }
            } else {
                LogError::Unknown(error)
            }
        })
    }

    /// What stands under a number that this writer wanted: an own earlier entry, or another's, which fences it.
    fn recognise(&self, number: u64, file: &Bytes) -> Result<LogEntry, LogError> {
        let found = LogEntry::decode(number, file).map_err(|error| {
            let object = self.folder.describe(&log_entry_path(number));
            LogError::Broken(vec![super::BrokenEntry { number, object, reason: error.to_string() }])
        })?;
        if found.owner == self.owner && found.epoch == self.epoch {
            return Ok(found);
        }
        let reason = format!("entry {number} was written by {} at epoch {}", found.owner, found.epoch);
        Err(LogError::Fenced { by: Some(found.epoch), reason })
    }

    /// See `log`: tells a number that was free from one that was taken and trimmed.
    async fn check_tail(&self, number: u64) -> Result<(), LogError> {
        let numbers = self.numbers_after(number.checked_sub(2)).await?;
        let fenced = |reason: String| Err(LogError::Fenced { by: None, reason });
        if let Some(higher) = numbers.last().filter(|last| **last > number) {
            return fenced(format!("the log has gone on to entry {higher}: another coordinator has the job"));
        }
        if self.has_predecessor && !numbers.contains(&(number - 1)) {
            return fenced(format!("entry {} is gone: the job was deleted, or the storage lost it", number - 1));
        }
        Ok(())
    }

    /// Of the entries above this number, ascending.
    async fn numbers_after(&self, number: Option<u64>) -> Result<Vec<u64>, LogError> {
        let log = self.folder.path(&log_folder());
        let after = number.map(|number| self.folder.path(&log_entry_path(number)));
        let storage = self.folder.storage();
        let tail =
            self.retried(|| storage.list(&log, after.as_ref(), TAIL_ENTRIES)).await.map_err(LogError::Unknown)?;
        let relative = tail.iter().filter_map(|info| info.path.relative_to(self.folder.folder()));
        Ok(relative.filter_map(|path| log_entry_number(&path)).collect())
    }

    fn accept(&mut self, entry: LogEntry) {
        self.has_predecessor = true;
        self.next = entry.number + 1;
        let trimmed = self.history.entries.iter().take_while(|old| old.number < entry.low_water).count();
        self.garbage.trimmed.extend(self.history.entries.drain(..trimmed));
        self.history.entries.push(Arc::new(entry));
    }

    async fn retried<T, F: Future<Output = Result<T, StorageError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, StorageError> {
        let mut backoff_ms = self.options.backoff_ms;
        for _ in 1..self.options.attempts {
            match call().await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "the commit log's storage failed and is tried again");
                    if backoff_ms > 0 {
                        tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
                    }
                    backoff_ms = backoff_ms.saturating_mul(2);
                }
                other => return other,
            }
        }
        call().await
    }
}

/// Above every checkpoint that the log or an object's name speaks of, so that no number is used twice.
async fn next_checkpoint(folder: &JobFolder, history: &JobHistory) -> Result<CheckpointId, StorageError> {
    let listed = list_all(&**folder.storage(), folder.folder()).await?;
    let relative = listed.iter().filter_map(|info| info.path.relative_to(folder.folder()));
    let on_storage = relative.filter_map(|path: ObjectPath| checkpoint_of_object(&path)).max();
    let in_log = history.checkpoints().map(|manifest| manifest.checkpoint).max();
    Ok(on_storage.max(in_log).map_or(CheckpointId(1), CheckpointId::next))
}
