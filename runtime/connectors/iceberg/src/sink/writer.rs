//! The writer of one subtask: files, complete at the barrier.

use super::IcebergSinkConfig;
use super::layout::Layout;
use super::parquet_file::ParquetFile;
use crate::catalog::{LoadedTable, TableName};
use crate::files::Files;
use crate::format::data_file::{DataFile, PartitionValue};
use crate::format::partition::{PartitionSpec, Transform};
use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_connectors::api::*;
use weir_model::CheckpointId;
use xxhash_rust::xxh3::xxh3_64;

/// After this long a catalog is asked again how its storage is reached: what it hands out has its time.
const ACCESS_RENEWED_AFTER: Duration = Duration::from_secs(600);

type Partition = Vec<Option<PartitionValue>>;

pub(super) struct IcebergWriter {
    config: Arc<IcebergSinkConfig>,
    layout: Layout,
    spec: i64,
    /// Place in the files, and how it divides; none: a column that is not written, and NULL everywhere.
    divided_by: Vec<(Option<usize>, Transform)>,
    files: Files,
    files_since: Instant,
    table_uuid: String,
    attempt: String,
    /// What the addresses of files begin with.
    prefix: String,
    next_file: u64,
    open: HashMap<Partition, OpenFile>,
    /// Counts batches, to tell which file waits longest.
    batches: u64,
    complete: Vec<DataFile>,
    /// Complete, and to be committed together with later ones.
    held: Vec<DataFile>,
    is_last: bool,
}

struct OpenFile {
    file: ParquetFile,
    written_at: u64,
}

/// What a checkpoint holds for its commit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Added {
    /// Of the table: one of the same name is another.
    pub table: String,
    /// Who wrote it. Unique to an attempt on a worker.
    pub attempt: String,
    pub checkpoint: u64,
    pub files: Vec<DataFile>,
}

/// What a writer keeps: files that wait for the checkpoint that commits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Held {
    pub table: String,
    pub held: Vec<DataFile>,
}

