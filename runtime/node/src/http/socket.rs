//! The Unix socket by which commands of this machine reach a job: its name follows from the job's storage and UID.

use crate::job::Job;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use weir_model::hash::hash_u64;

pub(super) fn bind(job: &Job) -> Result<(PathBuf, UnixListener)> {
    let path = socket_path(job)?;
    // One left by a process that was killed. A living one is fenced by the commit log anyway.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    Ok((path, listener))
}

pub(super) fn remove_if_dead(path: &Path) {
    if UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).ok();
    }
}

/// In a folder that only this user can enter, which is what makes whoever connects the job's owner; the name is
/// short, since socket paths are limited to 107 bytes.
pub fn socket_path(job: &Job) -> Result<PathBuf> {
    let uid = std::fs::metadata("/proc/self").map(|own| own.uid()).unwrap_or(0);
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => PathBuf::from(folder).join("weir"),
        None => std::env::temp_dir().join(format!("weir-{uid}")),
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&folder)?;
    let found = std::fs::metadata(&folder)?;
    if found.uid() != uid {
        return Err(Error::new(ErrorKind::PermissionDenied, format!("`{}` belongs to another user", folder.display())));
    }
    if found.mode() & 0o077 != 0 {
        let reason = format!("others can enter `{}`: run chmod 700 on it", folder.display());
        return Err(Error::new(ErrorKind::PermissionDenied, reason));
    }
    let identity = format!("{}\0{}", job.storage_uri(), job.uid);
    let hash = identity.bytes().fold(0u64, |hash, byte| hash_u64(hash ^ u64::from(byte)));
    Ok(folder.join(format!("{hash:016x}.sock")))
}
