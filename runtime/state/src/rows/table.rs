use super::words::{Arena, Words};
use crate::key_batch::KeyForm;
use crate::layout::Physical;
use weir_model::hash::hash_u64;

/// Rows of some key groups of one namespace: an open-addressing index over dense rows.
///
/// An index entry is `[tag][row number + 1]` in 32 bits, 0 where free; the row number takes as many bits as the
/// index has, the tag the rest. The place is the top bits of the hash, the tag those below, and the lower half
/// of the hash (which decides the key group) isn't used. Row numbers don't change when the index grows.
#[repr(C)]
#[derive(Clone)]
pub(crate) struct Table {
    // What every access needs comes first, in two cache lines.
    pub(super) index: Vec<u32>,
    pub(super) rows: Words,
    /// A bit for each row that changed since the last cut.
    pub(super) changed: Vec<u64>,
    /// log2 of the index length.
    pub(super) bits: u32,
    /// Rows that were ever numbered; some of them are free.
    pub(super) used: u32,
    pub(super) dirty: bool,
    /// First row of the free list (linked through the key's word), or `NO_ROW`.
    free: u32,
    pub(super) live: u32,
    pub(super) arena: Arena,
    /// Changed bits of the cuts that aren't confirmed, oldest first.
    pub(super) pending: Vec<(u32, Vec<u64>)>,
}

pub(super) const NO_ROW: u32 = u32::MAX;
const MIN_BITS: u32 = 4;
/// 200 million rows a table; tags still have 4 bits.
const MAX_BITS: u32 = 28;

/// In a row's header: the row is in use.
pub(crate) const LIVE: u64 = 1 << 31;
/// In a row's header: the key is null (raw keys only; such a row isn't in the index).
pub(crate) const NULL_KEY: u64 = 1 << 30;
/// In a row's header: the interval of its birth.
pub(crate) const BORN: u64 = NULL_KEY - 1;

/// The keys of a batch, as the table compares and stores them.
pub(super) trait BatchKeys {
    fn hash(&self, at: usize) -> u64;
    /// Whether the row at this place of the table has the key.
    ///
    /// # Safety
    /// `row` points to a row of `table`.
    unsafe fn matches(&self, at: usize, table: &Table, row: *const u64) -> bool;
    /// Writes the key into a fresh row; `false`: the arena is full.
    fn write(&self, at: usize, table: &mut Table, row_at: usize) -> bool;
}

impl Table {
    pub(super) fn new() -> Self {
        Table {
            index: vec![0; 1 << MIN_BITS],
            rows: Words::default(),
            changed: vec![],
            bits: MIN_BITS,
            used: 0,
            dirty: false,
            free: NO_ROW,
            live: 0,
            arena: Arena::default(),
            pending: vec![],
        }
    }

    /// Place in the index, tag (in place), and the mask of the row number.
    #[inline(always)]
    pub(super) fn probe(&self, hash: u64) -> (usize, u32, u32) {
        let half = (hash >> 32) as u32;
        ((half >> (32 - self.bits)) as usize, half << self.bits, (1 << self.bits) - 1)
    }

    /// The first row whose tag is that of the hash, or `NO_ROW`. Reads the index alone.
    #[inline(always)]
    pub(super) fn candidate(&self, hash: u64) -> u32 {
        let (mut at, tag, mask) = self.probe(hash);
        loop {
            // SAFETY: `at` is below 2^bits, the length of the index.
            let entry = unsafe { *self.index.get_unchecked(at) };
            if entry == 0 {
                return NO_ROW;
            }
            if (entry ^ tag) <= mask {
                return (entry & mask) - 1;
            }
            at = (at + 1) & mask as usize;
        }
    }

