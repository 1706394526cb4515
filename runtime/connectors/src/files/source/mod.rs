//! The files source: a file, a directory or a glob, each record read once and exactly once replayed.

mod discovery;
mod framing;
mod lines;
mod parquet_rows;
mod position;
mod reader;

use crate::api::{ConnectorError, Source, SourceContext, SourceReader, SplitState};
use crate::formats::{DecoderConfig, OnBadRecord, decoder};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use std::time::Duration;

/// What to read and how.
#[derive(Clone, Debug)]
pub struct FilesSourceConfig {
    /// A file, a directory (all files in it and below, but for names that begin with `.` or `_`) or a glob.
    pub path: String,
    pub format: FileFormat,
    /// The columns to read. Of Parquet it may be empty: then all columns of the first file.
    pub schema: SchemaRef,
    pub compression: SourceCompression,
    pub on_bad_record: OnBadRecord,
    /// Go on with appended lines and new files; without it the source ends with what is there.
    pub follow: bool,
    /// How often a followed path is looked at.
    pub poll_interval: Duration,
    /// Cut uncompressed text files into ranges of this many bytes, which different subtasks can read. A record
    /// must then stand on one line. The ranges of a file ordered by time lie far apart in event time, so that
    /// windows stay open longer; `None` reads each file in one piece.
    pub split_size_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FileFormat {
    /// Records of a text format, one a line.
    Text(DecoderConfig),
    /// Columns are matched by name and cast to the schema's types. A file must be moved into place whole.
    Parquet,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceCompression {
    /// Told from the file's name: `.gz`, `.zst`, else none.
    #[default]
    Auto,
    None,
    Gzip,
    Zstd,
}

/// The files source. A split is a file, or a range of one; files are read one after another in the order of
/// their names, each by the subtask that its path's hash says.
pub struct FilesSource {
    config: Arc<FilesSourceConfig>,
}

impl FilesSource {
    /// Refuses a schema that the format can't hold, and settings that exclude each other.
    pub fn new(mut config: FilesSourceConfig) -> Result<Self, ConnectorError> {
        match &config.format {
            FileFormat::Text(format) => {
                decoder(format, &config.schema)?;
            }
            FileFormat::Parquet => {
                if matches!(config.compression, SourceCompression::Gzip | SourceCompression::Zstd) {
                    return Err(ConnectorError::Permanent(
                        "compression cannot be set beside Parquet, which is compressed inside; remove it".into(),
                    ));
                }
                if config.schema.fields().is_empty() {
                    config.schema = parquet_rows::schema_of_first(&config)?;
                }
            }
        }
        if config.follow && config.split_size_bytes.is_some() {
            return Err(ConnectorError::Permanent(
                "splitSize cannot be used with follow: a growing file has no ranges; remove one of them".into(),
            ));
        }
        if config.split_size_bytes == Some(0) {
            return Err(ConnectorError::Permanent("splitSize must be at least 1 byte".into()));
        }
        Ok(FilesSource { config: Arc::new(config) })
    }
}

impl Source for FilesSource {
    fn schema(&self) -> SchemaRef {
        self.config.schema.clone()
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        !self.config.follow
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(reader::FilesReader::open(self.config.clone(), context, restored)?))
    }
}
