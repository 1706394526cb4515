//! Finding (and making) the rows of a whole batch: index lines are prefetched two blocks ahead, row lines one.

use super::set::Set;
use super::table::{BatchKeys, NO_ROW, Table};
use super::words::prefetch;
use super::{RowState, null_key_hash};
use crate::key_batch::{KeyBatch, Keys};
use crate::layout::{Physical, Slot};
use crate::{EncodedRows, StateError};

/// Keys looked at together: enough to hide a cache miss, few enough to keep the lines in the first-level cache.
const BLOCK: usize = 32;

#[derive(Default)]
pub(super) struct Scratch {
    sets: Vec<u32>,
}

struct WordKeys<'a> {
    words: &'a [u64],
    hashes: &'a [u64],
}

impl BatchKeys for WordKeys<'_> {
    #[inline(always)]
    fn hash(&self, at: usize) -> u64 {
        self.hashes[at]
    }

    #[inline(always)]
    unsafe fn matches(&self, at: usize, _: &Table, row: *const u64) -> bool {
        // SAFETY: the caller's promise.
        unsafe { *row == self.words[at] }
    }

    #[inline]
    fn write(&self, at: usize, table: &mut Table, row_at: usize) -> bool {
        table.rows.slice_mut(row_at, 1)[0] = self.words[at];
        true
    }
}

struct ByteKeys<'a> {
    rows: &'a EncodedRows,
    hashes: &'a [u64],
}

impl BatchKeys for ByteKeys<'_> {
    #[inline(always)]
    fn hash(&self, at: usize) -> u64 {
        self.hashes[at]
    }

    #[inline(always)]
    unsafe fn matches(&self, at: usize, table: &Table, row: *const u64) -> bool {
        // SAFETY: the caller's promise; rows of byte keys begin with two words.
        let (hash, handle) = unsafe { (*row, *row.add(1)) };
        hash == self.hashes[at] && table.arena.get(handle) == self.rows.row(at)
    }

    #[inline]
    fn write(&self, at: usize, table: &mut Table, row_at: usize) -> bool {
        let Some(handle) = table.arena.store(self.rows.row(at)) else { return false };
        table.rows.slice_mut(row_at, 2).copy_from_slice(&[self.hashes[at], handle]);
        true
    }
}

/// Where the table of a key of the batch is.
trait Placement {
    /// Number of the key's set.
    fn set(&self, at: usize) -> usize;
}

struct OneNamespace(usize);

impl Placement for OneNamespace {
    #[inline(always)]
    fn set(&self, _: usize) -> usize {
        self.0
    }
}

struct NamespacePerKey<'a>(&'a [u32]);

impl Placement for NamespacePerKey<'_> {
    #[inline(always)]
    fn set(&self, at: usize) -> usize {
        self.0[at] as usize
    }
}

impl RowState {
    /// Finds the rows of the keys, making those that aren't there: zeroed, with all fields null.
    ///
    /// `slots` (cleared first) gets a slot for each key; `new` (cleared first) the position of each key whose
    /// row was made, at its first occurrence. New rows are marked as changed, found ones aren't.
    ///
    /// # Errors
    /// A key of a group that this subtask doesn't own; a table past its limits.
    pub fn upsert(
        &mut self,
        namespace: i64,
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        slots.clear();
        new.clear();
        if keys.is_empty() {
            return Ok(());
        }
        let set = self.set_of(namespace)?;
        self.split_if_large(set);
        self.access::<true>(OneNamespace(set), keys, slots, new)
    }

    /// As `upsert`, with a namespace for each key.
    ///
    /// # Panics
    /// If there aren't as many namespaces as keys.
    pub fn upsert_each(
        &mut self,
        namespaces: &[i64],
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        assert_eq!(namespaces.len(), keys.len(), "a namespace for each key");
        slots.clear();
        new.clear();
        let mut sets = std::mem::take(&mut self.scratch.sets);
        sets.clear();
        let mut last = None;
        for namespace in namespaces {
            let set = match last {
                Some((of, set)) if of == *namespace => set,
                _ => {
                    let set = self.set_of(*namespace)?;
                    self.split_if_large(set);
                    set
                }
            };
            last = Some((*namespace, set));
            sets.push(set as u32);
        }
        let result = self.access::<true>(NamespacePerKey(&sets), keys, slots, new);
        self.scratch.sets = sets;
        result
    }

