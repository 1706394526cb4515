//! One file being written.

use super::{FilesSinkConfig, ParquetCompression, ParquetFormat, SinkCompression, SinkFileFormat, names};
use crate::api::ConnectorError;
use crate::files::io_error;
use crate::formats::{Encoder, Rows, encoder};
use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Encoded text is handed to the file in pieces of about this size.
const WRITE_BYTES: usize = 256 << 10;

pub(super) struct Part {
    pub hidden: PathBuf,
    pub finished: PathBuf,
    pub opened_at: Instant,
    pub written_at: Instant,
    body: Body,
}

enum Body {
    Text { encoder: Box<dyn Encoder>, encoded: Vec<u8>, output: Output },
    Parquet(Box<ArrowWriter<Counted>>),
}

enum Output {
    Plain(Counted),
    Gzip(flate2::write::GzEncoder<Counted>),
    Zstd(zstd::stream::write::Encoder<'static, Counted>),
}

/// A file that knows how much was written to it.
struct Counted {
    file: File,
    bytes: u64,
}

/// A complete file that waits for its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub pending: PathBuf,
    pub finished: PathBuf,
    pub length: u64,
}

/// A file that went on over a checkpoint, and how much of it the checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InProgress {
    pub hidden: PathBuf,
    pub folder: String,
    pub valid_length: u64,
}

impl Part {
    /// Begins a new file. With `continues`, it begins with what a checkpoint holds of another, which may still
    /// be written to by a process that doesn't know yet that it has been replaced: hence the copy.
    pub fn create(
        config: &FilesSinkConfig,
        schema: &SchemaRef,
        hidden: PathBuf,
        finished: PathBuf,
        continues: Option<&InProgress>,
    ) -> Result<Self, ConnectorError> {
        let failed = |error: io::Error| io_error("create", &hidden, &error);
        let file = OpenOptions::new().write(true).create_new(true).open(&hidden).map_err(failed)?;
        let mut file = Counted { file, bytes: 0 };
        if let Some(earlier) = continues {
            copy_valid(earlier, &mut file)?;
        }
        let body = match &config.format {
            SinkFileFormat::Text(format) => {
                let encoder = encoder(format, schema)?;
                let mut encoded = Vec::new();
                if file.bytes == 0
                    && let Some(header) = encoder.header()
                {
                    encoded = header;
                    encoded.push(b'\n');
                }
                let output = match config.compression {
                    SinkCompression::None => Output::Plain(file),
                    SinkCompression::Gzip => Output::Gzip(flate2::write::GzEncoder::new(file, Default::default())),
                    SinkCompression::Zstd => Output::Zstd(zstd::stream::write::Encoder::new(file, 0).map_err(failed)?),
                };
                Body::Text { encoder, encoded, output }
            }
            SinkFileFormat::Parquet(format) => {
                let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties(*format)));
                Body::Parquet(Box::new(writer.map_err(|error| parquet_error(&hidden, &error))?))
            }
        };
        let now = Instant::now();
        Ok(Part { hidden, finished, opened_at: now, written_at: now, body })
    }

    pub fn write(&mut self, batch: &RecordBatch, rows: Rows<'_>) -> Result<(), ConnectorError> {
        self.written_at = Instant::now();
        match &mut self.body {
            Body::Text { encoder, encoded, output } => {
                encoder.encode(batch, rows, encoded, &mut |out| out.push(b'\n'));
                if encoded.len() >= WRITE_BYTES {
                    output.write(encoded).map_err(|error| io_error("write", &self.hidden, &error))?;
                }
                Ok(())
            }
            Body::Parquet(writer) => {
                let written = match rows {
                    Rows::All => writer.write(batch),
                    Rows::These(rows) => take_record_batch(batch, &UInt32Array::from(rows.to_vec()))
                        .map_err(Into::into)
                        .and_then(|batch| writer.write(&batch)),
                };
                written.map_err(|error| parquet_error(&self.hidden, &error))
            }
        }
    }

    /// How large the file is, as far as it can be told.
    pub fn size_bytes(&self) -> u64 {
        match &self.body {
            Body::Text { encoded, output, .. } => output.counted().bytes + encoded.len() as u64,
            Body::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
        }
    }

    /// Puts everything on disk and goes on: how much of the file is valid. Of uncompressed text only.
    pub fn sync(&mut self) -> Result<u64, ConnectorError> {
        let failed = |error: io::Error| io_error("write", &self.hidden, &error);
        match &mut self.body {
            Body::Text { encoded, output: output @ Output::Plain(_), .. } => {
                output.write(encoded).map_err(failed)?;
                output.counted().file.sync_all().map_err(failed)?;
                Ok(output.counted().bytes)
            }
            _ => unreachable!("only uncompressed text goes on over a checkpoint"),
        }
    }

    /// Ends the file and puts it on disk; it stays hidden.
    pub fn seal(self) -> Result<Sealed, ConnectorError> {
        let Part { hidden, finished, body, .. } = self;
        let failed = |error: io::Error| io_error("write", &hidden, &error);
        let file = match body {
            Body::Text { mut encoded, mut output, .. } => {
                output.write(&mut encoded).map_err(failed)?;
                match output {
                    Output::Plain(file) => file,
                    Output::Gzip(encoder) => encoder.finish().map_err(failed)?,
                    Output::Zstd(encoder) => encoder.finish().map_err(failed)?,
                }
            }
            Body::Parquet(writer) => writer.into_inner().map_err(|error| parquet_error(&hidden, &error))?,
        };
        file.file.sync_all().map_err(failed)?;
        Ok(Sealed { pending: hidden, finished, length: file.bytes })
    }
}

