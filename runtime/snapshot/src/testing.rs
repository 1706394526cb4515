//! What the tests of this crate share.

use crate::folder::worker_object_path;
use crate::log::{CommitLog, JobHistory, LogError, LogOptions, OpenError, Opened, WriterId};
use crate::manifest::{CheckpointManifest, CheckpointSizes, ObjectRef};
use crate::retention::Retention;
use crate::storage::{ObjectPath, Storage};
use crate::{JobFolder, StorageError};
use bytes::Bytes;
use std::convert::Infallible;
use std::sync::Arc;
use weir_model::{AttemptNumber, CheckpointId, CheckpointKind, Epoch, Fence};

pub(crate) const JOB: &str = "job-1";

pub(crate) fn job_folder(storage: Arc<dyn Storage>) -> JobFolder {
    JobFolder::of_job(storage, JOB).unwrap()
}

pub(crate) fn path(path: &str) -> ObjectPath {
    ObjectPath::parse(path).unwrap()
}

/// Each call once, so that every fault shows.
pub(crate) fn no_retries() -> LogOptions {
    LogOptions { attempts: 1, backoff_ms: 0, allow_broken: false, mark: None }
}

pub(crate) fn keep(count: u32) -> Retention {
    Retention { count, max_age_ms: None }
}

/// Goes on from what the log says.
pub(crate) fn from_latest(history: &JobHistory) -> Result<Opened, Infallible> {
    Ok(Opened { restored_from: history.restore_point(), job_fingerprint: "v1".into() })
}

pub(crate) async fn open_log(storage: &Arc<dyn Storage>, owner: &str) -> Result<CommitLog, OpenError<Infallible>> {
    let folder = job_folder(storage.clone());
    CommitLog::open(folder, WriterId::named(owner), no_retries(), 0, from_latest).await
}

/// A manifest whose objects are one of its own and some that earlier checkpoints wrote.
pub(crate) fn manifest(epoch: Epoch, checkpoint: u64, base: &[ObjectRef]) -> CheckpointManifest {
    let checkpoint = CheckpointId(checkpoint);
    let fence = Fence { epoch, attempt: AttemptNumber(1) };
    let content = own_content(checkpoint);
    let own = ObjectRef {
        path: worker_object_path(checkpoint, fence, 0),
        length: content.len() as u64,
        crc32c: crc32c::crc32c(&content),
    };
    let objects = base.iter().cloned().chain([own]).collect::<Vec<_>>();
    CheckpointManifest {
        job_uid: JOB.into(),
        checkpoint,
        kind: CheckpointKind::Checkpoint,
        unaligned: false,
        epoch,
        attempt: fence.attempt,
        started_at_ms: checkpoint.0 * 1000,
        completed_at_ms: checkpoint.0 * 1000 + 84,
        max_parallelism: 128,
        operators: vec![],
        sizes: CheckpointSizes {
            new_bytes: content.len() as u64,
            full_bytes: objects.iter().map(|object| object.length).sum(),
            in_flight_bytes: 0,
        },
        objects,
    }
}

fn own_content(checkpoint: CheckpointId) -> Bytes {
    Bytes::from(format!("state of checkpoint {checkpoint}"))
}

/// Writes the manifest's own object and completes it, as a node does.
pub(crate) async fn complete(
    log: &mut CommitLog,
    manifest: CheckpointManifest,
    retention: &Retention,
) -> Result<CheckpointId, LogError> {
    put_own_object(log.folder(), &manifest).await?;
    let now_ms = manifest.completed_at_ms;
    log.complete(manifest, retention, None, now_ms).await.map(|durable| durable.into_inner())
}

async fn put_own_object(folder: &JobFolder, manifest: &CheckpointManifest) -> Result<(), StorageError> {
    let own = worker_object_path(manifest.checkpoint, manifest.fence(), 0);
    folder.storage().put(&folder.path(&own), own_content(manifest.checkpoint)).await
}

/// The next checkpoint of this log, built on the objects of the latest.
pub(crate) async fn complete_next(log: &mut CommitLog, retention: &Retention) -> Result<CheckpointId, LogError> {
    let next = manifest(log.epoch(), log.next_checkpoint().0, &[]);
    complete(log, next, retention).await
}
