//! The checkers. They look at storage and at the sink from outside, and know nothing of what the job believes.

use crate::external::External;
use crate::job::{JOB_UID, Job};
use crate::storage::{Effect, SimStorage};
use futures::executor::block_on;
use std::collections::BTreeSet;
use std::sync::Arc;
use weir_model::{CheckpointId, Epoch};
use weir_snapshot::log::{LogRecord, Opened};
use weir_snapshot::retention::SweepScope;
use weir_snapshot::{CheckpointManifest, CommitLog, JobFolder, LogOptions, ObjectPath, WriterId, read_history};

pub(crate) struct Checks {
    job: Job,
    /// Of the last entry that counts.
    last_number: u64,
    last_epoch: Epoch,
    last_checkpoint: Option<CheckpointId>,
    pub(crate) checkpoints: u64,
    /// What retained checkpoints name, in the job's folder.
    live: BTreeSet<ObjectPath>,
}

impl Checks {
    pub(crate) fn new(job: Job) -> Self {
        Checks {
            job,
            last_number: 0,
            last_epoch: Epoch(0),
            last_checkpoint: None,
            checkpoints: 0,
            live: BTreeSet::new(),
        }
    }

    /// Looks at what a call to the storage has changed.
    ///
    /// # Errors
    /// What must not have happened.
    pub(crate) fn on_effect(
        &mut self,
        effect: &Effect,
        storage: &SimStorage,
        external: &mut External,
    ) -> Result<(), String> {
        let folder = ObjectPath::parse(JOB_UID).expect("a valid path");
        match effect {
            Effect::Created { path, .. } => match path.relative_to(&folder).as_ref().and_then(log_number) {
                Some(number) => self.entry(number, storage, external),
                None => Ok(()),
            },
            Effect::Deleted { path, process } => {
                if path.as_str().starts_with("savepoints/") {
                    return Err(format!("{process} deleted `{path}`, which belongs to a savepoint"));
                }
                match path.relative_to(&folder).filter(|path| self.live.contains(path)) {
                    Some(_) => Err(format!("{process} deleted `{path}`, which a retained checkpoint needs")),
                    None => Ok(()),
                }
            }
        }
    }

    /// An entry of the log was created.
    fn entry(&mut self, number: u64, storage: &SimStorage, external: &mut External) -> Result<(), String> {
        if number < self.last_number {
            // A paused writer took the number of an entry that was trimmed: nobody may believe it, which is what
            // the other checks are for.
            return Ok(());
        }
        if number != self.last_number + 1 {
            return Err(format!("entry {number} of the log was written after entry {}", self.last_number));
        }
        self.last_number = number;
        let folder = instant_folder(storage);
        let history = block_on(read_history(&folder)).map_err(|error| error.to_string())?;
        if let Some(broken) = history.broken.first() {
            return Err(format!("the log cannot be read after entry {number}: `{}` {}", broken.object, broken.reason));
        }
        let entry = history.entries.last().ok_or("the log is empty after an entry was written")?;
        match &entry.record {
            LogRecord::Opened(Opened { .. }) if entry.epoch < self.last_epoch => {
                return Err(format!("epoch {} was opened after epoch {}", entry.epoch, self.last_epoch));
            }
            LogRecord::Opened(_) => self.last_epoch = entry.epoch,
            _ if entry.epoch != self.last_epoch => {
                return Err(format!(
                    "entry {number} is of epoch {}, and epoch {} has the job",
                    entry.epoch, self.last_epoch
                ));
            }
            LogRecord::CheckpointCompleted(manifest) => self.completed(manifest, storage, external)?,
            LogRecord::Closed(_) => {}
        }
        self.live = history.checkpoints().flat_map(|manifest| &manifest.objects).map(|o| o.path.clone()).collect();
        Ok(())
    }

    fn completed(
        &mut self,
        manifest: &CheckpointManifest,
        storage: &SimStorage,
        external: &mut External,
    ) -> Result<(), String> {
        let checkpoint = manifest.checkpoint;
        if Some(checkpoint) <= self.last_checkpoint {
            return Err(format!("checkpoint {checkpoint} was completed after {:?}", self.last_checkpoint));
        }
        let folder = instant_folder(storage);
        for object in &manifest.objects {
            let there = storage.shared().objects().get(&folder.path(&object.path)).map(|found| found.len() as u64);
            if there != Some(object.length) {
                return Err(format!(
                    "checkpoint {checkpoint} was completed, and its `{}` has {there:?} of {} bytes",
                    object.path, object.length
                ));
            }
        }
        self.last_checkpoint = Some(checkpoint);
        self.checkpoints += 1;
        external.durable.insert(checkpoint);
        Ok(())
    }

    /// All is read and committed.
    pub(crate) fn at_end(&self, storage: &SimStorage, external: &External) -> Result<(), String> {
        let (oracle, found) = (self.job.oracle(), &external.table);
        let is_wrong = |(place, expected): &(&(i64, i64), &(i64, i64))| {
            found.get(place).is_none_or(|found| !self.job.accepts(*found, **expected))
        };
        if let Some((place, expected)) = oracle.iter().find(is_wrong) {
            return Err(format!(
                "the sink holds {:?} for {place:?}, and the oracle says {expected:?}",
                found.get(place)
            ));
        }
        if let Some(place) = found.keys().find(|place| !oracle.contains_key(place)) {
            return Err(format!("the sink holds {:?} for {place:?}, and the oracle has nothing", found.get(place)));
        }
        self.nothing_is_left_behind(storage)
    }

    /// What crashes and lost races left is found by the next start.
    fn nothing_is_left_behind(&self, storage: &SimStorage) -> Result<(), String> {
        let folder = instant_folder(storage);
        let options = LogOptions { attempts: 1, backoff_ms: 0, ..LogOptions::default() };
        let choose = |history: &weir_snapshot::JobHistory| {
            Ok::<_, String>(Opened { restored_from: history.restore_point(), job_fingerprint: String::new() })
        };
        let log = CommitLog::open(folder.clone(), WriterId::named("janitor"), options, 0, choose);
        let mut log = block_on(log).map_err(|error| format!("the log cannot be opened at the end: {error}"))?;
        block_on(log.collect_garbage(SweepScope::Everything)).map_err(|error| error.to_string())?;
        let named: BTreeSet<&ObjectPath> =
            log.history().checkpoints().flat_map(|manifest| &manifest.objects).map(|object| &object.path).collect();
        let shared = storage.shared();
        let left = shared
            .objects()
            .keys()
            .filter_map(|path| path.relative_to(folder.folder()))
            .find(|path| path.as_str().starts_with("chk-") && !named.contains(path));
        match left {
            Some(path) => Err(format!("`{path}` is needed by nobody, and the sweep leaves it")),
            None => Ok(()),
        }
    }
}

/// The job's folder on a storage that answers at once.
fn instant_folder(storage: &SimStorage) -> JobFolder {
    JobFolder::of_job(Arc::new(storage.instant()), JOB_UID).expect("a valid name")
}

fn log_number(path: &ObjectPath) -> Option<u64> {
    path.as_str().strip_prefix("log/")?.strip_suffix(".json")?.parse().ok()
}
