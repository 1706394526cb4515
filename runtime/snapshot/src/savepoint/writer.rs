//! Writing a savepoint: a table per state, then the file that makes it one.

use super::manifest::savepoint_file;
use super::{
    FileChunk, KEY_GROUP_COLUMN, SavepointError, SavepointFile, SavepointManifest, SavepointState, state_columns,
};
use crate::envelope;
use crate::storage::{ObjectPath, PutOutcome, Storage};
use arrow::array::{Array, RecordBatch, UInt16Array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_model::{KeyGroupRange, OperatorUid, StateSchema};

/// Rows of a row group: what a reader fetches and holds at a time.
const ROW_GROUP_ROWS: usize = 64 << 10;
/// Rows that are encoded at once.
const WRITE_BATCH_ROWS: usize = 8192;
/// A file is closed beyond this size: it is held in memory until it is written.
const FILE_BYTES: usize = 64 << 20;

/// Clones write the same savepoint, each some of its states, from as many tasks as there are.
#[derive(Clone, Debug)]
pub struct SavepointWriter {
    storage: Arc<dyn Storage>,
    folder: ObjectPath,
    max_parallelism: u32,
    states: Arc<Mutex<BTreeMap<(OperatorUid, String), WrittenState>>>,
}

#[derive(Debug)]
struct WrittenState {
    schema: StateSchema,
    next_file: u32,
    /// Writers that haven't finished.
    open: u32,
    files: Vec<SavepointFile>,
}

impl SavepointWriter {
    /// The folder must hold no savepoint. What an unfinished one left there is overwritten.
    pub async fn begin(
        storage: Arc<dyn Storage>,
        folder: ObjectPath,
        max_parallelism: u32,
    ) -> Result<Self, SavepointError> {
        match storage.head(&folder.join(&savepoint_file())).await {
            Ok(_) => return Err(SavepointError::AlreadyThere { folder: storage.address(&folder) }),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(SavepointWriter { storage, folder, max_parallelism, states: Arc::default() })
    }

    /// A writer of some of a state's rows: of one subtask's key groups, or of all. Writers of one state say one schema.
    pub fn state(&self, operator: &OperatorUid, schema: &StateSchema) -> Result<StateWriter, SavepointError> {
        let key = (operator.clone(), schema.name.clone());
        let mut states = self.states();
        let new = || WrittenState { schema: schema.clone(), next_file: 0, open: 0, files: vec![] };
        let written = states.entry(key.clone()).or_insert_with(new);
        let unfit = |reason: String| unfit(&key, reason);
        if written.schema != *schema {
            return Err(unfit("its subtasks have different schemas".into()));
        }
        let state_folder = [operator.as_str(), &schema.name].map(ObjectPath::escape_segment).join("/");
        let state_folder = ObjectPath::parse(&state_folder).map_err(|error| unfit(error.to_string()))?;
        written.open += 1;
        let columns = state_columns(schema);
        Ok(StateWriter { savepoint: self.clone(), key, columns, state_folder, last_group: 0, file: None })
    }

    /// Makes the folder a savepoint. `manifest` names every operator, and holds everything but the states, which
    /// are filled in here.
    pub async fn finish(self, mut manifest: SavepointManifest) -> Result<SavepointManifest, SavepointError> {
        let states = std::mem::take(&mut *self.states());
        for ((uid, name), written) in states {
            if written.open > 0 {
                let reason = format!("{} of its writers have not finished", written.open);
                return Err(unfit(&(uid, name), reason));
            }
            let Some(operator) = manifest.operators.iter_mut().find(|operator| operator.uid == uid) else {
                return Err(unfit(&(uid, name), "the savepoint's manifest doesn't name the operator".into()));
            };
            let columns = state_columns(&written.schema).fields().iter().map(|field| field.name().clone()).collect();
            let mut files = written.files;
            files.sort_by(|a, b| a.path.cmp(&b.path));
            let rows = files.iter().map(|file| file.rows).sum();
            operator.states.push(SavepointState { schema: written.schema, columns, rows, files });
        }
        let path = self.folder.join(&savepoint_file());
        let object = self.storage.address(&path);
        let file = envelope::seal_pretty(&manifest)
            .map_err(|error| SavepointError::Damaged { object, reason: error.to_string() })?;
        match self.storage.put_if_absent(&path, file).await? {
            PutOutcome::Created => Ok(manifest),
            PutOutcome::Exists => Err(SavepointError::AlreadyThere { folder: self.storage.address(&self.folder) }),
        }
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<(OperatorUid, String), WrittenState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes rows of one state. Encoding is done where `write` is called.
pub struct StateWriter {
    savepoint: SavepointWriter,
    key: (OperatorUid, String),
    columns: SchemaRef,
    state_folder: ObjectPath,
    last_group: u16,
    file: Option<ArrowWriter<Vec<u8>>>,
}

impl StateWriter {
    /// Columns as `state_columns` says, by position; rows sorted by key group, over all batches of this writer.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), SavepointError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.fit(batch)?;
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                self.parquet(ArrowWriter::try_new(vec![], self.columns.clone(), Some(properties(&self.columns))))?
            }
        };
        self.parquet(file.write(&batch))?;
        if file.bytes_written() + file.in_progress_size() >= FILE_BYTES {
            self.close_file(file).await?;
        } else {
            self.file = Some(file);
        }
        Ok(())
    }

    /// No row follows.
    pub async fn finish(mut self) -> Result<(), SavepointError> {
        if let Some(file) = self.file.take() {
            self.close_file(file).await?;
        }
        if let Some(written) = self.savepoint.states().get_mut(&self.key) {
            written.open -= 1;
        }
        Ok(())
    }

    /// Checks a batch, and gives it the columns' names.
    fn fit(&mut self, batch: &RecordBatch) -> Result<RecordBatch, SavepointError> {
        let unfit = |reason: String| Err(unfit(&self.key, reason));
        let types = |schema: &SchemaRef| {
            schema.fields().iter().map(|field| field.data_type().to_string()).collect::<Vec<_>>().join(", ")
        };
        if types(&batch.schema()) != types(&self.columns) {
            return unfit(format!(
                "its columns are {}, and its schema makes them {}",
                types(&batch.schema()),
                types(&self.columns)
            ));
        }
        let Some(groups) = batch.column(0).as_any().downcast_ref::<UInt16Array>().filter(|it| it.null_count() == 0)
        else {
            return unfit("the first column must be the key group, UInt16 and never null".into());
        };
        let mut last = self.last_group;
        for group in groups.values() {
            if *group < last {
                return unfit(format!("key group {group} comes after {last}; rows must be sorted by key group"));
            }
            last = *group;
        }
        if last as u32 >= self.savepoint.max_parallelism {
            let max_parallelism = self.savepoint.max_parallelism;
            return unfit(format!("key group {last} is not below the max parallelism, {max_parallelism}"));
        }
        self.last_group = last;
        RecordBatch::try_new(self.columns.clone(), batch.columns().to_vec())
            .map_err(|error| self::unfit(&self.key, error.to_string()))
    }

    async fn close_file(&mut self, file: ArrowWriter<Vec<u8>>) -> Result<(), SavepointError> {
        let content = Bytes::from(self.parquet(file.into_inner())?);
        let number = {
            let mut states = self.savepoint.states();
            let Some(written) = states.get_mut(&self.key) else {
                return Err(unfit(&self.key, "the savepoint was finished before its states were".into()));
            };
            written.next_file += 1;
            written.next_file - 1
        };
        let name = ObjectPath::parse(&format!("part-{number:05}.parquet")).expect("a valid path");
        let path = self.state_folder.join(&name);
        let described = self.parquet(describe_file(path, &content))?;
        let stored = self.savepoint.folder.join(&described.path);
        self.savepoint.storage.put(&stored, content).await?;
        if let Some(written) = self.savepoint.states().get_mut(&self.key) {
            written.files.push(described);
        }
        Ok(())
    }

    fn parquet<T>(&self, result: Result<T, ParquetError>) -> Result<T, SavepointError> {
        result.map_err(|error| unfit(&self.key, error.to_string()))
    }
}

fn unfit((operator, state): &(OperatorUid, String), reason: String) -> SavepointError {
    SavepointError::Unfit { operator: operator.clone(), state: state.clone(), reason }
}

/// A state is written once, of values that are mostly different, and read as a whole: no dictionaries, which cost more
/// than all else, and no statistics but of the key groups. Integers as differences in as few bits as they need.
fn properties(columns: &Schema) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::LZ4_RAW)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(KEY_GROUP_COLUMN.into(), EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(ROW_GROUP_ROWS)
        .set_write_batch_size(WRITE_BATCH_ROWS)
        .set_created_by("weir".into());
    for field in columns.fields() {
        let is_time = field.data_type().is_temporal() && !matches!(field.data_type(), DataType::Interval(_));
        if field.data_type().is_integer() || is_time {
            let path = ColumnPath::from(vec![field.name().clone()]);
            properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    properties.build()
}

/// Divides a finished file into its row groups and the rest.
fn describe_file(path: ObjectPath, content: &Bytes) -> Result<SavepointFile, ParquetError> {
    let metadata = ArrowReaderMetadata::load(content, ArrowReaderOptions::new())?;
    let mut row_groups = Vec::new();
    let mut offset = 0;
    for row_group in metadata.metadata().row_groups() {
        let ends = row_group.columns().iter().map(|column| column.byte_range()).map(|(start, length)| start + length);
        let end = ends.max().unwrap_or(offset);
        row_groups.push(chunk(content, offset, end, Some(key_groups_of(row_group)?)));
        offset = end;
    }
    let ranges = row_groups.iter().filter_map(|chunk| chunk.key_groups);
    let key_groups = ranges.reduce(|all, next| KeyGroupRange { first: all.first, last: next.last });
    Ok(SavepointFile {
        path,
        rows: metadata.metadata().file_metadata().num_rows() as u64,
        length: content.len() as u64,
        crc32c: crc32c::crc32c(content),
        key_groups: key_groups.ok_or_else(|| ParquetError::General("a file without rows".into()))?,
        footer: chunk(content, offset, content.len() as u64, None),
        row_groups,
    })
}

fn chunk(content: &Bytes, offset: u64, end: u64, key_groups: Option<KeyGroupRange>) -> FileChunk {
    let crc32c = crc32c::crc32c(&content[offset as usize..end as usize]);
    FileChunk { offset, length: end - offset, crc32c, key_groups }
}

fn key_groups_of(row_group: &RowGroupMetaData) -> Result<KeyGroupRange, ParquetError> {
    match row_group.column(0).statistics() {
        Some(Statistics::Int32(statistics)) => match (statistics.min_opt(), statistics.max_opt()) {
            (Some(first), Some(last)) => Ok(KeyGroupRange { first: *first as u16, last: *last as u16 }),
            _ => Err(ParquetError::General("a row group without statistics of its key groups".into())),
        },
        _ => Err(ParquetError::General("a row group without statistics of its key groups".into())),
    }
}