    /// Finds the rows of the keys: `slots` (cleared first) gets a slot for each key, `Slot::NONE` where there
    /// is no row.
    pub fn find(&mut self, namespace: i64, keys: &KeyBatch, slots: &mut Vec<Slot>) -> Result<(), StateError> {
        slots.clear();
        let Some(set) = self.by_namespace.get(&namespace) else {
            slots.resize(keys.len(), Slot::NONE);
            return Ok(());
        };
        self.access::<false>(OneNamespace(*set), keys, slots, &mut vec![])
    }

    fn split_if_large(&mut self, set: usize) {
        if self.sets[set].wants_split(&self.groups) {
            self.sets[set].split(&self.physical, &self.groups);
        }
    }

    fn access<const INSERT: bool>(
        &mut self,
        placement: impl Placement,
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        assert_eq!(keys.form(), self.form(), "keys of another schema than that of state `{}`", self.schema.name);
        let owned = self.groups.owned;
        if let Some(group) = keys.groups.iter().find(|group| !(owned.first..=owned.last).contains(group)) {
            return Err(StateError::NotOwned { group: *group, owned });
        }
        slots.reserve(keys.len());
        let hashes = &keys.hashes;
        match &keys.keys {
            Keys::Words { words, nulls: None } => {
                self.access_all::<INSERT, _>(&placement, &WordKeys { words, hashes }, keys, slots, new)
            }
            // Nulls are rare: each run without one goes the fast way.
            Keys::Words { words, nulls: Some(nulls) } => {
                self.access_all_but_nulls::<INSERT>(&placement, words, nulls, keys, slots, new)
            }
            Keys::Bytes(rows) => self.access_all::<INSERT, _>(&placement, &ByteKeys { rows, hashes }, keys, slots, new),
        }
    }

    fn access_all<const INSERT: bool, K: BatchKeys>(
        &mut self,
        placement: &impl Placement,
        batch: &K,
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        self.access_range::<INSERT, K>(placement, batch, keys, 0..keys.len(), slots, new)
    }

    fn access_all_but_nulls<const INSERT: bool>(
        &mut self,
        placement: &impl Placement,
        words: &[u64],
        nulls: &arrow::buffer::NullBuffer,
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let batch = WordKeys { words, hashes: &keys.hashes };
        let mut at = 0;
        while at < keys.len() {
            if nulls.is_null(at) {
                slots.push(self.null_key::<INSERT>(placement.set(at), at, new));
                at += 1;
                continue;
            }
            let end = (at..keys.len()).find(|row| nulls.is_null(*row)).unwrap_or(keys.len());
            self.access_range::<INSERT, _>(placement, &batch, keys, at..end, slots, new)?;
            at = end;
        }
        Ok(())
    }

    /// The row of the null key, which stands beside the index.
    fn null_key<const INSERT: bool>(&mut self, number: usize, at: usize, new: &mut Vec<u32>) -> Slot {
        let group = weir_model::KeyGroup::of_hash(null_key_hash(), self.groups.max_parallelism);
        if let Some((table, row)) = self.sets[number].null_row {
            let slot = Slot::new(number, table as usize, row);
            if !self.is_expired(slot) {
                return slot;
            }
            if !INSERT {
                return Slot::NONE;
            }
            self.reset(slot);
            new.push(at as u32);
            return slot;
        }
        if !INSERT {
            return Slot::NONE;
        }
        let set = &mut self.sets[number];
        let table = set.table_of(&self.groups, group.0);
        let row = set.tables[table].allocate(&self.physical, self.changes.interval);
        set.tables[table].row_mut(&self.physical, row)[self.physical.header()] |= super::table::NULL_KEY;
        set.null_row = Some((table as u8, row));
        new.push(at as u32);
        let slot = Slot::new(number, table, row);
        self.touch(slot);
        slot
    }

