//! A store from the files of a checkpoint: the files themselves, where a subtask has the key groups that it had; else
//! its key groups of them, copied. Where a former subtask has left its store open, links to its files, without the key
//! groups that others own now.

use crate::STORE_NAME;
use crate::changes::{replay, write};
use crate::failure::failed;
use crate::files::{download, is_table, needed};
use crate::options;
use crate::scratch::{Folder, Scratch};
use crate::shared::RocksDb;
use crate::store::{RocksDbStore, get, open, scan};
use crate::writer::Writer;
use rocksdb::{Cache, DB, Env, ReadOptions, WriteBatch};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use weir_model::{KeyGroup, KeyGroupRange};
use weir_state::{
    ColdFile, ColdHandle, ColdSnapshot, ColdStore, ColdWriter, EncodedRows, KeyedStateHandle, SegmentSource,
    StateConfig, StateError, cold_prefix,
};

/// Read at once by an iterator that goes over all.
const READAHEAD_BYTES: usize = 1 << 21;

/// The store of a former subtask of this process, as a checkpoint holds it.
pub(crate) struct LeftOpen {
    pub(crate) key_groups: KeyGroupRange,
    pub(crate) store: Arc<RocksDbStore>,
}

/// A former subtask with state in files.
#[derive(Clone, Copy)]
struct Former<'a> {
    handle: &'a KeyedStateHandle,
    files: &'a ColdHandle,
    /// Its database, if it is open here.
    open: Option<&'a DB>,
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
    let mut store = RocksDbStore::new(shared, shared.scratch.folder(name)?);
    let mut formers = vec![];
    for handle in handles {
        let open = left_open.iter().find(|left| left.key_groups == handle.key_groups);
        let open = open.and_then(|left| left.store.opened());
        formers.extend(files_of(handle)?.map(|files| Former { handle, files, open }));
    }
    let owned = config.key_groups;
    let part = |former: &Former<'_>| former.handle.key_groups.intersect(&owned).map_or(0, |part| part.len());
    if let [Former { handle, files, open: None }] = formers[..]
        && handle.key_groups == owned
    {
        download(&files.files.iter().collect::<Vec<_>>(), &store.path("db"), source)?;
        store.open_restored(files, source)?;
        return Ok(store);
    }
    // Most of it is linked, and what else is owned is copied behind it.
    let linked = (0..formers.len()).filter(|at| formers[*at].open.is_some()).max_by_key(|at| part(&formers[*at]));
    if let Some(at) = linked.filter(|at| part(&formers[*at]) > 0) {
        let Former { handle, files, open } = formers.swap_remove(at);
        store.open_linked(open.expect("it is open"), files)?;
        // Numbers of states are the same in all of them.
        let mut states: Vec<u16> = handles.iter().flat_map(states_of).collect();
        states.sort_unstable();
        states.dedup();
        if let Some(stays) = handle.key_groups.intersect(&owned) {
            keep_only(store.db()?, &states, stays, config.max_parallelism)?;
        }
    }
    formers.into_iter().try_for_each(|former| copy(&store, former, owned, source))?;
    Ok(store)
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

/// The files of a checkpoint to read from, for state that is kept elsewhere from now on, and for savepoints. `folder`
/// is where they are put meanwhile (that for temporary files if none is named). Only key groups that are `owned` are to
/// be read.
///
/// # Errors
/// What the source says of a file, and what RocksDB says.
pub fn open_files(
    folder: Option<&Path>,
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    source: &dyn SegmentSource,
) -> Result<impl ColdStore + use<>, StateError> {
    let scratch = Scratch::new(folder)?;
    let mut donors = vec![];
    for handle in handles {
        let Some(files) = files_of(handle)? else { continue };
        let Some(groups) = handle.key_groups.intersect(&owned) else { continue };
        let all: Vec<&ColdFile> = files.files.iter().collect();
        donors.push(Donor::open(&scratch, None, files, &all, groups, source)?);
    }
    Ok(Donors(donors))
}

/// The files behind the handle, if there are any.
fn files_of(handle: &KeyedStateHandle) -> Result<Option<&ColdHandle>, StateError> {
    match &handle.cold {
        None => Ok(None),
        Some(files) if files.store != STORE_NAME => {
            let reason = format!("the checkpoint was taken with the state backend `{}`", files.store);
            Err(StateError::ColdStore { action: "restore", reason })
        }
        Some(files) => Ok(Some(files).filter(|files| !files.files.is_empty())),
    }
}

/// Copies the key groups of all states, state by state: so each becomes a sorted run of files that overlap no others.
///
/// To open the donor's files and delete what isn't owned would be quicker once; but the foreign keys would go into
/// each subtask's checkpoints until compaction has met all of them, and several donors can't be opened as one.
fn copy(
    store: &RocksDbStore,
    former: Former<'_>,
    owned: KeyGroupRange,
    source: &dyn SegmentSource,
) -> Result<(), StateError> {
    let Former { handle, files, open } = former;
    let Some(groups) = handle.key_groups.intersect(&owned) else { return Ok(()) };
    let states = states_of(handle);
    if let Some(db) = open {
        return copy_from(store, db, &states, groups);
    }
    let needed = needed(&files.files, &states, groups);
    let are_all = needed.len() == files.files.len();
    let copy_files = |some: &[&ColdFile]| {
        let donor = Donor::open(&store.shared.scratch, Some(&store.shared.cache), files, some, groups, source)?;
        copy_from(store, &donor.db, &states, groups)
    };
    match copy_files(&needed) {
        // RocksDB may want to see a file that holds none of the keys; then all are there. Keys that were copied
        // already are written over with what they are.
        Err(error @ StateError::ColdStore { .. }) if !are_all => {
            tracing::warn!(%error, "copying key groups once more, from all files of the checkpoint");
            copy_files(&files.files.iter().collect::<Vec<_>>())
        }
        copied => copied,
    }
}

