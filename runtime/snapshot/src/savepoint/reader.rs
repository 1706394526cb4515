//! Reading a savepoint: only the row groups that hold wanted key groups, each checked.

use super::manifest::read_savepoint_manifest;
use super::{FileChunk, SavepointError, SavepointFile, SavepointManifest, SavepointState, state_columns};
use crate::storage::{ObjectPath, Storage, StorageErrorKind};
use arrow::array::{RecordBatch, UInt16Array};
use arrow::datatypes::SchemaRef;
use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::collections::VecDeque;
use std::sync::Arc;
use weir_model::element::BATCH_ROWS;
use weir_model::{CheckpointId, Durable, KeyGroupRange, OperatorUid};

#[derive(Clone, Debug)]
pub struct SavepointReader {
    storage: Arc<dyn Storage>,
    folder: ObjectPath,
    manifest: Arc<SavepointManifest>,
}

impl SavepointReader {
    pub async fn open(storage: Arc<dyn Storage>, folder: ObjectPath) -> Result<Self, SavepointError> {
        let manifest = read_savepoint_manifest(&*storage, &folder).await?.into();
        Ok(SavepointReader { storage, folder, manifest })
    }

    pub fn manifest(&self) -> &SavepointManifest {
        &self.manifest
    }

    /// Proof that the checkpoint was complete: a savepoint is only made from one that is, and stands only when whole.
    pub fn proof(&self) -> Durable<CheckpointId> {
        Durable::attest(self.manifest.checkpoint)
    }

    /// The state's rows in these key groups, file by file, those first that begin with lower ones. An empty range gives none.
    pub fn read_state(
        &self,
        operator: &OperatorUid,
        state: &str,
        key_groups: KeyGroupRange,
    ) -> Result<StateRows, SavepointError> {
        let found = self.manifest.operator(operator).and_then(|operator| operator.state(state));
        let found = found.ok_or_else(|| self.no_such_state(operator, state))?;
        let overlaps = |chunk: &FileChunk| chunk.key_groups.is_some_and(|it| it.intersect(&key_groups).is_some());
        let mut files = VecDeque::new();
        for file in found.files.iter().filter(|file| file.row_groups.iter().any(overlaps)) {
            self.check_pieces(file)?;
            let wanted = (0..file.row_groups.len()).filter(|index| overlaps(&file.row_groups[*index]));
            files.push_back((file.clone(), wanted.collect()));
        }
        // Whoever wrote which file first: what is read in the order of key groups is stored in it.
        files.make_contiguous().sort_by_key(|(file, _)| file.key_groups.first);
        let columns = state_columns(&found.schema);
        Ok(StateRows { savepoint: self.clone(), columns, key_groups, files, file: None, row_group: None })
    }

    /// Reads every byte of every file; each that is missing or damaged, with the reason.
    pub async fn verify(&self) -> Result<Vec<SavepointError>, SavepointError> {
        let mut faults = vec![];
        for file in self.files() {
            if let Err(error) = self.verify_file(file).await {
                match error {
                    SavepointError::Storage(error) if error.is_transient() => return Err(error.into()),
                    fault => faults.push(fault),
                }
            }
        }
        Ok(faults)
    }

    fn files(&self) -> impl Iterator<Item = &SavepointFile> {
        let states = self.manifest.operators.iter().flat_map(|operator| &operator.states);
        states.flat_map(|state: &SavepointState| &state.files)
    }

    async fn verify_file(&self, file: &SavepointFile) -> Result<(), SavepointError> {
        self.check_pieces(file)?;
        let path = self.folder.join(&file.path);
        let length = self.storage.head(&path).await?;
        if length != file.length {
            let reason = format!("it has {length} bytes, and the savepoint says {}", file.length);
            return Err(self.damaged(&file.path, reason));
        }
        for chunk in file.row_groups.iter().chain([&file.footer]) {
            self.fetch(&file.path, chunk).await?;
        }
        Ok(())
    }

    /// The pieces must be the file, or a byte could change in a gap between them.
    fn check_pieces(&self, file: &SavepointFile) -> Result<(), SavepointError> {
        let mut end = 0;
        for chunk in file.row_groups.iter().chain([&file.footer]) {
            if chunk.offset != end {
                return Err(self.damaged(&file.path, "the savepoint's pieces of it leave a gap".into()));
            }
            end = chunk.offset.saturating_add(chunk.length);
        }
        if end != file.length {
            return Err(self.damaged(&file.path, "the savepoint's pieces of it are not all of it".into()));
        }
        Ok(())
    }

    async fn fetch(&self, path: &ObjectPath, chunk: &FileChunk) -> Result<Bytes, SavepointError> {
        let stored = self.folder.join(path);
        let bytes = match self.storage.get_range(&stored, chunk.offset, chunk.length).await {
            Err(error) if error.kind == StorageErrorKind::Corrupt => {
                return Err(self.damaged(path, error.message));
            }
            other => other?,
        };
        let actual = crc32c::crc32c(&bytes);
        if actual != chunk.crc32c {
            let reason = format!(
                "{} bytes from {} have checksum {actual:08x}, and the savepoint says {:08x}",
                chunk.length, chunk.offset, chunk.crc32c
            );
            return Err(self.damaged(path, reason));
        }
        Ok(bytes)
    }

    fn damaged(&self, path: &ObjectPath, reason: String) -> SavepointError {
        SavepointError::Damaged { object: self.storage.address(&self.folder.join(path)), reason }
    }

