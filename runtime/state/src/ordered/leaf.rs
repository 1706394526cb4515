//! A run of sorted entries in one piece of memory.

use std::cmp::Ordering;

/// Entries of a leaf, at most.
pub(super) const MAX_ENTRIES: usize = 64;
/// Bytes of a leaf with more than one entry, about.
const MAX_BYTES: usize = 1 << 15;

#[derive(Clone, Default)]
pub(crate) struct Leaf {
    entries: Vec<Entry>,
    data: Vec<u8>,
    /// Bytes of `data` that no entry refers to.
    garbage: usize,
}

/// Key and value lie one behind the other in `data`.
#[derive(Clone, Copy)]
struct Entry {
    prefix: u64,
    offset: u32,
    key_length: u32,
    value_length: u32,
    /// Bytes that the value may take without moving.
    value_room: u32,
}

/// The first 8 bytes of a key, big-endian: ordered as the keys are, but for ties.
#[inline]
pub(super) fn prefix_of(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(bytes)
        }
    }
}

impl Leaf {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(crate) fn key(&self, at: usize) -> &[u8] {
        let entry = &self.entries[at];
        &self.data[entry.offset as usize..][..entry.key_length as usize]
    }

    #[inline]
    pub(crate) fn value(&self, at: usize) -> &[u8] {
        let entry = &self.entries[at];
        &self.data[(entry.offset + entry.key_length) as usize..][..entry.value_length as usize]
    }

    pub(super) fn first_prefix(&self) -> u64 {
        self.entries[0].prefix
    }

    pub(super) fn compare(&self, at: usize, prefix: u64, key: &[u8]) -> Ordering {
        self.entries[at].prefix.cmp(&prefix).then_with(|| self.key(at).cmp(key))
    }

    /// Place of the key, or where it would be.
    pub(super) fn search(&self, prefix: u64, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.compare(middle, prefix, key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    pub(super) fn insert(&mut self, at: usize, key: &[u8], value: &[u8]) {
        let offset = self.data.len() as u32;
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        let (key_length, value_length) = (key.len() as u32, value.len() as u32);
        let entry = Entry { prefix: prefix_of(key), offset, key_length, value_length, value_room: value_length };
        self.entries.insert(at, entry);
    }

    pub(super) fn set_value(&mut self, at: usize, value: &[u8]) {
        let entry = &mut self.entries[at];
        if value.len() <= entry.value_room as usize {
            entry.value_length = value.len() as u32;
            let begin = (entry.offset + entry.key_length) as usize;
            self.data[begin..begin + value.len()].copy_from_slice(value);
            return;
        }
        let old = *entry;
        let (begin, end) = (old.offset as usize, (old.offset + old.key_length) as usize);
        entry.offset = self.data.len() as u32;
        (entry.value_length, entry.value_room) = (value.len() as u32, value.len() as u32);
        self.data.extend_from_within(begin..end);
        self.data.extend_from_slice(value);
        self.garbage += (old.key_length + old.value_room) as usize;
        self.compact_if_needed();
    }

    pub(super) fn remove(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.garbage += (entry.key_length + entry.value_room) as usize;
        self.compact_if_needed();
    }

    pub(super) fn wants_split(&self) -> bool {
        self.entries.len() > MAX_ENTRIES || self.entries.len() > 1 && self.data.len() - self.garbage > MAX_BYTES
    }

    /// Gives away the upper part. When entries come in ascending order, the lower part stays nearly full.
    pub(super) fn split(&mut self, inserted_at: usize) -> Leaf {
        let at = match inserted_at + 1 == self.entries.len() {
            true => self.entries.len() - 1,
            false => self.entries.len() / 2,
        };
        let upper = self.copy_of(at..self.entries.len());
        *self = self.copy_of(0..at);
        upper
    }

    /// Whether the next leaf's entries fit in here with room to grow.
    pub(super) fn fits(&self, other: &Leaf) -> bool {
        let bytes = self.data.len() + other.data.len() - self.garbage - other.garbage;
        self.entries.len() + other.entries.len() <= MAX_ENTRIES / 2 && bytes <= MAX_BYTES / 2
    }

    pub(super) fn append(&mut self, other: &Leaf) {
        for at in 0..other.len() {
            self.insert(self.len(), other.key(at), other.value(at));
        }
    }

    fn compact_if_needed(&mut self) {
        if self.garbage > 1024 && self.garbage * 2 > self.data.len() {
            *self = self.copy_of(0..self.entries.len());
        }
    }

    fn copy_of(&self, range: std::ops::Range<usize>) -> Leaf {
        let mut copy = Leaf::default();
        copy.entries.reserve(MAX_ENTRIES + 1);
        for at in range {
            copy.insert(copy.len(), self.key(at), self.value(at));
        }
        copy
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Leaf>() + self.entries.capacity() * size_of::<Entry>() + self.data.capacity()
    }
}
