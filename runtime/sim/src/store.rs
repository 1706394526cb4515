//! A cold store in memory with files as RocksDB has them: what changed between two checkpoints is one, and when there are
//! a few they become one. A file that a confirmed checkpoint holds is named again, and not written again.

use crate::bugs::Bug;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_model::KeyGroupRange;
use weir_state::{
    ColdBatch, ColdChange, ColdFile, ColdHandle, ColdSnapshot, ColdStore, ColdWriter, EncodedRows, KeyedStateHandle,
    SegmentRef, SegmentSink, SegmentSource, StateError,
};

const NAME: &str = "simulated";
/// Beyond so many they become one.
const FILES: usize = 3;
/// Of a key that is gone, where another one's value has its length.
const GONE: u32 = u32::MAX;

pub(crate) struct SimStore(Mutex<Inner>);

struct Inner {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Since the last file was made.
    changed: Changes,
    /// What a later one says of a key goes over what an earlier one says.
    files: Vec<File>,
    next_file: u64,
}

/// `None`: it is gone.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Clone)]
struct File {
    name: u64,
    changes: Arc<Changes>,
    /// Where a confirmed checkpoint has it.
    held: Option<Vec<SegmentRef>>,
}

impl SimStore {
    /// The owned key groups of what the handles name.
    pub(crate) fn open(
        handles: &[KeyedStateHandle],
        owned: KeyGroupRange,
        source: &dyn SegmentSource,
        bug: Option<Bug>,
    ) -> Result<Self, StateError> {
        let mut inner = Inner { entries: BTreeMap::new(), changed: Changes::new(), files: vec![], next_file: 0 };
        let of_store =
            |handle: &'_ KeyedStateHandle| Some((handle.cold.clone()?, handle.key_groups.intersect(&owned)?));
        let parts: Vec<(ColdHandle, KeyGroupRange)> = handles.iter().filter_map(of_store).collect();
        for (cold, groups) in &parts {
            for file in &cold.files {
                for (key, value) in content(file, source)? {
                    if !groups.contains(weir_model::KeyGroup(u16::from_be_bytes([key[2], key[3]]))) {
                        continue;
                    }
                    match value {
                        Some(value) => inner.entries.insert(key, value),
                        None => inner.entries.remove(&key),
                    };
                }
            }
        }
        match &parts[..] {
            // What is another's in them is left out with each restore.
            [(cold, _)] => {
                let file = |file: &ColdFile| File {
                    name: file.name.parse().expect("this store's own name"),
                    changes: Arc::default(),
                    held: Some(file.segments.clone()),
                };
                inner.files = cold.files.iter().map(file).collect();
                if bug != Some(Bug::NamesFilesAnew) {
                    inner.next_file = inner.files.iter().map(|file| file.name + 1).max().unwrap_or(0);
                }
            }
            // Of two stores, names stand for two contents, and files for each other's older ones.
            _ => inner.changed = all(&inner.entries),
        }
        Ok(SimStore(Mutex::new(inner)))
    }
}

impl ColdStore for SimStore {
    fn get_many(
        &self,
        keys: &EncodedRows,
        found: &mut dyn FnMut(usize, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let inner = lock(&self.0);
        let values = keys.iter().enumerate().filter_map(|(at, key)| Some((at, inner.entries.get(key)?)));
        for (at, value) in values {
            found(at, value)?;
        }
        Ok(())
    }

    fn writer(&self) -> Result<Box<dyn ColdWriter + '_>, StateError> {
        Ok(Box::new(Writer { store: self, ranges: vec![], changes: Changes::new() }))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        let inner = lock(&self.0);
        let bounds = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        // Told to stop is no failure.
        let _ = inner.entries.range::<[u8], _>(bounds).try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn freeze(&self) -> Result<Box<dyn ColdSnapshot>, StateError> {
        let mut inner = lock(&self.0);
        if !inner.changed.is_empty() {
            let changes = std::mem::take(&mut inner.changed);
            inner.add_file(changes);
        }
        if inner.files.len() > FILES {
            inner.files.clear();
            let changes = all(&inner.entries);
            inner.add_file(changes);
        }
        Ok(Box::new(Frozen { files: inner.files.clone() }))
    }

    fn confirm(&self, handle: &ColdHandle) {
        lock(&self.0).hold(handle);
    }
}

impl Inner {
    fn add_file(&mut self, changes: Changes) {
        self.files.push(File { name: self.next_file, changes: Arc::new(changes), held: None });
        self.next_file += 1;
    }

