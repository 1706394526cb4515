//! Segments: what snapshots write and restores read.

pub(crate) mod block;
pub(crate) mod column;
pub(crate) mod index;

use crate::StateError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A piece of an object on the job's storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Path relative to the job's storage; empty for the object that is being written.
    pub object: String,
    pub offset: u64,
    pub length: u64,
    pub crc32c: u32,
}

impl SegmentRef {
    /// The ref with the name of the object, if it had none yet.
    pub fn resolved(mut self, object: &str) -> Self {
        if self.object.is_empty() {
            self.object = object.to_string();
        }
        self
    }

    /// A part of this segment, `offset` bytes from its begin.
    pub(crate) fn part(&self, offset: u64, length: u64, crc32c: u32) -> Result<SegmentRef, StateError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => {
                Ok(SegmentRef { object: self.object.clone(), offset: self.offset + offset, length, crc32c })
            }
            _ => Err(self.corrupt(0, format!("a part at {offset} of {length} bytes ends behind the segment"))),
        }
    }

    pub(crate) fn corrupt(&self, offset: u64, what: impl Into<String>) -> StateError {
        StateError::Corrupt { object: self.object.clone(), offset: self.offset + offset, what: what.into() }
    }

    /// Checks what was read from the segment's place.
    ///
    /// # Errors
    /// `Corrupt`, if it has another length or checksum.
    pub fn check(&self, bytes: &[u8]) -> Result<(), StateError> {
        if bytes.len() as u64 != self.length {
            return Err(self.corrupt(0, format!("{} bytes where there should be {}", bytes.len(), self.length)));
        }
        let found = crc32c::crc32c(bytes);
        if found != self.crc32c {
            return Err(self.corrupt(0, format!("checksum {found:08x} where it should be {:08x}", self.crc32c)));
        }
        Ok(())
    }
}

/// Where a snapshot's segments go. Called from the thread that writes the snapshot.
pub trait SegmentSink {
    /// Appends a segment and says where it is. The sink may leave the object's name empty if it isn't known
    /// yet; whoever stores the handle resolves it then.
    fn append(&mut self, bytes: &[u8]) -> Result<SegmentRef, StateError>;
}

/// Where a restore's segments come from. Read from several threads at once.
pub trait SegmentSource: Sync {
    /// Reads one segment, or a part of one.
    ///
    /// # Errors
    /// `Corrupt` unless length and checksum are those of the ref (`SegmentRef::check`); `Storage`.
    fn read(&self, segment: &SegmentRef) -> Result<Bytes, StateError>;
}

/// Segments in memory: for tests, and for jobs whose storage is memory.
#[derive(Clone, Default)]
pub struct MemorySegments {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    current: String,
}

impl MemorySegments {
    /// Appends to `object` from now on.
    pub fn begin(&mut self, object: impl Into<String>) {
        self.current = object.into();
    }

    /// Runs `change` on the objects.
    pub fn with_objects<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> T) -> T {
        change(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl SegmentSink for MemorySegments {
    fn append(&mut self, bytes: &[u8]) -> Result<SegmentRef, StateError> {
        let object = self.current.clone();
        let offset = self.with_objects(|objects| {
            let content = objects.entry(object.clone()).or_default();
            content.extend_from_slice(bytes);
            content.len() - bytes.len()
        });
        Ok(SegmentRef { object, offset: offset as u64, length: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) })
    }
}

impl SegmentSource for MemorySegments {
    fn read(&self, segment: &SegmentRef) -> Result<Bytes, StateError> {
        let bytes = self.with_objects(|objects| {
            let content = objects.get(&segment.object).ok_or_else(|| segment.corrupt(0, "there is no such object"))?;
            let end = segment.offset.saturating_add(segment.length).min(content.len() as u64);
            let begin = segment.offset.min(end);
            Ok::<_, StateError>(Bytes::copy_from_slice(&content[begin as usize..end as usize]))
        })?;
        segment.check(&bytes)?;
        Ok(bytes)
    }
}
