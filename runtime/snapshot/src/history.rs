//! The list of checkpoints that `weir checkpoints` shows.

use crate::folder::JobFolder;
use crate::log::{BrokenEntry, LogError, read_history};
use crate::manifest::{CheckpointManifest, ObjectRef};
use crate::retention::read_pinned;
use crate::storage::{ObjectPath, StorageError, list_all};
use std::collections::BTreeMap;
use weir_model::{CheckpointId, CheckpointKind};

#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointSummary {
    pub checkpoint: CheckpointId,
    pub kind: CheckpointKind,
    /// Milliseconds since the Unix epoch.
    pub completed_at_ms: u64,
    pub duration_ms: u64,
    /// Written for it, bytes.
    pub new_bytes: u64,
    /// Read by a restore, bytes.
    pub full_bytes: u64,
    /// Its barriers overtook records.
    pub unaligned: bool,
    /// Of both sizes, what those overtook.
    pub in_flight_bytes: u64,
    /// Kept beyond retention.
    pub pinned: bool,
    pub restorable: Restorable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restorable {
    Yes,
    /// Each object that is missing or has another length than the manifest says.
    No(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointList {
    /// Oldest first.
    pub checkpoints: Vec<CheckpointSummary>,
    /// Log entries that can't be read: checkpoints may be missing from the list.
    pub broken: Vec<BrokenEntry>,
}

/// Lists what a job can be restored from. Looks at objects' presence and length, not at their content.
pub async fn list_checkpoints(folder: &JobFolder) -> Result<CheckpointList, LogError> {
    let history = read_history(folder).await?;
    let pinned = read_pinned(folder).await?;
    let lengths = lengths(folder).await?;
    let pinned_ids = pinned.iter().map(|manifest| manifest.checkpoint).collect::<Vec<_>>();
    let only_pinned = pinned.iter().filter(|manifest| history.checkpoint(manifest.checkpoint).is_none());
    let mut checkpoints = history
        .checkpoints()
        .chain(only_pinned)
        .map(|manifest| summary(folder, manifest, pinned_ids.contains(&manifest.checkpoint), &lengths))
        .collect::<Vec<_>>();
    checkpoints.sort_by_key(|summary| summary.checkpoint);
    Ok(CheckpointList { checkpoints, broken: history.broken })
}

async fn lengths(folder: &JobFolder) -> Result<BTreeMap<ObjectPath, u64>, StorageError> {
    let listed = list_all(&**folder.storage(), folder.folder()).await?;
    let relative = listed.into_iter().filter_map(|info| Some((info.path.relative_to(folder.folder())?, info.length)));
    Ok(relative.collect())
}

fn summary(
    folder: &JobFolder,
    manifest: &CheckpointManifest,
    pinned: bool,
    lengths: &BTreeMap<ObjectPath, u64>,
) -> CheckpointSummary {
    let fault = |object: &ObjectRef| {
        let name = folder.describe(&object.path);
        match lengths.get(&object.path) {
            None => Some(format!("`{name}` is missing")),
            Some(length) if *length != object.length => {
                Some(format!("`{name}` has {length} bytes, and the manifest says {}", object.length))
            }
            Some(_) => None,
        }
    };
    let faults = manifest.objects.iter().filter_map(fault).collect::<Vec<_>>();
    CheckpointSummary {
        checkpoint: manifest.checkpoint,
        kind: manifest.kind,
        completed_at_ms: manifest.completed_at_ms,
        duration_ms: manifest.duration_ms(),
        new_bytes: manifest.sizes.new_bytes,
        full_bytes: manifest.sizes.full_bytes,
        unaligned: manifest.unaligned,
        in_flight_bytes: manifest.sizes.in_flight_bytes,
        pinned,
        restorable: if faults.is_empty() { Restorable::Yes } else { Restorable::No(faults) },
    }
}
