//! The cut of a row state: copies of what changed, made while the operator waits.

use super::set::Groups;
use super::table::{LIVE, NULL_KEY, Table, row_hash};
use super::words::handle;
use super::{Removed, RowState, null_key_hash};
use crate::key_batch::{KeyForm, Modulus};
use crate::layout::Physical;
use std::sync::{Arc, Mutex, PoisonError};
use weir_model::{KeyGroup, KeyGroupRange};

/// Rows as they were at the cut, and the keys that were gone.
pub(crate) struct RowCut {
    pub(crate) physical: Physical,
    pub(super) groups: Groups,
    /// Whether a key group is here in full, by its place in the owned range.
    pub(crate) bases: Vec<bool>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) words: Vec<u64>,
    pub(super) removed: Vec<Arc<Removed>>,
    pool: BufferPool,
}

/// Copied rows of one table, in `words`.
pub(super) struct Chunk {
    pub(super) namespace: i64,
    pub(super) groups: KeyGroupRange,
    /// First word.
    pub(super) begin: usize,
    pub(super) rows: usize,
    /// What the handles in these rows refer to.
    pub(super) strings: Vec<u8>,
}

/// Which changes are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    Cut,
    Confirmed,
}

/// Buffers of cuts that were written, so that the next cut doesn't wait for fresh pages.
#[derive(Clone, Default)]
pub(crate) struct BufferPool(Arc<Mutex<Vec<Vec<u64>>>>);

/// Two cuts may be in the works at once.
const MAX_POOLED: usize = 2;

impl BufferPool {
    fn take(&self, words: usize) -> Vec<u64> {
        let mut buffers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = buffers.pop().unwrap_or_default();
        drop(buffers);
        // A buffer from a burst long ago isn't held on to for ever.
        if buffer.capacity() > words.max(1 << 16) * 8 {
            buffer = Vec::new();
        }
        buffer.clear();
        buffer.reserve_exact(words);
        buffer
    }

    fn put(&self, buffer: Vec<u64>) {
        let mut buffers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < MAX_POOLED && buffer.capacity() > 0 {
            buffers.push(buffer);
        }
    }
}

impl Drop for RowCut {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.words));
    }
}

/// From this share of changed rows on, all is written: it costs little more and makes older runs superfluous.
const FULL_FROM_PERCENT: usize = 80;

impl RowState {
    /// Cuts the state: what changed since the last confirmed cut, and all of the groups of `rolling` (by place
    /// in the owned range). `None` if nothing changed. Ends the current interval.
    ///
    /// `has_runs`: whether a confirmed checkpoint exists; without one, everything is written.
    pub(crate) fn cut(&mut self, rolling: &[usize], has_runs: bool, pool: &BufferPool) -> Option<RowCut> {
        let interval = self.changes.interval;
        self.changes.interval += 1;
        let removed = Arc::new(std::mem::take(&mut self.changes.removed));
        if !removed.is_empty() {
            self.changes.pending.push((interval, removed));
        }
        let (mut changed, mut live) = (0, 0);
        for table in self.sets.iter().flat_map(|set| &set.tables) {
            changed += table.count_changed();
            live += table.live as usize;
        }
        if changed == 0 && self.changes.pending.is_empty() && (has_runs || live == 0) {
            return None;
        }
        let full = !has_runs || changed * 100 >= live * FULL_FROM_PERCENT;
        let mut bases = vec![full; self.groups.owned.len()];
        rolling.iter().for_each(|group| bases[*group] = true);
        let any_base = bases.contains(&true);

        let stride = self.physical.stride;
        let expected = if full { live } else { changed };
        let mut cut = RowCut {
            physical: self.physical.clone(),
            groups: self.groups,
            bases,
            chunks: vec![],
            words: pool.take(expected * stride + (live * stride / bases_per_cut(self.groups.owned.len(), rolling))),
            removed: self.changes.pending.iter().map(|(_, removed)| removed.clone()).collect(),
            pool: pool.clone(),
        };
        for set in self.sets.iter_mut().filter(|set| set.in_use) {
            for number in 0..set.tables.len() {
                let groups = set.groups_of(&self.groups, number);
                let table = &mut set.tables[number];
                if any_base || table.dirty || !table.pending.is_empty() {
                    cut.copy(set.namespace, groups, table, Since::Confirmed);
                }
                table.end_interval(interval);
            }
        }
        Some(cut)
    }

    /// Cuts what changed since the last cut, confirmed or not. `None` if nothing did. Ends the current interval.
    pub(super) fn cut_changed(&mut self, pool: &BufferPool) -> Option<RowCut> {
        let interval = self.changes.interval;
        self.changes.interval += 1;
        let removed = std::mem::take(&mut self.changes.removed);
        let tables = self.sets.iter().flat_map(|set| &set.tables);
        let changed: usize = tables.filter(|table| table.dirty).map(|table| table.count(Since::Cut)).sum();
        if changed == 0 && removed.is_empty() {
            return None;
        }
        let mut cut = RowCut {
            physical: self.physical.clone(),
            groups: self.groups,
            bases: vec![false; self.groups.owned.len()],
            chunks: vec![],
            words: pool.take(changed * self.physical.stride),
            removed: vec![Arc::new(removed)],
            pool: pool.clone(),
        };
        for set in self.sets.iter_mut().filter(|set| set.in_use) {
            for number in 0..set.tables.len() {
                let groups = set.groups_of(&self.groups, number);
                let table = &mut set.tables[number];
                if table.dirty {
                    cut.copy(set.namespace, groups, table, Since::Cut);
                }
                table.end_interval(interval);
            }
        }
        Some(cut)
    }

