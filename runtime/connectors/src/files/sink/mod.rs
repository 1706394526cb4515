//! The files sink: exactly once by two phases.
//!
//! A file is written under a hidden name (in progress), sealed at a checkpoint (pending: complete, on disk, still
//! hidden) and renamed by the commit (finished). Readers that pass over hidden files see committed records only.

mod body;
mod committer;
mod folders;
mod layout;
mod names;
mod objects;
mod part;
mod writer;

pub use objects::*;

use crate::api::{Committer, CommitterContext, ConnectorError, Guarantee, Sink, SinkContext, SinkWriter};
use crate::files::io_error;
use crate::formats::EncoderConfig;
use arrow::datatypes::SchemaRef;
use layout::Layout;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What to write where.
#[derive(Clone, Debug)]
pub struct FilesSinkConfig {
    /// The directory; made if it isn't there.
    pub path: PathBuf,
    pub format: SinkFileFormat,
    /// Of text formats; Parquet compresses by itself.
    pub compression: SinkCompression,
    /// Columns that become folders, `origin=JFK/`, and are left out of the records.
    pub partition_by: Vec<String>,
    /// The column that takes an updating input's change kind as `+I`, `-U`, `+U` or `-D`. Without it such an
    /// input is refused.
    pub change_kind_column: Option<String>,
    pub rolling: Rolling,
    pub at_checkpoint: AtCheckpoint,
    /// When more files (partitions) than this are open, the one that waits longest for a record is sealed.
    pub max_open_files: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SinkFileFormat {
    /// One record a line.
    Text(EncoderConfig),
    Parquet(ParquetFormat),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParquetFormat {
    pub compression: ParquetCompression,
    pub row_group_rows: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParquetCompression {
    None,
    Snappy,
    Gzip,
    Lz4,
    #[default]
    Zstd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinkCompression {
    #[default]
    None,
    Gzip,
    Zstd,
}

/// When a file is sealed and the next begun, checkpoints aside: at whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolling {
    pub max_size_bytes: u64,
    pub max_age: Duration,
    /// No record for this long.
    pub inactivity: Option<Duration>,
}

/// What a checkpoint does to the files that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtCheckpoint {
    /// Each is sealed: its records become visible with this checkpoint.
    #[default]
    Roll,
    /// Each goes on, so that files get as large as `rolling` says and their records are visible only then.
    /// Uncompressed text only; other formats roll.
    Continue,
}

impl FilesSinkConfig {
    /// JSON lines, rolled at each checkpoint.
    pub fn json(path: impl Into<PathBuf>) -> Self {
        FilesSinkConfig {
            path: path.into(),
            format: SinkFileFormat::Text(EncoderConfig::Json { omit_nulls: false }),
            compression: SinkCompression::None,
            partition_by: Vec::new(),
            change_kind_column: None,
            rolling: Rolling { max_size_bytes: 128 << 20, max_age: Duration::from_secs(900), inactivity: None },
            at_checkpoint: AtCheckpoint::Roll,
            max_open_files: 64,
        }
    }

    fn continues_over_checkpoints(&self) -> bool {
        self.at_checkpoint == AtCheckpoint::Continue
            && self.compression == SinkCompression::None
            && matches!(self.format, SinkFileFormat::Text(_))
    }
}

pub struct FilesSink {
    config: Arc<FilesSinkConfig>,
}

impl FilesSink {
    pub fn new(config: FilesSinkConfig) -> Result<Self, ConnectorError> {
        check_compression(&config)?;
        // Paths stand in checkpoints, which outlive the working directory.
        let path = std::path::absolute(&config.path).map_err(|error| io_error("find", &config.path, &error))?;
        if path.to_str().is_none() {
            return Err(ConnectorError::Permanent(format!("the path {} is not UTF-8", path.display())));
        }
        Ok(FilesSink { config: Arc::new(FilesSinkConfig { path, ..config }) })
    }
}

impl Sink for FilesSink {
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError> {
        Layout::of(&self.config, input).map(|_| ())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn writer(
        &self,
        context: SinkContext,
        restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(writer::FilesWriter::open(self.config.clone(), context, restored)?))
    }

    fn committer(&self, context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(Some(Box::new(committer::FilesCommitter::new(self.config.path.clone(), &context))))
    }
}

fn check_compression(config: &FilesSinkConfig) -> Result<(), ConnectorError> {
    if matches!(config.format, SinkFileFormat::Parquet(_)) && config.compression != SinkCompression::None {
        return Err(ConnectorError::Permanent(
            "compression cannot be set beside Parquet, which compresses by itself: set format.parquet.compression"
                .into(),
        ));
    }
    Ok(())
}

/// Makes what was done to a directory's entries durable.
fn sync_directory(path: &Path) -> Result<(), ConnectorError> {
    let synced = std::fs::File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| io_error("sync the directory", path, &error))
}
