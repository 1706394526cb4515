//! The index of a table: lines of sixteen entries, each looked at in one go.
//!
//! An entry is `[tag][row number + 1]` in 32 bits, 0 where free; the row number takes as many bits as the index
//! has, the tag the rest. A key's home is the line that the top bits of its hash name; the tag are the bits
//! below (never 0). A key stands in its home line or, if that is full, in the first line behind with room.
//! The lower half of the hash, which decides the key group, isn't used.

/// One cache line of entries.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

const LINE: usize = 16;
const LINE_BITS: u32 = 4;
/// 268 million entries a table; tags still have 4 bits.
const MAX_BITS: u32 = 28;

#[derive(Clone)]
pub(super) struct Index {
    lines: Vec<Line>,
    /// log2 of the number of entries.
    bits: u32,
}

/// What a hash looks for.
#[derive(Clone, Copy)]
struct Probe {
    line: usize,
    /// As it stands in the lower bits once the row number is shifted out.
    tag: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self::with_bits(LINE_BITS)
    }

    fn with_bits(bits: u32) -> Self {
        Index { lines: vec![Line([0; LINE]); 1 << (bits - LINE_BITS)], bits }
    }

    /// An empty index with room for `rows` rows, if this one has less: `None` if it has enough.
    pub(super) fn larger_for(&self, rows: usize) -> Option<Result<Index, Full>> {
        if rows <= self.capacity() {
            return None;
        }
        let mut bits = self.bits;
        while Self::capacity_of(bits) < rows {
            bits += 1;
            if bits > MAX_BITS {
                return Some(Err(Full));
            }
        }
        Some(Ok(Self::with_bits(bits)))
    }

    /// Rows that the index takes.
    pub(super) fn capacity(&self) -> usize {
        Self::capacity_of(self.bits)
    }

    /// With thirteen of sixteen entries taken, few lines run over.
    fn capacity_of(bits: u32) -> usize {
        (1usize << bits) / LINE * 13
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    #[inline(always)]
    fn probe(&self, hash: u64) -> Probe {
        // One line has no bits to name it by.
        let half = hash >> 32;
        let line = (half >> (32 + LINE_BITS - self.bits)) as usize;
        let tag = ((half << (self.bits - LINE_BITS)) as u32) >> self.bits;
        Probe { line, tag: tag.max(1) }
    }

    /// Where the index is first looked at for the hash.
    #[inline(always)]
    pub(super) fn home(&self, hash: u64) -> *const u32 {
        self.lines.as_ptr().wrapping_add(self.probe(hash).line).cast()
    }

    /// The first row that may have a key of this hash.
    #[inline(always)]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        let Probe { mut line, tag } = self.probe(hash);
        loop {
            debug_assert!(line < self.lines.len());
            // SAFETY: `probe` gives a line below 2^(bits - 4), their number, and so does wrapping around.
            let entries = unsafe { self.lines.get_unchecked(line) };
            let found = entries.with_tag(tag, self.bits);
            if found != 0 {
                return Some(self.row_of(entries.0[found.trailing_zeros() as usize % LINE]));
            }
            if entries.free() != 0 {
                return None;
            }
            line = (line + 1) & (self.lines.len() - 1);
        }
    }

    /// The row that `is_it` says yes to, among those that may have a key of this hash.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let Probe { mut line, tag } = self.probe(hash);
        loop {
            let entries = &self.lines[line];
            let mut found = entries.with_tag(tag, self.bits);
            while found != 0 {
                let row = self.row_of(entries.0[found.trailing_zeros() as usize]);
                if is_it(row) {
                    return Some(row);
                }
                found &= found - 1;
            }
            if entries.free() != 0 {
                return None;
            }
            line = (line + 1) & (self.lines.len() - 1);
        }
    }

    #[inline(always)]
    fn row_of(&self, entry: u32) -> u32 {
        (entry & ((1 << self.bits) - 1)) - 1
    }

    /// Adds a row. The index has room for it.
    pub(super) fn insert(&mut self, hash: u64, row: u32) {
        let Probe { mut line, tag } = self.probe(hash);
        loop {
            let free = self.lines[line].free();
            if free != 0 {
                self.lines[line].0[free.trailing_zeros() as usize] = tag << self.bits | (row + 1);
                return;
            }
            line = (line + 1) & (self.lines.len() - 1);
        }
    }

    /// Takes a row out. `hash_of` gives the hash of any row of the index.
    ///
    /// # Panics
    /// If the row isn't there.
    pub(super) fn remove(&mut self, hash: u64, row: u32, hash_of: impl Fn(u32) -> u64) {
        let mut line = self.probe(hash).line;
        let lines = self.lines.len();
        let wanted = row + 1;
        let mut hole = loop {
            let entries = &self.lines[line];
            let at = entries.0.iter().position(|entry| *entry != 0 && entry & ((1 << self.bits) - 1) == wanted);
            match at {
                Some(at) => break at,
                None => assert!(entries.free() == 0, "a live row is in the index"),
            }
            line = (line + 1) & (lines - 1);
        };
        // A line that was full has sent keys to those behind it: one that could stand in the hole must come
        // back, or it wouldn't be found any more.
        loop {
            let was_full = self.lines[line].free() == 0;
            self.lines[line].0[hole] = 0;
            if !was_full {
                return;
            }
            let Some((from, at)) = self.overflowed_past(line, &hash_of) else { return };
            self.lines[line].0[hole] = self.lines[from].0[at];
            (line, hole) = (from, at);
        }
    }

    /// An entry behind `line` whose home is `line` or before it.
    fn overflowed_past(&self, line: usize, hash_of: &impl Fn(u32) -> u64) -> Option<(usize, usize)> {
        let mask = self.lines.len() - 1;
        for distance in 1..self.lines.len() {
            let behind = (line + distance) & mask;
            let entries = &self.lines[behind];
            for (at, entry) in entries.0.iter().enumerate().filter(|(_, entry)| **entry != 0) {
                let home = self.probe(hash_of(self.row_of(*entry))).line;
                if (behind.wrapping_sub(home) & mask) >= distance {
                    return Some((behind, at));
                }
            }
            if entries.free() != 0 {
                return None;
            }
        }
        None
    }
}

