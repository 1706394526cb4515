//! A job that begins with a checkpoint out of another job's folder, or with one of its own that only a pin has kept: it
//! is copied as a savepoint first. So nobody needs another one's files from then on, and none of them are this job's to
//! remove.

use super::{NotOpened, address, target_named, write};
use crate::job::Job;
use crate::start::job_folder;
use tokio::runtime::Handle;
use weir_model::CheckpointId;
use weir_snapshot::savepoint::{SavepointError, read_savepoint_manifest};
use weir_snapshot::{CheckpointManifest, JobFolder, ObjectPath, read_history, retention::read_pinned};

/// A checkpoint's address: the folder of its job's checkpoints, and `chk-<id>`.
struct CheckpointAddress {
    folder: String,
    checkpoint: CheckpointId,
}

impl CheckpointAddress {
    fn parse(address: &str) -> Option<Self> {
        let (folder, last) = address.rsplit_once('/')?;
        let id = last.strip_prefix("chk-")?.parse().ok()?;
        Some(CheckpointAddress { folder: folder.to_owned(), checkpoint: CheckpointId(id) })
    }
}

/// The address of a savepoint: this one, or, of a checkpoint's address, that of its copy beside this job's checkpoints.
/// Asked again it is the same copy.
pub(crate) fn of_address(job: &Job, uri: &str, runtime: &Handle) -> Result<String, NotOpened> {
    let Some(named) = CheckpointAddress::parse(&address(uri)?) else { return Ok(uri.to_owned()) };
    let missing = |reason: String| NotOpened::Missing(format!("there is no checkpoint `{uri}`: {reason}"));
    if let Some(path) = named.folder.strip_prefix("file://")
        && !std::path::Path::new(path).is_dir()
    {
        return Err(missing("no such folder".to_owned()));
    }
    let storage = runtime.block_on(job.open_storage(&named.folder)).map_err(|error| error.to_string())?;
    let source = JobFolder::at(storage, ObjectPath::root());
    let manifest = runtime.block_on(find(&source, named.checkpoint))?;
    let manifest = manifest.map_err(|there| missing(format!("retained there: {there}")))?;
    if manifest.sizes.in_flight_bytes > 0 {
        let reason = "its barriers overtook records, which only the job that took it can go on with. Name an aligned \
                      one, or a savepoint";
        return Err(NotOpened::Unusable(format!("checkpoint `{uri}`: {reason}")));
    }
    let name = ObjectPath::escape_segment(&format!("{}-of-{}-{}", job.uid, manifest.job_uid, manifest.checkpoint));
    let target = target_named(job, &name);
    if !stands(job, &target, runtime)? {
        tracing::info!("checkpoint `{uri}` is copied to `{target}`, from where the job begins");
        write::copy(job, &source, &manifest, &target, runtime)?;
    }
    Ok(target)
}

/// The address of a checkpoint of this job's own that a pin keeps. None: it is not pinned.
pub(crate) fn of_pinned(job: &Job, id: CheckpointId, runtime: &Handle) -> Result<Option<String>, String> {
    let folder = runtime.block_on(job_folder(job)).map_err(|error| error.to_string())?;
    let pinned = runtime.block_on(read_pinned(&folder)).map_err(|error| error.to_string())?;
    let is_pinned = pinned.iter().any(|manifest| manifest.checkpoint == id);
    let address = || format!("{}/{}/chk-{id}", job.storage_uri().trim_end_matches('/'), folder.folder().as_str());
    Ok(is_pinned.then(address))
}

/// `Err`: those that there are.
async fn find(source: &JobFolder, id: CheckpointId) -> Result<Result<CheckpointManifest, String>, String> {
    let history = read_history(source).await.map_err(|error| error.to_string())?;
    if let Some(manifest) = history.checkpoint(id) {
        return Ok(Ok(manifest.clone()));
    }
    let mut pinned = read_pinned(source).await.map_err(|error| error.to_string())?;
    if let Some(at) = pinned.iter().position(|manifest| manifest.checkpoint == id) {
        return Ok(Ok(pinned.swap_remove(at)));
    }
    let there = pinned.iter().chain(history.checkpoints()).map(|manifest| manifest.checkpoint.to_string());
    let there = there.collect::<Vec<_>>().join(", ");
    Ok(Err(if there.is_empty() { "none".to_owned() } else { there }))
}

/// A copy is complete with its manifest, which is written last.
fn stands(job: &Job, target: &str, runtime: &Handle) -> Result<bool, String> {
    if target.strip_prefix("file://").is_some_and(|path| !std::path::Path::new(path).is_dir()) {
        return Ok(false);
    }
    let storage = runtime.block_on(job.open_storage(target)).map_err(|error| error.to_string())?;
    match runtime.block_on(read_savepoint_manifest(&*storage, &ObjectPath::root())) {
        Ok(_) => Ok(true),
        Err(SavepointError::NotASavepoint { .. }) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_checkpoints() {
        let parsed = |text: &str| CheckpointAddress::parse(text).map(|found| (found.folder, found.checkpoint.0));
        let rows = [
            ("s3://b/weir/shop.orders/chk-12", Some(("s3://b/weir/shop.orders", 12))),
            ("file:///a/chk-0", Some(("file:///a", 0))),
            ("s3://b/weir/savepoints/chk-monday", None),
            ("s3://b/weir/savepoints/monday", None),
            ("s3://b/chk-12/x", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parsed(text), expected.map(|(folder, id)| (folder.to_owned(), id)), "{text}");
        }
    }
}
