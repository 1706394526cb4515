//! One Parquet file, batch by batch, from a row on.

use super::FilesSourceConfig;
use super::discovery::list;
use super::position::Position;
use crate::api::ConnectorError;
use crate::files::io_error;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_model::types::{TIMESTAMP, sql_type_name};

/// Rows decoded at once.
const BATCH_ROWS: usize = 8192;

pub(super) struct ParquetRows {
    path: PathBuf,
    schema: SchemaRef,
    /// For each column of the schema its place among those read.
    places: Vec<usize>,
    reader: ParquetRecordBatchReader,
    /// Decoded and not given out, because fewer rows were asked for.
    rest: Option<RecordBatch>,
}

impl ParquetRows {
    /// Opens a file where `position` says, having checked that it still is the same file.
    pub fn open(path: &Path, schema: &SchemaRef, position: &mut Position) -> Result<Self, ConnectorError> {
        let mut file = File::open(path).map_err(|error| io_error("open", path, &error))?;
        position.recognise(path, &mut file)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(path, &error))?;
        let mut roots = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let Some((root, _)) = builder.schema().column_with_name(field.name()) else {
                let names: Vec<_> = builder.schema().fields().iter().map(|field| field.name().as_str()).collect();
                return Err(ConnectorError::Permanent(format!(
                    "{} has no column `{}`; it has {}",
                    path.display(),
                    field.name(),
                    names.join(", ")
                )));
            };
            roots.push(root);
        }
        // Columns come in the file's order, whatever order they are asked for in.
        let mut ordered = roots.clone();
        ordered.sort_unstable();
        ordered.dedup();
        let places = roots.iter().map(|root| ordered.partition_point(|other| other < root)).collect();

        // Whole row groups before the position are not even read.
        let (mut first_group, mut skipped) = (0, 0);
        for group in builder.metadata().row_groups() {
            if skipped + group.num_rows() as u64 > position.offset {
                break;
            }
            skipped += group.num_rows() as u64;
            first_group += 1;
        }
        let groups = (first_group..builder.metadata().num_row_groups()).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), ordered);
        let reader = builder
            .with_projection(mask)
            .with_row_groups(groups)
            .with_offset((position.offset - skipped) as usize)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| broken(path, &error))?;
        Ok(ParquetRows { path: path.to_owned(), schema: schema.clone(), places, reader, rest: None })
    }

    /// At most `max_rows` further rows; `None` at the end.
    pub fn next(&mut self, max_rows: usize) -> Result<Option<RecordBatch>, ConnectorError> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.reader.next() {
                Some(Ok(batch)) => self.cast(&batch)?,
                Some(Err(error)) => return Err(broken(&self.path, &error)),
                None => return Ok(None),
            },
        };
        if batch.num_rows() > max_rows {
            self.rest = Some(batch.slice(max_rows, batch.num_rows() - max_rows));
            return Ok(Some(batch.slice(0, max_rows)));
        }
        Ok(Some(batch))
    }

    fn cast(&self, batch: &RecordBatch) -> Result<RecordBatch, ConnectorError> {
        let column = |(field, place): (&Arc<Field>, &usize)| {
            let column = batch.column(*place);
            let failed = |reason: String| {
                ConnectorError::Permanent(format!("{}: column `{}`: {reason}", self.path.display(), field.name()))
            };
            let cast = cast_column(column, field.data_type()).map_err(|error| {
                let (from, to) = (sql_type_name(column.data_type()), sql_type_name(field.data_type()));
                failed(format!("{from} in the file can't be read as {to}: {error}"))
            })?;
            if !field.is_nullable() && cast.null_count() > 0 {
                return Err(failed("it holds NULLs, and the column is not nullable".into()));
            }
            Ok(cast)
        };
        let columns = self.schema.fields().iter().zip(&self.places).map(column).collect::<Result<_, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| broken(&self.path, &error))
    }
}

/// The columns of the first file, in types that SQL has names for.
pub(super) fn schema_of_first(config: &FilesSourceConfig) -> Result<SchemaRef, ConnectorError> {
    let Some(path) = list(config)?.into_iter().next() else {
        return Err(ConnectorError::Permanent(format!(
            "there is no file at {} yet to take the columns from; name them in the schema",
            config.path
        )));
    };
    let path = Path::new(&path);
    let file = File::open(path).map_err(|error| io_error("open", path, &error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(path, &error))?;
    let field = |field: &Arc<Field>| Field::new(field.name(), read_as(field.data_type()), field.is_nullable());
    Ok(Arc::new(Schema::new(builder.schema().fields().iter().map(field).collect::<Vec<_>>())))
}

fn read_as(data_type: &DataType) -> DataType {
    use DataType::*;
    match data_type {
        LargeUtf8 | Utf8View => Utf8,
        LargeBinary | BinaryView | FixedSizeBinary(_) => Binary,
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 => Int64,
        UInt64 => Decimal128(20, 0),
        Float16 => Float32,
        Date64 => Date32,
        Time32(_) | Time64(_) => Time64(TimeUnit::Microsecond),
        Timestamp(..) => TIMESTAMP,
        Dictionary(_, values) => read_as(values),
        other => other.clone(),
    }
}

fn cast_column(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    if column.data_type() == to {
        return Ok(column.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    match (column.data_type(), to) {
        // A moment in time stays the same moment: a plain cast would give the wall clock of the zone.
        (DataType::Timestamp(_, Some(zone)), to) if *to == TIMESTAMP => {
            let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some(zone.clone()));
            let moments = cast_with_options(column, &zoned, &options)?;
            let moments = moments.as_primitive::<TimestampMicrosecondType>().clone();
            Ok(Arc::new(moments.with_timezone_opt(None::<Arc<str>>)))
        }
        (_, to) => cast_with_options(column, to, &options),
    }
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> ConnectorError {
    ConnectorError::Permanent(format!(
        "{} can't be read as Parquet: {error}; a Parquet file must be whole when it is moved into place",
        path.display()
    ))
}
