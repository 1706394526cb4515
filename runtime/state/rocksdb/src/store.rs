use crate::changes::{Changes, replay};
use crate::failure::failed;
use crate::scratch::Folder;
use crate::shared::RocksDb;
use crate::snapshot::{Frozen, Held};
use crate::writer::Writer;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBPinnableSlice, DEFAULT_COLUMN_FAMILY_NAME, Options, ReadOptions};
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use weir_state::{ColdHandle, ColdSnapshot, ColdStore, ColdWriter, EncodedRows, SegmentSource, StateError};

/// Values that a thread pins at once.
const KEYS_AT_ONCE: usize = 2048;
/// Fewer keys are looked up before a thread is started for them.
const KEYS_OF_A_HELPER: usize = 1024;

/// One database, of one operator subtask; its folder goes with it.
///
/// All states are in one column family: each would add a file to every checkpoint.
pub struct RocksDbStore {
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

impl RocksDbStore {
    /// An empty store in this folder.
    pub(crate) fn new(shared: &Arc<RocksDb>, folder: Folder) -> Self {
        RocksDbStore {
            db: OnceLock::new(),
            held: Mutex::default(),
            changes: Mutex::default(),
            next_file: AtomicU64::new(0),
            shared: shared.clone(),
            folder,
        }
    }

    /// Opens what stands in the store's folder: the files that the handle names.
    pub(crate) fn open_restored(&mut self, handle: &ColdHandle, source: &dyn SegmentSource) -> Result<(), StateError> {
        let db = open(&self.shared.options, &self.path("db")).map_err(failed("open the files of a checkpoint"))?;
        replay(&db, handle, source)?;
        self.held = Mutex::new(Held::of(handle));
        self.changes = Mutex::new(Changes::of(handle));
        self.db = OnceLock::from(db);
        Ok(())
    }

    /// Opens links to the files of another store, of which the handle names those that a checkpoint holds.
    pub(crate) fn open_linked(&mut self, former: &DB, handle: &ColdHandle) -> Result<(), StateError> {
        let path = self.path("db");
        let linked = Checkpoint::new(former).and_then(|links| links.create_checkpoint(&path));
        linked.map_err(failed("link the files of a former subtask"))?;
        let db = open(&self.shared.options, &path).map_err(failed("open the files of a former subtask"))?;
        self.held = Mutex::new(Held::of(handle));
        // The links hold all batches in files.
        let mut changes = Changes::of(handle);
        changes.clear();
        self.changes = Mutex::new(changes);
        self.db = OnceLock::from(db);
        Ok(())
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

    /// Looks up many keys with the help of processors that have nothing to do.
    fn look_up(&self, db: &DB, keys: &EncodedRows, found: &mut Found<'_>) -> Result<(), StateError> {
        let helpers = self.shared.helpers.take(keys.len() / KEYS_OF_A_HELPER);
        for first in (0..keys.len()).step_by(KEYS_AT_ONCE * (helpers.count() + 1)) {
            let rows = keys.len().min(first + KEYS_AT_ONCE * (helpers.count() + 1)) - first;
            let share = rows.div_ceil(helpers.count() + 1);
            let part = |number: usize| first + rows.min(number * share)..first + rows.min((number + 1) * share);
            std::thread::scope(|scope| {
                let get = |number: usize| get(db, &self.reading(), keys, part(number));
                let others = (1..=helpers.count()).map(|number| scope.spawn(move || get(number)));
                let others: Vec<_> = others.collect();
                let mut give = |number: usize, values: Vec<Value<'_>>| {
                    part(number).zip(values).try_for_each(|(at, value)| {
                        match value.map_err(failed("look up keys"))? {
                            Some(value) => found(at, &value),
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

impl ColdStore for RocksDbStore {
    fn get_many(
        &self,
        keys: &EncodedRows,
        found: &mut dyn FnMut(usize, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let Some(db) = self.opened().filter(|_| !keys.is_empty()) else { return Ok(()) };
        self.look_up(db, keys, found)
    }

    fn writer(&self) -> Result<Box<dyn ColdWriter + '_>, StateError> {
        Ok(Box::new(Writer::new(self, self.db()?)))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        self.opened().map_or(Ok(()), |db| scan(db, self.reading(), from, to, visit))
    }

    fn freeze(&self) -> Result<Box<dyn ColdSnapshot>, StateError> {
        Ok(Box::new(Frozen::of(self)?))
    }

    fn confirm(&self, handle: &ColdHandle) {
        *self.held() = Held::of(handle);
        self.changes().confirm(handle);
    }
}

impl Drop for RocksDbStore {
    fn drop(&mut self) {
        if let Some(db) = self.opened() {
            // A compaction of files that are about to be removed isn't waited for.
            db.cancel_all_background_work(true);
        }
    }
}

impl fmt::Debug for RocksDbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksDbStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// With its only column family by name: lookups of many keys ask for one.
pub(crate) fn open(options: &Options, path: &Path) -> Result<DB, rocksdb::Error> {
    DB::open_cf_with_opts(options, path, [(DEFAULT_COLUMN_FAMILY_NAME, options.clone())])
}

/// What takes a value that was found, with the position of its key.
type Found<'f> = dyn FnMut(usize, &[u8]) -> Result<(), StateError> + 'f;
/// What takes a key and its value, and says whether to go on.
type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

type Value<'d> = Result<Option<DBPinnableSlice<'d>>, rocksdb::Error>;

pub(crate) fn get<'d>(db: &'d DB, options: &ReadOptions, keys: &EncodedRows, rows: Range<usize>) -> Vec<Value<'d>> {
    let family = db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME).expect("every database has it");
    db.batched_multi_get_cf_opt(&family, rows.map(|row| keys.row(row)), true, options)
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
