//! The distinct state rows that a batch touches.

use weir_model::element::BATCH_ROWS;
use weir_state::Slot;

/// Cells of the index: at most half of them are taken, of the part that a small piece uses a quarter.
const CELLS: usize = 2 * BATCH_ROWS;
/// Bits of a cell that hold the number of a touched row; the rest are the batch's stamp.
const NUMBER_BITS: u32 = BATCH_ROWS.ilog2();

/// Numbers the touched rows in the order in which the batch comes to them.
///
/// An index of its own rather than a mark in the state's rows: it stays in the cache, and is cleared by
/// counting the stamp up.
pub struct Touched {
    /// For each row of the batch the number of the state row it belongs to.
    pub of_row: Vec<u32>,
    /// For each touched state row its slot ..
    pub slots: Vec<Slot>,
    /// .. and the first batch row that belongs to it.
    pub first_rows: Vec<u32>,
    cells: Vec<u32>,
    stamp: u32,
}

impl Default for Touched {
    fn default() -> Self {
        Touched { of_row: vec![], slots: vec![], first_rows: vec![], cells: vec![0; CELLS], stamp: 0 }
    }
}

impl Touched {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Takes the slots of a batch's rows; `hashes` spread them (rows of one slot have one hash).
    ///
    /// # Panics
    /// If there are more than `BATCH_ROWS` of them.
    pub fn assign(&mut self, slots: &[Slot], hashes: impl Iterator<Item = u64>) {
        let rows = slots.len();
        assert!(rows <= BATCH_ROWS, "{rows} rows in one piece of a batch");
        // A small piece uses few cache lines, and still finds most cells free.
        let mask = (4 * rows).next_power_of_two().min(CELLS) - 1;
        self.of_row.resize(rows, 0);
        self.slots.resize(rows, Slot::NONE);
        self.first_rows.resize(rows, 0);
        let mut count = 0;
        self.stamp += 1;
        if self.stamp >> (32 - NUMBER_BITS) != 0 {
            self.cells.fill(0);
            self.stamp = 1;
        }
        for (row, ((slot, hash), of_row)) in slots.iter().zip(hashes).zip(&mut self.of_row).enumerate() {
            // The upper bits: the lower ones are alike in all keys of a key group.
            let mut cell = (hash >> 40) as usize & mask;
            *of_row = loop {
                let found = self.cells[cell];
                let number = found & (BATCH_ROWS as u32 - 1);
                if found >> NUMBER_BITS != self.stamp {
                    self.cells[cell] = self.stamp << NUMBER_BITS | count as u32;
                    self.slots[count] = *slot;
                    self.first_rows[count] = row as u32;
                    count += 1;
                    break count as u32 - 1;
                }
                if self.slots[number as usize] == *slot {
                    break number;
                }
                cell = (cell + 1) & mask;
            };
        }
        self.slots.truncate(count);
        self.first_rows.truncate(count);
    }
}