impl Output {
    fn write(&mut self, encoded: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Output::Plain(file) => file.write_all(encoded)?,
            Output::Gzip(encoder) => encoder.write_all(encoded)?,
            Output::Zstd(encoder) => encoder.write_all(encoded)?,
        }
        encoded.clear();
        Ok(())
    }

    fn counted(&self) -> &Counted {
        match self {
            Output::Plain(file) => file,
            Output::Gzip(encoder) => encoder.get_ref(),
            Output::Zstd(encoder) => encoder.get_ref(),
        }
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where the records stand that a checkpoint held of a file in progress.
pub(super) enum Valid {
    /// At the begin of the hidden file.
    Hidden,
    /// In the finished file that it has become since: the job goes back behind that.
    Visible,
}

/// Finds them.
///
/// # Errors
/// They are nowhere, or only in part; no later try will find them.
pub(super) fn find_valid(earlier: &InProgress) -> Result<Valid, ConnectorError> {
    let length = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, &error)),
    };
    let InProgress { hidden, folder: _, valid_length } = earlier;
    let found = length(hidden)?;
    if found.is_some_and(|found| found >= *valid_length) {
        return Ok(Valid::Hidden);
    }
    if found.is_none()
        && let Some(finished) = names::finished_of_hidden(hidden)
        && length(&finished)?.is_some_and(|finished| finished >= *valid_length)
    {
        return Ok(Valid::Visible);
    }
    let found = found.map_or_else(|| "is gone".to_owned(), |found| format!("has {found} bytes"));
    Err(ConnectorError::Permanent(format!(
        "{} {found}, but the checkpoint holds {valid_length} bytes of it: records that were written would be lost. \
         Restore the file, or start from another checkpoint: a newer one, if this one is not the newest.",
        hidden.display(),
    )))
}

fn copy_valid(earlier: &InProgress, file: &mut Counted) -> Result<(), ConnectorError> {
    if let Valid::Visible = find_valid(earlier)? {
        return Ok(());
    }
    let path = &earlier.hidden;
    let copied = File::open(path).and_then(|from| io::copy(&mut from.take(earlier.valid_length), file));
    match copied {
        Ok(_) => Ok(()),
        Err(error) => Err(io_error("go on with the restored checkpoint's", path, &error)),
    }
}

fn properties(format: ParquetFormat) -> WriterProperties {
    let compression = match format.compression {
        ParquetCompression::None => Compression::UNCOMPRESSED,
        ParquetCompression::Snappy => Compression::SNAPPY,
        ParquetCompression::Gzip => Compression::GZIP(GzipLevel::default()),
        ParquetCompression::Lz4 => Compression::LZ4_RAW,
        ParquetCompression::Zstd => Compression::ZSTD(ZstdLevel::default()),
    };
    let rows = format.row_group_rows.max(1);
    WriterProperties::builder().set_compression(compression).set_max_row_group_row_count(Some(rows)).build()
}

fn parquet_error(path: &Path, error: &parquet::errors::ParquetError) -> ConnectorError {
    ConnectorError::Transient(format!("cannot write {}: {error}", path.display()))
}
