//! The first rows of one partition, before and after a batch, and what that changes in the output.

use super::output::RankOutput;
use crate::keyed::Tally;
use crate::operator::OperatorError;
use std::ops::{ControlFlow, RangeInclusive};
use weir_model::{ChangeKind, KeyGroup};
use weir_state::{EncodedRows, OrderedState};

/// Entries of one partition in the order of their bytes, which is the order of their ranks.
#[derive(Default)]
pub(crate) struct Ranking {
    rows: EncodedRows,
    entries: Vec<Entry>,
}

/// A row with how many times it is there.
#[derive(Clone, Copy)]
struct Entry {
    /// Index in `rows`.
    row: u32,
    before: i64,
    after: i64,
}

/// Where a partition stands in the state. `scope` is how the namespaces of its entries begin.
#[derive(Clone, Copy)]
pub(crate) struct Partition<'a> {
    pub(crate) group: KeyGroup,
    pub(crate) key: &'a [u8],
    pub(crate) scope: &'a [u8],
}

impl Ranking {
    fn clear(&mut self) {
        self.rows.clear();
        self.entries.clear();
    }

    fn push(&mut self, row: &[u8], before: i64, after: i64) {
        self.entries.push(Entry { row: self.rows.len() as u32, before, after });
        self.rows.push(row);
    }

    /// Merges new rows (sorted, within the partition's scope) into the first `last_rank` rows of an append-only
    /// partition, and writes what changes: rows that no longer can come out leave the state.
    pub(crate) fn append(
        &mut self,
        partition: Partition<'_>,
        new: &[&[u8]],
        last_rank: u64,
        stored: &mut FirstRows,
        state: &mut OrderedState,
    ) -> Result<(), OperatorError> {
        self.clear();
        stored.read(partition, last_rank, state)?;
        let (mut old, mut next, mut ranked) = (0, 0, 0u64);
        while old < stored.len() || next < new.len() {
            let is_full = ranked >= last_rank;
            if is_full && old == stored.len() {
                break;
            }
            let old_first = old < stored.len() && (next == new.len() || stored.row(old) <= new[next]);
            let row = if old_first { stored.row(old) } else { new[next] };
            let before = if old_first { stored.counts[old] } else { 0 };
            old += old_first as usize;
            let equal = new[next..].iter().take_while(|other| **other == row).count();
            next += equal;
            let after = if is_full { 0 } else { before + equal as i64 };
            ranked += after as u64;
            if before == 0 && after == 0 {
                continue;
            }
            if after == 0 {
                state.delete(partition.group, partition.key, row)?;
            } else if after != before {
                let tally = Tally { count: after, matches: 0 };
                state.put(partition.group, partition.key, row, tally.encode(false, &mut [0; 17]))?;
            }
            self.push(row, before, after);
        }
        Ok(())
    }

    /// Merges what was read before and after a partition's changes were applied.
    pub(crate) fn compare(&mut self, before: &FirstRows, after: &FirstRows) {
        self.clear();
        let (mut old, mut new) = (0, 0);
        while old < before.len() || new < after.len() {
            let take_old = old < before.len() && (new == after.len() || before.row(old) <= after.row(new));
            let take_new = new < after.len() && (old == before.len() || after.row(new) <= before.row(old));
            let row = if take_old { before.row(old) } else { after.row(new) };
            let counts = (if take_old { before.counts[old] } else { 0 }, if take_new { after.counts[new] } else { 0 });
            self.push(row, counts.0, counts.1);
            old += take_old as usize;
            new += take_new as usize;
        }
    }

    /// Emits the changes of the rows ranked within `ranks`. `key_row`: the row of the batch that has the key.
    pub(crate) fn emit(&self, key_row: u32, ranks: &RangeInclusive<u64>, with_rank: bool, output: &mut RankOutput) {
        if with_rank {
            self.emit_by_rank(key_row, ranks, output);
        } else {
            self.emit_as_set(key_row, ranks, output);
        }
    }

