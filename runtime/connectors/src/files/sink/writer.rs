//! The writer of one subtask: a file per folder, sealed and handed to the committer.

use super::folders::{Folders, Target};
use super::part::{HiddenFile, InProgress, Sealed};
use super::{FilesSinkConfig, names, sync_directory};
use crate::api::{Committable, CommitterContext, ConnectorError, SinkContext, SinkSnapshot, SinkWriter};
use crate::files::io_error;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_model::CheckpointId;

pub(super) struct FilesWriter {
    config: Arc<FilesSinkConfig>,
    folders: Folders<Directory>,
    /// Files of an earlier attempt, whose valid part lives on in a copy.
    replaced: Vec<PathBuf>,
    /// What the restored checkpoint left in progress; taken over when the first record or barrier comes, by which
    /// time the committer has removed what doesn't belong to that checkpoint.
    restored: Vec<InProgress>,
    /// No record follows, so that no file goes on.
    input_ended: bool,
}

/// The sink's directory.
struct Directory {
    path: PathBuf,
    context: SinkContext,
    hidden_prefix: String,
    /// Sealed since the last checkpoint.
    sealed: Vec<Sealed>,
    /// Directories with entries that aren't known to be on disk.
    unsynced: BTreeSet<PathBuf>,
    counter: u64,
}

/// The writer's own state in a checkpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WriterState {
    pub in_progress: Vec<InProgress>,
}

/// What a commit does; as it stands in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Commit {
    /// Rename the pending file to the finished name.
    Finish(Sealed),
    /// Remove a file whose valid part this checkpoint holds in a copy.
    Remove { replaced: PathBuf },
}

impl FilesWriter {
    pub fn open(
        config: Arc<FilesSinkConfig>,
        context: SinkContext,
        restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Self, ConnectorError> {
        let mut in_progress = Vec::new();
        for (subtask, state) in restored {
            let state: WriterState = serde_json::from_value(state).map_err(|error| {
                let name = &context.name;
                ConnectorError::Permanent(format!("sink `{name}`: the checkpoint's state can't be read: {error}"))
            })?;
            if subtask % context.parallelism == context.subtask {
                in_progress.extend(state.in_progress);
            }
        }
        let owner =
            CommitterContext { name: context.name.clone(), job_uid: context.job_uid.clone(), epoch: context.epoch };
        let input = context.input.clone();
        let directory = Directory {
            path: config.path.clone(),
            context,
            hidden_prefix: names::hidden_prefix(&owner),
            sealed: Vec::new(),
            unsynced: BTreeSet::new(),
            counter: 0,
        };
        let folders = Folders::new(config.clone(), &input, directory)?;
        Ok(FilesWriter { config, folders, replaced: Vec::new(), restored: in_progress, input_ended: false })
    }

    fn take_over_restored(&mut self) -> Result<(), ConnectorError> {
        for earlier in std::mem::take(&mut self.restored) {
            let file = self.folders.target.create(&earlier.folder, self.config.extension(), Some(&earlier))?;
            // Fewer subtasks than before can leave two files for a folder: the first is complete then.
            self.folders.continue_with(earlier.folder, file)?;
            self.replaced.push(earlier.hidden);
        }
        Ok(())
    }
}

impl Directory {
    fn create(
        &mut self,
        folder: &str,
        extension: &str,
        continues: Option<&InProgress>,
    ) -> Result<HiddenFile, ConnectorError> {
        let directory = self.path.join(folder);
        self.create_directory(&directory)?;
        let name = names::finished(self.context.subtask, &self.context.attempt, self.counter, extension);
        self.counter += 1;
        let hidden = directory.join(names::hidden(&self.hidden_prefix, self.context.epoch, &name));
        let file = HiddenFile::create(hidden, directory.join(name), continues)?;
        self.unsynced.insert(directory);
        Ok(file)
    }

    fn create_directory(&mut self, directory: &Path) -> Result<(), ConnectorError> {
        let missing: Vec<_> = directory.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        fs::create_dir_all(directory).map_err(|error| io_error("create the directory", directory, &error))?;
        self.unsynced.extend(missing.iter().filter_map(|created| created.parent()).map(Path::to_owned));
        Ok(())
    }
}

impl Target for Directory {
    type Out = HiddenFile;

    fn create(&mut self, folder: &str, extension: &str) -> Result<HiddenFile, ConnectorError> {
        Directory::create(self, folder, extension, None)
    }

    fn seal(&mut self, file: HiddenFile) -> Result<(), ConnectorError> {
        self.sealed.push(file.seal()?);
        Ok(())
    }
}

impl SinkWriter for FilesWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.take_over_restored()?;
        self.folders.write(batch)
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        self.take_over_restored()?;
        self.folders.seal_due()?;
        let mut state = WriterState::default();
        if self.config.continues_over_checkpoints() && !self.input_ended {
            for folder in self.folders.folders() {
                if let Some(file) = self.folders.flush(&folder)? {
                    let (hidden, valid_length) = (file.hidden.clone(), file.sync()?);
                    state.in_progress.push(InProgress { hidden, folder, valid_length });
                }
            }
        } else {
            self.folders.seal_all()?;
        }
        let Directory { sealed, unsynced, .. } = &mut self.folders.target;
        std::mem::take(unsynced).iter().try_for_each(|directory| sync_directory(directory))?;
        let finish = std::mem::take(sealed).into_iter().map(Commit::Finish);
        let remove = std::mem::take(&mut self.replaced).into_iter().map(|replaced| Commit::Remove { replaced });
        Ok(SinkSnapshot {
            committables: finish.chain(remove).map(|commit| Committable(to_json(&commit))).collect(),
            writer: (!state.in_progress.is_empty()).then(|| to_json(&state)),
        })
    }

    fn end_of_input(&mut self) {
        self.input_ended = true;
    }

    /// Removes what no checkpoint can hold yet. Best effort: the committer of the next attempt removes the rest.
    fn abort(&mut self) {
        if !self.config.continues_over_checkpoints() {
            let open = self.folders.abandon(|file| file.hidden.clone());
            let sealed = self.folders.target.sealed.drain(..).map(|file| file.pending);
            for path in open.into_iter().chain(sealed) {
                if let Err(error) = fs::remove_file(&path) {
                    tracing::debug!(file = %path.display(), %error, "unfinished output stays until the next attempt");
                }
            }
        }
    }
}

fn to_json(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("paths were checked to be text, all else is plain data")
}
