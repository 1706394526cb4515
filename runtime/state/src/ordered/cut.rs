//! The cut of an ordered state, its blocks, and blocks back into entries.
//!
//! A block: `puts u32, removes u32`, the places and values of the puts, the places of the removes.

use super::leaf::Leaf;
use super::log::Log;
use super::{OrderedState, STAMP_BYTES};
use crate::StateError;
use crate::rows::read::BlockError;
use crate::segment::block::BlockWriter;
use crate::segment::column::{ByteColumn, Malformed, Reader, write_bytes};
use std::sync::Arc;
use weir_model::{KeyGroup, KeyGroupRange};

/// What changed, as it happened, and the leaves of the key groups that are written in full. Nothing is copied:
/// leaves are shared until they're written to.
pub(crate) struct OrderedCut {
    owned: KeyGroupRange,
    pub(crate) bases: Vec<bool>,
    leaves: Vec<Vec<Arc<Leaf>>>,
    logs: Vec<Arc<Log>>,
}

const FULL_FROM_PERCENT: usize = 80;
const BLOCK_ENTRIES: usize = 1 << 15;
const BLOCK_BYTES: usize = 1 << 22;

impl OrderedState {
    /// As `RowState::cut`.
    pub(crate) fn cut(&mut self, rolling: &[usize], has_runs: bool, interval: u32) -> Option<OrderedCut> {
        if !self.log.is_empty() {
            self.pending.push((interval, Arc::new(std::mem::take(&mut self.log))));
        }
        if self.pending.is_empty() && (has_runs || self.is_empty()) {
            return None;
        }
        let operations: usize = self.pending.iter().map(|(_, log)| log.len()).sum();
        let overflown = self.pending.iter().any(|(_, log)| log.overflown);
        let full = !has_runs || overflown || operations * 100 >= self.len() * FULL_FROM_PERCENT;
        let mut bases = vec![full; self.owned.len()];
        rolling.iter().for_each(|group| bases[*group] = true);
        let leaves =
            self.trees.iter().zip(&bases).map(|(tree, base)| if *base { tree.snapshot() } else { vec![] }).collect();
        let logs = self.pending.iter().map(|(_, log)| log.clone()).collect();
        Some(OrderedCut { owned: self.owned, bases, leaves, logs })
    }

    pub(crate) fn confirm(&mut self, interval: u32) {
        self.pending.retain(|(pending, _)| *pending > interval);
    }

    /// Forgets all changes: the state is what a checkpoint holds.
    pub(crate) fn mark_restored(&mut self) {
        self.log = Log::default();
        self.pending.clear();
        self.least = None;
    }

    /// Applies a block of a key group. Blocks of a base come in ascending order.
    pub(crate) fn apply_block(&mut self, group: KeyGroup, bytes: &[u8]) -> Result<(), BlockError> {
        let mut reader = Reader(bytes);
        let (puts, removes) = (reader.u32()? as usize, reader.u32()? as usize);
        if puts + removes > 2 * BLOCK_ENTRIES {
            return Err(Malformed("more entries than a block may have").into());
        }
        let places = ByteColumn::read(&mut reader, puts)?;
        let values = ByteColumn::read(&mut reader, puts)?;
        let removed = ByteColumn::read(&mut reader, removes)?;
        reader.finish()?;
        let tree_number = self.tree_of(group)?;
        let tree = &mut self.trees[tree_number];
        removed.iter().for_each(|place| {
            tree.delete(place);
        });
        for (place, value) in places.iter().zip(values.iter()) {
            if self.ttl_ms.is_some() && value.len() < STAMP_BYTES {
                return Err(Malformed("a value without the time of its write").into());
            }
            self.bytes += place.len() + value.len();
            match tree.last().is_none_or(|last| last < place) {
                true => tree.push(place, value),
                false => {
                    tree.put(place, value);
                }
            }
        }
        Ok(())
    }

    /// Takes over the entries of another state of key groups that this one owns and has no entries of.
    pub(crate) fn absorb(&mut self, other: OrderedState) {
        let shift = (other.owned.first - self.owned.first) as usize;
        self.bytes += other.bytes;
        for (at, tree) in other.trees.into_iter().enumerate() {
            self.trees[at + shift] = tree;
        }
        self.least = None;
    }
}

