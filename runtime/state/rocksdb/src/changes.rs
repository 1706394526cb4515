//! Small cuts since the last flush, as checkpoints hold them.
//!
//! To make a file of every small cut costs three syncs and a merge later on. Instead a checkpoint names the files as of
//! the last flush and, as segments of a few kilobytes, the batches that were written since. A restore writes those
//! again, in order: whatever part of them the files do hold, the outcome is the same.

use crate::failure::failed;
use rocksdb::{DB, WriteBatch, WriteOptions};
use std::sync::Arc;
use weir_state::{ColdFile, ColdHandle, SegmentRef, SegmentSink, SegmentSource, StateError};

/// What handles call the list of batches, with its generation behind it.
const NAME: &str = "CHANGES-";
/// With more, the next cut is flushed: a restore reads so many bytes and segments at most.
const MAX_BATCHES: usize = 64;
const MAX_BYTES: usize = 1 << 21;
/// RocksDB writes into the header of a batch without looking whether there is one.
const BATCH_HEADER_BYTES: usize = 12;

/// The batches since the last flush.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Counts flushes, so that nobody takes one list for another.
    generation: u64,
    batches: Vec<Change>,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Change {
    /// In no confirmed checkpoint.
    New(Arc<[u8]>),
    Stored(SegmentRef),
}

impl Changes {
    /// Those that the handle names.
    pub(crate) fn of(handle: &ColdHandle) -> Self {
        let Some(file) = handle.files.iter().find(|file| is_changes(file)) else { return Changes::default() };
        let generation = file.name[NAME.len()..].parse().unwrap_or(0);
        let bytes = file.segments.iter().map(|segment| segment.length as usize).sum();
        Changes { generation, batches: file.segments.iter().cloned().map(Change::Stored).collect(), bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.batches.len() >= MAX_BATCHES || self.bytes >= MAX_BYTES
    }

    pub(crate) fn push(&mut self, batch: &WriteBatch) {
        self.bytes += batch.size_in_bytes();
        self.batches.push(Change::New(batch.data().into()));
    }

    /// All of it is in files now.
    pub(crate) fn clear(&mut self) {
        *self = Changes { generation: self.generation + 1, ..Changes::default() };
    }

    /// A durable checkpoint has these batches.
    pub(crate) fn confirm(&mut self, handle: &ColdHandle) {
        let name = self.name();
        let Some(file) = handle.files.iter().find(|file| file.name == name) else { return };
        for (batch, segment) in self.batches.iter_mut().zip(&file.segments) {
            *batch = Change::Stored(segment.clone());
        }
    }

    /// As a handle names them; those that are in no confirmed checkpoint go to the sink.
    pub(crate) fn write(&self, sink: &mut dyn SegmentSink) -> Result<Option<ColdFile>, StateError> {
        let segments = self.batches.iter().map(|batch| match batch {
            Change::New(bytes) => sink.append(bytes),
            Change::Stored(segment) => Ok(segment.clone()),
        });
        let segments: Vec<SegmentRef> = segments.collect::<Result<_, _>>()?;
        Ok((!segments.is_empty()).then(|| ColdFile { name: self.name(), segments, length: None, keys: None }))
    }

    fn name(&self) -> String {
        format!("{NAME}{}", self.generation)
    }
}

/// Whether this is no file of RocksDB's, but what came after its files.
pub(crate) fn is_changes(file: &ColdFile) -> bool {
    file.name.starts_with(NAME)
}

/// Writes the handle's batches into a database made of its files.
pub(crate) fn replay(db: &DB, handle: &ColdHandle, source: &dyn SegmentSource) -> Result<(), StateError> {
    for segment in handle.files.iter().filter(|file| is_changes(file)).flat_map(|file| &file.segments) {
        let bytes = source.read(segment)?;
        let corrupt =
            |what: String| StateError::Corrupt { object: segment.object.clone(), offset: segment.offset, what };
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err(corrupt(format!("{} bytes are no batch of changes", bytes.len())));
        }
        write(db, WriteBatch::from_data(&bytes))
            .map_err(|error| corrupt(format!("it is no batch of changes: {error}")))?;
    }
    Ok(())
}

/// There is no log: what isn't flushed is in a checkpoint or nowhere.
pub(crate) fn write(db: &DB, batch: WriteBatch) -> Result<(), StateError> {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    db.write_opt(batch, &options).map_err(failed("write"))
}
