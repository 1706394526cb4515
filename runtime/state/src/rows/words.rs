//! The memory behind a table: words at cache-line boundaries, and byte strings.

/// One cache line. Rows of 32 or 64 bytes that begin at such a boundary never straddle two lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

const LINE_WORDS: usize = 8;
/// From here on, capacity grows by half instead of doubling.
const DOUBLE_UP_TO_LINES: usize = 1 << 14;

/// A growing array of zeroed words that begins at a cache line.
#[derive(Clone, Default)]
pub(crate) struct Words {
    lines: Vec<Line>,
}

impl Words {
    #[inline]
    pub(crate) fn as_ptr(&self) -> *const u64 {
        self.lines.as_ptr().cast()
    }

    #[inline]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u64 {
        self.lines.as_mut_ptr().cast()
    }

    /// Words there are; a multiple of the line.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.lines.len() * LINE_WORDS
    }

    /// Makes at least `words` words addressable, the new ones zero.
    pub(crate) fn grow_to(&mut self, words: usize) {
        let lines = words.div_ceil(LINE_WORDS);
        if lines <= self.lines.len() {
            return;
        }
        if lines > self.lines.capacity() {
            let step = if lines < DOUBLE_UP_TO_LINES { lines } else { lines / 2 };
            self.lines.reserve_exact(lines + step - self.lines.len());
        }
        self.lines.resize(lines, Line([0; LINE_WORDS]));
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    #[inline]
    pub(crate) fn slice(&self, at: usize, words: usize) -> &[u64] {
        assert!(at + words <= self.len());
        // SAFETY: in bounds by the assertion, and all lines up to `len` are initialised.
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(at), words) }
    }

    #[inline]
    pub(crate) fn slice_mut(&mut self, at: usize, words: usize) -> &mut [u64] {
        assert!(at + words <= self.len());
        // SAFETY: as in `slice`.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().add(at), words) }
    }
}

/// Byte strings of one table, each behind a handle of one word: `[offset / 8: u32][length: u32]`.
#[derive(Clone, Default)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
    /// Bytes that no handle refers to any more.
    garbage: usize,
}

/// Longest string or byte string of one key or field: a block of a segment must hold it.
pub(crate) const MAX_STRING_BYTES: u32 = 1 << 30;
/// Below this much garbage, compaction isn't worth the walk over the rows.
const MIN_GARBAGE_BYTES: usize = 1 << 14;

impl Arena {
    #[inline]
    pub(crate) fn get(&self, handle: u64) -> &[u8] {
        let (at, length) = (handle_offset(handle), handle_length(handle));
        &self.bytes[at..at + length]
    }

    /// `None`: the arena is full (32 GiB) or the string longer than 1 GiB.
    pub(crate) fn store(&mut self, value: &[u8]) -> Option<u64> {
        if value.is_empty() {
            return Some(0);
        }
        let at = u32::try_from(self.bytes.len() / 8).ok()?;
        let length = u32::try_from(value.len()).ok().filter(|length| *length <= MAX_STRING_BYTES)?;
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        Some(handle(at as usize * 8, length as usize))
    }

    /// Overwrites what `old` refers to if the new value fits there, else stores it anew.
    pub(crate) fn replace(&mut self, old: u64, value: &[u8]) -> Option<u64> {
        let room = handle_length(old).next_multiple_of(8);
        if value.len() > room || value.is_empty() {
            self.free(old);
            return self.store(value);
        }
        let at = handle_offset(old);
        self.bytes[at..at + value.len()].copy_from_slice(value);
        self.garbage += room - value.len().next_multiple_of(8);
        Some(handle(at, value.len()))
    }

    #[inline]
    pub(crate) fn free(&mut self, handle: u64) {
        self.garbage += handle_length(handle).next_multiple_of(8);
    }

    #[inline]
    pub(crate) fn wants_compaction(&self) -> bool {
        self.garbage > MIN_GARBAGE_BYTES && self.garbage * 2 > self.bytes.len()
    }

    pub(crate) fn live_bytes(&self) -> usize {
        self.bytes.len() - self.garbage
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

#[inline]
pub(crate) fn handle(offset: usize, length: usize) -> u64 {
    ((offset / 8) as u64) << 32 | length as u64
}

#[inline]
pub(crate) fn handle_offset(handle: u64) -> usize {
    (handle >> 32) as usize * 8
}

#[inline]
pub(crate) fn handle_length(handle: u64) -> usize {
    handle as u32 as usize
}

/// Asks the processor to have the cache line of `pointer` near soon.
#[inline(always)]
pub(crate) fn prefetch<T>(pointer: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and may be given any address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(pointer.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}
