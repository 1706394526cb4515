//! Savepoints of a running job: written from one of its checkpoints, and what a job starts from.

mod copy;
mod read;
mod states;
mod write;

pub(crate) use copy::{of_address, of_pinned};
pub(crate) use read::{NotOpened, SavedStates, open};
pub(crate) use write::write;

use crate::job::Job;
use std::path::Path;
use weir_model::CheckpointId;

pub(crate) fn default_target(job: &Job, checkpoint: CheckpointId) -> String {
    target_named(job, &format!("{}-{checkpoint}", job.name))
}

/// Where a savepoint of this name stands, of those beside the checkpoints.
pub(crate) fn target_named(job: &Job, name: &str) -> String {
    format!("{}/savepoints/{name}", job.storage_uri().trim_end_matches('/'))
}

/// The address of a folder that a user named: an address already, or a path.
fn address(target: &str) -> Result<String, String> {
    if target.contains("://") {
        return Ok(target.trim_end_matches('/').to_owned());
    }
    let path = std::path::absolute(Path::new(target)).map_err(|error| format!("`{target}` is no path: {error}"))?;
    let path = path.to_str().ok_or_else(|| format!("`{target}` is not UTF-8"))?;
    Ok(format!("file://{}", path.trim_end_matches('/')))
}
