//! Where things are: the checkout, and the cache that holds all that is built or fetched.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The folders that every command works with. All paths are absolute.
pub struct Layout {
    pub checkout: PathBuf,
    pub cache: PathBuf,
    pub target: PathBuf,
}

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
