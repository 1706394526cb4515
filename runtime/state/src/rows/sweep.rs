//! Removes expired rows, a few at a time.

use super::RowState;
use super::table::{DEAD, LIVE};
use crate::layout::Slot;

/// Where the sweep goes on.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    pub(super) set: usize,
    pub(super) table: usize,
    pub(super) row: u32,
}

impl RowState {
    /// Sets the clock, and looks at up to `max_rows` rows for expired ones.
    pub(crate) fn sweep(&mut self, now_ms: u64, max_rows: usize) {
        self.now_ms = self.now_ms.max(now_ms);
        let Some(word) = self.physical.last_write else { return };
        let mut steps = 0;
        while steps < max_rows && !self.by_namespace.is_empty() {
            let Cursor { set, table, row } = self.sweep_at;
            let next = match self.sets.get(set) {
                None => {
                    self.sweep_at = Cursor::default();
                    return;
                }
                Some(of) if !of.in_use || table >= of.tables.len() => Cursor { set: set + 1, table: 0, row: 0 },
                Some(of) if row >= of.tables[table].used => Cursor { set, table: table + 1, row: 0 },
                Some(_) => Cursor { set, table, row: row + 1 },
            };
            steps += 1;
            if next.row > 0 {
                self.sweep_row(Slot::new(set, table, row), word);
            }
            self.sweep_at = next;
        }
    }

    fn sweep_row(&mut self, slot: Slot, last_write: usize) {
        let row = self.table(slot).row(&self.physical, slot.row());
        if row[self.physical.header()] & (LIVE | DEAD) != LIVE {
            return;
        }
        if row[last_write] == 0 {
            self.touch(slot);
        } else if self.is_expired(slot) {
            self.remove(slot);
        }
    }
}