    fn access_range<const INSERT: bool, K: BatchKeys>(
        &mut self,
        placement: &impl Placement,
        batch: &K,
        keys: &KeyBatch,
        range: std::ops::Range<usize>,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let first_group = self.groups.owned.first;
        let with_ttl = self.ttl_ms.is_some();
        let block_of = |number: usize| {
            let from = (range.start + number * BLOCK).min(range.end);
            from..(from + BLOCK).min(range.end)
        };
        let mut candidates = [[NO_ROW; BLOCK]; 2];
        let blocks = range.len().div_ceil(BLOCK);
        for step in 0..blocks + 2 {
            let sets = &self.sets;
            let table_of = |at: usize| -> &Table {
                let set: &Set = &sets[placement.set(at)];
                &set.tables[((keys.groups[at] - first_group) >> set.shift) as usize]
            };
            for at in block_of(step) {
                let table = table_of(at);
                prefetch(table.index.as_ptr().wrapping_add(table.probe(batch.hash(at)).0));
            }
            if step >= 1 {
                let block = block_of(step - 1);
                let candidates = &mut candidates[(step - 1) % 2];
                for (candidate, at) in candidates.iter_mut().zip(block) {
                    let table = table_of(at);
                    *candidate = table.candidate(batch.hash(at));
                    prefetch(table.rows.as_ptr().wrapping_add(*candidate as usize * self.physical.stride));
                }
            }
            if step >= 2 {
                let block = block_of(step - 2);
                let candidates = &candidates[step % 2];
                for (candidate, at) in candidates.iter().zip(block) {
                    let number = placement.set(at);
                    let set = &mut self.sets[number];
                    let table_number = ((keys.groups[at] - first_group) >> set.shift) as usize;
                    let table = &mut set.tables[table_number];
                    // SAFETY: a candidate comes from the index of this table, and no row goes away in here.
                    let hit = *candidate != NO_ROW
                        && unsafe { batch.matches(at, table, table.row_ptr(&self.physical, *candidate)) };
                    let row = if hit { *candidate } else { table.find_slowly::<INSERT, K>(&self.physical, batch, at) };
                    if row != NO_ROW {
                        let slot = Slot::new(number, table_number, row);
                        if with_ttl && self.is_expired(slot) {
                            if !INSERT {
                                slots.push(Slot::NONE);
                                continue;
                            }
                            self.reset(slot);
                            new.push(at as u32);
                        }
                        slots.push(slot);
                        continue;
                    }
                    if !INSERT {
                        slots.push(Slot::NONE);
                        continue;
                    }
                    let Some(row) = table.insert(&self.physical, batch, at, self.changes.interval) else {
                        return Err(self.too_large("rows or bytes of one key group"));
                    };
                    let slot = Slot::new(number, table_number, row);
                    if with_ttl {
                        self.touch(slot);
                    }
                    new.push(at as u32);
                    slots.push(slot);
                }
            }
        }
        Ok(())
    }

    /// Whether the row's time to live is over.
    #[inline]
    pub(super) fn is_expired(&self, slot: Slot) -> bool {
        let (Some(ttl_ms), Some(word)) = (self.ttl_ms, self.physical.last_write) else { return false };
        let row = self.sets[slot.set()].tables[slot.table()].row(&self.physical, slot.row());
        // 0: written before the clock was known; the sweep stamps it.
        row[word] != 0 && row[word].saturating_add(ttl_ms) <= self.now_ms
    }

    /// Notes the time of a write, for states with a TTL.
    #[inline]
    pub(super) fn touch(&mut self, slot: Slot) {
        if let Some(word) = self.physical.last_write {
            let now_ms = self.now_ms;
            self.sets[slot.set()].tables[slot.table()].row_mut(&self.physical, slot.row())[word] = now_ms;
        }
    }

    /// Makes an expired row a fresh one of the same key.
    fn reset(&mut self, slot: Slot) {
        let Physical { key_words, .. } = self.physical;
        let physical = &self.physical;
        let table = &mut self.sets[slot.set()].tables[slot.table()];
        for word in &physical.var_words {
            let handle = table.row(physical, slot.row())[*word];
            table.arena.free(handle);
        }
        let header = physical.header();
        let row = table.row_mut(physical, slot.row());
        let kept = row[header] & u32::MAX as u64;
        row[key_words..].fill(0);
        row[header..header + physical.fresh_nulls.len()].copy_from_slice(&physical.fresh_nulls);
        row[header] |= kept;
        table.mark(slot.row());
        self.touch(slot);
    }
}

impl Table {
    /// The first candidate wasn't it, or another key of the block came first.
    #[cold]
    #[inline(never)]
    fn find_slowly<const INSERT: bool, K: BatchKeys>(&self, physical: &Physical, batch: &K, at: usize) -> u32 {
        self.find(physical, batch, at)
    }
}