    /// The cuts up to this interval's are part of a durable checkpoint, or in the cold store.
    pub(crate) fn confirm(&mut self, interval: u32) {
        self.changes.pending.retain(|(pending, _)| *pending > interval);
        for table in self.sets.iter_mut().flat_map(|set| &mut set.tables).filter(|table| !table.pending.is_empty()) {
            table.pending.retain(|(pending, _)| *pending > interval);
        }
    }

    /// Forgets all changes: the state is what a checkpoint holds.
    pub(crate) fn mark_restored(&mut self, interval: u32) {
        self.changes.interval = interval;
        self.changes.removed = Removed::default();
        self.changes.pending.clear();
        for table in self.sets.iter_mut().flat_map(|set| &mut set.tables) {
            table.changed.fill(0);
            table.dirty = false;
        }
    }
}

/// In how many cuts the rolling rebase comes around.
fn bases_per_cut(groups: usize, rolling: &[usize]) -> usize {
    if rolling.is_empty() { usize::MAX } else { (groups / rolling.len()).max(1) }
}

impl RowCut {
    fn copy(&mut self, namespace: i64, groups: KeyGroupRange, table: &Table, since: Since) {
        let begin = self.words.len();
        let first = self.groups.owned.first;
        let range = (groups.first - first) as usize..=(groups.last - first) as usize;
        let bases = &self.bases[range];
        let whole_table = bases.iter().all(|base| *base);
        let stride = self.physical.stride;
        if whole_table && !table.has_free_rows() {
            self.words.extend_from_slice(table.rows.slice(0, table.used as usize * stride));
        } else if whole_table {
            (0..table.used).for_each(|row| self.copy_run(table, row, 1));
        } else if bases.contains(&true) {
            let modulus = Modulus::new(self.groups.max_parallelism);
            for row in 0..table.used {
                let words = table.rows.slice(row as usize * stride, stride);
                let in_base = |words| self.bases[(group_of(&self.physical, &modulus, words).0 - first) as usize];
                if words[self.physical.header()] & LIVE != 0 && (table.has_changed(row) || in_base(words)) {
                    self.copy_run(table, row, 1);
                }
            }
        } else {
            for word in 0..table.changed.len() {
                let mut bits = table.changed_word(word, since);
                let mut at = 0;
                while bits != 0 {
                    let skip = bits.trailing_zeros();
                    let run = (bits >> skip).trailing_ones();
                    self.copy_run(table, word as u32 * 64 + at + skip, run);
                    at += skip + run;
                    bits = bits.checked_shr(skip + run).unwrap_or(0);
                }
            }
        }
        let rows = (self.words.len() - begin) / stride;
        if rows > 0 {
            let strings = self.copy_strings(begin, table);
            self.chunks.push(Chunk { namespace, groups, begin, rows, strings });
        }
    }

    /// Copies the live rows of these.
    #[inline]
    fn copy_run(&mut self, table: &Table, first: u32, rows: u32) {
        let stride = self.physical.stride;
        if !table.has_free_rows() {
            self.words.extend_from_slice(table.rows.slice(first as usize * stride, rows as usize * stride));
            return;
        }
        for row in first..first + rows {
            let words = table.rows.slice(row as usize * stride, stride);
            if words[self.physical.header()] & LIVE != 0 {
                self.words.extend_from_slice(words);
            }
        }
    }

    /// Copies what the copied rows' handles refer to, and points the handles there.
    fn copy_strings(&mut self, begin: usize, table: &Table) -> Vec<u8> {
        let key = (self.physical.form == KeyForm::Bytes).then_some(1);
        let columns: Vec<usize> = key.into_iter().chain(self.physical.var_words.iter().copied()).collect();
        let mut strings = vec![];
        if columns.is_empty() {
            return strings;
        }
        for row in self.words[begin..].chunks_exact_mut(self.physical.stride) {
            for column in &columns {
                let string = table.arena.get(row[*column]);
                if !string.is_empty() {
                    row[*column] = handle(strings.len(), string.len());
                    strings.extend_from_slice(string);
                    strings.resize(strings.len().next_multiple_of(8), 0);
                }
            }
        }
        strings
    }
}

/// The key group of a live row.
pub(super) fn group_of(physical: &Physical, modulus: &Modulus, words: &[u64]) -> KeyGroup {
    let null_key = words[physical.header()] & NULL_KEY != 0;
    KeyGroup(modulus.group(if null_key { null_key_hash() } else { row_hash(physical, words) }))
}

impl Table {
    /// Changed bits of 64 rows.
    #[inline]
    fn changed_word(&self, word: usize, since: Since) -> u64 {
        if since == Since::Cut {
            return self.changed[word];
        }
        self.pending.iter().fold(self.changed[word], |bits, (_, pending)| bits | pending.get(word).unwrap_or(&0))
    }

    /// Whether the row changed since the last confirmed cut.
    pub(super) fn has_changed(&self, row: u32) -> bool {
        self.changed_word(row as usize / 64, Since::Confirmed) >> (row % 64) & 1 != 0
    }

    fn count_changed(&self) -> usize {
        if !self.dirty && self.pending.is_empty() {
            return 0;
        }
        self.count(Since::Confirmed)
    }

    fn count(&self, since: Since) -> usize {
        (0..self.changed.len()).map(|word| self.changed_word(word, since).count_ones() as usize).sum()
    }

    fn end_interval(&mut self, interval: u32) {
        if self.dirty {
            let fresh = vec![0; self.changed.len()];
            self.pending.push((interval, std::mem::replace(&mut self.changed, fresh)));
            self.dirty = false;
        }
    }
}

impl Removed {
    fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.keys.namespaces.is_empty() && self.keys.nulls.is_empty()
    }
}
