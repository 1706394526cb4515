//! A cut's way into the database: past the write buffers, if it is large.

use crate::changes::write;
use crate::database::Database;
use crate::failure::{failed, file_error};
use crate::options::{RUNS_SLOW, RUNS_STOP};
use rocksdb::{DB, IngestExternalFileOptions, SstFileWriter, WaitForCompactOptions, WriteBatch, properties};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weir_state::{ColdBatch, ColdChange, ColdWriter, StateError};

/// How long a writer waits for compaction at once, and in all.
const WAIT_STEP: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The first batch is kept until it is known whether there is more. A small cut then goes into the write buffer; a
/// large one, sorted as it is, becomes a file at once: to sort its rows once more into a write buffer would cost more
/// than all the rest.
pub(crate) struct Writer<'s> {
    database: &'s Database,
    db: &'s DB,
    first: Option<ColdBatch>,
    file: Option<OpenFile<'s>>,
    finished: Vec<PathBuf>,
}

struct OpenFile<'s> {
    writer: SstFileWriter<'s>,
    path: PathBuf,
}

impl<'s> Writer<'s> {
    pub(crate) fn new(database: &'s Database, db: &'s DB) -> Self {
        Writer { database, db, first: None, file: None, finished: vec![] }
    }

    /// Adds one entry of an ascending sequence to the file.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.file()?.writer.put(key, value).map_err(failed("write a file"))?;
        self.close_if_large()
    }

    fn append(&mut self, batch: &ColdBatch) -> Result<(), StateError> {
        let writer = &mut self.file()?.writer;
        for change in batch.iter() {
            match change {
                ColdChange::Put { key, value } => writer.put(key, value),
                ColdChange::Delete { key } => writer.delete(key),
                // Of what lies in other files; never of what lies in this one.
                ColdChange::DeleteRange { from, to } => writer.delete_range(from, to),
            }
            .map_err(failed("write a file"))?;
        }
        self.close_if_large()
    }

    fn file(&mut self) -> Result<&mut OpenFile<'s>, StateError> {
        if self.file.is_none() {
            let path = self.database.new_path("cut.sst");
            let writer = SstFileWriter::create(&self.database.shared.options);
            writer.open(&path).map_err(failed("create a file"))?;
            self.file = Some(OpenFile { writer, path });
        }
        Ok(self.file.as_mut().expect("just made"))
    }

    fn close_if_large(&mut self) -> Result<(), StateError> {
        let max_bytes = self.database.shared.settings.max_cut_file_bytes as u64;
        let is_large = self.file.as_ref().is_some_and(|file| file.writer.file_size() >= max_bytes);
        if is_large { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), StateError> {
        if let Some(mut file) = self.file.take() {
            self.finished.push(file.path);
            file.writer.finish().map_err(failed("finish a file"))?;
        }
        Ok(())
    }

    /// Adds all that was written to the database.
    pub(crate) fn commit(mut self) -> Result<(), StateError> {
        if let Some(batch) = self.first.take() {
            if batch.bytes() <= self.database.shared.settings.buffered_cut_bytes {
                return self.write_buffered(&batch);
            }
            self.append(&batch)?;
        }
        self.close()?;
        if self.finished.is_empty() {
            return Ok(());
        }
        // What is in the write buffer is older, and would not be if a restore wrote it again.
        self.database.flush(self.db)?;
        self.wait_for_compaction()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        // Nobody reads from a snapshot.
        options.set_snapshot_consistency(false);
        self.db.ingest_external_file_opts(&options, self.finished.clone()).map_err(failed("add a file"))
    }

    fn write_buffered(&self, changes: &ColdBatch) -> Result<(), StateError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for change in changes.iter() {
            match change {
                ColdChange::Put { key, value } => batch.put(key, value),
                ColdChange::Delete { key } => batch.delete(key),
                ColdChange::DeleteRange { from, to } => batch.delete_range(from, to),
            }
        }
        if self.database.changes().is_full() {
            self.database.flush(self.db)?;
        }
        // Before the write, which puts its place in RocksDB's order of things into the batch.
        self.database.changes().push(&batch);
        write(self.db, batch)
    }

    /// RocksDB holds back writes when compaction falls behind, but not whole files; so this does.
    fn wait_for_compaction(&self) -> Result<(), StateError> {
        let begin = Instant::now();
        while self.runs()? >= RUNS_SLOW as u64 {
            let mut options = WaitForCompactOptions::default();
            options.set_timeout(WAIT_STEP.as_micros() as u64);
            // That it took longer says nothing that the number of runs doesn't.
            let waited = self.db.wait_for_compact(&options);
            let runs = self.runs()?;
            if runs < RUNS_STOP as u64 {
                return Ok(());
            }
            if begin.elapsed() > MAX_WAIT {
                let reason = match waited {
                    Err(error) => format!("compaction has left {runs} runs after {MAX_WAIT:?}: {error}"),
                    Ok(()) => format!("compaction has left {runs} runs after {MAX_WAIT:?}"),
                };
                return Err(StateError::ColdStore { action: "add a file", reason });
            }
        }
        Ok(())
    }

    fn runs(&self) -> Result<u64, StateError> {
        let count = self.db.property_value(properties::num_files_at_level(0)).map_err(failed("count files"))?;
        Ok(count.and_then(|count| count.parse().ok()).unwrap_or(0))
    }
}

impl ColdWriter for Writer<'_> {
    fn write(&mut self, batch: &ColdBatch) -> Result<(), StateError> {
        if self.first.is_none() && self.file.is_none() && self.finished.is_empty() {
            self.first = Some(batch.clone());
            return Ok(());
        }
        if let Some(first) = self.first.take() {
            self.append(&first)?;
        }
        self.append(batch)
    }

    fn finish(self: Box<Self>) -> Result<(), StateError> {
        self.commit()
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let open = self.file.take().map(|file| file.path);
        // What was added to the database has been moved there.
        for path in self.finished.drain(..).chain(open) {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(error = %file_error("removing", &path)(error), "a file of RocksDB's stays");
            }
        }
    }
}
