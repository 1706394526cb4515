use super::index::Index;
use super::words::{Arena, Words};
use crate::key_batch::{KeyBatch, KeyForm, Keys};
use crate::layout::Physical;
use arrow::buffer::NullBuffer;
use std::ops::Range;
use weir_model::hash::hash_u64;

/// Rows of some key groups of one namespace: dense rows and an index over them. Row numbers don't change when
/// the index grows.
#[repr(C, align(64))]
#[derive(Clone)]
pub(crate) struct Table {
    // What a lookup needs is one cache line.
    pub(super) index: Index,
    pub(super) rows: Words,
    /// Rows that were ever numbered; some of them are free. `changed` and `rows` reach at least that far.
    pub(super) used: u32,
    /// First row of the free list (linked through the key's word), or `NO_ROW`.
    free: u32,
    pub(super) live: u32,
    /// A bit for each row that changed since the last cut.
    pub(super) changed: Vec<u64>,
    pub(super) dirty: bool,
    /// Whether no cold store holds a row of these key groups that isn't here.
    pub(super) complete: bool,
    pub(super) arena: Arena,
    /// Changed bits of the cuts that aren't confirmed, oldest first.
    pub(super) pending: Vec<(u32, Vec<u64>)>,
}

pub(super) const NO_ROW: u32 = u32::MAX;
/// In a row's header: the row is in use.
pub(crate) const LIVE: u64 = 1 << 31;
/// In a row's header: the key is null (raw keys only; such a row isn't in the index).
pub(crate) const NULL_KEY: u64 = 1 << 30;
/// In a row's header, before a cold store: the row was removed, which the store may not know yet.
pub(crate) const DEAD: u64 = 1 << 29;
/// In a row's header, before a cold store: used since the eviction last came by.
pub(crate) const REFERENCED: u64 = 1 << 28;
/// In a row's header: the interval of its birth.
pub(crate) const BORN: u64 = REFERENCED - 1;

/// The keys of a batch, as the table compares and stores them.
pub(super) trait BatchKeys {
    fn hash(&self, at: usize) -> u64;
    /// Whether the row at this place of the table has the key.
    ///
    /// # Safety
    /// `row` points to a row of `table`, and `at` is a position of the batch.
    unsafe fn matches(&self, at: usize, table: &Table, row: *const u64) -> bool;
    /// Writes the key into a fresh row; `false`: the arena is full.
    fn write(&self, at: usize, table: &mut Table, row_at: usize) -> bool;
}

impl Table {
    pub(super) fn new() -> Self {
        Table {
            index: Index::new(),
            rows: Words::default(),
            changed: vec![],
            used: 0,
            dirty: false,
            complete: true,
            free: NO_ROW,
            live: 0,
            arena: Arena::default(),
            pending: vec![],
        }
    }

    #[inline(always)]
    pub(super) fn row_ptr(&self, stride: usize, row: u32) -> *const u64 {
        self.rows.as_ptr().wrapping_add(row as usize * stride)
    }

    /// The row's words and its mark: as `row_mut` and `mark` at once, without looking anything up twice.
    #[inline(always)]
    pub(super) fn marked_row_ptr(&mut self, stride: usize, row: u32) -> *mut u64 {
        assert!(row < self.used, "a slot of a row that isn't there");
        if !self.dirty {
            self.dirty = true;
        }
        // SAFETY: `rows` and `changed` reach to `used` rows.
        unsafe {
            *self.changed.get_unchecked_mut(row as usize / 64) |= 1 << (row % 64);
            self.rows.as_mut_ptr().add(row as usize * stride)
        }
    }

    #[inline]
    pub(super) fn row(&self, physical: &Physical, row: u32) -> &[u64] {
        assert!(row < self.used, "a slot of a row that isn't there");
        self.rows.slice(row as usize * physical.stride, physical.stride)
    }

    #[inline]
    pub(super) fn row_mut(&mut self, physical: &Physical, row: u32) -> &mut [u64] {
        assert!(row < self.used, "a slot of a row that isn't there");
        self.rows.slice_mut(row as usize * physical.stride, physical.stride)
    }

