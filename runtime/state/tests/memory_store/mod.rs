//! A cold store in memory, whose checkpoints are one file of all entries.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Mutex;
use weir_model::KeyGroupRange;
use weir_state::*;

#[derive(Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryStore {
    /// The owned key groups of what the handles name.
    pub fn open(handles: &[KeyedStateHandle], owned: KeyGroupRange, source: &MemorySegments) -> Self {
        let store = MemoryStore::default();
        for handle in handles {
            let Some(part) = handle.key_groups.intersect(&owned) else { continue };
            for segment in handle.cold.iter().flat_map(|cold| &cold.files).flat_map(|file| &file.segments) {
                let bytes = source.read(segment).unwrap();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let key = take(&mut rest);
                    let value = take(&mut rest);
                    if (part.first..=part.last).contains(&u16::from_be_bytes([key[2], key[3]])) {
                        store.entries.lock().unwrap().insert(key, value);
                    }
                }
            }
        }
        store
    }
}

fn take(rest: &mut &[u8]) -> Vec<u8> {
    let (length, after) = rest.split_first_chunk::<4>().unwrap();
    let (bytes, after) = after.split_at(u32::from_le_bytes(*length) as usize);
    *rest = after;
    bytes.to_vec()
}

impl ColdStore for MemoryStore {
    fn get_many(
        &self,
        keys: &EncodedRows,
        found: &mut dyn FnMut(usize, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let entries = self.entries.lock().unwrap();
        assert!(keys.iter().is_sorted(), "keys are asked for in order");
        for (at, key) in keys.iter().enumerate() {
            if let Some(value) = entries.get(key) {
                found(at, value)?;
            }
        }
        Ok(())
    }

    fn writer(&self) -> Result<Box<dyn ColdWriter + '_>, StateError> {
        Ok(Box::new(MemoryWriter { store: self, ranges: vec![], last: vec![], puts: vec![] }))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        let entries = self.entries.lock().unwrap();
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let _ = entries.range::<[u8], _>((Bound::Included(from), to)).try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn freeze(&self) -> Result<Box<dyn ColdSnapshot>, StateError> {
        Ok(Box::new(Frozen(self.entries.lock().unwrap().clone())))
    }

    fn confirm(&self, handle: &ColdHandle) {
        assert!(handle.files.iter().flat_map(|file| &file.segments).all(|segment| !segment.object.is_empty()));
    }
}

/// Everything comes in with `finish`.
struct MemoryWriter<'s> {
    store: &'s MemoryStore,
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
    last: Vec<u8>,
    puts: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl ColdWriter for MemoryWriter<'_> {
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
            assert!(&self.last[..] < key, "puts and deletes ascend");
            self.last = key.to_vec();
            self.puts.push((key.to_vec(), value));
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), StateError> {
        let mut entries = self.store.entries.lock().unwrap();
        entries.retain(|key, _| self.ranges.iter().all(|(from, to)| key < from || key >= to));
        for (key, value) in self.puts {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        Ok(())
    }
}

struct Frozen(BTreeMap<Vec<u8>, Vec<u8>>);

impl ColdSnapshot for Frozen {
    fn write(self: Box<Self>, sink: &mut dyn SegmentSink) -> Result<ColdHandle, StateError> {
        let mut bytes = vec![];
        for (key, value) in &self.0 {
            for part in [key, value] {
                bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        let segments = vec![sink.append(&bytes)?];
        Ok(ColdHandle {
            store: "memory".into(),
            files: vec![ColdFile { name: "all".into(), segments, length: None, keys: None }],
            databases: vec![],
        })
    }
}
