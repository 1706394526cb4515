//! A split's position, and how a file is known again.

use crate::api::ConnectorError;
use crate::files::io_error;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// How much of a file's start tells it from another.
const HEAD_BYTES: usize = 1024;

/// How far a split has been read; stands in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Position {
    /// The first record not yet read, in `unit`s from the start of the file.
    pub offset: u64,
    pub unit: Unit,
    /// Lines before `offset`, counted from the start of the file or of the range.
    #[serde(default)]
    pub line: u64,
    /// The range of the file whose records are this split's; `None` is the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// All that the file held when it was last looked at has been read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_end: bool,
    /// Nothing will be read any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Unit {
    Bytes,
    /// Of a compressed file, after decompression.
    DecompressedBytes,
    /// Of a Parquet file.
    Rows,
}

/// Records that begin at `start` or later and before `end` (`None`: to the end of the file).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    pub start: u64,
    pub end: Option<u64>,
}

/// The start of a file, to notice when another has taken its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub bytes: u64,
    pub xxh3: String,
    /// Of a file that can't be appended to (compressed, Parquet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_length: Option<u64>,
}

impl Position {
    pub fn start(unit: Unit, range: Option<Range>) -> Self {
        let offset = range.map_or(0, |range| range.start);
        Position { offset, unit, line: 0, range, head: None, at_end: false, finished: false }
    }

    /// Compares the file with what was read of it before, and remembers what it looks like now.
    pub fn recognise(&mut self, path: &Path, file: &mut File) -> Result<(), ConnectorError> {
        let length = file.metadata().map_err(|error| io_error("read", path, &error))?.len();
        if self.unit == Unit::Bytes && length < self.offset {
            return Err(truncated(path, length, self.offset));
        }
        let mut start = Vec::with_capacity(HEAD_BYTES);
        file.take(HEAD_BYTES as u64).read_to_end(&mut start).map_err(|error| io_error("read", path, &error))?;
        if let Some(head) = &self.head {
            let same_start =
                start.get(..head.bytes as usize).is_some_and(|known| format!("{:016x}", xxh3_64(known)) == head.xxh3);
            if !same_start || head.file_length.is_some_and(|known| known != length) {
                return Err(replaced(path, self));
            }
        }
        self.head = Some(Head {
            bytes: start.len() as u64,
            xxh3: format!("{:016x}", xxh3_64(&start)),
            file_length: (self.unit != Unit::Bytes).then_some(length),
        });
        Ok(())
    }
}

pub(super) fn truncated(path: &Path, length: u64, offset: u64) -> ConnectorError {
    ConnectorError::Permanent(format!(
        "{} was truncated: it has {length} bytes, but {offset} have been read already. What it held can't be read \
         again, and what it holds now can't be told from what was read. Restore the file, or give new data a new name.",
        path.display()
    ))
}

fn replaced(path: &Path, position: &Position) -> ConnectorError {
    ConnectorError::Permanent(format!(
        "{} is not the file that it was when {} {} of it had been read: its beginning or its length differ. \
         Restore the file, or give new data a new name.",
        path.display(),
        position.offset,
        position.unit
    ))
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unit::Bytes => "bytes",
            Unit::DecompressedBytes => "decompressed bytes",
            Unit::Rows => "rows",
        })
    }
}
