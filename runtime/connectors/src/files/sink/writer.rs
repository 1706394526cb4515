//! The writer of one subtask: a file per folder, sealed and handed to the committer.

use super::layout::Layout;
use super::part::{InProgress, Part, Sealed};
use super::{FilesSinkConfig, SinkCompression, SinkFileFormat, names, sync_directory};
use crate::api::{Committable, CommitterContext, ConnectorError, SinkContext, SinkSnapshot, SinkWriter};
use crate::files::io_error;
use crate::formats::{EncoderConfig, Rows};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use weir_model::CheckpointId;

pub(super) struct FilesWriter {
    config: Arc<FilesSinkConfig>,
    context: SinkContext,
    layout: Layout,
    hidden_prefix: String,
    /// Open files by folder, relative to the sink's directory.
    open: HashMap<String, Part>,
    /// Sealed since the last checkpoint.
    sealed: Vec<Sealed>,
    /// Files of an earlier attempt, whose valid part lives on in a copy.
    replaced: Vec<PathBuf>,
    /// What the restored checkpoint left in progress; taken over when the first record or barrier comes, by which
    /// time the committer has removed what doesn't belong to that checkpoint.
    restored: Vec<InProgress>,
    /// Directories with entries that aren't known to be on disk.
    unsynced: BTreeSet<PathBuf>,
    counter: u64,
    /// No record follows, so that no file goes on.
    input_ended: bool,
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
        Ok(FilesWriter {
            layout: Layout::of(&config, &context.input)?,
            hidden_prefix: names::hidden_prefix(&owner),
            config,
            context,
            open: HashMap::new(),
            sealed: Vec::new(),
            replaced: Vec::new(),
            restored: in_progress,
            unsynced: BTreeSet::new(),
            counter: 0,
            input_ended: false,
        })
    }

    fn take_over_restored(&mut self) -> Result<(), ConnectorError> {
        for earlier in std::mem::take(&mut self.restored) {
            let part = self.create(&earlier.folder, Some(&earlier))?;
            // Fewer subtasks than before can leave two files for a folder: the first is complete then.
            if let Some(other) = self.open.insert(earlier.folder, part) {
                self.sealed.push(other.seal()?);
            }
            self.replaced.push(earlier.hidden);
        }
        Ok(())
    }

    fn create(&mut self, folder: &str, continues: Option<&InProgress>) -> Result<Part, ConnectorError> {
        let directory = self.config.path.join(folder);
        self.create_directory(&directory)?;
        let name = names::finished(self.context.subtask, &self.context.attempt, self.counter, self.extension());
        self.counter += 1;
        let hidden = directory.join(names::hidden(&self.hidden_prefix, self.context.epoch, &name));
        let part = Part::create(&self.config, &self.layout.schema, hidden, directory.join(name), continues)?;
        self.unsynced.insert(directory);
        Ok(part)
    }

    fn create_directory(&mut self, directory: &Path) -> Result<(), ConnectorError> {
        let missing: Vec<_> = directory.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        fs::create_dir_all(directory).map_err(|error| io_error("create the directory", directory, &error))?;
        self.unsynced.extend(missing.iter().filter_map(|created| created.parent()).map(Path::to_owned));
        Ok(())
    }

    fn extension(&self) -> &'static str {
        match (&self.config.format, self.config.compression) {
            (SinkFileFormat::Parquet(_), _) => "parquet",
            (SinkFileFormat::Text(EncoderConfig::Json { .. }), SinkCompression::None) => "jsonl",
            (SinkFileFormat::Text(EncoderConfig::Json { .. }), SinkCompression::Gzip) => "jsonl.gz",
            (SinkFileFormat::Text(EncoderConfig::Json { .. }), SinkCompression::Zstd) => "jsonl.zst",
            (SinkFileFormat::Text(EncoderConfig::Csv(_)), SinkCompression::None) => "csv",
            (SinkFileFormat::Text(EncoderConfig::Csv(_)), SinkCompression::Gzip) => "csv.gz",
            (SinkFileFormat::Text(EncoderConfig::Csv(_)), SinkCompression::Zstd) => "csv.zst",
            (SinkFileFormat::Text(EncoderConfig::Raw), SinkCompression::None) => "txt",
            (SinkFileFormat::Text(EncoderConfig::Raw), SinkCompression::Gzip) => "txt.gz",
            (SinkFileFormat::Text(EncoderConfig::Raw), SinkCompression::Zstd) => "txt.zst",
        }
    }

    fn write_folder(&mut self, folder: &str, batch: &RecordBatch, rows: Rows<'_>) -> Result<(), ConnectorError> {
        if !self.open.contains_key(folder) {
            if self.open.len() >= self.config.max_open_files.max(1) {
                self.seal_longest_unwritten()?;
            }
            let part = self.create(folder, None)?;
            self.open.insert(folder.into(), part);
        }
        let part = self.open.get_mut(folder).expect("opened above");
        part.write(batch, rows)?;
        if part.size_bytes() >= self.config.rolling.max_size_bytes {
            self.seal(folder)?;
        }
        Ok(())
    }

    fn seal(&mut self, folder: &str) -> Result<(), ConnectorError> {
        if let Some(part) = self.open.remove(folder) {
            self.sealed.push(part.seal()?);
        }
        Ok(())
    }

    fn seal_longest_unwritten(&mut self) -> Result<(), ConnectorError> {
        let longest = self.open.iter().min_by_key(|(_, part)| part.written_at).map(|(folder, _)| folder.clone());
        longest.map_or(Ok(()), |folder| self.seal(&folder))
    }

    fn seal_due(&mut self) -> Result<(), ConnectorError> {
        let (now, rolling) = (Instant::now(), self.config.rolling);
        let is_due = |part: &Part| {
            now.duration_since(part.opened_at) >= rolling.max_age
                || rolling.inactivity.is_some_and(|limit| now.duration_since(part.written_at) >= limit)
        };
        let due: Vec<_> = self.open.iter().filter(|(_, part)| is_due(part)).map(|(folder, _)| folder.clone()).collect();
        due.iter().try_for_each(|folder| self.seal(folder))
    }
}

impl SinkWriter for FilesWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.take_over_restored()?;
        self.seal_due()?;
        let laid_out = self.layout.apply(batch);
        match self.layout.partitions(batch) {
            None => self.write_folder("", &laid_out, Rows::All),
            Some(partitions) => {
                partitions.iter().try_for_each(|(folder, rows)| self.write_folder(folder, &laid_out, Rows::These(rows)))
            }
        }
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        self.take_over_restored()?;
        self.seal_due()?;
        let mut state = WriterState::default();
        let mut folders: Vec<_> = self.open.keys().cloned().collect();
        folders.sort();
        for folder in folders {
            if self.config.continues_over_checkpoints() && !self.input_ended {
                let part = self.open.get_mut(&folder).expect("one of the open folders");
                let valid_length = part.sync()?;
                state.in_progress.push(InProgress { hidden: part.hidden.clone(), folder, valid_length });
            } else {
                self.seal(&folder)?;
            }
        }
        std::mem::take(&mut self.unsynced).iter().try_for_each(|directory| sync_directory(directory))?;
        let finish = std::mem::take(&mut self.sealed).into_iter().map(Commit::Finish);
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
            let open = self.open.drain().map(|(_, part)| part.hidden);
            let sealed = self.sealed.drain(..).map(|file| file.pending);
            for path in open.chain(sealed) {
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
