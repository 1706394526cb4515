//! A folder that goes with its process. One that was killed cannot remove it; then the next process that makes one does.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{Error, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "weir-tls-";
/// Somebody who clears up may come between the making of a folder and its lock.
const ATTEMPTS: u32 = 8;

/// Readable by this user alone.
pub(super) struct ScratchFolder {
    path: PathBuf,
    /// Of the folder itself. The system lets go of it with the process, however that ends.
    _lock: File,
}

impl ScratchFolder {
    /// # Errors
    /// `parent` cannot be written.
    pub(super) fn in_folder(parent: &Path) -> Result<Self> {
        remove_left_behind(parent);
        for _ in 0..ATTEMPTS {
            let path = parent.join(format!("{PREFIX}{}", uuid::Uuid::new_v4()));
            DirBuilder::new().mode(0o700).create(&path)?;
            let Ok(lock) = File::open(&path) else { continue };
            let is_kept = match lock.try_lock() {
                Ok(()) => path.exists(),
                Err(TryLockError::WouldBlock) => false,
                // Without locks nobody takes it for left behind, either.
                Err(TryLockError::Error(_)) => true,
            };
            if is_kept {
                return Ok(ScratchFolder { path, _lock: lock });
            }
        }
        Err(Error::other(format!("each folder made in {} was removed at once", parent.display())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).ok();
    }
}

/// Removes folders whose process is gone. What cannot be removed stays: it is another user's, or is tried next time.
fn remove_left_behind(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_ours = id.is_some_and(|id| uuid::Uuid::parse_str(id).is_ok());
        // Not what a link leads to.
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if let Ok(folder) = File::open(&path)
            && folder.try_lock().is_ok()
        {
            std::fs::remove_dir_all(&path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next_and_nothing_else() {
        let parent = tempfile::tempdir().expect("a folder");
        let make = || ScratchFolder::in_folder(parent.path()).expect("a folder");
        let running = make();
        let killed = make();
        let (left, foreign) = (killed.path().to_path_buf(), parent.path().join("weir-tls-notes"));
        std::fs::create_dir(&foreign).expect("a folder");
        let elsewhere = tempfile::tempdir().expect("a folder");
        let link = parent.path().join(format!("{PREFIX}{}", uuid::Uuid::new_v4()));
        std::os::unix::fs::symlink(elsewhere.path(), &link).expect("a link");
        std::fs::write(left.join("tls.key"), "secret").expect("written");
        // As a process that is killed: the lock goes, and the folder stays.
        let ScratchFolder { path: _, _lock } = &killed;
        _lock.unlock().expect("unlocked");
        let next = make();
        assert!(!left.exists(), "what was left behind");
        for kept in [running.path(), next.path(), &foreign, elsewhere.path(), &link] {
            assert!(kept.exists(), "{}", kept.display());
        }
        drop(next);
        assert!(running.path().exists());
    }
}
