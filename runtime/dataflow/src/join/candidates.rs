//! Rows of the other side under the keys of a batch, as read from its state.

use crate::keyed::{BatchKeys, NO_KEY, RowShape, Tally, take_rows};
use crate::operator::OperatorError;
use arrow::array::ArrayRef;
use std::ops::{ControlFlow, Range};
use weir_state::{EncodedRows, KeyBatch, OrderedState};

const NOT_READ: Range<u32> = u32::MAX..u32::MAX;

#[derive(Default)]
pub(crate) struct Candidates {
    rows: EncodedRows,
    tallies: Vec<Tally>,
    changed: Vec<bool>,
    /// The number, within the batch, of each candidate's key.
    keys: Vec<u32>,
    /// The candidates of each of the batch's keys.
    ranges: Vec<Range<u32>>,
    place: Vec<u8>,
}

/// Which entries under a key are wanted, by the first bytes of their namespace: `from <= namespace < to`.
#[derive(Clone, Copy)]
pub(crate) struct Bounds<'a> {
    pub(crate) from: &'a [u8],
    /// `None`: to the end.
    pub(crate) to: Option<&'a [u8]>,
}

impl Bounds<'_> {
    pub(crate) const ALL: Bounds<'static> = Bounds { from: &[], to: None };
}

impl Candidates {
    /// Forgets all, for a batch of this many keys.
    pub(crate) fn clear(&mut self, keys: usize) {
        self.rows.clear();
        self.tallies.clear();
        self.changed.clear();
        self.keys.clear();
        self.ranges.clear();
        self.ranges.resize(keys, NOT_READ);
    }

    pub(crate) fn len(&self) -> usize {
        self.tallies.len()
    }

    pub(crate) fn has_read(&self, key: u32) -> bool {
        key == NO_KEY || self.ranges[key as usize] != NOT_READ
    }

    /// Reads what the state holds for key number `key` of the batch.
    pub(crate) fn read(
        &mut self,
        key: u32,
        batch_keys: &BatchKeys,
        keys: &KeyBatch,
        bounds: Bounds<'_>,
        state: &mut OrderedState,
    ) -> Result<(), OperatorError> {
        let row = batch_keys.first_row[key as usize] as usize;
        let start = self.len() as u32;
        let key_bytes = keys.key(row);
        self.place.clear();
        self.place.extend_from_slice(key_bytes);
        self.place.extend_from_slice(bounds.from);
        let mut result = Ok(());
        state.scan_range(keys.key_group(row), &self.place, None, |place, value| {
            let namespace = match place.strip_prefix(key_bytes) {
                Some(namespace) if bounds.to.is_none_or(|to| namespace < to) => namespace,
                _ => return ControlFlow::Break(()),
            };
            match Tally::decode(value) {
                Ok(tally) => self.tallies.push(tally),
                Err(error) => {
                    result = Err(error);
                    return ControlFlow::Break(());
                }
            }
            self.rows.push(namespace);
            self.changed.push(false);
            self.keys.push(key);
            ControlFlow::Continue(())
        })?;
        self.ranges[key as usize] = start..self.len() as u32;
        result
    }

    /// The candidates of key number `key`, none for `NO_KEY`.
    pub(crate) fn of_key(&self, key: u32) -> Range<u32> {
        if key == NO_KEY { 0..0 } else { self.ranges[key as usize].clone() }
    }

    /// The candidates as columns of their input; `keys` are the key columns of the batch.
    pub(crate) fn columns(
        &self,
        shape: &RowShape,
        batch_keys: &BatchKeys,
        keys: &[ArrayRef],
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let key_rows = self.keys.iter().map(|key| batch_keys.first_row[*key as usize]).collect();
        shape.decode(&take_rows(keys, key_rows)?, &self.rows)
    }

    pub(crate) fn tally(&self, candidate: u32) -> Tally {
        self.tallies[candidate as usize]
    }

    pub(crate) fn set_matches(&mut self, candidate: u32, matches: i64) {
        self.tallies[candidate as usize].matches = matches;
        self.changed[candidate as usize] = true;
    }

    /// Writes the changed numbers of matches to the state that the candidates come from.
    pub(crate) fn write_back(
        &self,
        batch_keys: &BatchKeys,
        keys: &KeyBatch,
        state: &mut OrderedState,
    ) -> Result<(), OperatorError> {
        for candidate in (0..self.len()).filter(|candidate| self.changed[*candidate]) {
            let row = batch_keys.first_row[self.keys[candidate] as usize] as usize;
            let mut buffer = [0; 17];
            let value = self.tallies[candidate].encode(true, &mut buffer);
            state.put(keys.key_group(row), keys.key(row), self.rows.row(candidate), value)?;
        }
        Ok(())
    }
}
