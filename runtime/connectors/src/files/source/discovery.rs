//! Which files there are, and whose each is.

use super::FilesSourceConfig;
use crate::api::ConnectorError;
use crate::files::io_error;
use std::fs;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// A source that would track more files than this is refused, rather than fill memory and checkpoints.
const MAX_FILES: usize = 1_000_000;
/// Folders below the directory that are looked into: enough for partitioned output, and an end to link cycles.
const MAX_DEPTH: usize = 16;

/// The files of a source in the order of their names.
pub(super) fn list(config: &FilesSourceConfig) -> Result<Vec<String>, ConnectorError> {
    let path = Path::new(&config.path);
    let mut files = Vec::new();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => directory(path, 0, &mut files)?,
        Ok(_) => files.push(named(path)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if config.path.contains(['*', '?', '[']) {
                matching(&config.path, &mut files)?;
            }
            if files.is_empty() && !config.follow {
                return Err(ConnectorError::Permanent(format!(
                    "there is no file, directory or glob match at {}; with `follow: true` the source would wait for one",
                    config.path
                )));
            }
        }
        Err(error) => return Err(io_error("read", path, &error)),
    }
    if files.len() > MAX_FILES {
        return Err(ConnectorError::Permanent(format!(
            "{} has {} files, more than the {MAX_FILES} that one source can track; split it into several sources",
            config.path,
            files.len()
        )));
    }
    files.sort();
    Ok(files)
}

/// The subtask that reads a split: it depends on nothing but the split's id.
pub(super) fn owner(split: &str, parallelism: u32) -> u32 {
    (xxh3_64(split.as_bytes()) % u64::from(parallelism)) as u32
}

/// Paths stand in checkpoints, as text.
fn named(path: &Path) -> Result<String, ConnectorError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        ConnectorError::Permanent(format!("the file name {} is not UTF-8; rename the file", path.display()))
    })
}

fn directory(path: &Path, depth: usize, files: &mut Vec<String>) -> Result<(), ConnectorError> {
    let entries = fs::read_dir(path).map_err(|error| io_error("list", path, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| io_error("list", path, &error))?.path();
        let hidden = entry.file_name().is_some_and(|name| matches!(name.as_encoded_bytes()[0], b'.' | b'_'));
        if hidden {
            continue;
        }
        // What vanishes between the listing and this line isn't there.
        match fs::metadata(&entry) {
            Ok(metadata) if metadata.is_dir() && depth < MAX_DEPTH => directory(&entry, depth + 1, files)?,
            Ok(metadata) if metadata.is_file() => files.push(named(&entry)?),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read", &entry, &error)),
        }
    }
    Ok(())
}

fn matching(pattern: &str, files: &mut Vec<String>) -> Result<(), ConnectorError> {
    let matches = glob::glob(pattern)
        .map_err(|error| ConnectorError::Permanent(format!("{pattern} is not a valid glob: {error}")))?;
    for found in matches {
        let found = found.map_err(|error| io_error("list", error.path(), error.error()))?;
        if found.is_file() {
            files.push(named(&found)?);
        }
    }
    Ok(())
}
