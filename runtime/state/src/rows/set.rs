use super::table::{LIVE, NULL_KEY, Table, row_hash};
use crate::key_batch::Modulus;
use crate::layout::{Physical, Slot};
use weir_model::KeyGroupRange;

/// The rows of one namespace. Few rows share one table; many have one table a key group (at most 256 tables,
/// then neighbouring groups share), so that growth never moves much at once.
pub(super) struct Set {
    pub(super) namespace: i64,
    /// Interval in which the set was made: dropping it in the same one leaves no trace.
    pub(super) born: u32,
    pub(super) tables: Vec<Table>,
    /// Table of a group: `(group - first) >> shift`.
    pub(super) shift: u32,
    /// Table and row of the null key.
    pub(super) null_row: Option<(u8, u32)>,
    pub(super) in_use: bool,
}

/// How many rows one table holds before it's split by key group.
const SPLIT_ROWS: u32 = 4096;
/// Shifts every group number to 0.
const UNSPLIT: u32 = 15;

/// What maps a key group to a table; the same for all sets of a state.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub(super) owned: KeyGroupRange,
    pub(super) max_parallelism: u32,
}

impl Groups {
    fn split_shift(&self) -> u32 {
        let groups = self.owned.len();
        (0..UNSPLIT).find(|shift| groups.div_ceil(1 << shift) <= Slot::MAX_TABLES).unwrap_or(UNSPLIT)
    }
}

impl Set {
    pub(super) fn new(namespace: i64, born: u32) -> Self {
        Set { namespace, born, tables: vec![Table::new()], shift: UNSPLIT, null_row: None, in_use: true }
    }

    pub(super) fn live(&self) -> usize {
        self.tables.iter().map(|table| table.live as usize).sum()
    }

    /// Bytes that looking up its rows goes through, about.
    pub(super) fn row_bytes(&self) -> usize {
        self.tables.iter().map(|table| table.rows.len() * 8 + table.index.bytes()).sum()
    }

    #[inline]
    pub(super) fn table_of(&self, groups: &Groups, group: u16) -> usize {
        ((group - groups.owned.first) >> self.shift) as usize
    }

    /// The key groups in a table.
    pub(super) fn groups_of(&self, groups: &Groups, table: usize) -> KeyGroupRange {
        let first = groups.owned.first as usize + (table << self.shift);
        let last = (first + (1 << self.shift) - 1).min(groups.owned.last as usize);
        KeyGroupRange { first: first as u16, last: last as u16 }
    }

    pub(super) fn is_unsplit(&self) -> bool {
        self.shift == UNSPLIT
    }

    pub(super) fn wants_split(&self, groups: &Groups) -> bool {
        self.shift == UNSPLIT && self.tables[0].live > SPLIT_ROWS && groups.owned.len() > 1
    }

    /// Spreads the one table's rows over a table a group. Row numbers change.
    pub(super) fn split(&mut self, physical: &Physical, groups: &Groups) {
        let old = self.tables.pop().expect("an unsplit set has one table");
        self.shift = groups.split_shift();
        let tables = (groups.owned.len()).div_ceil(1 << self.shift);
        self.tables = (0..tables).map(|_| Table::new()).collect();
        self.tables.iter_mut().for_each(|table| table.complete = old.complete);
        let modulus = Modulus::new(groups.max_parallelism);
        let null_hash = super::null_key_hash();
        for row in 0..old.used {
            let words = old.row(physical, row);
            let header = words[physical.header()];
            if header & LIVE == 0 {
                continue;
            }
            let null_key = header & NULL_KEY != 0;
            let hash = if null_key { null_hash } else { row_hash(physical, words) };
            let table = self.table_of(groups, modulus.group(hash));
            let moved = self.tables[table].adopt(physical, &old, row, (!null_key).then_some(hash));
            if null_key {
                self.null_row = Some((table as u8, moved));
            }
        }
    }
}
