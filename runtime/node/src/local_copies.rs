//! Local recovery: what a worker writes into checkpoint objects, and what it reads from them, stands on its disk too.
//!
//! A copy is a file for each object, with the object's bytes where they are in the object, as far as they came by: it
//! may have holes. Nothing in it is trusted: a segment read here counts only if its checksum is the one that the
//! manifest says; else it is fetched, and put here in passing. So a copy needs no completion, no flush and no index, and
//! one that a crash tore, that somebody changed or that belongs to another job costs a fetch.
//!
//! What a folder holds is bounded by what the last confirmed checkpoint names, and what came after it.

use crate::backends::local_folder;
use crate::job::Job;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_model::CheckpointId;
use weir_snapshot::ObjectPath;
use weir_snapshot::folder::checkpoint_of_object;
use weir_state::{KeyedStateHandle, SegmentRef, SegmentSource, StateError};

/// Workers that share a folder, each with a part of its own.
const PARTS: u32 = 256;
const LOCK: &str = "lock";
/// Says whose copies they are.
const JOB: &str = "job";
const COPY_SUFFIX: &str = ".copy";
/// A segment is in memory when it is read; a length beyond this can only be damage.
const MAX_SEGMENT_BYTES: u64 = 1 << 32;

/// What a worker has on its disk, as it says when it registers: bytes by object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) job_uid: String,
    pub(crate) objects: BTreeMap<String, u64>,
}

/// The copies of one worker process.
pub(crate) struct LocalCopies {
    folder: PathBuf,
    /// Held for as long as the process lives: another takes another part.
    _lock: File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What each checkpoint that is not confirmed yet names.
    named: BTreeMap<CheckpointId, BTreeSet<String>>,
    /// A write failed: nothing is copied until the next confirmed checkpoint has made room.
    is_full: bool,
}

/// The copies of this process, if the job wants any: those that it has open already, or a part of the folder that the
/// job names, of that for temporary files if it names none. A disk that refuses costs the copies, not the job.
pub(crate) fn of_job(job: &Job, opened: Option<Arc<LocalCopies>>) -> Option<Arc<LocalCopies>> {
    if !job.resource.spec.local_recovery() {
        return None;
    }
    let copies = match opened {
        Some(copies) => Ok(copies),
        None => LocalCopies::open(&default_folder(job)).map(Arc::new),
    };
    let copies = copies.and_then(|copies| copies.keep_for(&job.uid).map(|()| copies));
    copies.inspect_err(|error| tracing::warn!(%error, "no local copies of checkpoints are kept")).ok()
}

/// Where the copies of a job are that wants any, if nobody says otherwise.
pub fn local_copies_folder(job: &Job) -> Option<PathBuf> {
    job.resource.spec.local_recovery().then(|| default_folder(job))
}

/// One folder for each user of the machine.
fn default_folder(job: &Job) -> PathBuf {
    // As RocksDB's files: /tmp may be memory.
    let temporary = || std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let root = local_folder(job).unwrap_or_else(temporary);
    root.join(format!("weir-copies-{}", own_user()))
}

