//! A checkpoint of a database: its files as hard links, so that compaction takes none away while they are uploaded.

use crate::changes::Changes;
use crate::database::Database;
use crate::failure::{failed, file_error};
use crate::files::{Uploaded, is_table, upload};
use crate::settings::Compression;
use rocksdb::{DB, LiveFile, properties};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use weir_state::{ColdFile, ColdHandle, ColdKeys, SegmentSink, StateError};

/// Files that a confirmed checkpoint holds, by name and length.
///
/// RocksDB gives out the numbers in file names again after a restore, but within one database never: it goes on behind
/// the highest in its manifest file. So a name stands for one content as long as this list is that of one database, made
/// when that is and filled with what it was restored from. The manifest file grows, at its end only: name and
/// length together are one content for it, too.
#[derive(Debug, Default)]
pub(crate) struct Held(HashMap<String, Uploaded>);

impl Held {
    pub(crate) fn of(handle: &ColdHandle) -> Self {
        let uploaded = |file: &ColdFile| Uploaded { segments: file.segments.clone(), length: file.length };
        Held(handle.files.iter().map(|file| (file.name.clone(), uploaded(file))).collect())
    }

    fn get(&self, name: &str, length: u64) -> Option<Uploaded> {
        self.0.get(name).filter(|uploaded| uploaded.file_length() == length).cloned()
    }
}

/// Files and later changes that are one state of the database.
pub(crate) struct Frozen {
    /// None: it holds nothing.
    files: Option<Files>,
    changes: Changes,
    /// Whether files are uploaded compressed: those of RocksDB's that are not.
    compress: bool,
}

struct Files {
    tables: Vec<Table>,
    /// Of those tables that no confirmed checkpoint holds.
    links: Links,
    manifest_name: String,
    manifest: Vec<u8>,
    manifest_held: Option<Uploaded>,
}

struct Table {
    name: String,
    keys: Option<ColdKeys>,
    held: Option<Uploaded>,
}

/// A folder of hard links, removed when dropped.
struct Links(PathBuf);

impl Frozen {
    pub(crate) fn of(database: &Database) -> Result<Self, StateError> {
        let compress = database.shared.settings.compression == Compression::None;
        let Some(db) = database.opened() else {
            return Ok(Frozen { files: None, changes: Changes::default(), compress });
        };
        db.disable_file_deletions().map_err(failed("keep its files"))?;
        let files = Files::quiet(database, db);
        db.enable_file_deletions().map_err(failed("let go of its files"))?;
        let files = match files? {
            Some(files) => files,
            None => Files::busy(database, db)?,
        };
        Ok(Frozen { files: Some(files), changes: database.changes().clone(), compress })
    }
}

impl Files {
    /// The files as they stand, if nothing in the background changes them; no file is deleted meanwhile.
    ///
    /// RocksDB's own checkpoint makes a file of what is in the write buffer, and syncs a copy of each small file and the
    /// folder. That costs more than all else where checkpoints are frequent and small.
    fn quiet(database: &Database, db: &DB) -> Result<Option<Self>, StateError> {
        let folder = database.path("db");
        let before = tables(db)?;
        if !is_quiet(db)? {
            return Ok(None);
        }
        let (manifest_name, manifest) = read_manifest(&folder)?;
        // Whatever began since the first look is still going on, or has changed the list. So the manifest file is that
        // of this list, and there is nothing in it that the database doesn't go by yet.
        if !is_quiet(db)? || tables(db)? != before {
            return Ok(None);
        }
        let links = Links(database.new_path("checkpoint"));
        fs::create_dir(&links.0).map_err(file_error("creating", &links.0))?;
        for (name, _) in &before {
            let path = folder.join(name);
            fs::hard_link(&path, links.0.join(name)).map_err(file_error("linking", &path))?;
        }
        Files::new(database, links, before, manifest_name, manifest).map(Some)
    }

