//! One of RocksDB's databases, and what of it checkpoints hold.

use crate::changes::{Changes, replay};
use crate::failure::failed;
use crate::files::download;
use crate::scratch::Folder;
use crate::shared::RocksDb;
use crate::snapshot::Held;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBPinnableSlice, DEFAULT_COLUMN_FAMILY_NAME, Options, ReadOptions};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use weir_state::{ColdHandle, EncodedRows, SegmentSource, StateError};

/// Values that a thread pins at once.
const KEYS_AT_ONCE: usize = 2048;
/// Fewer keys are looked up before a thread is started for them.
const KEYS_OF_A_HELPER: usize = 1024;

/// Its folder goes with it.
///
/// All states are in one column family: each would add a file to every checkpoint.
pub(crate) struct Database {
    /// Made with the first write: an operator without state has none.
    db: OnceLock<DB>,
    /// Which files need not be uploaded again.
    held: Mutex<Held>,
    changes: Mutex<Changes>,
    next_file: AtomicU64,
    pub(crate) shared: Arc<RocksDb>,
    /// After the database.
    folder: Folder,
}

impl Database {
    /// An empty database in this folder.
    pub(crate) fn new(shared: &Arc<RocksDb>, folder: Folder) -> Self {
        Database {
            db: OnceLock::new(),
            held: Mutex::default(),
            changes: Mutex::default(),
            next_file: AtomicU64::new(0),
            shared: shared.clone(),
            folder,
        }
    }

    /// The files that the handle names, as they are.
    pub(crate) fn restored(
        shared: &Arc<RocksDb>,
        folder: Folder,
        handle: &ColdHandle,
        source: &dyn SegmentSource,
    ) -> Result<Self, StateError> {
        let database = Database::new(shared, folder);
        let path = database.path("db");
        download(&handle.files.iter().collect::<Vec<_>>(), &path, source)?;
        let db = open(&shared.options, &path).map_err(failed("open the files of a checkpoint"))?;
        replay(&db, handle, source)?;
        Ok(database.with(db, handle, Changes::of(handle)))
    }

    /// Links to the files of another database, of which the handle names those that a checkpoint holds.
    pub(crate) fn linked(
        shared: &Arc<RocksDb>,
        folder: Folder,
        former: &Database,
        handle: &ColdHandle,
    ) -> Result<Self, StateError> {
        let database = Database::new(shared, folder);
        let path = database.path("db");
        former.link(former.db()?, &path).map_err(failed("link the files of a former subtask"))?;
        let db = open(&shared.options, &path).map_err(failed("open the files of a former subtask"))?;
        // The links hold all batches in files.
        let mut changes = Changes::of(handle);
        changes.clear();
        Ok(database.with(db, handle, changes))
    }

    fn with(mut self, db: DB, handle: &ColdHandle, changes: Changes) -> Self {
        self.db = OnceLock::from(db);
        self.held = Mutex::new(Held::of(handle));
        self.changes = Mutex::new(changes);
        self
    }

    /// Makes a folder of hard links to the files, which hold all that was written then.
    ///
    /// RocksDB waits with a flush until compaction has caught up, also where there is nothing to flush.
    pub(crate) fn link(&self, db: &DB, folder: &Path) -> Result<(), rocksdb::Error> {
        let links = Checkpoint::new(db)?;
        match self.changes().is_empty() {
            true => links.create_checkpoint_with_log_size(folder, u64::MAX),
            false => links.create_checkpoint(folder),
        }
    }