impl LocalCopies {
    /// Takes a part of the folder that no living process has, the first of them: a process that is started again on
    /// the same disk finds what it left.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        // Which may be a volume that is everybody's.
        fs::create_dir_all(root)?;
        for part in 0..PARTS {
            let folder = root.join(format!("worker-{part}"));
            create_private(&folder)?;
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
            match lock.try_lock() {
                Ok(()) => return Ok(LocalCopies { folder, _lock: lock, state: Mutex::default() }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{PARTS} workers have their copies in {} already", root.display())))
    }

    /// Copies for a job; those of another go.
    pub(crate) fn keep_for(&self, job_uid: &str) -> io::Result<()> {
        let name = self.folder.join(JOB);
        if fs::read_to_string(&name).is_ok_and(|found| found == job_uid) {
            return Ok(());
        }
        self.retain(|_| false);
        fs::write(name, job_uid)
    }

    pub(crate) fn held(&self) -> Held {
        let job_uid = fs::read_to_string(self.folder.join(JOB)).unwrap_or_default();
        let objects = self.files().filter_map(|(object, path)| {
            // Of a file with holes only what is there counts.
            let file = fs::metadata(path).ok()?;
            Some((object, file.len().min(file.blocks().saturating_mul(512))))
        });
        Held { job_uid, objects: objects.collect() }
    }

    /// Notes what an object holds at this place. Best effort: a checkpoint does not fail because of its copy.
    pub(crate) fn put(&self, segment: &SegmentRef, bytes: &[u8]) {
        if self.lock().is_full {
            return;
        }
        let Some(path) = self.file(&segment.object) else { return };
        let written = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        if let Err(error) = written.and_then(|file| file.write_all_at(bytes, segment.offset)) {
            self.lock().is_full = true;
            fs::remove_file(&path).ok();
            tracing::warn!(
                file = %path.display(),
                %error,
                "no local copies are written until the next checkpoint is complete"
            );
        }
    }

    /// The segment, if its bytes are here as the manifest says.
    fn get(&self, segment: &SegmentRef) -> Option<Bytes> {
        let file = File::open(self.file(&segment.object)?).ok()?;
        let end = segment.offset.checked_add(segment.length)?;
        if segment.length > MAX_SEGMENT_BYTES || file.metadata().ok()?.len() < end {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(segment.length).ok()?];
        file.read_exact_at(&mut bytes, segment.offset).ok()?;
        (crc32c::crc32c(&bytes) == segment.crc32c).then(|| bytes.into())
    }

    /// All tasks here have written what they keep for the checkpoint.
    pub(crate) fn acknowledged<'h>(
        &self,
        checkpoint: CheckpointId,
        handles: impl Iterator<Item = &'h KeyedStateHandle>,
    ) {
        let named = handles.flat_map(KeyedStateHandle::segments).map(|segment| segment.object.clone()).collect();
        self.lock().named.insert(checkpoint, named);
    }

    /// The checkpoint is complete: what neither it nor a later one names is not needed any more.
    pub(crate) fn confirmed(&self, checkpoint: CheckpointId) {
        let mut state = self.lock();
        if !state.named.contains_key(&checkpoint) {
            return;
        }
        state.named = state.named.split_off(&checkpoint);
        state.is_full = false;
        let named: BTreeSet<String> = state.named.values().flatten().cloned().collect();
        drop(state);
        self.retain(|object| named.contains(object) || is_of_later(object, checkpoint));
    }

    /// An attempt begins from a checkpoint that names these objects: what later ones wrote is nothing any more.
    pub(crate) fn restored<'o>(&self, objects: impl Iterator<Item = &'o str>) {
        let objects: BTreeSet<&str> = objects.collect();
        let mut state = self.lock();
        state.named.clear();
        state.is_full = false;
        drop(state);
        self.retain(|object| objects.contains(object));
    }

