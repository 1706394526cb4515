//! The open files of one subtask, one for each folder, and when each of them ends.

use super::body::{Body, Out};
use super::layout::Layout;
use super::{FilesSinkConfig, SinkCompression, SinkFileFormat};
use crate::api::ConnectorError;
use crate::formats::{EncoderConfig, Rows};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Where files are made.
pub(super) trait Target {
    type Out: Out;

    /// Begins a file in a folder relative to the sink's.
    fn create(&mut self, folder: &str, extension: &str) -> Result<Self::Out, ConnectorError>;

    /// Takes a file that is complete.
    fn seal(&mut self, file: Self::Out) -> Result<(), ConnectorError>;
}

pub(super) struct Folders<T: Target> {
    config: Arc<FilesSinkConfig>,
    layout: Layout,
    pub target: T,
    /// By folder, relative to the sink's.
    open: HashMap<String, OpenFile<T::Out>>,
}

struct OpenFile<O: Out> {
    body: Body<O>,
    opened_at: Instant,
    written_at: Instant,
}

impl<T: Target> Folders<T> {
    pub fn new(config: Arc<FilesSinkConfig>, input: &SchemaRef, target: T) -> Result<Self, ConnectorError> {
        Ok(Folders { layout: Layout::of(&config, input)?, config, target, open: HashMap::new() })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.seal_due()?;
        let laid_out = self.layout.apply(batch);
        match self.layout.partitions(batch) {
            None => self.write_folder("", &laid_out, Rows::All),
            Some(partitions) => {
                partitions.iter().try_for_each(|(folder, rows)| self.write_folder(folder, &laid_out, Rows::These(rows)))
            }
        }
    }

    /// Goes on with a file that has content already. One that was open in its folder is complete then.
    pub fn continue_with(&mut self, folder: String, file: T::Out) -> Result<(), ConnectorError> {
        let file = self.opened(&folder, file)?;
        match self.open.insert(folder, file) {
            Some(other) => self.target.seal(other.body.finish()?),
            None => Ok(()),
        }
    }

    /// The folders with an open file, in their order.
    pub fn folders(&self) -> Vec<String> {
        let mut folders: Vec<_> = self.open.keys().cloned().collect();
        folders.sort();
        folders
    }

    /// Hands on all that was written to a folder's open file. Of uncompressed text only.
    pub fn flush(&mut self, folder: &str) -> Result<Option<&T::Out>, ConnectorError> {
        self.open.get_mut(folder).map(|file| file.body.flush()).transpose()
    }

    pub fn seal(&mut self, folder: &str) -> Result<(), ConnectorError> {
        match self.open.remove(folder) {
            Some(file) => self.target.seal(file.body.finish()?),
            None => Ok(()),
        }
    }

    pub fn seal_due(&mut self) -> Result<(), ConnectorError> {
        let (now, rolling) = (Instant::now(), self.config.rolling);
        let is_due = |file: &OpenFile<T::Out>| {
            now.duration_since(file.opened_at) >= rolling.max_age
                || rolling.inactivity.is_some_and(|limit| now.duration_since(file.written_at) >= limit)
        };
        let due: Vec<_> = self.open.iter().filter(|(_, file)| is_due(file)).map(|(folder, _)| folder.clone()).collect();
        due.iter().try_for_each(|folder| self.seal(folder))
    }

    pub fn seal_all(&mut self) -> Result<(), ConnectorError> {
        self.folders().iter().try_for_each(|folder| self.seal(folder))
    }

    /// Lets go of the open files, unfinished, and names what each was written to.
    pub fn abandon<N>(&mut self, name: impl Fn(&T::Out) -> N) -> Vec<N> {
        self.open.drain().map(|(_, file)| name(file.body.out())).collect()
    }

    fn write_folder(&mut self, folder: &str, batch: &RecordBatch, rows: Rows<'_>) -> Result<(), ConnectorError> {
        if !self.open.contains_key(folder) {
            if self.open.len() >= self.config.max_open_files.max(1) {
                self.seal_longest_unwritten()?;
            }
            let file = self.target.create(folder, self.config.extension())?;
            let file = self.opened(folder, file)?;
            self.open.insert(folder.into(), file);
        }
        let file = self.open.get_mut(folder).expect("opened above");
        file.written_at = Instant::now();
        file.body.write(batch, rows)?;
        if file.body.size_bytes() >= self.config.rolling.max_size_bytes {
            self.seal(folder)?;
        }
        Ok(())
    }

    fn opened(&self, folder: &str, file: T::Out) -> Result<OpenFile<T::Out>, ConnectorError> {
        let place = self.config.path.join(Path::new(folder));
        let body = Body::new(&self.config, &self.layout.schema, &place, file)?;
        let now = Instant::now();
        Ok(OpenFile { body, opened_at: now, written_at: now })
    }

    fn seal_longest_unwritten(&mut self) -> Result<(), ConnectorError> {
        let longest = self.open.iter().min_by_key(|(_, file)| file.written_at).map(|(folder, _)| folder.clone());
        longest.map_or(Ok(()), |folder| self.seal(&folder))
    }
}

impl FilesSinkConfig {
    /// What the names of files end with.
    pub(super) fn extension(&self) -> &'static str {
        match (&self.format, self.compression) {
            (SinkFileFormat::Parquet(_), _) => "parquet",
            (SinkFileFormat::Text(EncoderConfig::Json { .. }), SinkCompression::None) => "jsonl",
            (SinkFileFormat::Text(EncoderConfig::Json { .. }), SinkCompression::Gzip) => "jsonl.gz",
            (SinkFileFormat::Text(EncoderConfig::Json { .. }), SinkCompression::Zstd) => "jsonl.zst",
            (SinkFileFormat::Text(EncoderConfig::Csv(_)), SinkCompression::None) => "csv",
            (SinkFileFormat::Text(EncoderConfig::Csv(_)), SinkCompression::Gzip) => "csv.gz",
            (SinkFileFormat::Text(EncoderConfig::Csv(_)), SinkCompression::Zstd) => "csv.zst",
            // Bytes one after the other, with no file around them: no spec asks for it.
            (SinkFileFormat::Text(EncoderConfig::Avro { .. }), _) => "avro",
            (SinkFileFormat::Text(EncoderConfig::Raw), SinkCompression::None) => "txt",
            (SinkFileFormat::Text(EncoderConfig::Raw), SinkCompression::Gzip) => "txt.gz",
            (SinkFileFormat::Text(EncoderConfig::Raw), SinkCompression::Zstd) => "txt.zst",
        }
    }
}
