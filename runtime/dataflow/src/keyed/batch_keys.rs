//! The distinct keys of a batch.

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use hashbrown::HashTable;
use weir_state::{KeyBatch, Slot};

/// In place of a key's number: the row's key has a null and equals no other.
pub(crate) const NO_KEY: u32 = u32::MAX;

/// Numbers the distinct keys of a batch in the order in which they first appear.
#[derive(Default)]
pub(crate) struct BatchKeys {
    /// The key's number for each row, or `NO_KEY`.
    pub(crate) of_row: Vec<u32>,
    /// The first row of each key.
    pub(crate) first_row: Vec<u32>,
    numbers: HashTable<u32>,
}

impl BatchKeys {
    /// `nulls` marks the rows whose key equals none.
    pub(crate) fn assign(&mut self, keys: &KeyBatch, nulls: Option<&NullBuffer>) {
        let is_null = |row: usize| nulls.is_some_and(|nulls| nulls.is_null(row));
        self.number(keys.hashes(), is_null, |row, other| keys.key(row) == keys.key(other));
    }

    /// For keys that are known by the slots of their rows in a state.
    pub(crate) fn assign_slots(&mut self, hashes: &[u64], slots: &[Slot]) {
        self.number(hashes, |_| false, |row, other| slots[row] == slots[other]);
    }

    fn number(&mut self, hashes: &[u64], is_null: impl Fn(usize) -> bool, same: impl Fn(usize, usize) -> bool) {
        let BatchKeys { of_row, first_row, numbers } = self;
        of_row.clear();
        first_row.clear();
        numbers.clear();
        for (row, hash) in hashes.iter().enumerate() {
            if is_null(row) {
                of_row.push(NO_KEY);
                continue;
            }
            let first = |number: &u32| first_row[*number as usize] as usize;
            let number = match numbers.find(*hash, |number| same(first(number), row)) {
                Some(number) => *number,
                None => {
                    let number = first_row.len() as u32;
                    numbers.insert_unique(*hash, number, |number| hashes[first(number)]);
                    first_row.push(row as u32);
                    number
                }
            };
            of_row.push(number);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.first_row.len()
    }
}

/// Rows in which any of the columns is null.
pub(crate) fn any_null(columns: &[ArrayRef]) -> Option<NullBuffer> {
    let union = |nulls: Option<NullBuffer>, column: &ArrayRef| {
        NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref())
    };
    columns.iter().fold(None, union).filter(|nulls| nulls.null_count() > 0)
}
