//! Records as the bytes of one file, wherever these go.

use super::{FilesSinkConfig, ParquetCompression, ParquetFormat, SinkCompression, SinkFileFormat};
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
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Encoded text is handed on in pieces of about this size.
const WRITE_BYTES: usize = 256 << 10;

/// What a file's bytes are written to.
pub(super) trait Out: Write + Send {
    /// How many it was given so far.
    fn bytes(&self) -> u64;

    /// What went wrong since, where bytes are taken first and sent later.
    fn failure(&self) -> Option<ConnectorError> {
        None
    }
}

pub(super) struct Body<O: Out> {
    /// For messages.
    place: PathBuf,
    kind: Kind<O>,
}

enum Kind<O: Out> {
    Text { encoder: Box<dyn Encoder>, encoded: Vec<u8>, output: Output<O> },
    Parquet(Box<ArrowWriter<O>>),
}

enum Output<O: Out> {
    Plain(O),
    Gzip(flate2::write::GzEncoder<O>),
    Zstd(zstd::stream::write::Encoder<'static, O>),
}

impl<O: Out> Body<O> {
    /// Begins a file; where `out` has bytes already, it goes on with one.
    pub fn new(config: &FilesSinkConfig, schema: &SchemaRef, place: &Path, out: O) -> Result<Self, ConnectorError> {
        let failed = |error: io::Error| io_error("create", place, &error);
        let kind = match &config.format {
            SinkFileFormat::Text(format) => {
                let encoder = encoder(format, schema)?;
                let mut encoded = Vec::new();
                if out.bytes() == 0
                    && let Some(header) = encoder.header()
                {
                    encoded = header;
                    encoded.push(b'\n');
                }
                let output = match config.compression {
                    SinkCompression::None => Output::Plain(out),
                    SinkCompression::Gzip => Output::Gzip(flate2::write::GzEncoder::new(out, Default::default())),
                    SinkCompression::Zstd => Output::Zstd(zstd::stream::write::Encoder::new(out, 0).map_err(failed)?),
                };
                Kind::Text { encoder, encoded, output }
            }
            SinkFileFormat::Parquet(format) => {
                let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties(*format)));
                Kind::Parquet(Box::new(writer.map_err(|error| parquet_error(place, &error))?))
            }
        };
        Ok(Body { place: place.to_owned(), kind })
    }

    pub fn write(&mut self, batch: &RecordBatch, rows: Rows<'_>) -> Result<(), ConnectorError> {
        let Body { place, kind } = self;
        match kind {
            Kind::Text { encoder, encoded, output } => {
                encoder.encode(batch, rows, encoded, &mut |out| out.push(b'\n'));
                if encoded.len() >= WRITE_BYTES {
                    output.write(encoded).map_err(|error| io_error("write", place, &error))?;
                }
            }
            Kind::Parquet(writer) => {
                let written = match rows {
                    Rows::All => writer.write(batch),
                    Rows::These(rows) => take_record_batch(batch, &UInt32Array::from(rows.to_vec()))
                        .map_err(Into::into)
                        .and_then(|batch| writer.write(&batch)),
                };
                written.map_err(|error| parquet_error(place, &error))?;
            }
        }
        self.out().failure().map_or(Ok(()), Err)
    }

    /// How large the file is, as far as it can be told.
    pub fn size_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Text { encoded, output, .. } => output.out().bytes() + encoded.len() as u64,
            Kind::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
        }
    }

    pub fn out(&self) -> &O {
        match &self.kind {
            Kind::Text { output, .. } => output.out(),
            Kind::Parquet(writer) => writer.inner(),
        }
    }

    /// Hands on all that was written, and goes on. Of uncompressed text only.
    pub fn flush(&mut self) -> Result<&O, ConnectorError> {
        match &mut self.kind {
            Kind::Text { encoded, output, .. } if matches!(output, Output::Plain(_)) => {
                output.write(encoded).map_err(|error| io_error("write", &self.place, &error))?;
                Ok(output.out())
            }
            _ => unreachable!("only uncompressed text goes on over a checkpoint"),
        }
    }

    /// Ends the file.
    pub fn finish(self) -> Result<O, ConnectorError> {
        let Body { place, kind } = self;
        let failed = |error: io::Error| io_error("write", &place, &error);
        match kind {
            Kind::Text { mut encoded, mut output, .. } => {
                output.write(&mut encoded).map_err(failed)?;
                match output {
                    Output::Plain(out) => Ok(out),
                    Output::Gzip(encoder) => encoder.finish().map_err(failed),
                    Output::Zstd(encoder) => encoder.finish().map_err(failed),
                }
            }
            Kind::Parquet(writer) => writer.into_inner().map_err(|error| parquet_error(&place, &error)),
        }
    }
}

impl<O: Out> Output<O> {
    fn write(&mut self, encoded: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Output::Plain(out) => out.write_all(encoded)?,
            Output::Gzip(encoder) => encoder.write_all(encoded)?,
            Output::Zstd(encoder) => encoder.write_all(encoded)?,
        }
        encoded.clear();
        Ok(())
    }

    fn out(&self) -> &O {
        match self {
            Output::Plain(out) => out,
            Output::Gzip(encoder) => encoder.get_ref(),
            Output::Zstd(encoder) => encoder.get_ref(),
        }
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
