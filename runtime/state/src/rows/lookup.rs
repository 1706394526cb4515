//! Finding (and making) the rows of a whole batch, with the lines of the keys to come on their way.

use super::set::Set;
use super::table::{BatchKeys, NO_ROW, Table};
use super::words::prefetch;
use super::{RowState, null_key_hash};
use crate::key_batch::{KeyBatch, Keys};
use crate::layout::{Physical, Slot};
use crate::{EncodedRows, StateError};
use std::ops::Range;

/// Modes of a lookup: find rows, or make them too, or find also those whose time is over.
pub(super) const FIND: u8 = 0;
pub(super) const INSERT: u8 = 1;
pub(super) const PEEK: u8 = 2;

/// How many keys ahead a row is asked for: enough to hide a cache miss, few enough to keep the lines in the
/// first-level cache.
const ROWS_AHEAD: usize = 32;
/// How many keys ahead the line of the index is asked for that says which row it is.
const LINES_AHEAD: usize = 2 * ROWS_AHEAD;
/// Below this, rows are looked up without prefetching: they are near.
const PREFETCH_FROM_BYTES: usize = 1 << 17;

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
        debug_assert!(at < self.words.len());
        // SAFETY: the caller's promise; there are as many words as hashes.
        unsafe { *row == *self.words.get_unchecked(at) }
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

/// Which set holds the rows of a key of the batch.
pub(super) trait Placement {
    /// The tables as they are now, in a form that the loops over a batch keep in registers.
    fn view<'a>(&'a self, sets: &'a [Set], first_group: u16) -> impl View + 'a;

    /// How large the sets are together, about.
    fn bytes(&self, sets: &[Set]) -> usize;
}

/// Finds the table of a key by its position in the batch and its key group.
pub(super) trait View {
    fn table(&self, at: usize, group: u16) -> &Table;

    fn slot(&self, at: usize, group: u16, row: u32) -> Slot;
}

pub(super) struct OneNamespace(pub(super) usize);

struct OneSet<'a> {
    tables: &'a [Table],
    number: usize,
    shift: u32,
    first_group: u16,
}

impl Placement for OneNamespace {
    #[inline(always)]
    fn view<'a>(&'a self, sets: &'a [Set], first_group: u16) -> impl View + 'a {
        let set = &sets[self.0];
        OneSet { tables: &set.tables, number: self.0, shift: set.shift, first_group }
    }

    fn bytes(&self, sets: &[Set]) -> usize {
        sets[self.0].row_bytes()
    }
}

impl View for OneSet<'_> {
    #[inline(always)]
    fn table(&self, _: usize, group: u16) -> &Table {
        &self.tables[((group - self.first_group) >> self.shift) as usize]
    }

    #[inline(always)]
    fn slot(&self, _: usize, group: u16, row: u32) -> Slot {
        Slot::new(self.number, ((group - self.first_group) >> self.shift) as usize, row)
    }
}

struct NamespacePerKey<'a>(&'a [u32]);

struct SetPerKey<'a> {
    sets: &'a [Set],
    numbers: &'a [u32],
    first_group: u16,
}

impl Placement for NamespacePerKey<'_> {
    #[inline(always)]
    fn view<'a>(&'a self, sets: &'a [Set], first_group: u16) -> impl View + 'a {
        SetPerKey { sets, numbers: self.0, first_group }
    }

    fn bytes(&self, sets: &[Set]) -> usize {
        match self.0 {
            [first, rest @ ..] if rest.iter().all(|set| set == first) => sets[*first as usize].row_bytes(),
            _ => usize::MAX,
        }
    }
}

impl View for SetPerKey<'_> {
    #[inline(always)]
    fn table(&self, at: usize, group: u16) -> &Table {
        let set = &self.sets[self.numbers[at] as usize];
        &set.tables[((group - self.first_group) >> set.shift) as usize]
    }

    #[inline(always)]
    fn slot(&self, at: usize, group: u16, row: u32) -> Slot {
        let number = self.numbers[at] as usize;
        Slot::new(number, ((group - self.first_group) >> self.sets[number].shift) as usize, row)
    }
}

/// Asks for the line of the index that knows the key, if there is a key.
#[inline(always)]
fn ask_for_line(view: &impl View, keys: &KeyBatch, at: usize, end: usize) {
    if at < end {
        prefetch(view.table(at, keys.groups[at]).index.home(keys.hashes[at]));
    }
}

/// Finds the row that may be the key's, and asks for it.
#[inline(always)]
fn ask_for_row(view: &impl View, keys: &KeyBatch, at: usize, end: usize, stride: usize) -> u32 {
    if at >= end {
        return NO_ROW;
    }
    let table = view.table(at, keys.groups[at]);
    let candidate = table.index.candidate(keys.hashes[at]).unwrap_or(NO_ROW);
    prefetch(table.row_ptr(stride, candidate));
    candidate
}

