//! A store from what former subtasks left open, and from the files of a checkpoint.
//!
//! A former database whose key groups are all owned is taken as it is: itself, if it is open here; else its files. Of one
//! that is open and divided now, each heir gets links to its files, without the key groups that others own. From what is
//! left, and what would be one database too many, owned key groups are copied into the databases beside it.

use crate::STORE_NAME;
use crate::changes::write;
use crate::database::{Database, scan};
use crate::donors::{Donor, copying};
use crate::failure::failed;
use crate::files::needed;
use crate::shared::RocksDb;
use crate::store::{Part, RocksDbStore};
use crate::writer::Writer;
use rocksdb::{DB, WriteBatch};
use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::{KeyGroup, KeyGroupRange};
use weir_state::{ColdFile, ColdHandle, KeyedStateHandle, SegmentSource, StateConfig, StateError, cold_prefix};

/// The store of a former subtask of this process, as a checkpoint holds it.
pub(crate) struct LeftOpen {
    pub(crate) key_groups: KeyGroupRange,
    pub(crate) store: Arc<RocksDbStore>,
}

/// A database of a former subtask that holds owned key groups.
struct Former<'a> {
    /// Those that are owned.
    key_groups: KeyGroupRange,
    /// Whether these are all that it holds.
    is_whole: bool,
    /// The states with entries in it.
    states: Vec<u16>,
    files: ColdHandle,
    /// It, if it is open here.
    open: Option<&'a Part>,
}

/// A store that holds the owned key groups of the files that the handles name.
pub(crate) fn open_store(
    shared: &Arc<RocksDb>,
    name: &str,
    config: &StateConfig,
    left_open: &[LeftOpen],
    handles: &[KeyedStateHandle],
    source: &dyn SegmentSource,
) -> Result<RocksDbStore, StateError> {
    let mut formers = formers(left_open, handles, config.key_groups)?;
    // The larger ones are taken, and the others copied.
    formers.sort_by_key(|former| (former.is_copied(), Reverse(former.bytes())));
    let taken = formers.iter().take_while(|former| !former.is_copied()).count();
    let copied = formers.split_off(taken.min(shared.settings.max_databases.max(1)));
    formers.sort_by_key(|former| former.key_groups.first);
    // Numbers of states are the same in all of them.
    let mut states: Vec<u16> = handles.iter().flat_map(states_of).collect();
    states.sort_unstable();
    states.dedup();
    let mut databases = vec![];
    for former in &formers {
        databases.push(former.take(shared, name, &states, config.max_parallelism, source)?);
    }
    if databases.is_empty() {
        databases.push(Arc::new(Database::new(shared, shared.scratch.folder(name)?)));
    }
    let begins: Vec<u16> = formers.iter().map(|former| former.key_groups.first).collect();
    let parts = spans(config.key_groups, &begins).into_iter().zip(&databases);
    let store = RocksDbStore::new(parts.map(|(groups, database)| Part::new(groups, database.clone())).collect());
    for former in copied {
        let at = store.parts().iter().position(|part| part.key_groups.intersect(&former.key_groups).is_some());
        former.copy(shared, &databases[at.expect("parts are all of what is owned")], source)?;
    }
    Ok(store)
}

/// The databases with owned key groups, of all former subtasks.
fn formers<'a>(
    left_open: &'a [LeftOpen],
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
) -> Result<Vec<Former<'a>>, StateError> {
    let mut formers = vec![];
    for handle in handles {
        let left = left_open.iter().find(|left| left.key_groups == handle.key_groups);
        for (held, files) in databases_of(handle)? {
            let Some(key_groups) = held.intersect(&owned) else { continue };
            let is_it = |part: &&Part| part.key_groups == held && part.is_open();
            formers.push(Former {
                key_groups,
                is_whole: key_groups == held,
                states: states_of(handle),
                files,
                open: left.and_then(|left| left.store.parts().iter().find(is_it)),
            });
        }
    }
    Ok(formers)
}

/// Ranges that are all of `owned` together: one from each begin to the next, the first and the last to the ends.
fn spans(owned: KeyGroupRange, begins: &[u16]) -> Vec<KeyGroupRange> {
    let firsts = [owned.first].into_iter().chain(begins.iter().skip(1).copied());
    let lasts = begins.iter().skip(1).map(|begin| begin - 1).chain([owned.last]);
    firsts.zip(lasts).map(|(first, last)| KeyGroupRange { first, last }).collect()
}

/// The databases behind the handle with their key groups; those that hold nothing are left out.
pub(crate) fn databases_of(handle: &KeyedStateHandle) -> Result<Vec<(KeyGroupRange, ColdHandle)>, StateError> {
    match &handle.cold {
        None => Ok(vec![]),
        Some(files) if files.store != STORE_NAME => {
            let reason = format!("the checkpoint was taken with the state backend `{}`", files.store);
            Err(StateError::ColdStore { action: "restore", reason })
        }
        Some(files) => {
            let databases = files.by_database(handle.key_groups)?;
            Ok(databases.into_iter().filter(|(_, files)| !files.files.is_empty()).collect())
        }
    }
}