    pub(crate) fn opened(&self) -> Option<&DB> {
        self.db.get()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the store's folder that no other call gets.
    pub(crate) fn new_path(&self, kind: &str) -> PathBuf {
        self.path(&format!("{kind}-{}", self.next_file.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a file of what is in the write buffer. Cuts come in one after the other, and none does meanwhile.
    pub(crate) fn flush(&self, db: &DB) -> Result<(), StateError> {
        if !self.changes().is_empty() {
            db.flush().map_err(failed("flush"))?;
            self.changes().clear();
        }
        Ok(())
    }

    /// Looks up many keys with the help of processors that have nothing to do: those at `rows`, or all.
    pub(crate) fn get_many(
        &self,
        keys: &EncodedRows,
        rows: Option<&[u32]>,
        found: &mut Found<'_>,
    ) -> Result<(), StateError> {
        let count = rows.map_or(keys.len(), <[u32]>::len);
        let Some(db) = self.opened().filter(|_| count > 0) else { return Ok(()) };
        let row = |at: usize| rows.map_or(at, |rows| rows[at] as usize);
        let helpers = self.shared.helpers.take(count / KEYS_OF_A_HELPER);
        for first in (0..count).step_by(KEYS_AT_ONCE * (helpers.count() + 1)) {
            let asked = count.min(first + KEYS_AT_ONCE * (helpers.count() + 1)) - first;
            let share = asked.div_ceil(helpers.count() + 1);
            let part = |number: usize| first + asked.min(number * share)..first + asked.min((number + 1) * share);
            std::thread::scope(|scope| {
                let get = |number: usize| get(db, &self.reading(), part(number).map(|at| keys.row(row(at))));
                let others = (1..=helpers.count()).map(|number| scope.spawn(move || get(number)));
                let others: Vec<_> = others.collect();
                let mut give = |number: usize, values: Vec<Value<'_>>| {
                    part(number).zip(values).try_for_each(|(at, value)| {
                        match value.map_err(failed("look up keys"))? {
                            Some(value) => found(row(at), &value),
                            None => Ok(()),
                        }
                    })
                };
                give(0, get(0))?;
                others
                    .into_iter()
                    .enumerate()
                    .try_for_each(|(number, other)| give(number + 1, other.join().expect("a lookup doesn't panic")))
            })?;
        }
        Ok(())
    }

    pub(crate) fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StateError> {
        self.opened().map_or(Ok(()), |db| scan(db, self.reading(), from, to, visit))
    }

    /// A checkpoint with this handle is durable.
    pub(crate) fn confirm(&self, handle: &ColdHandle) {
        *self.held() = Held::of(handle);
        self.changes().confirm(handle);
    }

    /// Blocks of mapped files aren't cached, so that each lookup would sum up a whole filter. What was downloaded is
    /// checked by then, and compaction checks what it reads.
    fn reading(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(!self.shared.settings.maps_files);
        options
    }

    pub(crate) fn db(&self) -> Result<&DB, StateError> {
        if let Some(db) = self.db.get() {
            return Ok(db);
        }
        // Cuts come one after the other; were there two, the second would fail on RocksDB's own lock.
        let db = open(&self.shared.options, &self.path("db")).map_err(failed("open a new database"))?;
        Ok(self.db.get_or_init(|| db))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(db) = self.opened() {
            // A compaction of files that are about to be removed isn't waited for.
            db.cancel_all_background_work(true);
        }
    }
}

/// With its only column family by name: lookups of many keys ask for one.
pub(crate) fn open(options: &Options, path: &Path) -> Result<DB, rocksdb::Error> {
    DB::open_cf_with_opts(options, path, [(DEFAULT_COLUMN_FAMILY_NAME, options.clone())])
}

/// What takes a value that was found, with the position of its key.
pub(crate) type Found<'f> = dyn FnMut(usize, &[u8]) -> Result<(), StateError> + 'f;
/// What takes a key and its value, and says whether to go on.
pub(crate) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

type Value<'d> = Result<Option<DBPinnableSlice<'d>>, rocksdb::Error>;

pub(crate) fn get<'d, 'k>(db: &'d DB, options: &ReadOptions, keys: impl Iterator<Item = &'k [u8]>) -> Vec<Value<'d>> {
    let family = db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME).expect("every database has it");
    db.batched_multi_get_cf_opt(&family, keys, true, options)
}

pub(crate) fn scan(
    db: &DB,
    mut options: ReadOptions,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut Visit<'_>,
) -> Result<(), StateError> {
    if let Some(to) = to {
        options.set_iterate_upper_bound(to);
    }
    let mut entries = db.raw_iterator_opt(options);
    entries.seek(from);
    while let Some((key, value)) = entries.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        entries.next();
    }
    entries.status().map_err(failed("scan"))
}
