//! Rows of a former subtask into the state of one that owns their key groups now.

use super::RowState;
use super::table::{LIVE, NULL_KEY, Table, row_hash};
use crate::StateError;
use crate::key_batch::Modulus;
use weir_model::{KeyGroup, KeyGroupRange};

impl RowState {
    /// Takes over the rows of the key groups that both own, of which this one has none. Both have the same schema; the
    /// other has no changes that aren't confirmed, and is written to no more.
    pub(crate) fn take_over(&mut self, other: &mut RowState) -> Result<(), StateError> {
        debug_assert_eq!(self.physical.stride, other.physical.stride);
        let Some(part) = self.groups.owned.intersect(&other.groups.owned) else { return Ok(()) };
        let namespaces: Vec<(i64, usize)> = other.by_namespace.iter().map(|(name, set)| (*name, *set)).collect();
        for (namespace, theirs) in namespaces {
            if other.sets[theirs].shift == 0 {
                self.take_tables(namespace, other, theirs, part)?;
            } else {
                self.take_rows(namespace, other, theirs, part)?;
            }
        }
        Ok(())
    }

    /// Where each key group has a table, the tables change hands as they are.
    fn take_tables(
        &mut self,
        namespace: i64,
        other: &mut RowState,
        theirs: usize,
        part: KeyGroupRange,
    ) -> Result<(), StateError> {
        let table_of = |group: KeyGroup| (group.0 - other.groups.owned.first) as usize;
        if part.iter().all(|group| other.sets[theirs].tables[table_of(group)].live == 0) {
            return Ok(());
        }
        let ours = self.set_of(namespace)?;
        let set = &mut self.sets[ours];
        set.born = 0;
        if set.is_unsplit() {
            set.split(&self.physical, &self.groups);
        }
        if set.shift != 0 {
            return self.take_rows(namespace, other, theirs, part);
        }
        for group in part.iter() {
            let (from, into) = (table_of(group), set.table_of(&self.groups, group.0));
            let theirs = &mut other.sets[theirs];
            let mut table = std::mem::replace(&mut theirs.tables[from], Table::new());
            table.pending.clear();
            debug_assert_eq!(set.tables[into].used, 0, "a key group is taken over once");
            set.tables[into] = table;
            if let Some((_, row)) = theirs.null_row.filter(|(of, _)| *of as usize == from) {
                theirs.null_row = None;
                set.null_row = Some((into as u8, row));
            }
        }
        Ok(())
    }

    fn take_rows(
        &mut self,
        namespace: i64,
        other: &mut RowState,
        theirs: usize,
        part: KeyGroupRange,
    ) -> Result<(), StateError> {
        let modulus = Modulus::new(self.groups.max_parallelism);
        let other_groups = other.groups;
        let theirs = &mut other.sets[theirs];
        let mut ours = None;
        for number in 0..theirs.tables.len() {
            if theirs.groups_of(&other_groups, number).intersect(&part).is_none() {
                continue;
            }
            let table = &mut theirs.tables[number];
            table.pending.clear();
            for row in 0..table.used {
                let words = table.row(&self.physical, row);
                let header = words[self.physical.header()];
                if header & LIVE == 0 {
                    continue;
                }
                let null_key = header & NULL_KEY != 0;
                let hash = if null_key { super::null_key_hash() } else { row_hash(&self.physical, words) };
                let group = modulus.group(hash);
                if !part.contains(KeyGroup(group)) {
                    continue;
                }
                let at = match ours {
                    Some(at) => at,
                    None => self.set_of(namespace)?,
                };
                ours = Some(at);
                let set = &mut self.sets[at];
                set.born = 0;
                let into = set.table_of(&self.groups, group);
                let moved = set.tables[into].adopt(&self.physical, table, row, (!null_key).then_some(hash));
                if null_key {
                    set.null_row = Some((into as u8, moved));
                }
            }
        }
        if let Some(set) = ours.map(|at| &mut self.sets[at])
            && set.wants_split(&self.groups)
        {
            set.split(&self.physical, &self.groups);
        }
        Ok(())
    }
}