fn copy_from(store: &RocksDbStore, db: &DB, states: &[u16], groups: KeyGroupRange) -> Result<(), StateError> {
    for state in states {
        let from = cold_prefix(*state, KeyGroup(groups.first));
        let to = behind(*state, groups);
        // Made with the first entry: a store without any stays closed.
        let mut writer: Option<Writer<'_>> = None;
        let mut written = Ok(());
        scan(db, copying(), &from, Some(&to), &mut |key, value| {
            written = writer_of(store, &mut writer).and_then(|writer| writer.put(key, value));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        writer.map_or(Ok(()), Writer::commit)?;
    }
    Ok(())
}

/// The numbers of the states that the handle keeps in files.
fn states_of(handle: &KeyedStateHandle) -> Vec<u16> {
    handle.states.iter().filter_map(|state| state.cold_state).collect()
}

fn writer_of<'w, 's>(
    store: &'s RocksDbStore,
    writer: &'w mut Option<Writer<'s>>,
) -> Result<&'w mut Writer<'s>, StateError> {
    if writer.is_none() {
        *writer = Some(Writer::new(store, store.db()?));
    }
    Ok(writer.as_mut().expect("just made"))
}

/// The least key behind all of the state's in these groups.
fn behind(state: u16, groups: KeyGroupRange) -> Vec<u8> {
    let first = u32::from_be_bytes(cold_prefix(state, KeyGroup(groups.first)));
    (first + groups.len() as u32).to_be_bytes().to_vec()
}

fn copying() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_readahead_size(READAHEAD_BYTES);
    options.fill_cache(false);
    options
}

/// Files of one subtask of a checkpoint, opened to read some key groups. What came after
/// them is written into them.
struct Donor {
    db: DB,
    groups: KeyGroupRange,
    /// After the database.
    _folder: Folder,
}

impl Donor {
    fn open(
        scratch: &Arc<Scratch>,
        cache: Option<&Cache>,
        handle: &ColdHandle,
        files: &[&ColdFile],
        groups: KeyGroupRange,
        source: &dyn SegmentSource,
    ) -> Result<Self, StateError> {
        let folder = scratch.folder("donor")?;
        let path = folder.path().join("db");
        let mut options = options::of_donor(cache);
        if files.iter().any(|file| is_table(&file.name)) {
            download(files, &path, source)?;
        } else {
            // All there is came after the files: a small state needs no disk to be read.
            options.set_env(&Env::mem_env().map_err(failed("make a database in memory"))?);
            options.create_if_missing(true);
        }
        let db = open(&options, &path).map_err(failed("open the files of a checkpoint"))?;
        replay(&db, handle, source)?;
        Ok(Donor { db, groups, _folder: folder })
    }
}

/// Several as one store. A key group is in one of them.
struct Donors(Vec<Donor>);

impl Donors {
    /// The donor whose key group begins the key.
    fn of_key(&self, key: &[u8]) -> Option<&Donor> {
        let group = u16::from_be_bytes(*key.get(2..)?.first_chunk::<2>()?);
        self.0.iter().find(|donor| donor.groups.contains(KeyGroup(group)))
    }
}

impl ColdStore for Donors {
    fn get_many(
        &self,
        keys: &EncodedRows,
        found: &mut dyn FnMut(usize, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for donor in &self.0 {
            let of_donor = |at: &usize| self.of_key(keys.row(*at)).is_some_and(|other| std::ptr::eq(other, donor));
            let positions: Vec<usize> = (0..keys.len()).filter(of_donor).collect();
            let mut asked = EncodedRows::default();
            positions.iter().for_each(|at| asked.push(keys.row(*at)));
            for (at, value) in positions.iter().zip(get(&donor.db, &copying(), &asked, 0..asked.len())) {
                if let Some(value) = value.map_err(failed("look up keys"))? {
                    found(*at, &value)?;
                }
            }
        }
        Ok(())
    }

    fn writer(&self) -> Result<Box<dyn ColdWriter + '_>, StateError> {
        Err(only_read())
    }

    /// Within one key group only.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        self.of_key(from).map_or(Ok(()), |donor| scan(&donor.db, copying(), from, to, visit))
    }

    fn freeze(&self) -> Result<Box<dyn ColdSnapshot>, StateError> {
        Err(only_read())
    }

    fn confirm(&self, _handle: &ColdHandle) {}
}

fn only_read() -> StateError {
    StateError::ColdStore { action: "change", reason: "the files of a checkpoint are opened to be read".into() }
}