impl OrderedState {
    /// As `RowState::take_over`.
    pub(crate) fn take_over(&mut self, other: &mut OrderedState) {
        let Some(part) = self.owned.intersect(&other.owned) else { return };
        let all = other.len().max(1);
        for group in part.iter() {
            let tree = std::mem::take(&mut other.trees[(group.0 - other.owned.first) as usize]);
            // About, as `bytes` is.
            self.bytes += other.bytes / all * tree.len();
            self.trees[(group.0 - self.owned.first) as usize] = tree;
        }
        self.least = None;
    }
}

/// What became of one place.
struct Change<'a> {
    place: &'a [u8],
    /// Whether the first operation found an entry there.
    existed: bool,
    value: Option<&'a [u8]>,
}

impl OrderedCut {
    pub(crate) fn write(&self, writer: &mut BlockWriter<'_>) -> Result<(), StateError> {
        let mut changes = self.changes_by_group();
        for (at, group) in self.owned.iter().enumerate() {
            if self.bases[at] {
                writer.begin_group(group, true);
                let leaves = &self.leaves[at];
                let entries = leaves.iter().flat_map(|leaf| (0..leaf.len()).map(|e| (leaf.key(e), leaf.value(e))));
                write_blocks(entries.collect(), &[], writer)?;
                continue;
            }
            let changes = final_changes(std::mem::take(&mut changes[at]));
            if changes.is_empty() {
                continue;
            }
            writer.begin_group(group, false);
            let puts = changes.iter().filter_map(|change| Some((change.place, change.value?))).collect();
            let removes = changes.iter().filter(|change| change.value.is_none()).map(|change| change.place);
            write_blocks(puts, &removes.collect::<Vec<_>>(), writer)?;
        }
        Ok(())
    }

    fn changes_by_group(&self) -> Vec<Vec<Change<'_>>> {
        let mut changes: Vec<Vec<Change<'_>>> = (0..self.owned.len()).map(|_| vec![]).collect();
        for operation in self.logs.iter().flat_map(|log| log.iter()) {
            let at = (operation.group.0 - self.owned.first) as usize;
            if !self.bases[at] {
                let (place, existed, value) = (operation.key, operation.existed, operation.value);
                changes[at].push(Change { place, existed, value });
            }
        }
        changes
    }
}

/// One change a place, in order: whether it was there before the first, and what the last left. What came and
/// went in between leaves no trace.
fn final_changes(mut changes: Vec<Change<'_>>) -> Vec<Change<'_>> {
    changes.sort_by(|a, b| a.place.cmp(b.place));
    let mut finals: Vec<Change<'_>> = Vec::with_capacity(changes.len());
    for change in changes {
        match finals.last_mut() {
            Some(last) if last.place == change.place => last.value = change.value,
            _ => finals.push(change),
        }
    }
    finals.retain(|change| change.existed || change.value.is_some());
    finals
}

fn write_blocks(puts: Vec<(&[u8], &[u8])>, removes: &[&[u8]], writer: &mut BlockWriter<'_>) -> Result<(), StateError> {
    for removes in removes.chunks(BLOCK_ENTRIES) {
        writer.block(|out| write_block(&[], removes, out))?;
    }
    let mut rest = &puts[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let mut fits = |(place, value): &(&[u8], &[u8])| {
            bytes += place.len() + value.len();
            bytes <= BLOCK_BYTES
        };
        let count = rest.iter().take(BLOCK_ENTRIES).take_while(|entry| fits(entry)).count().max(1);
        let (block, after) = rest.split_at(count);
        writer.block(|out| write_block(block, &[], out))?;
        rest = after;
    }
    Ok(())
}

fn write_block(puts: &[(&[u8], &[u8])], removes: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(&(puts.len() as u32).to_le_bytes());
    out.extend_from_slice(&(removes.len() as u32).to_le_bytes());
    write_bytes(puts.iter().map(|(place, _)| *place), out);
    write_bytes(puts.iter().map(|(_, value)| *value), out);
    write_bytes(removes.iter().copied(), out);
}
