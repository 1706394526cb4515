//! The folder of a process for files that end with it.

use crate::failure::file_error;
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_state::StateError;

/// A folder that a lock file beside it says to be in use. The lock goes with the process, however it ends, so that
/// the next one knows what was left behind.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    lock_path: PathBuf,
    /// Held open, and so held.
    _lock: File,
    next: AtomicU64,
}

/// A folder in it, removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _scratch: Arc<Scratch>,
}

const LOCK: &str = "lock";
/// Two processes that start at once may be in each other's way, not so many times though.
const MAX_TRIES: u32 = 10;

impl Scratch {
    /// A folder of this process in `parent` (that for temporary files if none is named); what ended processes left
    /// there is removed.
    pub(crate) fn new(parent: Option<&Path>) -> Result<Arc<Self>, StateError> {
        let parent = parent.map_or_else(temporary, Path::to_path_buf).join(format!("weir-rocksdb-{}", user()));
        fs::create_dir_all(&parent).map_err(file_error("creating the folder for RocksDB's files", &parent))?;
        remove_leftovers(&parent);
        for _ in 0..MAX_TRIES {
            let name = format!("{}-{:016x}", std::process::id(), RandomState::new().build_hasher().finish());
            let (folder, lock_path) = (parent.join(&name), parent.join(format!("{name}.{LOCK}")));
            let lock = File::create_new(&lock_path).map_err(file_error("creating", &lock_path))?;
            lock.lock().map_err(file_error("locking", &lock_path))?;
            // Between the two calls another process may have taken it for a leftover.
            if !lock_path.exists() {
                continue;
            }
            fs::create_dir(&folder).map_err(file_error("creating", &folder))?;
            return Ok(Arc::new(Scratch { folder, lock_path, _lock: lock, next: AtomicU64::new(0) }));
        }
        let reason = format!("{} is swept by other processes all the time", parent.display());
        Err(StateError::ColdStore { action: "make a folder for its files", reason })
    }

    /// A new folder; the name is for people.
    pub(crate) fn folder(self: &Arc<Self>, name: &str) -> Result<Folder, StateError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let name: String = name.chars().take(60).map(|c| if is_plain(c) { c } else { '_' }).collect();
        let path = self.folder.join(format!("{number}-{name}"));
        fs::create_dir(&path).map_err(file_error("creating", &path))?;
        Ok(Folder { path, _scratch: self.clone() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // In this order: a folder without a lock is never removed by others.
        if fs::remove_dir_all(&self.folder).is_ok() {
            fs::remove_file(&self.lock_path).ok();
        }
    }
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // The next process finds it.
            tracing::warn!(folder = %self.path.display(), %error, "a folder of RocksDB's could not be removed");
        }
    }
}

/// Removes what processes left behind that were killed. That of a living one, whose lock is taken, stays.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    for lock_path in paths.filter(|path| path.extension().is_some_and(|extension| extension == LOCK)) {
        let Ok(lock) = File::open(&lock_path) else { continue };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) | Err(TryLockError::Error(_)) => continue,
        }
        let folder = lock_path.with_extension("");
        match fs::remove_dir_all(&folder) {
            Ok(()) => tracing::info!(folder = %folder.display(), "removed what an ended process left behind"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "what an ended process left could not be removed");
                continue;
            }
        }
        fs::remove_file(&lock_path).ok();
    }
}

/// Where temporary files go that are too large for memory: `/tmp` often is memory.
fn temporary() -> PathBuf {
    let on_disk = Path::new("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && on_disk.is_dir() { on_disk.to_path_buf() } else { std::env::temp_dir() }
}

/// Users don't share a folder: one couldn't write to the other's.
fn user() -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").map_or(0, |process| process.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_what_lives_stays() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new(Some(parent.path())).unwrap();
        let of_living = living.folder("a b/c").unwrap();
        assert!(of_living.path().ends_with("0-a_b_c"));
        // As a killed process leaves it: files, and a lock that nobody holds.
        let dead = living.folder.with_file_name("1-dead");
        fs::create_dir_all(dead.join("db")).unwrap();
        fs::write(dead.with_extension(LOCK), "").unwrap();
        let other = Scratch::new(Some(parent.path())).unwrap();
        assert!(!dead.exists() && !dead.with_extension(LOCK).exists());
        assert!(of_living.path().exists());
        let folders = [living.folder.clone(), other.folder.clone()];
        drop((of_living, living, other));
        assert!(folders.iter().all(|folder| !folder.exists() && !folder.with_extension(LOCK).exists()));
    }
}