    /// The row of the key.
    pub(super) fn find(&self, physical: &Physical, keys: &impl BatchKeys, key: usize) -> Option<u32> {
        self.index.find(keys.hash(key), |row| {
            // SAFETY: the index refers to rows of this table only.
            unsafe { keys.matches(key, self, self.row_ptr(physical.stride, row)) }
        })
    }

    /// Adds a row for a key that has none. `None`: the table is full.
    pub(super) fn insert(
        &mut self,
        physical: &Physical,
        keys: &impl BatchKeys,
        key: usize,
        interval: u32,
    ) -> Option<u32> {
        self.reserve(physical, 1)?;
        let row = self.allocate(physical, interval);
        let row_at = row as usize * physical.stride;
        if !keys.write(key, self, row_at) {
            return None;
        }
        self.index.insert(keys.hash(key), row);
        Some(row)
    }

    /// Adds rows behind all others for keys that have none, unmarked, their fields not written yet. `None`: the
    /// table is full.
    pub(super) fn append(
        &mut self,
        physical: &Physical,
        keys: &KeyBatch,
        range: Range<usize>,
        nulls: Option<&NullBuffer>,
    ) -> Option<()> {
        self.reserve(physical, range.len())?;
        let first = self.used;
        self.used += range.len() as u32;
        self.live += range.len() as u32;
        self.rows.grow_to(self.used as usize * physical.stride);
        self.changed.resize((self.used as usize).div_ceil(64), 0);
        for (row, at) in (first..).zip(range) {
            let row_at = row as usize * physical.stride;
            match &keys.keys {
                Keys::Words { words, .. } => self.rows.slice_mut(row_at, 1)[0] = words[at],
                Keys::Bytes(bytes) => {
                    let handle = self.arena.store(bytes.row(at))?;
                    self.rows.slice_mut(row_at, 2).copy_from_slice(&[keys.hashes[at], handle]);
                }
            }
            let is_null = nulls.is_some_and(|nulls| nulls.is_null(at));
            let header = if is_null { LIVE | NULL_KEY } else { LIVE };
            self.rows.slice_mut(row_at + physical.header(), 1)[0] = header;
            if !is_null {
                self.index.insert(keys.hashes[at], row);
            }
        }
        Some(())
    }

    /// A zeroed row with all fields null, live, without key, not in the index; marked changed.
    pub(super) fn allocate(&mut self, physical: &Physical, interval: u32) -> u32 {
        let stride = physical.stride;
        let row = if self.free != NO_ROW {
            let row = self.free;
            let words = self.rows.slice_mut(row as usize * stride, stride);
            self.free = words[0] as u32;
            words.fill(0);
            row
        } else {
            let row = self.used;
            self.used += 1;
            self.rows.grow_to(self.used as usize * stride);
            if self.changed.len() * 64 < self.used as usize {
                self.changed.push(0);
            }
            row
        };
        let header = physical.header();
        let words = self.rows.slice_mut(row as usize * stride, stride);
        for (word, fresh) in words[header..].iter_mut().zip(&physical.fresh_nulls) {
            *word = *fresh;
        }
        words[header] |= LIVE | interval as u64 & BORN;
        self.live += 1;
        self.mark(row);
        row
    }

    #[inline(always)]
    pub(super) fn mark(&mut self, row: u32) {
        self.changed[row as usize / 64] |= 1 << (row % 64);
        self.dirty = true;
    }

    /// Makes room for `rows` more rows. `None`: the table is full.
    pub(super) fn reserve(&mut self, physical: &Physical, rows: usize) -> Option<()> {
        // Freed rows are taken first, and no row's number may pass what an entry holds.
        let most = (self.live as usize + rows).max(self.used as usize);
        let Some(larger) = self.index.larger_for(most) else { return Some(()) };
        self.index = larger.ok()?;
        for row in 0..self.used {
            let words = self.rows.slice(row as usize * physical.stride, physical.stride);
            if words[physical.header()] & (LIVE | NULL_KEY) == LIVE {
                self.index.insert(row_hash(physical, words), row);
            }
        }
        Some(())
    }