    fn no_such_state(&self, operator: &OperatorUid, state: &str) -> SavepointError {
        let operators = self.manifest.operators.iter();
        let known = operators.flat_map(|operator| {
            operator.states.iter().map(|state| format!("`{}` of `{}`", state.schema.name, operator.uid))
        });
        let known = known.collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "no state at all".to_owned() } else { known };
        SavepointError::NoSuchState { operator: operator.clone(), state: state.to_owned(), known }
    }
}

/// The rows of one state, a row group at a time in memory.
pub struct StateRows {
    savepoint: SavepointReader,
    columns: SchemaRef,
    key_groups: KeyGroupRange,
    /// Files to come, with the row groups to read of each.
    files: VecDeque<(SavepointFile, VecDeque<usize>)>,
    file: Option<OpenFile>,
    row_group: Option<ParquetRecordBatchReader>,
}

struct OpenFile {
    file: SavepointFile,
    wanted: VecDeque<usize>,
    footer: Bytes,
    metadata: ArrowReaderMetadata,
}

impl StateRows {
    /// Columns as `state_columns` says; sorted by key group within a file. `None` after the last.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SavepointError> {
        loop {
            if let Some(batch) = self.next_of_row_group()? {
                let batch = self.within_range(batch);
                if batch.num_rows() > 0 {
                    return Ok(Some(batch));
                }
            } else if !self.open_row_group().await? {
                return Ok(None);
            }
        }
    }

    fn next_of_row_group(&mut self) -> Result<Option<RecordBatch>, SavepointError> {
        let Some(batch) = self.row_group.as_mut().and_then(Iterator::next) else {
            self.row_group = None;
            return Ok(None);
        };
        batch.map(Some).map_err(|error| self.unreadable(&error.to_string()))
    }

    /// Opens the next row group, of the next file if need be.
    async fn open_row_group(&mut self) -> Result<bool, SavepointError> {
        loop {
            if let Some(open) = &mut self.file
                && let Some(index) = open.wanted.pop_front()
            {
                let chunk = &open.file.row_groups[index];
                let pieces = Pieces {
                    length: open.file.length,
                    footer: (open.file.footer.offset, open.footer.clone()),
                    row_group: Some((chunk.offset, self.savepoint.fetch(&open.file.path, chunk).await?)),
                };
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(pieces, open.metadata.clone());
                let reader = builder.with_row_groups(vec![index]).with_batch_size(BATCH_ROWS).build();
                self.row_group = Some(reader.map_err(|error| self.unreadable(&error.to_string()))?);
                return Ok(true);
            }
            let Some((file, wanted)) = self.files.pop_front() else { return Ok(false) };
            self.open_file(file, wanted).await?;
        }
    }

    async fn open_file(&mut self, file: SavepointFile, wanted: VecDeque<usize>) -> Result<(), SavepointError> {
        let footer = self.savepoint.fetch(&file.path, &file.footer).await?;
        let pieces = Pieces { length: file.length, footer: (file.footer.offset, footer.clone()), row_group: None };
        let metadata = ArrowReaderMetadata::load(&pieces, ArrowReaderOptions::new());
        let metadata = metadata.map_err(|error| self.savepoint.damaged(&file.path, error.to_string()))?;
        if metadata.metadata().num_row_groups() != file.row_groups.len() {
            return Err(self.savepoint.damaged(&file.path, "it has other row groups than the savepoint says".into()));
        }
        let types = |schema: &SchemaRef| schema.fields().iter().map(|it| it.data_type().clone()).collect::<Vec<_>>();
        if types(metadata.schema()) != types(&self.columns) {
            return Err(self.savepoint.damaged(&file.path, "its columns are not those of the state's schema".into()));
        }
        self.file = Some(OpenFile { file, wanted, footer, metadata });
        Ok(())
    }

    /// Key groups are sorted: those wanted stand next to each other.
    fn within_range(&self, batch: RecordBatch) -> RecordBatch {
        let groups = batch.column(0).as_any().downcast_ref::<UInt16Array>().expect("checked when the file was opened");
        let from = groups.values().partition_point(|group| *group < self.key_groups.first);
        let to = groups.values().partition_point(|group| *group <= self.key_groups.last);
        batch.slice(from, to.saturating_sub(from))
    }

    fn unreadable(&self, reason: &str) -> SavepointError {
        match &self.file {
            Some(open) => self.savepoint.damaged(&open.file.path, reason.to_owned()),
            None => self.savepoint.damaged(&ObjectPath::root(), reason.to_owned()),
        }
    }
}

/// The fetched parts of a file, for the Parquet reader.
struct Pieces {
    length: u64,
    footer: (u64, Bytes),
    row_group: Option<(u64, Bytes)>,
}

impl Pieces {
    fn find(&self, start: u64) -> Result<Bytes, ParquetError> {
        let covering = [Some(&self.footer), self.row_group.as_ref()].into_iter().flatten();
        for (offset, bytes) in covering {
            if let Some(skip) = start.checked_sub(*offset).filter(|skip| *skip < bytes.len() as u64) {
                return Ok(bytes.slice(skip as usize..));
            }
        }
        Err(ParquetError::General(format!("it refers to byte {start}, which is outside of the row group")))
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Pieces {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        self.find(start).map(Buf::reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let found = self.find(start)?;
        if found.len() < length {
            return Err(ParquetError::General(format!(
                "it refers to {length} bytes from {start}, beyond its row group"
            )));
        }
        Ok(found.slice(..length))
    }
}
