//! The working set of an aggregate: the state rows that a batch touches, side by side in one buffer.
//!
//! State rows lie scattered over memory; a batch touches each of its keys once to bring the row here and once
//! to write it back, and every loop of every aggregate in between runs over this buffer, which fits the cache.

use super::argument::Argument;
use crate::operator::OperatorError;
use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use std::sync::Arc;
use weir_model::StateField;
use weir_state::{RowState, Slot};

/// How a field's value stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// An `i64`: integers, dates, times, booleans.
    Word,
    /// An `f64` by its bits.
    Float,
    /// An `i128`, low half first.
    Wide,
    /// Bytes beside the row.
    Bytes,
}

impl Cell {
    /// `None` for types that no aggregate keeps.
    pub fn of(data_type: &DataType) -> Option<Cell> {
        use DataType::*;
        Some(match data_type {
            Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => Cell::Word,
            Date32 | Time32(_) | Time64(_) | Timestamp(_, _) => Cell::Word,
            Float32 | Float64 => Cell::Float,
            Decimal128(_, _) => Cell::Wide,
            Utf8 | Binary => Cell::Bytes,
            _ => return None,
        })
    }
}

/// Where one field of the state row stands in a block's rows.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub field: usize,
    pub cell: Cell,
    /// First word of the value.
    at: usize,
    /// Number of the side column, for `Bytes`.
    side: usize,
    null_word: usize,
    null_bit: u64,
}

/// The words of a block's row: those of the state's `RowLayout`, so that a row comes and goes as one copy.
/// First the null bits (set: null), 32 in the first word and 64 in each further one, then the fields in order.
#[derive(Clone, Debug)]
pub struct BlockLayout {
    pub places: Vec<Place>,
    stride: usize,
    /// Null bits of all fields: a new row.
    all_null: Vec<u64>,
    /// Null bits of the counters, which a block holds as zero instead of null.
    counters: Vec<u64>,
}

impl BlockLayout {
    /// `is_counter[i]`: field `i` counts or sums up, and starts at zero.
    ///
    /// # Panics
    /// If a field's type has no cell: aggregates choose the types of their fields.
    pub fn of(fields: &[StateField], is_counter: &[bool]) -> Self {
        let null_words = 1 + fields.len().saturating_sub(32).div_ceil(64);
        let (mut all_null, mut counters) = (vec![0; null_words], vec![0; null_words]);
        let (mut stride, mut side) = (null_words, 0);
        let mut places = Vec::with_capacity(fields.len());
        for (field, state_field) in fields.iter().enumerate() {
            let cell = Cell::of(&state_field.data_type).expect("an aggregate's field has a type that a block can hold");
            let (null_word, bit) = if field < 32 { (0, field) } else { (1 + (field - 32) / 64, (field - 32) % 64) };
            all_null[null_word] |= 1 << bit;
            counters[null_word] |= (is_counter[field] as u64) << bit;
            places.push(Place { field, cell, at: stride, side, null_word, null_bit: 1 << bit });
            stride += if cell == Cell::Wide { 2 } else { 1 };
            side += (cell == Cell::Bytes) as usize;
        }
        BlockLayout { places, stride, all_null, counters }
    }

    fn bytes_places(&self) -> impl Iterator<Item = Place> + '_ {
        self.places.iter().copied().filter(|place| place.cell == Cell::Bytes)
    }
}

/// Rows of one layout. In a new row counters are zero and all other fields null.
#[derive(Clone, Debug)]
pub struct RowBlock {
    layout: Arc<BlockLayout>,
    stride: usize,
    rows: usize,
    words: Vec<u64>,
    side: Vec<Vec<Option<Box<[u8]>>>>,
}

impl RowBlock {
    pub fn new(layout: Arc<BlockLayout>) -> Self {
        let side = vec![vec![]; layout.bytes_places().count()];
        RowBlock { stride: layout.stride, layout, rows: 0, words: vec![], side }
    }

    /// Takes the state rows of `slots` in, instead of what it held.
    pub fn load(&mut self, state: &RowState, slots: &[Slot]) {
        self.rows = slots.len();
        self.words.resize(slots.len() * self.stride, 0);
        assert_eq!(state.layout().row_words(), self.stride, "the state's rows have another layout");
        state.read_words(slots, &mut self.words);
        for (null_word, counters) in self.layout.counters.iter().enumerate().filter(|(_, counters)| **counters != 0) {
            self.words.chunks_exact_mut(self.stride).for_each(|row| row[null_word] &= !counters);
        }
        for place in self.layout.bytes_places() {
            let field = state.layout().field(place.field);
            let values = slots.iter().map(|slot| state.get_var(*slot, field).map(Box::from));
            self.side[place.side].clear();
            self.side[place.side].extend(values);
        }
    }

    /// Puts each row back to its slot, but for those of `Slot::NONE`.
    ///
    /// # Errors
    /// If the state has no room for a string.
    pub fn store(&self, state: &mut RowState, slots: &[Slot]) -> Result<(), OperatorError> {
        state.write_words(slots, &self.words);
        self.layout.bytes_places().try_for_each(|place| self.store_bytes(state, slots, place))
    }