/// The numbers of the states that the handle keeps in files.
fn states_of(handle: &KeyedStateHandle) -> Vec<u16> {
    handle.states.iter().filter_map(|state| state.cold_state).collect()
}

impl Former<'_> {
    /// Whether it can only be copied: to open all of its files for a part of them would drag foreign keys through each
    /// subtask's checkpoints, and download what nobody asks for.
    fn is_copied(&self) -> bool {
        !self.is_whole && self.open.is_none()
    }

    fn bytes(&self) -> u64 {
        self.files.files.iter().flat_map(|file| &file.segments).map(|segment| segment.length).sum()
    }

    /// Its database, for the new store: with its key groups that are owned, and no others.
    fn take(
        &self,
        shared: &Arc<RocksDb>,
        name: &str,
        states: &[u16],
        max_parallelism: u32,
        source: &dyn SegmentSource,
    ) -> Result<Arc<Database>, StateError> {
        let database = match self.open {
            Some(part) if !self.is_whole => {
                let former = part.in_use()?;
                let linked = Database::linked(shared, shared.scratch.folder(name)?, former.database, &self.files)?;
                keep_only(linked.db()?, states, self.key_groups, max_parallelism)?;
                linked
            }
            open => {
                if let Some(database) = open.and_then(Part::give_away) {
                    // The checkpoint is durable, whether the former subtask heard of it or not.
                    database.confirm(&self.files);
                    return Ok(database);
                }
                Database::restored(shared, shared.scratch.folder(name)?, &self.files, source)?
            }
        };
        Ok(Arc::new(database))
    }

    /// Copies its owned key groups, state by state: so each becomes a sorted run of files that overlap no others.
    fn copy(&self, shared: &Arc<RocksDb>, into: &Database, source: &dyn SegmentSource) -> Result<(), StateError> {
        if let Some(Ok(former)) = self.open.map(Part::in_use) {
            return copy_from(into, former.database.db()?, &self.states, self.key_groups);
        }
        let files = &self.files.files;
        let needed = needed(files, &self.states, self.key_groups);
        let are_all = needed.len() == files.len();
        let copy_files = |some: &[&ColdFile]| {
            let (scratch, cache) = (&shared.scratch, Some(&shared.cache));
            let donor = Donor::open(scratch, cache, &self.files, some, self.key_groups, source)?;
            copy_from(into, &donor.db, &self.states, self.key_groups)
        };
        match copy_files(&needed) {
            // RocksDB may want to see a file that holds none of the keys; then all are there. Keys that were copied
            // already are written over with what they are.
            Err(error @ StateError::ColdStore { .. }) if !are_all => {
                tracing::warn!(%error, "copying key groups once more, from all files of the checkpoint");
                copy_files(&files.iter().collect::<Vec<_>>())
            }
            copied => copied,
        }
    }
}

/// Takes all other key groups out of a database: with the files that hold nothing else, and by deletions that hide what
/// is left in files with more. A key group that comes back later begins without what was hidden.
fn keep_only(db: &DB, states: &[u16], stays: KeyGroupRange, max_parallelism: u32) -> Result<(), StateError> {
    if stays.len() == max_parallelism as usize {
        return Ok(());
    }
    let mut deletions = WriteBatch::default();
    for state in states {
        let place = |group: u32| ((u32::from(*state) << 16) + group).to_be_bytes();
        let others = [(0, u32::from(stays.first)), (u32::from(stays.last) + 1, max_parallelism)];
        for (from, to) in others.into_iter().filter(|(from, to)| from < to) {
            db.delete_file_in_range(place(from), place(to)).map_err(failed("let go of files"))?;
            deletions.delete_range(place(from), place(to));
        }
    }
    write(db, deletions)?;
    // Into a file: what isn't in one, a checkpoint has to hold.
    db.flush().map_err(failed("flush"))
}

fn copy_from(into: &Database, db: &DB, states: &[u16], groups: KeyGroupRange) -> Result<(), StateError> {
    for state in states {
        let from = cold_prefix(*state, KeyGroup(groups.first));
        let to = behind(*state, groups);
        // Made with the first entry: a store without any stays closed.
        let mut writer: Option<Writer<'_>> = None;
        let mut written = Ok(());
        scan(db, copying(), &from, Some(&to), &mut |key, value| {
            written = writer_of(into, &mut writer).and_then(|writer| writer.put(key, value));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        writer.map_or(Ok(()), Writer::commit)?;
    }
    Ok(())
}

fn writer_of<'w, 's>(
    database: &'s Database,
    writer: &'w mut Option<Writer<'s>>,
) -> Result<&'w mut Writer<'s>, StateError> {
    if writer.is_none() {
        *writer = Some(Writer::new(database, database.db()?));
    }
    Ok(writer.as_mut().expect("just made"))
}

/// The least key behind all of the state's in these groups.
fn behind(state: u16, groups: KeyGroupRange) -> Vec<u8> {
    let first = u32::from_be_bytes(cold_prefix(state, KeyGroup(groups.first)));
    (first + groups.len() as u32).to_be_bytes().to_vec()
}