/// The index cannot grow any more.
#[derive(Debug)]
pub(super) struct Full;

#[cfg(target_arch = "x86_64")]
impl Line {
    /// A bit for each entry with the tag.
    #[inline(always)]
    fn with_tag(&self, tag: u32, bits: u32) -> u32 {
        use core::arch::x86_64::*;
        // SAFETY: SSE2 is part of x86-64, and the line is 64 aligned bytes.
        unsafe {
            let shift = _mm_cvtsi32_si128(bits as i32);
            let wanted = _mm_set1_epi32(tag as i32);
            self.mask(|four| _mm_cmpeq_epi32(_mm_srl_epi32(four, shift), wanted))
        }
    }

    /// A bit for each free entry.
    #[inline(always)]
    fn free(&self) -> u32 {
        use core::arch::x86_64::*;
        // SAFETY: as in `with_tag`.
        unsafe { self.mask(|four| _mm_cmpeq_epi32(four, _mm_setzero_si128())) }
    }

    /// # Safety
    /// None but that `compare` is of SSE2.
    #[inline(always)]
    unsafe fn mask(&self, compare: impl Fn(core::arch::x86_64::__m128i) -> core::arch::x86_64::__m128i) -> u32 {
        use core::arch::x86_64::*;
        // SAFETY: the line is 64 aligned bytes.
        unsafe {
            let entries = self.0.as_ptr().cast::<__m128i>();
            let four = |number: usize| compare(_mm_load_si128(entries.add(number)));
            let lower = _mm_packs_epi32(four(0), four(1));
            let upper = _mm_packs_epi32(four(2), four(3));
            _mm_movemask_epi8(_mm_packs_epi16(lower, upper)) as u32
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Line {
    /// A bit for each entry with the tag.
    #[inline(always)]
    fn with_tag(&self, tag: u32, bits: u32) -> u32 {
        (0..LINE).fold(0, |mask, at| mask | ((self.0[at] >> bits == tag) as u32) << at)
    }

    /// A bit for each free entry.
    #[inline(always)]
    fn free(&self) -> u32 {
        (0..LINE).fold(0, |mask, at| mask | ((self.0[at] == 0) as u32) << at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Few distinct homes, so that lines run over; hashes with the same tag, too.
        #[test]
        fn equals_a_map(steps in prop::collection::vec((0u64..40, 0u64..3, any::<bool>()), 1..400)) {
            let mut index = Index::with_bits(7);
            let mut rows: HashMap<u64, u32> = HashMap::new();
            let mut hashes: Vec<u64> = vec![];
            for (home, tag, insert) in steps {
                let hash = (home % 5 + 4) << 61 | home << 50 | tag << 40;
                match rows.get(&hash).copied() {
                    None if insert && rows.len() < index.capacity() => {
                        let row = hashes.len() as u32 % 127;
                        if hashes.len() > row as usize {
                            break;
                        }
                        hashes.push(hash);
                        rows.insert(hash, row);
                        index.insert(hash, row);
                    }
                    Some(row) if !insert => {
                        index.remove(hash, row, |row| hashes[row as usize]);
                        rows.remove(&hash);
                    }
                    _ => {}
                }
                for (row, hash) in hashes.iter().enumerate() {
                    let found = index.find(*hash, |found| hashes[found as usize] == *hash && found as usize == row);
                    prop_assert_eq!(found, rows.get(hash).copied().filter(|live| *live as usize == row));
                }
            }
        }
    }
}