/// Whether the candidate is the row of a key of the batch.
///
/// # Safety
/// The candidate is `NO_ROW` or comes from the index of this table.
#[inline(always)]
unsafe fn is_row_of<K: BatchKeys>(batch: &K, at: usize, table: &Table, stride: usize, candidate: u32) -> bool {
    // SAFETY: the caller's promise.
    candidate != NO_ROW && unsafe { batch.matches(at, table, table.row_ptr(stride, candidate)) }
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
        self.upsert_at(&OneNamespace(set), keys, slots, new)
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
        let result = self.upsert_at(&NamespacePerKey(&sets), keys, slots, new);
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
        let (placement, mut new) = (OneNamespace(*set), vec![]);
        self.check_owned(keys)?;
        self.load_absent(&placement, keys)?;
        self.access::<FIND>(&placement, keys, slots, &mut new)?;
        self.settle::<false>(slots, &mut new);
        Ok(())
    }

    fn upsert_at(
        &mut self,
        placement: &impl Placement,
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        self.check_owned(keys)?;
        self.load_absent(placement, keys)?;
        self.access::<INSERT>(placement, keys, slots, new)?;
        self.settle::<true>(slots, new);
        Ok(())
    }

    fn check_owned(&self, keys: &KeyBatch) -> Result<(), StateError> {
        let owned = self.groups.owned;
        match keys.groups.iter().find(|group| !(owned.first..=owned.last).contains(group)) {
            Some(group) => Err(StateError::NotOwned { group: *group, owned }),
            None => Ok(()),
        }
    }

    fn split_if_large(&mut self, set: usize) {
        if self.sets[set].wants_split(&self.groups) {
            self.sets[set].split(&self.physical, &self.groups);
        }
    }

    pub(super) fn access<const MODE: u8>(
        &mut self,
        placement: &impl Placement,
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        assert_eq!(keys.form(), self.form(), "keys of another schema than that of state `{}`", self.schema.name);
        slots.reserve(keys.len());
        let hashes = &keys.hashes;
        match &keys.keys {
            Keys::Words { words, nulls: None } => {
                self.access_all::<MODE, _>(placement, &WordKeys { words, hashes }, keys, slots, new)
            }
            // Nulls are rare: each run without one goes the fast way.
            Keys::Words { words, nulls: Some(nulls) } => {
                self.access_all_but_nulls::<MODE>(placement, words, nulls, keys, slots, new)
            }
            Keys::Bytes(rows) => self.access_all::<MODE, _>(placement, &ByteKeys { rows, hashes }, keys, slots, new),
        }
    }

    fn access_all<const MODE: u8, K: BatchKeys>(
        &mut self,
        placement: &impl Placement,
        batch: &K,
        keys: &KeyBatch,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        self.access_range::<MODE, K>(placement, batch, keys, 0..keys.len(), slots, new)
    }

    fn access_all_but_nulls<const MODE: u8>(
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
                let set = placement.view(&self.sets, 0).slot(at, 0, 0).set();
                slots.push(self.null_key::<MODE>(set, at, new));
                at += 1;
                continue;
            }
            let end = (at..keys.len()).find(|row| nulls.is_null(*row)).unwrap_or(keys.len());
            self.access_range::<MODE, _>(placement, &batch, keys, at..end, slots, new)?;
            at = end;
        }
        Ok(())
    }

    /// The row of the null key, which stands beside the index.
    fn null_key<const MODE: u8>(&mut self, number: usize, at: usize, new: &mut Vec<u32>) -> Slot {
        let group = weir_model::KeyGroup::of_hash(null_key_hash(), self.groups.max_parallelism);
        if let Some((table, row)) = self.sets[number].null_row {
            let slot = Slot::new(number, table as usize, row);
            if MODE == PEEK || !self.is_expired(slot) {
                return slot;
            }
            if MODE != INSERT {
                return Slot::NONE;
            }
            self.reset(slot);
            new.push(at as u32);
            return slot;
        }
        if MODE != INSERT {
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

    fn access_range<const MODE: u8, K: BatchKeys>(
        &mut self,
        placement: &impl Placement,
        batch: &K,
        keys: &KeyBatch,
        range: Range<usize>,
        slots: &mut Vec<Slot>,
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let first = slots.len();
        slots.resize(first + range.len(), Slot::NONE);
        let slots = &mut slots[first..];
        // The few rows of a small set are near anyway.
        if placement.bytes(&self.sets) < PREFETCH_FROM_BYTES {
            self.access_near::<MODE, K>(placement, batch, keys, range, slots, new)
        } else {
            self.access_far::<MODE, K>(placement, batch, keys, range, slots, new)
        }
    }

    /// Looks keys up one after the other.
    #[inline(always)]
    fn access_near<const MODE: u8, K: BatchKeys>(
        &mut self,
        placement: &impl Placement,
        batch: &K,
        keys: &KeyBatch,
        range: Range<usize>,
        slots: &mut [Slot],
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let (groups, hashes) = (&keys.groups[range.clone()], &keys.hashes[range.clone()]);
        let stride = self.physical.stride;
        let candidates_count = self.candidates_count::<MODE>();
        let mut done = 0;
        while done < slots.len() {
            let view = placement.view(&self.sets, self.groups.owned.first);
            while done < slots.len() {
                let (at, group) = (range.start + done, groups[done]);
                let table = view.table(at, group);
                let candidate = table.index.candidate(hashes[done]).unwrap_or(NO_ROW);
                // SAFETY: a candidate comes from the index of this table.
                if !candidates_count || !unsafe { is_row_of(batch, at, table, stride, candidate) } {
                    break;
                }
                slots[done] = view.slot(at, group, candidate);
                done += 1;
            }
            drop(view);
            if done < slots.len() {
                slots[done] = self.access_slowly::<MODE, K>(placement, batch, keys, range.start + done, new)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// As `access_near`, and asks for the lines of later keys meanwhile: for the index's line first, and once that
    /// is near, for the row that it names. One request of each kind a key: the processor has room for few at once.
    #[inline(always)]
    fn access_far<const MODE: u8, K: BatchKeys>(
        &mut self,
        placement: &impl Placement,
        batch: &K,
        keys: &KeyBatch,
        range: Range<usize>,
        slots: &mut [Slot],
        new: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let groups = &keys.groups[range.clone()];
        let stride = self.physical.stride;
        let candidates_count = self.candidates_count::<MODE>();
        // Of the keys from `done` on.
        let mut candidates = [NO_ROW; ROWS_AHEAD];
        let view = placement.view(&self.sets, self.groups.owned.first);
        (range.start..range.start + LINES_AHEAD).for_each(|at| ask_for_line(&view, keys, at, range.end));
        for (at, candidate) in (range.start..).zip(&mut candidates) {
            *candidate = ask_for_row(&view, keys, at, range.end, stride);
        }
        drop(view);

        let mut done = 0;
        while done < slots.len() {
            let view = placement.view(&self.sets, self.groups.owned.first);
            while done < slots.len() {
                let (at, group) = (range.start + done, groups[done]);
                ask_for_line(&view, keys, at + LINES_AHEAD, range.end);
                let next = ask_for_row(&view, keys, at + ROWS_AHEAD, range.end, stride);
                let candidate = std::mem::replace(&mut candidates[done % ROWS_AHEAD], next);
                let table = view.table(at, group);
                // SAFETY: a candidate comes from the index of this table.
                if !candidates_count || !unsafe { is_row_of(batch, at, table, stride, candidate) } {
                    break;
                }
                slots[done] = view.slot(at, group, candidate);
                done += 1;
            }
            drop(view);
            if done < slots.len() {
                slots[done] = self.access_slowly::<MODE, K>(placement, batch, keys, range.start + done, new)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Whether a row of the key is what the lookup is for: with a time to live it may be over.
    fn candidates_count<const MODE: u8>(&self) -> bool {
        self.ttl_ms.is_none() || MODE == PEEK
    }

    /// A key whose first candidate wasn't it, or is absent, or may have expired.
    #[inline(never)]
    fn access_slowly<const MODE: u8, K: BatchKeys>(
        &mut self,
        placement: &impl Placement,
        batch: &K,
        keys: &KeyBatch,
        at: usize,
        new: &mut Vec<u32>,
    ) -> Result<Slot, StateError> {
        let view = placement.view(&self.sets, self.groups.owned.first);
        let group = keys.groups[at];
        let row = view.table(at, group).find(&self.physical, batch, at);
        let slot = view.slot(at, group, row.unwrap_or(0));
        drop(view);
        if row.is_some() {
            if MODE != PEEK && self.is_expired(slot) {
                if MODE != INSERT {
                    return Ok(Slot::NONE);
                }
                self.reset(slot);
                new.push(at as u32);
            }
            return Ok(slot);
        }
        if MODE != INSERT {
            return Ok(Slot::NONE);
        }
        let table = &mut self.sets[slot.set()].tables[slot.table()];
        let Some(row) = table.insert(&self.physical, batch, at, self.changes.interval) else {
            return Err(self.too_large("rows or bytes of one key group"));
        };
        let slot = Slot::new(slot.set(), slot.table(), row);
        self.touch(slot);
        new.push(at as u32);
        Ok(slot)
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
    pub(super) fn reset(&mut self, slot: Slot) {
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

/// Adds a row for a key that has none, other than null. `None`: the table is full.
pub(super) fn insert_key(table: &mut Table, physical: &Physical, keys: &KeyBatch, at: usize) -> Option<u32> {
    let hashes = &keys.hashes;
    match &keys.keys {
        Keys::Words { words, .. } => table.insert(physical, &WordKeys { words, hashes }, at, 0),
        Keys::Bytes(rows) => table.insert(physical, &ByteKeys { rows, hashes }, at, 0),
    }
}