    /// With its rank a row's place is what updates are about.
    fn emit_by_rank(&self, key_row: u32, ranks: &RangeInclusive<u64>, output: &mut RankOutput) {
        let mut before = ranked(self.entries.iter().map(|entry| (entry.row, entry.before)), ranks);
        let mut after = ranked(self.entries.iter().map(|entry| (entry.row, entry.after)), ranks);
        for rank in ranks.clone() {
            let row = |row: u32| self.rows.row(row as usize);
            match (before.next(), after.next()) {
                (None, None) => return,
                (Some(old), Some(new)) if old == new => {}
                (old, new) => {
                    let updates = old.is_some() && new.is_some();
                    if let Some(old) = old {
                        let kind = if updates { ChangeKind::UpdateBefore } else { ChangeKind::Delete };
                        output.push(key_row, row(old), rank, kind);
                    }
                    if let Some(new) = new {
                        let kind = if updates { ChangeKind::UpdateAfter } else { ChangeKind::Insert };
                        output.push(key_row, row(new), rank, kind);
                    }
                }
            }
        }
    }

    /// Without ranks, rows come and go. Only where the partition has one row in the output is the new one an
    /// update of the old: elsewhere they share no key.
    fn emit_as_set(&self, key_row: u32, ranks: &RangeInclusive<u64>, output: &mut RankOutput) {
        let (mut seen_before, mut seen_after) = (0, 0);
        let difference = |entry: &Entry| {
            let shown = shown(&mut seen_after, entry.after, ranks) - shown(&mut seen_before, entry.before, ranks);
            (entry.row, shown)
        };
        let differences: Vec<(u32, i64)> = self.entries.iter().map(difference).filter(|(_, by)| *by != 0).collect();
        let single = ranks.start() == ranks.end() && differences.len() == 2;
        let (gone_kind, new_kind) = match single {
            true => (ChangeKind::UpdateBefore, ChangeKind::UpdateAfter),
            false => (ChangeKind::Delete, ChangeKind::Insert),
        };
        for (row, by) in differences.iter().filter(|(_, by)| *by < 0) {
            (*by..0).for_each(|_| output.push(key_row, self.rows.row(*row as usize), 0, gone_kind));
        }
        for (row, by) in differences.iter().filter(|(_, by)| *by > 0) {
            (0..*by).for_each(|_| output.push(key_row, self.rows.row(*row as usize), 0, new_kind));
        }
    }
}

/// How many of the next `count` rows have a rank within `ranks`, `seen` rows being before them.
fn shown(seen: &mut u64, count: i64, ranks: &RangeInclusive<u64>) -> i64 {
    let (first, last) = (*seen + 1, *seen + count as u64);
    *seen = last;
    (last.min(*ranks.end()) as i64 - first.max(*ranks.start()) as i64 + 1).max(0)
}

/// The rows within `ranks`, each as many times as it is there.
fn ranked(entries: impl Iterator<Item = (u32, i64)>, ranks: &RangeInclusive<u64>) -> impl Iterator<Item = u32> {
    let mut seen = 0;
    let ranks = ranks.clone();
    entries.flat_map(move |(row, count)| std::iter::repeat_n(row, shown(&mut seen, count, &ranks) as usize))
}

/// The first rows of a partition as the state holds them.
#[derive(Default)]
pub(crate) struct FirstRows {
    rows: EncodedRows,
    counts: Vec<i64>,
    place: Vec<u8>,
    namespace: Vec<u8>,
}

impl FirstRows {
    /// Reads as many entries as it takes for `last_rank` rows.
    pub(crate) fn read(
        &mut self,
        partition: Partition<'_>,
        last_rank: u64,
        state: &mut OrderedState,
    ) -> Result<(), OperatorError> {
        let FirstRows { rows, counts, place, namespace } = self;
        rows.clear();
        counts.clear();
        place.clear();
        place.extend_from_slice(partition.key);
        place.extend_from_slice(partition.scope);
        namespace.clear();
        namespace.extend_from_slice(partition.scope);
        let (mut ranked, mut result) = (0, Ok(()));
        state.scan_prefix(partition.group, place, |rest, value| match Tally::decode(value) {
            _ if ranked >= last_rank => ControlFlow::Break(()),
            Ok(tally) => {
                namespace.truncate(partition.scope.len());
                namespace.extend_from_slice(rest);
                rows.push(namespace);
                counts.push(tally.count);
                ranked += tally.count as u64;
                ControlFlow::Continue(())
            }
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        })?;
        result
    }

    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    pub(crate) fn row(&self, nth: usize) -> &[u8] {
        self.rows.row(nth)
    }

    pub(crate) fn count(&self, nth: usize) -> i64 {
        self.counts[nth]
    }
}
