//! One Parquet file, sent in parts while it is written.

use crate::files::{Files, PartedUpload};
use crate::format::data_file::{DataFile, PartitionValue, figures};
use crate::format::schema::TableColumn;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use weir_connectors::api::ConnectorError;
use weir_snapshot::storage::UPLOAD_PART_BYTES;

/// A row group is closed at this size, so that what is in memory of a file is bounded.
const ROW_GROUP_BYTES: usize = 64 << 20;

pub(super) struct ParquetFile {
    address: String,
    writer: ArrowWriter<Unsent>,
    unsent: Unsent,
    /// None: all of it is in memory so far, and goes in one request if it stays small.
    upload: Option<PartedUpload>,
    sent_bytes: u64,
    rows: u64,
}

impl ParquetFile {
    pub(super) fn begin(address: String, schema: SchemaRef) -> Result<Self, ConnectorError> {
        let unsent = Unsent::default();
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        // What Arrow would say of the columns beside Parquet, Iceberg's schema says.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(unsent.clone(), schema, options);
        let writer = writer.map_err(|error| failed(&address, &error))?;
        Ok(ParquetFile { address, writer, unsent, upload: None, sent_bytes: 0, rows: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch, files: &mut Files) -> Result<(), ConnectorError> {
        self.writer.write(batch).map_err(|error| failed(&self.address, &error))?;
        self.rows += batch.num_rows() as u64;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush().map_err(|error| failed(&self.address, &error))?;
        }
        while let Some(part) = self.unsent.part() {
            self.send(part, files)?;
        }
        Ok(())
    }

    /// How large the file is, as far as it can be told.
    pub(super) fn size_bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Ends the file: it is complete, and durable.
    pub(super) fn finish(
        mut self,
        columns: &[TableColumn],
        spec: i64,
        partition: Vec<Option<PartitionValue>>,
        files: &mut Files,
    ) -> Result<DataFile, ConnectorError> {
        let metadata = self.writer.finish().map_err(|error| failed(&self.address, &error))?;
        while let Some(part) = self.unsent.part() {
            self.send(part, files)?;
        }
        let rest = self.unsent.rest();
        let bytes = self.sent_bytes + rest.len() as u64;
        match self.upload {
            None => files.write(&self.address, rest)?,
            Some(mut upload) => {
                if !rest.is_empty() {
                    upload.write(rest)?;
                }
                upload.finish()?;
            }
        }
        let columns = figures(columns, &metadata);
        Ok(DataFile { path: self.address, rows: self.rows, bytes, spec, partition, columns })
    }

    fn send(&mut self, part: Bytes, files: &mut Files) -> Result<(), ConnectorError> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(files.upload(&self.address)?),
        };
        self.sent_bytes += part.len() as u64;
        upload.write(part)
    }
}

/// What was written and not sent yet.
#[derive(Clone, Default)]
struct Unsent(Arc<Mutex<Vec<u8>>>);

impl Unsent {
    /// A whole part, if there is one.
    fn part(&self) -> Option<Bytes> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (bytes.len() > UPLOAD_PART_BYTES).then(|| Bytes::from(bytes.drain(..UPLOAD_PART_BYTES).collect::<Vec<u8>>()))
    }

    fn rest(&self) -> Bytes {
        Bytes::from(std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Write for Unsent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(address: &str, error: &parquet::errors::ParquetError) -> ConnectorError {
    ConnectorError::Permanent(format!("cannot write {address}: {error}"))
}