impl IcebergWriter {
    pub(super) fn open(
        config: Arc<IcebergSinkConfig>,
        context: &SinkContext,
        loaded: &LoadedTable,
        layout: Layout,
        files: Files,
        restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Self, ConnectorError> {
        let SinkContext { name, job_uid, subtask, parallelism, attempt, .. } = context;
        let metadata = &loaded.metadata;
        let PartitionSpec { id: spec, fields } = metadata.default_spec()?;
        let divided_by = fields.iter().map(|field| (layout.place_of(field.source_id), field.transform)).collect();
        let table_uuid = metadata.uuid()?.to_owned();
        let mut held = vec![];
        for (index, state) in restored {
            // Of those that stopped, too.
            if index % parallelism != *subtask {
                continue;
            }
            let state: Held = serde_json::from_value(state).map_err(|error| {
                ConnectorError::Permanent(format!(
                    "sink `{name}`: the checkpoint holds something that no Iceberg sink wrote: {error}. Has the sink's \
                     connector been changed? Give the sink another name then"
                ))
            })?;
            if state.table != table_uuid && !state.held.is_empty() {
                return Err(super::committer::replaced(&config.table, &state.table, &table_uuid));
            }
            held.extend(state.held);
        }
        // Neither part can hold the byte between them.
        let owner = xxh3_64(format!("{job_uid}\0{name}").as_bytes());
        let prefix = format!("{}/weir-{owner:016x}-{attempt}-{subtask:05}", metadata.data_folder()?);
        Ok(IcebergWriter {
            config,
            layout,
            spec,
            divided_by,
            files,
            files_since: Instant::now(),
            table_uuid,
            attempt: attempt.clone(),
            prefix,
            next_file: 0,
            open: HashMap::new(),
            batches: 0,
            complete: vec![],
            held,
            is_last: false,
        })
    }

    /// The batch's rows by partition.
    fn divide(&self, batch: &RecordBatch) -> Vec<(Partition, RecordBatch)> {
        if self.divided_by.is_empty() {
            return vec![(vec![], batch.clone())];
        }
        let mut places: HashMap<Partition, usize> = HashMap::new();
        let mut divided: Vec<(Partition, Vec<u32>)> = vec![];
        for row in 0..batch.num_rows() {
            let value = |(place, transform): &(Option<usize>, Transform)| transform.apply(batch.column((*place)?), row);
            let partition: Partition = self.divided_by.iter().map(value).collect();
            let place = *places.entry(partition).or_insert_with_key(|partition| {
                divided.push((partition.clone(), vec![]));
                divided.len() - 1
            });
            divided[place].1.push(row as u32);
        }
        let take = |rows: Vec<u32>| {
            take_record_batch(batch, &UInt32Array::from(rows)).expect("the rows are those of the batch")
        };
        divided.into_iter().map(|(partition, rows)| (partition, take(rows))).collect()
    }

    fn write_rows(&mut self, partition: Partition, rows: &RecordBatch) -> Result<(), ConnectorError> {
        if !self.open.contains_key(&partition) {
            if self.open.len() >= self.config.max_open_files.max(1) {
                let longest = self.open.iter().min_by_key(|(_, open)| open.written_at).map(|(at, _)| at.clone());
                longest.map_or(Ok(()), |longest| self.end(&longest))?;
            }
            self.renew_access()?;
            let address = format!("{}-{:05}.parquet", self.prefix, self.next_file);
            self.next_file += 1;
            let file = ParquetFile::begin(address, self.layout.schema.clone())?;
            self.open.insert(partition.clone(), OpenFile { file, written_at: 0 });
        }
        let open = self.open.get_mut(&partition).expect("opened above");
        open.written_at = self.batches;
        open.file.write(rows, &mut self.files)?;
        if open.file.size_bytes() >= self.config.target_file_size_bytes {
            self.end(&partition)?;
        }
        Ok(())
    }

    fn renew_access(&mut self) -> Result<(), ConnectorError> {
        let is_handed_out = self.config.storage.is_none() && self.config.catalog.hands_out_access();
        if !is_handed_out || self.files_since.elapsed() < ACCESS_RENEWED_AFTER {
            return Ok(());
        }
        let table = TableName::parse(&self.config.table)?;
        // A table that is gone is told by the commit.
        if let Some(loaded) = self.config.catalog()?.load(&table)? {
            self.files = self.config.files(&loaded.config)?;
            self.files_since = Instant::now();
        }
        Ok(())
    }

    fn end(&mut self, partition: &Partition) -> Result<(), ConnectorError> {
        let Some(OpenFile { file, .. }) = self.open.remove(partition) else { return Ok(()) };
        let file = file.finish(&self.layout.columns, self.spec, partition.clone(), &mut self.files)?;
        self.complete.push(file);
        Ok(())
    }
}

impl SinkWriter for IcebergWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.batches += 1;
        let batch = self.layout.apply(batch)?;
        self.divide(&batch).into_iter().try_for_each(|(partition, rows)| self.write_rows(partition, &rows))
    }

    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        let mut partitions: Vec<Partition> = self.open.keys().cloned().collect();
        partitions.sort();
        partitions.iter().try_for_each(|partition| self.end(partition))?;
        self.held.append(&mut self.complete);
        // The same checkpoints for all subtasks, so that one snapshot takes what they hold.
        let is_due = self.is_last || checkpoint.0.is_multiple_of(self.config.commit_every.max(1));
        let table = self.table_uuid.clone();
        if self.held.is_empty() {
            return Ok(SinkSnapshot::default());
        }
        if !is_due {
            let held = Held { table, held: self.held.clone() };
            return Ok(SinkSnapshot { committables: vec![], writer: Some(json_of(&held)) });
        }
        let files = std::mem::take(&mut self.held);
        let added = Added { table, attempt: self.attempt.clone(), checkpoint: checkpoint.0, files };
        Ok(SinkSnapshot { committables: vec![Committable(json_of(&added))], writer: None })
    }

    fn end_of_input(&mut self) {
        self.is_last = true;
    }

    fn abort(&mut self) {
        self.open.clear();
    }
}

fn json_of(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("names, numbers and bytes are JSON")
}
