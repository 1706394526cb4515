//! The second phase: renaming pending files, and removing what no checkpoint knows.

use super::names::{epoch_of_hidden, hidden_prefix};
use super::part::{self, Sealed};
use super::sync_directory;
use super::writer::{Commit, WriterState};
use crate::api::{Committable, Committer, CommitterContext, ConnectorError};
use crate::files::io_error;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use weir_model::{CommitPermit, Epoch};

/// Folders below the sink's directory that are looked into: more than anybody partitions by.
const MAX_DEPTH: usize = 32;

pub(super) struct FilesCommitter {
    sink: String,
    root: PathBuf,
    hidden_prefix: String,
    epoch: Epoch,
}

impl FilesCommitter {
    pub fn new(root: PathBuf, context: &CommitterContext) -> Self {
        FilesCommitter { sink: context.name.clone(), root, hidden_prefix: hidden_prefix(context), epoch: context.epoch }
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, value: &serde_json::Value) -> Result<T, ConnectorError> {
        serde_json::from_value(value.clone()).map_err(|error| {
            ConnectorError::Permanent(format!(
                "sink `{}`: the checkpoint holds {value}, unreadable: {error}",
                self.sink
            ))
        })
    }

    fn finish(&self, file: &Sealed) -> Result<(), ConnectorError> {
        let Sealed { pending, finished, length } = file;
        let pending_length = length_of(pending)?;
        let finished_length = length_of(finished)?;
        match (pending_length, finished_length) {
            (Some(found), None) if found == *length => {
                fs::rename(pending, finished).map_err(|error| io_error("finish", pending, &error))
            }
            (None, Some(found)) if found == *length => Ok(()),
            (None, None) => Err(self.cannot_commit(file, "neither exists")),
            (Some(found), None) => Err(self.cannot_commit(file, &format!("the pending file has {found} bytes"))),
            (None, Some(found)) => Err(self.cannot_commit(file, &format!("the finished file has {found} bytes"))),
            (Some(_), Some(_)) => Err(self.cannot_commit(file, "both exist")),
        }
    }

    fn cannot_commit(&self, file: &Sealed, found: &str) -> ConnectorError {
        ConnectorError::Permanent(format!(
            "sink `{}` cannot commit {} as {} ({} bytes): {found}. Somebody else has changed the directory; put the \
             file back, or start from another checkpoint.",
            self.sink,
            file.pending.display(),
            file.finished.display(),
            file.length
        ))
    }

    fn remove_others(&self, directory: &Path, depth: usize, kept: &HashSet<PathBuf>) -> Result<(), ConnectorError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == NotFound => return Ok(()),
            Err(error) => return Err(io_error("list", directory, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| io_error("list", directory, &error))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|error| io_error("read", &path, &error))?;
            if kind.is_dir() && depth < MAX_DEPTH {
                self.remove_others(&path, depth + 1, kept)?;
            } else if let Some(epoch) =
                entry.file_name().to_str().and_then(|name| epoch_of_hidden(&self.hidden_prefix, name))
                && !kept.contains(&path)
            {
                if epoch > self.epoch {
                    let (sink, file) = (&self.sink, path.display());
                    tracing::warn!(sink, %file, %epoch, "output of a later coordinator is left alone");
                    continue;
                }
                tracing::info!(sink = self.sink, file = %path.display(), "removing output that no checkpoint holds");
                remove(&path)?;
            }
        }
        Ok(())
    }
}

impl Committer for FilesCommitter {
    fn commit(&mut self, _permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        let mut directories = BTreeSet::new();
        for committable in committables {
            match self.parse(&committable.0)? {
                Commit::Finish(file) => {
                    self.finish(&file)?;
                    directories.extend(file.finished.parent().map(Path::to_owned));
                }
                Commit::Remove { replaced } => remove(&replaced)?,
            }
        }
        directories.iter().try_for_each(|directory| sync_directory(directory))
    }

    fn abort_others(&mut self, committed: &[Committable], writers: &[serde_json::Value]) -> Result<(), ConnectorError> {
        let mut kept = HashSet::new();
        for committable in committed {
            if let Commit::Finish(file) = self.parse(&committable.0)? {
                kept.insert(file.pending);
            }
        }
        for state in writers {
            let state: WriterState = self.parse(state)?;
            for file in state.in_progress {
                // Before anything is removed: it may be the only copy of what this one held.
                part::find_valid(&file)?;
                kept.insert(file.hidden);
            }
        }
        self.remove_others(&self.root, 0, &kept)
    }
}

fn length_of(path: &Path) -> Result<Option<u64>, ConnectorError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, &error)),
    }
}

fn remove(path: &Path) -> Result<(), ConnectorError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != NotFound => Err(io_error("remove", path, &error)),
        _ => Ok(()),
    }
}
