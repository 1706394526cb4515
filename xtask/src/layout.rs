//! Where things are: the checkout, and the cache that holds all that is built or fetched.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// How the names of the workspace's packages begin.
const OUR_PACKAGES: [&str; 2] = ["weir-", "xtask-"];

/// The folders that every command works with. All paths are absolute.
pub struct Layout {
    pub checkout: PathBuf,
    pub cache: PathBuf,
    pub target: PathBuf,
}

/// Keeps other checkouts from building in the same target folder.
#[must_use]
pub struct TargetLock(#[expect(dead_code, reason = "held, not read")] File);

impl Layout {
    pub fn find() -> Result<Self> {
        // cargo sets it for the run; the compiled-in value would name another checkout that shares the target folder.
        let manifest = variable("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_string());
        let checkout = Path::new(&manifest)
            .parent()
            .filter(|folder| folder.join("Cargo.lock").is_file())
            .ok_or_else(|| {
                Failure::new(format!("there is no Weir checkout around {manifest}; run `cargo xtask` inside one"))
            })?
            .to_path_buf();
        let cache = cache_folder()?;
        let target = match variable("WEIR_TARGET_DIR").or_else(|| variable("CARGO_TARGET_DIR")) {
            Some(folder) => absolute(&folder)?,
            None => cache.join("target"),
        };
        Ok(Layout { checkout, cache, target })
    }

    /// Takes the target folder for this checkout, for as long as what is returned lives. cargo judges by file times alone
    /// whether a crate of the workspace is up to date: where another checkout was built last, it would hand out that
    /// one's binaries. So its judgements are taken away, once nobody builds there any more; what was built of
    /// dependencies stays.
    pub fn own_target(&self) -> Result<TargetLock> {
        std::fs::create_dir_all(&self.target).map_err(Failure::io(format!("make {}", self.target.display())))?;
        let path = self.target.join(".weir-checkout.lock");
        let failed = |what: &str| Failure::io(format!("{what} {}", path.display()));
        let lock = File::options().create(true).append(true).open(&path).map_err(failed("open"))?;
        let (marker, own) = (self.target.join(".weir-checkout"), self.checkout.display().to_string());
        loop {
            lock.lock_shared().map_err(failed("lock"))?;
            if std::fs::read_to_string(&marker).is_ok_and(|last| last == own) {
                return Ok(TargetLock(lock));
            }
            lock.unlock().map_err(failed("unlock"))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    eprintln!(
                        "xtask: another checkout builds in {}: waiting for it (WEIR_TARGET_DIR names a folder of one's own)",
                        self.target.display()
                    );
                    lock.lock().map_err(failed("lock"))?;
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
            }
            self.forget_judgements()?;
            std::fs::write(&marker, &own).map_err(Failure::io(format!("write {}", marker.display())))?;
            lock.unlock().map_err(failed("unlock"))?;
        }
    }

    fn forget_judgements(&self) -> Result<()> {
        for profile in ["debug", "release"] {
            let Ok(entries) = std::fs::read_dir(self.target.join(profile).join(".fingerprint")) else { continue };
            let ours = |name: &str| OUR_PACKAGES.iter().any(|prefix| name.starts_with(prefix));
            for entry in entries.flatten().filter(|entry| ours(&entry.file_name().to_string_lossy())) {
                let folder = entry.path();
                std::fs::remove_dir_all(&folder).map_err(Failure::io(format!("remove {}", folder.display())))?;
            }
        }
        Ok(())
    }

    /// Tools fetched for the build: libclang, Python packages.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }

    pub fn examples(&self) -> PathBuf {
        self.checkout.join("examples")
    }
}

/// An environment variable; an empty one counts as unset.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = variable("WEIR_CACHE_DIR") {
        return absolute(&folder);
    }
    if let Some(folder) = variable("XDG_CACHE_HOME") {
        return Ok(absolute(&folder)?.join("weir"));
    }
    let home = variable("HOME").ok_or_else(|| {
        Failure::new("neither WEIR_CACHE_DIR nor HOME is set; set WEIR_CACHE_DIR to a folder for tools and builds")
    })?;
    Ok(absolute(&home)?.join(".cache/weir"))
}

fn absolute(folder: &str) -> Result<PathBuf> {
    std::path::absolute(folder).map_err(Failure::io(format!("make `{folder}` an absolute path")))
}
