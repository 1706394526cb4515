//! The files of a checkpoint, opened to be read.

use crate::changes::replay;
use crate::database::{get, open, scan};
use crate::failure::failed;
use crate::files::{download, is_table};
use crate::options;
use crate::restore::databases_of;
use crate::scratch::{Folder, Scratch};
use rocksdb::{Cache, DB, Env, ReadOptions};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use weir_model::{KeyGroup, KeyGroupRange};
use weir_state::{
    ColdFile, ColdHandle, ColdSnapshot, ColdStore, ColdWriter, EncodedRows, KeyedStateHandle, SegmentSource, StateError,
};

/// Read at once by an iterator that goes over all.
const READAHEAD_BYTES: usize = 1 << 21;

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
        for (key_groups, files) in databases_of(handle)? {
            let Some(groups) = key_groups.intersect(&owned) else { continue };
            let all: Vec<&ColdFile> = files.files.iter().collect();
            donors.push(Donor::open(&scratch, None, &files, &all, groups, source)?);
        }
    }
    Ok(Donors(donors))
}

pub(crate) fn copying() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_readahead_size(READAHEAD_BYTES);
    options.fill_cache(false);
    options
}

/// Files of one database of a checkpoint, opened to read some key groups. What came after
/// them is written into them.
pub(crate) struct Donor {
    pub(crate) db: DB,
    groups: KeyGroupRange,
    /// After the database.
    _folder: Folder,
}

impl Donor {
    pub(crate) fn open(
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
            let values = get(&donor.db, &copying(), positions.iter().map(|at| keys.row(*at)));
            for (at, value) in positions.iter().zip(values) {
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