    #[inline(always)]
    pub(super) fn row_ptr(&self, physical: &Physical, row: u32) -> *const u64 {
        debug_assert!(row < self.used);
        self.rows.as_ptr().wrapping_add(row as usize * physical.stride)
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

    /// The row of the key, or `NO_ROW`.
    pub(super) fn find(&self, physical: &Physical, keys: &impl BatchKeys, key: usize) -> u32 {
        let (mut at, tag, mask) = self.probe(keys.hash(key));
        loop {
            let entry = self.index[at];
            if entry == 0 {
                return NO_ROW;
            }
            if (entry ^ tag) <= mask {
                let row = (entry & mask) - 1;
                // SAFETY: the index refers to rows of this table only.
                if unsafe { keys.matches(key, self, self.row_ptr(physical, row)) } {
                    return row;
                }
            }
            at = (at + 1) & mask as usize;
        }
    }

    /// Adds a row for a key that has none. `None`: the table is full.
    pub(super) fn insert(
        &mut self,
        physical: &Physical,
        keys: &impl BatchKeys,
        key: usize,
        interval: u32,
    ) -> Option<u32> {
        if self.live as usize >= self.index.len() / 4 * 3 || self.used as usize + 1 >= self.index.len() {
            self.grow_index(physical)?;
        }
        let row = self.allocate(physical, interval);
        let row_at = row as usize * physical.stride;
        if !keys.write(key, self, row_at) {
            return None;
        }
        self.link(keys.hash(key), row);
        Some(row)
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

    /// Puts the row into the index, which has room.
    fn link(&mut self, hash: u64, row: u32) {
        let (mut at, tag, mask) = self.probe(hash);
        while self.index[at] != 0 {
            at = (at + 1) & mask as usize;
        }
        self.index[at] = tag | (row + 1);
    }

    fn grow_index(&mut self, physical: &Physical) -> Option<()> {
        if self.bits == MAX_BITS {
            return None;
        }
        self.bits += 1;
        self.index = vec![0; 1 << self.bits];
        self.relink(physical);
        Some(())
    }

    fn relink(&mut self, physical: &Physical) {
        for row in 0..self.used {
            let words = self.rows.slice(row as usize * physical.stride, physical.stride);
            if words[physical.header()] & (LIVE | NULL_KEY) == LIVE {
                let hash = row_hash(physical, words);
                self.link(hash, row);
            }
        }
    }

    /// Makes room for `rows` more rows at once.
    pub(super) fn reserve(&mut self, physical: &Physical, rows: usize) -> Option<()> {
        let wanted = (self.used as usize + rows) * 4 / 3 + 2;
        let bits = wanted.next_power_of_two().trailing_zeros();
        if bits > MAX_BITS {
            return None;
        }
        if bits > self.bits {
            self.bits = bits;
            self.index = vec![0; 1 << bits];
            self.relink(physical);
        }
        Some(())
    }

    /// Takes the row out of the index and frees it. Its changed bits stay: who reads them checks for life.
    pub(super) fn remove(&mut self, physical: &Physical, row: u32) {
        let header = self.row(physical, row)[physical.header()];
        assert!(header & LIVE != 0, "a row was removed twice");
        if header & NULL_KEY == 0 {
            self.unlink(physical, row);
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

    /// Removes the entry and moves those behind it forward, so that no probe ends too early.
    fn unlink(&mut self, physical: &Physical, row: u32) {
        let mask = self.index.len() - 1;
        let number = row + 1;
        let (mut hole, _, row_mask) = self.probe(row_hash(physical, self.row(physical, row)));
        while self.index[hole] & row_mask != number {
            assert!(self.index[hole] != 0, "a live row is in the index");
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.index[at];
            if entry == 0 {
                break;
            }
            let home = self.probe(row_hash(physical, self.row(physical, (entry & row_mask) - 1))).0;
            // The entry may move to the hole unless its home lies behind the hole.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = entry;
                hole = at;
            }
        }
        self.index[hole] = 0;
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
        self.index.capacity() * 4
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
            self.link(hash, adopted);
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
