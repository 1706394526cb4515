//! Files of a store as segments, and back.

use crate::changes::is_changes;
use crate::failure::file_error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use weir_model::{KeyGroup, KeyGroupRange};
use weir_state::{ColdFile, ColdKeys, SegmentRef, SegmentSink, SegmentSource, StateError, cold_prefix};

/// Large files are in segments of this size: so much of one is in memory at once.
const SEGMENT_BYTES: usize = 1 << 23;
/// Files downloaded at once.
const DOWNLOADS: usize = 4;

/// The file that says which others there are.
pub(crate) fn is_manifest(name: &str) -> bool {
    name.starts_with("MANIFEST-")
}

/// A file that holds part of the state.
pub(crate) fn is_table(name: &str) -> bool {
    name.ends_with(".sst")
}

/// Appends the file to the sink; compressed, if RocksDB hasn't done that.
pub(crate) fn upload(path: &Path, compress: bool, sink: &mut dyn SegmentSink) -> Result<Uploaded, StateError> {
    let failed = file_error("reading", path);
    let file = File::open(path).map_err(&failed)?;
    let length = file.metadata().map_err(&failed)?.len();
    let capacity = SEGMENT_BYTES.min(usize::try_from(length).unwrap_or(SEGMENT_BYTES)).max(1);
    let mut file = BufReader::with_capacity(capacity, file);
    let mut segments = vec![];
    loop {
        let part = file.fill_buf().map_err(&failed)?;
        if part.is_empty() {
            return Ok(Uploaded { segments, length: compress.then_some(length) });
        }
        segments.push(match compress {
            true => sink.append(&lz4_flex::compress_prepend_size(part))?,
            false => sink.append(part)?,
        });
        let length = part.len();
        file.consume(length);
    }
}

/// A file that is on storage.
#[derive(Clone, Debug)]
pub(crate) struct Uploaded {
    pub(crate) segments: Vec<SegmentRef>,
    /// The file's own, if the segments are compressed.
    pub(crate) length: Option<u64>,
}

impl Uploaded {
    pub(crate) fn file_length(&self) -> u64 {
        self.length.unwrap_or_else(|| self.segments.iter().map(|segment| segment.length).sum())
    }
}

/// Writes RocksDB's files into a new folder, several at a time, and the pointer to the manifest file.
///
/// # Errors
/// What the source says: a segment that is missing or broken. A set of files without a manifest file.
pub(crate) fn download(files: &[&ColdFile], folder: &Path, source: &dyn SegmentSource) -> Result<(), StateError> {
    fs::create_dir(folder).map_err(file_error("creating", folder))?;
    let Some(manifest) = files.iter().map(|file| &file.name).find(|name| is_manifest(name)) else {
        let reason = "the checkpoint names no manifest file of RocksDB's".into();
        return Err(StateError::ColdStore { action: "restore", reason });
    };
    let pointer = folder.join("CURRENT");
    fs::write(&pointer, format!("{manifest}\n")).map_err(file_error("writing", &pointer))?;
    let files: Vec<&&ColdFile> = files.iter().filter(|file| !is_changes(file)).collect();
    let next = AtomicUsize::new(0);
    let download_some = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            download_one(file, folder, source).inspect_err(|_| next.store(files.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..DOWNLOADS.min(files.len())).map(|_| scope.spawn(download_some)).collect();
        let mine = download_some();
        threads.into_iter().map(|thread| thread.join().expect("downloading doesn't panic")).fold(mine, Result::and)
    })
}

fn download_one(file: &ColdFile, folder: &Path, source: &dyn SegmentSource) -> Result<(), StateError> {
    // A name comes from storage, and becomes a path here.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !file.name.chars().all(is_plain) || file.name.starts_with('.') {
        let reason = format!("`{}` is no name of a file of RocksDB's", file.name);
        return Err(StateError::ColdStore { action: "restore", reason });
    }
    let path = folder.join(&file.name);
    let mut into = File::create_new(&path).map_err(file_error("creating", &path))?;
    for segment in &file.segments {
        let bytes = source.read(segment)?;
        let written = match file.length {
            None => into.write_all(&bytes),
            Some(_) => into.write_all(&decompress(segment, &bytes)?),
        };
        written.map_err(file_error("writing", &path))?;
    }
    Ok(())
}

fn decompress(segment: &SegmentRef, bytes: &[u8]) -> Result<Vec<u8>, StateError> {
    let corrupt = |what: String| StateError::Corrupt { object: segment.object.clone(), offset: segment.offset, what };
    let length = bytes.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length));
    if length as usize > SEGMENT_BYTES {
        return Err(corrupt(format!("a compressed segment says that it is {length} bytes")));
    }
    lz4_flex::decompress_size_prepended(bytes).map_err(|error| corrupt(error.to_string()))
}

/// The files that are needed to read the key groups of the states.
pub(crate) fn needed<'f>(files: &'f [ColdFile], states: &[u16], groups: KeyGroupRange) -> Vec<&'f ColdFile> {
    let is_needed = |file: &&ColdFile| {
        // The newest files, on level 0, overlap each other and are all opened.
        let Some(keys) = file.keys.filter(|keys| keys.level > 0) else { return true };
        states.iter().any(|state| {
            let first = u32::from_be_bytes(cold_prefix(*state, KeyGroup(groups.first)));
            let last = first + (groups.len() as u32 - 1);
            keys.last >= first && (keys.first <= last || is_next(files, keys, last))
        })
    };
    files.iter().filter(is_needed).collect()
}

/// Whether this is the first file of its level behind `last`. An iterator that jumps over deleted keys opens the file
/// where the next key would be, before it finds that to be out of its bounds.
fn is_next(files: &[ColdFile], keys: ColdKeys, last: u32) -> bool {
    let of_level = files.iter().filter_map(|file| file.keys).filter(|other| other.level == keys.level);
    of_level.filter(|other| other.first > last).all(|other| other.first >= keys.first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, keys: Option<(u8, u32, u32)>) -> ColdFile {
        let keys = keys.map(|(level, first, last)| ColdKeys { level, first, last });
        ColdFile { name: name.into(), segments: vec![], length: None, keys }
    }

    #[test]
    fn files_of_other_key_groups_are_left_out() {
        let second = 1 << 16;
        let files = [
            file("MANIFEST-1", None),
            file("new", Some((0, 0, 2))),
            file("a", Some((6, 0, 40))),
            file("b", Some((6, 41, 90))),
            file("c", Some((6, 91, second + 30))),
            file("d", Some((6, second + 31, second + 127))),
            file("e", Some((5, 100, 120))),
        ];
        let names = |first, last| -> Vec<&str> {
            needed(&files, &[0, 1], KeyGroupRange { first, last }).iter().map(|file| &*file.name).collect()
        };
        assert_eq!(names(0, 127), ["MANIFEST-1", "new", "a", "b", "c", "d", "e"]);
        // And those where an iterator ends up that finds nothing.
        assert_eq!(names(0, 30), ["MANIFEST-1", "new", "a", "b", "c", "d", "e"]);
        assert_eq!(names(50, 60), ["MANIFEST-1", "new", "b", "c", "d", "e"]);
        assert_eq!(names(125, 127), ["MANIFEST-1", "new", "c", "d"]);
    }
}
