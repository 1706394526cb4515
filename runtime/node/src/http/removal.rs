//! Removing a savepoint: only one of this job, and none that the job would start from.

use super::Shared;
use super::problem::{Answer, Failure};
use crate::start::{StartFrom, job_folder, restore_point};
use std::time::Duration;
use weir_snapshot::log::RestorePoint;
use weir_snapshot::savepoint::{SAVEPOINT_FILE, SavepointError, read_savepoint_manifest};
use weir_snapshot::{ObjectPath, read_history};

/// For all of it: what is left then is removed when it is asked for again.
const TIMEOUT: Duration = Duration::from_secs(50);

/// Returns how many objects went. Asked again it is a success: there are none.
pub(super) async fn remove(shared: &Shared, address: &str) -> Answer<u64> {
    match tokio::time::timeout(TIMEOUT, removed(shared, address)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::unavailable(format!("not all was removed within {} s; ask again", TIMEOUT.as_secs()))),
    }
}

async fn removed(shared: &Shared, address: &str) -> Answer<u64> {
    let job = shared.running_job();
    let unavailable = |error: &dyn std::fmt::Display| Failure::unavailable(error.to_string());
    if !address.contains("://") {
        return Err(Failure::bad_request(format!("`{address:.200}` is no address; write it as the savepoint's says")));
    }
    let is_gone = address.strip_prefix("file://").is_some_and(|path| !std::path::Path::new(path).is_dir());
    if is_gone {
        return Ok(0);
    }
    let folder = job_folder(&job).await.map_err(|error| unavailable(&error))?;
    let history = read_history(&folder).await.map_err(|error| unavailable(&error))?;
    let next = restore_point(&history, &StartFrom::Latest).map_err(|error| unavailable(&error))?;
    if matches!(next, Some(RestorePoint::Location { uri }) if uri.trim_end_matches('/') == address.trim_end_matches('/'))
    {
        return Err(Failure::conflict("the job would start from this savepoint: it has completed no checkpoint since"));
    }
    let storage = job.open_storage(address).await.map_err(|error| unavailable(&error))?;
    let manifest = match read_savepoint_manifest(&*storage, &ObjectPath::root()).await {
        Ok(manifest) if manifest.job_uid == job.uid => manifest,
        Ok(manifest) => {
            return Err(Failure::conflict(format!("it is a savepoint of another job, `{}`", manifest.job_uid)));
        }
        Err(SavepointError::NotASavepoint { .. }) => return Ok(0),
        Err(error) => return Err(unavailable(&error)),
    };
    // What it names and nothing else: the user may keep other things beside it. The manifest last: as long as anything
    // is left, the removal can be asked for again, and finds the rest.
    let states = manifest.operators.into_iter().flat_map(|operator| operator.states);
    let mut objects: Vec<ObjectPath> = states.flat_map(|state| state.files).map(|file| file.path).collect();
    objects.push(ObjectPath::parse(SAVEPOINT_FILE).map_err(|error| unavailable(&error))?);
    for object in &objects {
        storage.delete(object).await.map_err(|error| unavailable(&error))?;
    }
    Ok(objects.len() as u64)
}
