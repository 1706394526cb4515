//! The store of one operator subtask: one database, or several with a part of the key groups each.
//!
//! A key group is in one of them, and the others hold nothing of it that can be seen. So they take part in lookups, cuts
//! and checkpoints side by side, each as if it were a store of its own.

use crate::STORE_NAME;
use crate::database::{Database, Visit};
use crate::snapshot::Frozen;
use crate::writer::Writer;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use weir_model::KeyGroupRange;
use weir_state::{
    ColdBatch, ColdChange, ColdDatabase, ColdHandle, ColdSnapshot, ColdStore, ColdWriter, EncodedRows, SegmentSink,
    StateError,
};

/// What one subtask keeps in RocksDB.
pub struct RocksDbStore {
    /// One behind the other, at least one.
    parts: Vec<Part>,
}

/// Key groups, and the database that they are in.
pub(crate) struct Part {
    pub(crate) key_groups: KeyGroupRange,
    database: Arc<Database>,
    /// Whether another store goes on with it. Held by whoever changes the database or links its files.
    is_given_away: RwLock<bool>,
}

/// Says that a part is not given away for as long as it lives.
pub(crate) struct InUse<'p> {
    pub(crate) database: &'p Database,
    _kept: RwLockReadGuard<'p, bool>,
}

impl Part {
    pub(crate) fn new(key_groups: KeyGroupRange, database: Arc<Database>) -> Self {
        Part { key_groups, database, is_given_away: RwLock::new(false) }
    }

    /// Whether there is something in it, and still its own. Of what was given away there is the checkpoint.
    pub(crate) fn is_open(&self) -> bool {
        self.database.opened().is_some() && self.in_use().is_ok()
    }

    /// The database, unless it was given away.
    pub(crate) fn in_use(&self) -> Result<InUse<'_>, StateError> {
        let kept = self.is_given_away.read().unwrap_or_else(PoisonError::into_inner);
        if *kept {
            let reason = "another subtask goes on with its database".into();
            return Err(StateError::ColdStore { action: "use a former store", reason });
        }
        Ok(InUse { database: &self.database, _kept: kept })
    }

    /// The database, for another store, which alone uses it from now on. None if it was given away before.
    pub(crate) fn give_away(&self) -> Option<Arc<Database>> {
        let mut is_given_away = self.is_given_away.write().unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *is_given_away, true)).then(|| self.database.clone())
    }
}

impl RocksDbStore {
    /// # Panics
    /// Without parts.
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        assert!(!parts.is_empty(), "a store is made of one database at least");
        RocksDbStore { parts }
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The databases that hold something.
    pub(crate) fn databases(&self) -> impl Iterator<Item = &rocksdb::DB> {
        self.parts.iter().filter_map(|part| part.database.opened())
    }

    fn key_groups(&self) -> KeyGroupRange {
        let (first, last) = (&self.parts[0], &self.parts[self.parts.len() - 1]);
        KeyGroupRange { first: first.key_groups.first, last: last.key_groups.last }
    }

    /// The number of the part that keys beginning so are in.
    fn part_of(&self, key: &[u8]) -> usize {
        let group = key.get(2..4).map_or(0, |group| u16::from_be_bytes([group[0], group[1]]));
        self.parts.partition_point(|part| part.key_groups.last < group).min(self.parts.len() - 1)
    }
}

impl ColdStore for RocksDbStore {
    fn get_many(
        &self,
        keys: &EncodedRows,
        found: &mut dyn FnMut(usize, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        if let [part] = &self.parts[..] {
            return part.database.get_many(keys, None, found);
        }
        let mut rows: Vec<Vec<u32>> = vec![vec![]; self.parts.len()];
        keys.iter().enumerate().for_each(|(row, key)| rows[self.part_of(key)].push(row as u32));
        self.parts.iter().zip(rows).try_for_each(|(part, rows)| part.database.get_many(keys, Some(&rows), found))
    }

    fn writer(&self) -> Result<Box<dyn ColdWriter + '_>, StateError> {
        let parts = self.parts.iter().map(|part| Ok(PartWriter { in_use: part.in_use()?, writer: None }));
        Ok(Box::new(StoreWriter { store: self, parts: parts.collect::<Result<_, StateError>>()? }))
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StateError> {
        self.parts[self.part_of(from)].database.scan(from, to, visit)
    }

    fn freeze(&self) -> Result<Box<dyn ColdSnapshot>, StateError> {
        let freeze = |part: &Part| Ok((part.key_groups, Frozen::of(part.in_use()?.database)?));
        Ok(Box::new(FrozenStore(self.parts.iter().map(freeze).collect::<Result<_, StateError>>()?)))
    }

    fn confirm(&self, handle: &ColdHandle) {
        // The handle is one of this store's, whose databases are the same ever since.
        let Ok(databases) = handle.by_database(self.key_groups()) else { return };
        for (key_groups, handle) in databases {
            let part = self.parts.iter().find(|part| part.key_groups == key_groups);
            if let Some(Ok(in_use)) = part.map(Part::in_use) {
                in_use.database.confirm(&handle);
            }
        }
    }
}

impl fmt::Debug for RocksDbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key_groups: Vec<String> = self.parts.iter().map(|part| part.key_groups.to_string()).collect();
        f.debug_struct("RocksDbStore").field("parts", &key_groups).finish_non_exhaustive()
    }
}

/// One cut, dealt out to the databases.
struct StoreWriter<'s> {
    store: &'s RocksDbStore,
    parts: Vec<PartWriter<'s>>,
}

struct PartWriter<'s> {
    in_use: InUse<'s>,
    /// Made with the first change.
    writer: Option<Writer<'s>>,
}

impl<'s> PartWriter<'s> {
    fn write(&mut self, batch: &ColdBatch) -> Result<(), StateError> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.writer.is_none() {
            let database: &'s Database = self.in_use.database;
            self.writer = Some(Writer::new(database, database.db()?));
        }
        self.writer.as_mut().expect("just made").write(batch)
    }
}

impl ColdWriter for StoreWriter<'_> {
    fn write(&mut self, batch: &ColdBatch) -> Result<(), StateError> {
        if let [part] = &mut self.parts[..] {
            return part.write(batch);
        }
        let mut batches = vec![ColdBatch::default(); self.parts.len()];
        for change in batch.iter() {
            let (ColdChange::Put { key, .. } | ColdChange::Delete { key } | ColdChange::DeleteRange { from: key, .. }) =
                change;
            batches[self.store.part_of(key)].push(change);
        }
        self.parts.iter_mut().zip(&batches).try_for_each(|(part, batch)| part.write(batch))
    }

    fn finish(mut self: Box<Self>) -> Result<(), StateError> {
        self.parts.iter_mut().filter_map(|part| part.writer.take()).try_for_each(Writer::commit)
    }
}

struct FrozenStore(Vec<(KeyGroupRange, Frozen)>);

impl ColdSnapshot for FrozenStore {
    fn write(self: Box<Self>, sink: &mut dyn SegmentSink) -> Result<ColdHandle, StateError> {
        let (mut files, mut databases) = (vec![], vec![]);
        for (key_groups, frozen) in self.0 {
            let own = frozen.write(sink)?;
            databases.push(ColdDatabase { key_groups, files: own.len() as u32 });
            files.extend(own);
        }
        if databases.len() == 1 {
            databases.clear();
        }
        Ok(ColdHandle { store: STORE_NAME.into(), files, databases })
    }
}