    /// As RocksDB's own checkpoint has them, and all changes are in files then.
    fn busy(database: &Database, db: &DB) -> Result<Self, StateError> {
        let links = Links(database.new_path("checkpoint"));
        let folder = &links.0;
        database.link(db, folder).map_err(failed("checkpoint"))?;
        database.changes().clear();
        let (manifest_name, manifest) = read_manifest(folder)?;
        // Compaction may have replaced a file since: of that no keys are known, and a restore reads it in any case.
        let keys: HashMap<String, Option<ColdKeys>> = tables(db)?.into_iter().collect();
        let mut tables = vec![];
        for entry in fs::read_dir(folder).map_err(file_error("listing", folder))? {
            let Ok(name) = entry.map_err(file_error("listing", folder))?.file_name().into_string() else { continue };
            if is_table(&name) {
                let keys = keys.get(&name).copied().flatten();
                tables.push((name, keys));
            }
        }
        tables.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Files::new(database, links, tables, manifest_name, manifest)
    }

    fn new(
        database: &Database,
        links: Links,
        tables: Vec<(String, Option<ColdKeys>)>,
        manifest_name: String,
        manifest: Vec<u8>,
    ) -> Result<Self, StateError> {
        let held = database.held();
        let manifest_held = held.get(&manifest_name, manifest.len() as u64);
        let table = |(name, keys): (String, Option<ColdKeys>)| {
            let path = links.0.join(&name);
            let length = fs::metadata(&path).map_err(file_error("looking at", &path))?.len();
            Ok(Table { held: held.get(&name, length), name, keys })
        };
        let tables = tables.into_iter().map(table).collect::<Result<_, StateError>>()?;
        drop(held);
        Ok(Files { tables, links, manifest_name, manifest, manifest_held })
    }
}

/// Whether nothing changes the files: cuts come in from one thread, which is here now.
fn is_quiet(db: &DB) -> Result<bool, StateError> {
    for name in [properties::NUM_RUNNING_COMPACTIONS, properties::NUM_RUNNING_FLUSHES] {
        if db.property_int_value(name).map_err(failed("look at its threads"))? != Some(0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The files that hold the state now, and their keys.
fn tables(db: &DB) -> Result<Vec<(String, Option<ColdKeys>)>, StateError> {
    let files = db.live_files().map_err(failed("list its files"))?;
    let table = |file: LiveFile| {
        let prefix = |key: Option<Vec<u8>>| Some(u32::from_be_bytes(*key?.first_chunk::<4>()?));
        let ends = prefix(file.start_key).zip(prefix(file.end_key)).zip(u8::try_from(file.level).ok());
        let keys = ends.map(|((first, last), level)| ColdKeys { level, first, last });
        (file.name.trim_start_matches('/').to_owned(), keys)
    };
    let mut tables: Vec<_> = files.into_iter().map(table).collect();
    tables.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(tables)
}

/// The manifest file that counts.
fn read_manifest(database: &Path) -> Result<(String, Vec<u8>), StateError> {
    let pointer = database.join("CURRENT");
    let name = fs::read_to_string(&pointer).map_err(file_error("reading", &pointer))?.trim().to_owned();
    let path = database.join(&name);
    Ok((name, fs::read(&path).map_err(file_error("reading", &path))?))
}

impl Frozen {
    /// Files that no confirmed checkpoint holds are appended to the sink; all of them are named.
    pub(crate) fn write(self, sink: &mut dyn SegmentSink) -> Result<Vec<ColdFile>, StateError> {
        let mut files = vec![];
        if let Some(Files { tables, links, manifest_name, manifest, manifest_held }) = self.files {
            for Table { name, keys, held } in tables {
                let Uploaded { segments, length } = match held {
                    Some(uploaded) => uploaded,
                    None => upload(&links.0.join(&name), self.compress, sink)?,
                };
                files.push(ColdFile { name, segments, length, keys });
            }
            let Uploaded { segments, length } = match manifest_held {
                Some(uploaded) => uploaded,
                None => Uploaded { segments: vec![sink.append(&manifest)?], length: None },
            };
            files.push(ColdFile { name: manifest_name, segments, length, keys: None });
        }
        files.extend(self.changes.write(sink)?);
        Ok(files)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.0.display(), %error, "links to uploaded files could not be removed");
        }
    }
}
