//! One file being written under its hidden name.

use super::body::Out;
use super::names;
use crate::api::ConnectorError;
use crate::files::io_error;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file that knows how much was written to it.
pub(super) struct HiddenFile {
    pub hidden: PathBuf,
    pub finished: PathBuf,
    file: File,
    bytes: u64,
}

/// A complete file that waits for its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub pending: PathBuf,
    pub finished: PathBuf,
    pub length: u64,
}

/// A file that went on over a checkpoint, and how much of it the checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InProgress {
    pub hidden: PathBuf,
    pub folder: String,
    pub valid_length: u64,
}

impl HiddenFile {
    /// Begins a new file. With `continues`, it begins with what a checkpoint holds of another, which may still
    /// be written to by a process that doesn't know yet that it has been replaced: hence the copy.
    pub fn create(hidden: PathBuf, finished: PathBuf, continues: Option<&InProgress>) -> Result<Self, ConnectorError> {
        let failed = |error: io::Error| io_error("create", &hidden, &error);
        let file = OpenOptions::new().write(true).create_new(true).open(&hidden).map_err(failed)?;
        let mut file = HiddenFile { hidden, finished, file, bytes: 0 };
        if let Some(earlier) = continues {
            copy_valid(earlier, &mut file)?;
        }
        Ok(file)
    }

    /// Puts everything on disk: how much of the file is valid.
    pub fn sync(&self) -> Result<u64, ConnectorError> {
        self.file.sync_all().map_err(|error| io_error("write", &self.hidden, &error))?;
        Ok(self.bytes)
    }

    /// Puts the complete file on disk; it stays hidden.
    pub fn seal(self) -> Result<Sealed, ConnectorError> {
        let length = self.sync()?;
        Ok(Sealed { pending: self.hidden, finished: self.finished, length })
    }
}

impl Out for HiddenFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Write for HiddenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where the records stand that a checkpoint held of a file in progress.
pub(super) enum Valid {
    /// At the begin of the hidden file.
    Hidden,
    /// In the finished file that it has become since: the job goes back behind that.
    Visible,
}

/// Finds them.
///
/// # Errors
/// They are nowhere, or only in part; no later try will find them.
pub(super) fn find_valid(earlier: &InProgress) -> Result<Valid, ConnectorError> {
    let length = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, &error)),
    };
    let InProgress { hidden, folder: _, valid_length } = earlier;
    let found = length(hidden)?;
    if found.is_some_and(|found| found >= *valid_length) {
        return Ok(Valid::Hidden);
    }
    if found.is_none()
        && let Some(finished) = names::finished_of_hidden(hidden)
        && length(&finished)?.is_some_and(|finished| finished >= *valid_length)
    {
        return Ok(Valid::Visible);
    }
    let found = found.map_or_else(|| "is gone".to_owned(), |found| format!("has {found} bytes"));
    Err(ConnectorError::Permanent(format!(
        "{} {found}, but the checkpoint holds {valid_length} bytes of it: records that were written would be lost. \
         Restore the file, or start from another checkpoint: a newer one, if this one is not the newest.",
        hidden.display(),
    )))
}

fn copy_valid(earlier: &InProgress, file: &mut HiddenFile) -> Result<(), ConnectorError> {
    if let Valid::Visible = find_valid(earlier)? {
        return Ok(());
    }
    let path = &earlier.hidden;
    let copied = File::open(path).and_then(|from| io::copy(&mut from.take(earlier.valid_length), file));
    match copied {
        Ok(_) => Ok(()),
        Err(error) => Err(io_error("go on with the restored checkpoint's", path, &error)),
    }
}
