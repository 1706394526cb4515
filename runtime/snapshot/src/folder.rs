//! The folder of one job: names of everything in it.

use crate::storage::{InvalidPath, ObjectPath, Storage};
use std::sync::Arc;
use weir_model::{CheckpointId, Epoch, Fence};

pub(crate) const LOG_FOLDER: &str = "log";
pub(crate) const PINNED_FOLDER: &str = "pinned";
const CHECKPOINT_PREFIX: &str = "chk-";

/// A job's folder on a storage. Paths in manifests are relative to it.
#[derive(Clone, Debug)]
pub struct JobFolder {
    storage: Arc<dyn Storage>,
    folder: ObjectPath,
}

impl JobFolder {
    /// `<root>/<job uid>`.
    pub fn of_job(storage: Arc<dyn Storage>, job_uid: &str) -> Result<Self, InvalidPath> {
        let folder = ObjectPath::parse(&ObjectPath::escape_segment(job_uid))?;
        Ok(JobFolder { storage, folder })
    }

    /// A job's folder wherever it was copied to; the root is one too.
    pub fn at(storage: Arc<dyn Storage>, folder: ObjectPath) -> Self {
        JobFolder { storage, folder }
    }

    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub fn folder(&self) -> &ObjectPath {
        &self.folder
    }

    /// The storage path of what has this path in the folder.
    pub fn path(&self, relative: &ObjectPath) -> ObjectPath {
        self.folder.join(relative)
    }

    /// For messages: with the storage's address.
    pub fn describe(&self, relative: &ObjectPath) -> String {
        self.storage.address(&self.path(relative))
    }
}

/// `log/<20 digits>.json`
pub(crate) fn log_entry_path(number: u64) -> ObjectPath {
    known(format!("{LOG_FOLDER}/{number:020}.json"))
}

/// The number of a log entry, from its path in the job's folder.
pub(crate) fn log_entry_number(path: &ObjectPath) -> Option<u64> {
    let name = path.as_str().strip_prefix(LOG_FOLDER)?.strip_prefix('/')?;
    let digits = name.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The object of one worker for one checkpoint attempt: `chk-<id>/e<epoch>-a<attempt>-worker-<n>.data`.
///
/// Epoch and attempt are in the name, so that a worker of an abandoned attempt, which may write long after,
/// never replaces what a later one wrote.
pub fn worker_object_path(checkpoint: CheckpointId, fence: Fence, worker: u32) -> ObjectPath {
    known(format!("{CHECKPOINT_PREFIX}{checkpoint}/e{}-a{}-worker-{worker}.data", fence.epoch, fence.attempt))
}

/// Whether `path` is an object that this attempt writes for this checkpoint.
pub(crate) fn is_object_of(path: &ObjectPath, checkpoint: CheckpointId, fence: Fence) -> bool {
    let prefix = format!("{CHECKPOINT_PREFIX}{checkpoint}/e{}-a{}-worker-", fence.epoch, fence.attempt);
    path.as_str().starts_with(&prefix) && checkpoint_of_object(path) == Some(checkpoint)
}

/// The checkpoint that an object was written for; `None` for whatever isn't a checkpoint's object.
pub fn checkpoint_of_object(path: &ObjectPath) -> Option<CheckpointId> {
    origin_of_object(path).map(|(checkpoint, _)| checkpoint)
}

/// The checkpoint that an object was written for, and the epoch in which it was begun.
pub(crate) fn origin_of_object(path: &ObjectPath) -> Option<(CheckpointId, Epoch)> {
    let (folder, name) = path.as_str().strip_prefix(CHECKPOINT_PREFIX)?.split_once('/')?;
    let id = number(folder)?;
    let (epoch, rest) = name.strip_prefix('e')?.split_once("-a")?;
    let (attempt, worker) = rest.split_once("-worker-")?;
    number(attempt)?;
    number(worker.strip_suffix(".data")?)?;
    Some((CheckpointId(id), Epoch(number(epoch)?)))
}

/// `pinned/chk-<id>.json`
pub(crate) fn pinned_path(checkpoint: CheckpointId) -> ObjectPath {
    known(format!("{PINNED_FOLDER}/{CHECKPOINT_PREFIX}{checkpoint}.json"))
}

fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn known(path: String) -> ObjectPath {
    ObjectPath::parse(&path).expect("the names made here are valid paths")
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::AttemptNumber;

    #[test]
    fn names() {
        assert_eq!(log_entry_path(42).as_str(), "log/00000000000000000042.json");
        assert_eq!(log_entry_number(&log_entry_path(u64::MAX)), Some(u64::MAX));
        let fence = Fence { epoch: Epoch(3), attempt: AttemptNumber(1) };
        let object = worker_object_path(CheckpointId(7), fence, 2);
        assert_eq!(object.as_str(), "chk-7/e3-a1-worker-2.data");
        assert_eq!(checkpoint_of_object(&object), Some(CheckpointId(7)));
        assert_eq!(origin_of_object(&object), Some((CheckpointId(7), Epoch(3))));
        assert!(is_object_of(&object, CheckpointId(7), fence));
        assert!(!is_object_of(&object, CheckpointId(7), Fence { attempt: AttemptNumber(0), ..fence }));
    }

    #[test]
    fn what_is_not_ours_has_no_number() {
        for foreign in
            ["log/7.json", "log/0000000000000000004x.json", "chk-7/notes.txt", "chk-x/e1-a1-worker-0.data", "a"]
        {
            let path = ObjectPath::parse(foreign).unwrap();
            assert_eq!((log_entry_number(&path), checkpoint_of_object(&path)), (None, None), "{foreign}");
        }
    }
}