    fn hold(&mut self, handle: &ColdHandle) {
        for file in &mut self.files {
            let name = file.name.to_string();
            if let Some(found) = handle.files.iter().find(|found| found.name == name) {
                file.held = Some(found.segments.clone());
            }
        }
    }
}

/// Everything comes in with `finish`.
struct Writer<'s> {
    store: &'s SimStore,
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
    changes: Changes,
}

impl ColdWriter for Writer<'_> {
    fn write(&mut self, batch: &ColdBatch) -> Result<(), StateError> {
        for change in batch.iter() {
            let (key, value) = match change {
                ColdChange::Put { key, value } => (key, Some(value.to_vec())),
                ColdChange::Delete { key } => (key, None),
                ColdChange::DeleteRange { from, to } => {
                    self.ranges.push((from.to_vec(), to.to_vec()));
                    continue;
                }
            };
            let last = self.changes.last_key_value();
            assert!(last.is_none_or(|(last, _)| &last[..] < key), "puts and deletes ascend");
            self.changes.insert(key.to_vec(), value);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), StateError> {
        let mut inner = lock(&self.store.0);
        let Inner { entries, changed, .. } = &mut *inner;
        for (from, to) in &self.ranges {
            let bounds = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
            let gone: Vec<Vec<u8>> = entries.range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect();
            for key in gone {
                entries.remove(&key);
                changed.insert(key, None);
            }
        }
        for (key, value) in self.changes {
            match &value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(&key),
            };
            changed.insert(key, value);
        }
        Ok(())
    }
}

struct Frozen {
    files: Vec<File>,
}

impl ColdSnapshot for Frozen {
    fn write(self: Box<Self>, sink: &mut dyn SegmentSink) -> Result<ColdHandle, StateError> {
        let mut files = vec![];
        for File { name, changes, held } in self.files {
            let segments = match held {
                Some(segments) => segments,
                None => vec![sink.append(&encoded(&changes))?],
            };
            files.push(ColdFile { name: name.to_string(), segments, length: None, keys: None });
        }
        Ok(ColdHandle { store: NAME.to_owned(), files, databases: vec![] })
    }
}

fn all(entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> Changes {
    entries.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
}

fn encoded(changes: &Changes) -> Vec<u8> {
    let mut bytes = vec![];
    for (key, value) in changes {
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&value.as_ref().map_or(GONE, |value| value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    bytes
}

/// # Errors
/// What the source says. What it gives is as it was written: it checks that.
fn content(file: &ColdFile, source: &dyn SegmentSource) -> Result<Changes, StateError> {
    fn take<'b>(rest: &mut &'b [u8], length: u32) -> &'b [u8] {
        let (bytes, after) = rest.split_at(length as usize);
        *rest = after;
        bytes
    }
    fn length(rest: &mut &[u8]) -> u32 {
        u32::from_le_bytes(take(rest, 4).try_into().expect("four bytes"))
    }
    let mut changes = Changes::new();
    for segment in &file.segments {
        let bytes = source.read(segment)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let key = length(&mut rest);
            let key = take(&mut rest, key).to_vec();
            let value = match length(&mut rest) {
                GONE => None,
                length => Some(take(&mut rest, length).to_vec()),
            };
            changes.insert(key, value);
        }
    }
    Ok(changes)
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