    /// Takes the row out of the index and frees it. Its changed bits stay: who reads them checks for life.
    pub(super) fn remove(&mut self, physical: &Physical, row: u32) {
        let header = self.row(physical, row)[physical.header()];
        assert!(header & LIVE != 0, "a row was removed twice");
        if header & NULL_KEY == 0 {
            let rows = &self.rows;
            let hash_of = |row: u32| row_hash(physical, rows.slice(row as usize * physical.stride, physical.stride));
            self.index.remove(hash_of(row), row, hash_of);
        }
        let words = self.rows.slice_mut(row as usize * physical.stride, physical.stride);
        if physical.form == KeyForm::Bytes {
            self.arena.free(words[1]);
        }
        for word in &physical.var_words {
            self.arena.free(words[*word]);
        }
        words.fill(0);
        words[0] = self.free as u64;
        self.free = row;
        self.live -= 1;
        self.compact_arena(physical);
    }

    /// Rewrites the arena without its garbage, once that is most of it.
    pub(super) fn compact_arena(&mut self, physical: &Physical) {
        if !self.arena.wants_compaction() {
            return;
        }
        let mut fresh = Arena::default();
        let old = std::mem::take(&mut self.arena);
        for row in 0..self.used {
            let words = self.rows.slice_mut(row as usize * physical.stride, physical.stride);
            if words[physical.header()] & LIVE == 0 {
                continue;
            }
            let key = (physical.form == KeyForm::Bytes).then_some(1);
            for word in key.into_iter().chain(physical.var_words.iter().copied()) {
                words[word] = fresh.store(old.get(words[word])).expect("less than there was");
            }
        }
        self.arena = fresh;
    }

    pub(super) fn has_free_rows(&self) -> bool {
        self.live != self.used
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.index.bytes()
            + self.rows.capacity_bytes()
            + self.changed.capacity() * 8
            + self.arena.capacity_bytes()
            + self.pending.iter().map(|(_, bits)| bits.capacity() * 8).sum::<usize>()
    }
}

/// The key hash of a live row whose key isn't null.
#[inline]
pub(crate) fn row_hash(physical: &Physical, words: &[u64]) -> u64 {
    match physical.form {
        KeyForm::Word => hash_u64(words[0]),
        KeyForm::Bytes => words[0],
    }
}

impl Table {
    /// Copies a row of another table with its birth and its changed bits; `hash` is `None` for a null key.
    pub(super) fn adopt(&mut self, physical: &Physical, from: &Table, row: u32, hash: Option<u64>) -> u32 {
        self.reserve(physical, 1).expect("a split makes tables smaller");
        let adopted = self.allocate(physical, 0);
        let words = self.rows.slice_mut(adopted as usize * physical.stride, physical.stride);
        words.copy_from_slice(from.row(physical, row));
        let key = (physical.form == KeyForm::Bytes).then_some(1);
        for word in key.into_iter().chain(physical.var_words.iter().copied()) {
            words[word] = self.arena.store(from.arena.get(words[word])).expect("a split makes tables smaller");
        }
        if let Some(hash) = hash {
            self.index.insert(hash, adopted);
        }
        let (word, bit) = (adopted as usize / 64, 1u64 << (adopted % 64));
        if !bit_of(&from.changed, row) {
            self.changed[word] &= !bit;
        }
        for (position, (interval, bits)) in from.pending.iter().enumerate() {
            if self.pending.len() == position {
                self.pending.push((*interval, vec![]));
            }
            let own = &mut self.pending[position].1;
            if bit_of(bits, row) {
                own.resize(own.len().max(word + 1), 0);
                own[word] |= bit;
            }
        }
        self.dirty |= from.dirty;
        adopted
    }
}

/// Bitmaps are as long as the table was; rows behind the end haven't the bit.
pub(super) fn bit_of(bits: &[u64], row: u32) -> bool {
    bits.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 != 0)
}