    /// The rows' words came back with the handles as they were loaded, and with null bits as set here; this makes
    /// the state's strings what the block says.
    fn store_bytes(&self, state: &mut RowState, slots: &[Slot], place: Place) -> Result<(), OperatorError> {
        let field = state.layout().field(place.field);
        for (slot, value) in slots.iter().zip(&self.side[place.side]).filter(|(slot, _)| !slot.is_none()) {
            let changed = match value {
                Some(value) => state.get_var(*slot, field) != Some(value),
                None => !field.is_null(state.row(*slot)) || field.get_u64(state.row(*slot)) != 0,
            };
            if changed {
                state.set_var(*slot, field, value.as_deref())?;
            }
        }
        Ok(())
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Forgets all rows and makes `rows` new ones.
    pub fn reset(&mut self, rows: usize) {
        self.words.clear();
        self.side.iter_mut().for_each(Vec::clear);
        self.rows = 0;
        self.grow(rows);
    }

    /// Makes `rows` new rows after those there are.
    pub fn grow(&mut self, rows: usize) {
        let first = self.rows * self.stride;
        self.rows += rows;
        self.words.resize(self.rows * self.stride, 0);
        for row in self.words[first..].chunks_exact_mut(self.stride) {
            let nulls = self.layout.all_null.iter().zip(&self.layout.counters);
            row.iter_mut().zip(nulls).for_each(|(word, (all, counters))| *word = all & !counters);
        }
        self.side.iter_mut().for_each(|column| column.resize(self.rows, None));
    }

    #[inline(always)]
    pub fn is_valid(&self, row: usize, place: Place) -> bool {
        self.words[row * self.stride + place.null_word] & place.null_bit == 0
    }

    #[inline(always)]
    pub fn set_valid(&mut self, row: usize, place: Place) {
        self.words[row * self.stride + place.null_word] &= !place.null_bit;
    }

    pub fn set_all_valid(&mut self, place: Place) {
        self.words.chunks_exact_mut(self.stride).for_each(|row| row[place.null_word] &= !place.null_bit);
    }

    /// Makes the field null, its number zero.
    pub fn clear(&mut self, row: usize, place: Place) {
        let base = row * self.stride;
        self.words[base + place.null_word] |= place.null_bit;
        match place.cell {
            Cell::Bytes => self.side[place.side][row] = None,
            Cell::Wide => self.words[base + place.at..][..2].fill(0),
            Cell::Word | Cell::Float => self.words[base + place.at] = 0,
        }
    }

    #[inline(always)]
    pub fn word(&self, row: usize, place: Place) -> i64 {
        self.words[row * self.stride + place.at] as i64
    }

    /// The first word of the field in every row.
    pub fn words(&self, place: Place) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.words.chunks_exact(self.stride).map(move |row| row[place.at])
    }

    #[inline(always)]
    pub fn set_word(&mut self, row: usize, place: Place, value: i64) {
        self.words[row * self.stride + place.at] = value as u64;
    }

    #[inline(always)]
    pub fn float(&self, row: usize, place: Place) -> f64 {
        f64::from_bits(self.words[row * self.stride + place.at])
    }

    #[inline(always)]
    pub fn set_float(&mut self, row: usize, place: Place, value: f64) {
        self.words[row * self.stride + place.at] = value.to_bits();
    }

    #[inline(always)]
    pub fn wide(&self, row: usize, place: Place) -> i128 {
        let at = row * self.stride + place.at;
        (self.words[at] as u128 | (self.words[at + 1] as u128) << 64) as i128
    }

    #[inline(always)]
    pub fn set_wide(&mut self, row: usize, place: Place, value: i128) {
        let at = row * self.stride + place.at;
        self.words[at] = value as u64;
        self.words[at + 1] = (value as u128 >> 64) as u64;
    }

    pub fn bytes(&self, row: usize, place: Place) -> Option<&[u8]> {
        self.side[place.side][row].as_deref()
    }

    pub fn set_bytes(&mut self, row: usize, place: Place, value: &[u8]) {
        self.side[place.side][row] = Some(value.into());
        self.set_valid(row, place);
    }

    /// Which rows have the field; `None` when all do.
    pub fn validity(&self, place: Place) -> Option<NullBuffer> {
        let nulls = self.words.chunks_exact(self.stride).map(|row| row[place.null_word]);
        if nulls.fold(0, |any, word| any | word) & place.null_bit == 0 {
            return None;
        }
        let valid = |row: usize| self.is_valid(row, place);
        Some(NullBuffer::new(arrow::buffer::BooleanBuffer::collect_bool(self.rows, valid)))
    }

    /// Sets a field of the rows from `first` on from a column of the field's type.
    pub fn set_column(&mut self, first: usize, place: Place, column: &ArrayRef) -> Result<(), OperatorError> {
        let values = Argument::of_state(column)?;
        for at in (0..column.len()).filter(|at| column.is_valid(*at)) {
            let row = first + at;
            match &values {
                Argument::Words(values) => self.set_word(row, place, values.value(at)),
                Argument::Floats(values) => self.set_float(row, place, values.value(at)),
                Argument::Wides(values) => self.set_wide(row, place, values.value(at)),
                text => self.set_bytes(row, place, text.bytes(at)),
            }
            self.set_valid(row, place);
        }
        Ok(())
    }

    /// Copies the field of a row of another block with the same layout.
    pub fn copy_field(&mut self, row: usize, place: Place, from: &RowBlock, from_row: usize) {
        if !from.is_valid(from_row, place) {
            return self.clear(row, place);
        }
        self.set_valid(row, place);
        match place.cell {
            Cell::Bytes => self.side[place.side][row] = from.side[place.side][from_row].clone(),
            Cell::Wide => self.set_wide(row, place, from.wide(from_row, place)),
            Cell::Word | Cell::Float => self.set_word(row, place, from.word(from_row, place)),
        }
    }
}