    fn retain(&self, is_needed: impl Fn(&str) -> bool) {
        for (object, path) in self.files() {
            if !is_needed(&object)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(file = %path.display(), %error, "a local copy could not be removed");
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = (String, PathBuf)> + use<> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let object = name.strip_suffix(COPY_SUFFIX)?.replacen('+', "/", 1);
            Some((object, entry.path()))
        })
    }

    /// None: what stands in a manifest is no name of a checkpoint's object, and becomes no path here.
    fn file(&self, object: &str) -> Option<PathBuf> {
        let path = ObjectPath::parse(object).ok()?;
        checkpoint_of_object(&path)?;
        Some(self.folder.join(format!("{}{COPY_SUFFIX}", object.replacen('/', "+", 1))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of_later(object: &str, checkpoint: CheckpointId) -> bool {
    ObjectPath::parse(object).ok().and_then(|path| checkpoint_of_object(&path)).is_some_and(|of| of > checkpoint)
}

/// State is nobody else's to read, and a folder that others could have prepared is not used.
fn create_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // Not through a link: in a folder for temporary files anybody may have put one.
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != own_user() || found.mode() & 0o022 != 0 {
        let folder = folder.display();
        return Err(io::Error::other(format!("{folder} is no folder of this user alone: name another one")));
    }
    Ok(())
}

fn own_user() -> u32 {
    fs::metadata("/proc/self").map_or(0, |own| own.uid())
}

/// Reads segments here if they are as the manifest says, else from the checkpoint's storage.
pub(crate) struct LocalFirst<'a> {
    copies: Option<&'a LocalCopies>,
    storage: &'a dyn SegmentSource,
    local_bytes: AtomicU64,
    fetched_bytes: AtomicU64,
}

impl<'a> LocalFirst<'a> {
    pub(crate) fn new(copies: Option<&'a LocalCopies>, storage: &'a dyn SegmentSource) -> Self {
        LocalFirst { copies, storage, local_bytes: AtomicU64::new(0), fetched_bytes: AtomicU64::new(0) }
    }

    /// Bytes read from the disk, and from storage.
    pub(crate) fn read_bytes(&self) -> (u64, u64) {
        (self.local_bytes.load(Ordering::Relaxed), self.fetched_bytes.load(Ordering::Relaxed))
    }
}

impl SegmentSource for LocalFirst<'_> {
    fn read(&self, segment: &SegmentRef) -> Result<Bytes, StateError> {
        if let Some(bytes) = self.copies.and_then(|copies| copies.get(segment)) {
            self.local_bytes.fetch_add(segment.length, Ordering::Relaxed);
            return Ok(bytes);
        }
        let bytes = self.storage.read(segment)?;
        self.fetched_bytes.fetch_add(segment.length, Ordering::Relaxed);
        if let Some(copies) = self.copies {
            copies.put(segment, &bytes);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const OBJECT: &str = "chk-7/e3-a1-worker-2.data";

    fn segment(object: &str, offset: u64, bytes: &[u8]) -> SegmentRef {
        SegmentRef { object: object.to_owned(), offset, length: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) }
    }

    /// Storage that has one segment everywhere, and counts.
    struct Storage(&'static [u8], AtomicUsize);

    impl SegmentSource for Storage {
        fn read(&self, _segment: &SegmentRef) -> Result<Bytes, StateError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from_static(self.0))
        }
    }

    #[test]
    fn what_is_here_is_not_fetched_and_what_was_fetched_is_here() {
        let root = tempfile::tempdir().unwrap();
        let copies = LocalCopies::open(root.path()).unwrap();
        let storage = Storage(b"state", AtomicUsize::new(0));
        let source = LocalFirst::new(Some(&copies), &storage);
        let at = segment(OBJECT, 100, b"state");
        for fetches in [1, 1] {
            assert_eq!(source.read(&at).unwrap(), "state");
            assert_eq!(storage.1.load(Ordering::Relaxed), fetches);
        }
        // The hole before it is no state.
        let hole = SegmentRef { offset: 0, ..at.clone() };
        assert_eq!(copies.get(&hole), None);
        assert_eq!(source.read_bytes(), (5, 5));
    }

    #[test]
    fn a_changed_copy_is_fetched() {
        let root = tempfile::tempdir().unwrap();
        let copies = LocalCopies::open(root.path()).unwrap();
        let at = segment(OBJECT, 3, b"state");
        copies.put(&at, b"state");
        let file = copies.file(OBJECT).unwrap();
        let good = fs::read(&file).unwrap();
        for byte in 3..good.len() {
            let mut flipped = good.clone();
            flipped[byte] ^= 1;
            fs::write(&file, flipped).unwrap();
            let storage = Storage(b"state", AtomicUsize::new(0));
            assert_eq!(LocalFirst::new(Some(&copies), &storage).read(&at).unwrap(), "state");
            assert_eq!(storage.1.into_inner(), 1, "byte {byte}");
            // Fetching has mended it.
            assert_eq!(copies.get(&at).unwrap(), "state");
        }
        fs::write(&file, &good[..5]).unwrap();
        assert_eq!(copies.get(&at), None, "torn");
    }

    #[test]
    fn a_process_that_comes_again_finds_its_copies_and_no_other_takes_them() {
        let root = tempfile::tempdir().unwrap();
        let first = LocalCopies::open(root.path()).unwrap();
        first.keep_for("job").unwrap();
        first.put(&segment(OBJECT, 0, b"state"), b"state");
        let second = LocalCopies::open(root.path()).unwrap();
        assert_eq!(second.held(), Held::default());
        drop(first);
        let again = LocalCopies::open(root.path()).unwrap();
        assert_eq!(again.held(), Held { job_uid: "job".into(), objects: [(OBJECT.to_owned(), 5)].into() });
        again.keep_for("job").unwrap();
        assert_eq!(again.held().objects.len(), 1);
        again.keep_for("another").unwrap();
        assert_eq!(again.held(), Held { job_uid: "another".into(), objects: [].into() });
    }

    #[test]
    fn what_no_checkpoint_names_any_more_goes() {
        let root = tempfile::tempdir().unwrap();
        let copies = LocalCopies::open(root.path()).unwrap();
        let object = |checkpoint: u64| format!("chk-{checkpoint}/e1-a1-worker-1.data");
        let put = |checkpoint| copies.put(&segment(&object(checkpoint), 0, b"x"), b"x");
        let named = |checkpoints: &[u64]| -> BTreeSet<String> { checkpoints.iter().map(|id| object(*id)).collect() };
        let here = || copies.held().objects.into_keys().collect::<BTreeSet<_>>();
        (1..=4).for_each(put);
        copies.lock().named = [(CheckpointId(2), named(&[1, 2])), (CheckpointId(3), named(&[2, 3]))].into();
        copies.confirmed(CheckpointId(9));
        assert_eq!(here(), named(&[1, 2, 3, 4]), "nobody here knows of it");
        copies.confirmed(CheckpointId(2));
        assert_eq!(here(), named(&[1, 2, 3, 4]), "3 is acknowledged, 4 is being written");
        copies.confirmed(CheckpointId(3));
        assert_eq!(here(), named(&[2, 3, 4]));
        copies.restored([object(3).as_str()].into_iter());
        assert_eq!(here(), named(&[3]));
    }

    #[test]
    fn names_from_storage_become_no_other_paths() {
        let root = tempfile::tempdir().unwrap();
        let copies = LocalCopies::open(root.path()).unwrap();
        for foreign in ["../../etc/passwd", "chk-1/../../x", "lock", "chk-x/e1-a1-worker-1.data", ""] {
            assert_eq!(copies.file(foreign), None, "{foreign}");
        }
    }
}
