//! Blocks back into rows, and the rows of parts of the key groups into one state.

use super::RowState;
use super::set::Set;
use super::table::{LIVE, NULL_KEY, Table};
use crate::StateError;
use crate::codec::{EncodedRows, KeyCodec};
use crate::key_batch::{KeyBatch, KeyForm, Keys, Modulus, hash_words};
use crate::layout::Slot;
use crate::segment::column::{ByteColumn, Malformed, Reader, read_words};
use arrow::array::ArrayRef;
use arrow::buffer::NullBuffer;
use weir_model::hash::hash_rows;
use weir_model::{KeyGroup, StateSchema};

/// Blocks have at most this many rows; more is a broken count.
const MAX_BLOCK_ROWS: u32 = 1 << 16;

/// From so many rows of one namespace in one key group on, it pays to have a table for each group at once.
const APPENDED_UNSPLIT: usize = 512;
/// Rows of a restored block that are written together.
const WRITTEN_ROWS: usize = 256;

/// What stops a block from being applied.
pub(crate) enum BlockError {
    Malformed(Malformed),
    State(StateError),
}

impl From<Malformed> for BlockError {
    fn from(malformed: Malformed) -> Self {
        BlockError::Malformed(malformed)
    }
}

impl From<StateError> for BlockError {
    fn from(error: StateError) -> Self {
        BlockError::State(error)
    }
}

/// A column of a block's puts.
enum Column {
    Words(Vec<u64>),
    Strings(ByteColumn),
}

impl RowState {
    /// Applies a block of a key group: its removes, then its puts. Of a full copy of the group (`is_base`), no key
    /// is here yet.
    pub(crate) fn apply_block(&mut self, group: KeyGroup, bytes: &[u8], is_base: bool) -> Result<(), BlockError> {
        let mut reader = Reader(bytes);
        let (puts, removes) = (reader.u32()?, reader.u32()?);
        if puts.saturating_add(removes) > MAX_BLOCK_ROWS {
            return Err(Malformed("more rows than a block may have").into());
        }
        let (puts, rows) = (puts as usize, puts as usize + removes as usize);
        let namespaces = read_namespaces(&mut reader, puts, rows)?;
        let keys = self.read_keys(group, &mut reader, rows)?;
        let mut columns = vec![Column::Words(vec![])];
        for word in self.physical.header()..self.physical.stride {
            let is_string = self.physical.var_words.contains(&word);
            let mut words = vec![];
            let column = match is_string {
                true => Column::Strings(ByteColumn::read(&mut reader, puts)?),
                false => {
                    read_words(&mut reader, puts, &mut words)?;
                    Column::Words(words)
                }
            };
            match word == self.physical.header() {
                true => columns[0] = column,
                false => columns.push(column),
            }
        }
        reader.finish()?;
        if is_base && removes == 0 {
            return Ok(self.append_puts(&namespaces, &keys, &columns)?);
        }
        self.apply_removes(&namespaces, &keys, puts)?;
        self.apply_puts(&namespaces, &keys, puts, &columns)?;
        Ok(())
    }

    fn read_keys(&self, group: KeyGroup, reader: &mut Reader<'_>, rows: usize) -> Result<KeyBatch, BlockError> {
        let nulls = reader.count(4)?;
        let mut valid = vec![true; if nulls > 0 { rows } else { 0 }];
        for _ in 0..nulls {
            *valid.get_mut(reader.u32()? as usize).ok_or(Malformed("a null key behind the last row"))? = false;
        }
        let mut keys = KeyBatch::new();
        match self.form() {
            KeyForm::Word => {
                let mut words = vec![];
                read_words(reader, rows, &mut words)?;
                hash_words(&words, &Modulus::new(self.groups.max_parallelism), &mut keys.hashes, &mut keys.groups);
                for (hash, _) in keys.hashes.iter_mut().zip(&valid).filter(|(_, valid)| !**valid) {
                    *hash = super::null_key_hash();
                }
                keys.keys = Keys::Words { words, nulls: (nulls > 0).then(|| NullBuffer::from(valid)) };
            }
            KeyForm::Bytes => {
                let column = ByteColumn::read(reader, rows)?;
                let columns = KeyCodec::new(&self.schema.key)?.decode(column.iter())?;
                hash_rows(&columns, rows, &mut keys.hashes).map_err(StateError::from)?;
                let mut encoded = EncodedRows::default();
                encoded.clear();
                column.iter().for_each(|key| encoded.push(key));
                keys.keys = Keys::Bytes(encoded);
            }
        }
        let modulus = Modulus::new(self.groups.max_parallelism);
        if keys.hashes.iter().any(|hash| modulus.group(*hash) != group.0) {
            return Err(Malformed("a key of another key group").into());
        }
        keys.groups.clear();
        keys.groups.resize(rows, group.0);
        Ok(keys)
    }

    fn apply_removes(&mut self, namespaces: &[(i64, usize)], keys: &KeyBatch, puts: usize) -> Result<(), StateError> {
        let (mut part, mut slots) = (KeyBatch::new(), vec![]);
        for (namespace, rows) in ranges(namespaces).filter(|(_, rows)| rows.start >= puts) {
            keys.take(&rows.map(|row| row as u32).collect::<Vec<_>>(), &mut part);
            self.find(namespace, &part, &mut slots)?;
            // The same key may be in the list twice, removed in two intervals.
            slots.sort_unstable();
            slots.dedup();
            slots.iter().filter(|slot| !slot.is_none()).for_each(|slot| self.remove(*slot));
        }
        Ok(())
    }

    fn apply_puts(
        &mut self,
        namespaces: &[(i64, usize)],
        keys: &KeyBatch,
        puts: usize,
        columns: &[Column],
    ) -> Result<(), StateError> {
        let (mut part, mut slots, mut new) = (KeyBatch::new(), vec![], vec![]);
        for (namespace, rows) in ranges(namespaces).filter(|(_, rows)| rows.end <= puts) {
            let batch = if rows == (0..keys.len()) {
                keys
            } else {
                keys.take(&rows.clone().map(|row| row as u32).collect::<Vec<_>>(), &mut part);
                &part
            };
            self.upsert(namespace, batch, &mut slots, &mut new)?;
            self.write_columns(&slots, rows.start, columns)?;
        }
        Ok(())
    }

    /// Adds rows whose keys aren't here, without looking for them.
    fn append_puts(
        &mut self,
        namespaces: &[(i64, usize)],
        keys: &KeyBatch,
        columns: &[Column],
    ) -> Result<(), StateError> {
        let nulls = match &keys.keys {
            Keys::Words { nulls, .. } => nulls.as_ref(),
            Keys::Bytes(_) => None,
        };
        let mut slots = vec![];
        for (namespace, rows) in ranges(namespaces).filter(|(_, rows)| !rows.is_empty()) {
            let number = self.set_of(namespace)?;
            let set = &mut self.sets[number];
            if set.is_unsplit() && set.tables[0].live as usize + rows.len() > APPENDED_UNSPLIT {
                set.split(&self.physical, &self.groups);
            }
            let table_number = set.table_of(&self.groups, keys.groups[rows.start]);
            let table = &mut set.tables[table_number];
            slots.clear();
            if table.append(&self.physical, keys, rows.clone(), nulls).is_none() {
                return Err(self.too_large("rows or bytes of one key group"));
            }
            let first = table.used - rows.len() as u32;
            slots.extend((first..table.used).map(|row| Slot::new(number, table_number, row)));
            if let Some(at) = nulls.and_then(|nulls| rows.clone().find(|row| nulls.is_null(*row))) {
                set.null_row = Some((table_number as u8, first + (at - rows.start) as u32));
            }
            self.write_columns(&slots, rows.start, columns)?;
        }
        Ok(())
    }

    /// Sets everything behind the key of these rows from the block's rows `first ..`.
    fn write_columns(&mut self, slots: &[Slot], first: usize, columns: &[Column]) -> Result<(), StateError> {
        let (header, stride) = (self.physical.header(), self.physical.stride);
        let mut full = false;
        // A few rows at a time, so that they stay near while each column is written.
        for (chunk, slots) in slots.chunks(WRITTEN_ROWS).enumerate() {
            let first = first + chunk * WRITTEN_ROWS;
            for (word, column) in (header..).zip(columns) {
                match column {
                    Column::Words(words) => {
                        let low = if word == header { u32::MAX as u64 } else { 0 };
                        let shift = if word == header { 32 } else { 0 };
                        for (slot, value) in slots.iter().zip(&words[first..]) {
                            let table = &mut self.sets[slot.set()].tables[slot.table()];
                            let into = &mut table.rows.slice_mut(slot.row() as usize * stride + word, 1)[0];
                            *into = *into & low | value << shift;
                        }
                    }
                    Column::Strings(strings) => {
                        for (at, slot) in slots.iter().enumerate() {
                            let table = &mut self.sets[slot.set()].tables[slot.table()];
                            let old = table.row(&self.physical, slot.row())[word];
                            let new = table.arena.replace(old, strings.get(first + at));
                            full |= new.is_none();
                            table.row_mut(&self.physical, slot.row())[word] = new.unwrap_or(0);
                            table.compact_arena(&self.physical);
                        }
                    }
                }
            }
        }
        if full { Err(self.too_large("32 GiB of strings in one key group")) } else { Ok(()) }
    }

    /// Takes over the rows of another state of the same layout and of key groups that this one owns and has no
    /// rows of.
    pub(crate) fn absorb(&mut self, other: RowState) -> Result<(), StateError> {
        debug_assert_eq!(self.physical.stride, other.physical.stride);
        let shift = other.groups.owned.first - self.groups.owned.first;
        let RowState { by_namespace, mut sets, .. } = other;
        for (namespace, number) in by_namespace {
            let theirs = &mut sets[number];
            let ours = self.set_of(namespace)?;
            if !theirs.is_unsplit() && self.sets[ours].is_unsplit() {
                self.sets[ours].split(&self.physical, &self.groups);
            }
            self.sets[ours].born = 0;
            for (table_number, table) in std::mem::take(&mut theirs.tables).into_iter().enumerate() {
                self.absorb_table(ours, theirs, table_number, table, shift as usize);
            }
            if self.sets[ours].wants_split(&self.groups) {
                self.sets[ours].split(&self.physical, &self.groups);
            }
        }
        Ok(())
    }

    fn absorb_table(&mut self, ours: usize, theirs: &Set, number: usize, table: Table, shift: usize) {
        let set = &mut self.sets[ours];
        if theirs.shift == 0 && set.shift == 0 && set.tables[number + shift].used == 0 {
            set.tables[number + shift] = table;
            if let Some((of, row)) = theirs.null_row.filter(|(of, _)| *of as usize == number) {
                set.null_row = Some(((of as usize + shift) as u8, row));
            }
            return;
        }
        let modulus = Modulus::new(self.groups.max_parallelism);
        for row in 0..table.used {
            let words = table.row(&self.physical, row);
            let header = words[self.physical.header()];
            if header & LIVE == 0 {
                continue;
            }
            let null_key = header & NULL_KEY != 0;
            let hash = if null_key { super::null_key_hash() } else { super::table::row_hash(&self.physical, words) };
            let into = set.table_of(&self.groups, modulus.group(hash));
            let moved = set.tables[into].adopt(&self.physical, &table, row, (!null_key).then_some(hash));
            if null_key {
                set.null_row = Some((into as u8, moved));
            }
        }
    }

    /// Visits all rows as `(namespace, key columns, value columns, rows)`, at most `max_rows` at a time.
    pub(crate) fn for_each_batch<E: From<StateError>>(
        &mut self,
        max_rows: usize,
        mut visit: impl FnMut(i64, &[ArrayRef], Vec<ArrayRef>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        for namespace in self.namespaces().collect::<Vec<_>>() {
            self.scan(namespace, max_rows, |state, keys, slots| {
                let values = state.columns(slots)?;
                visit(namespace, keys, values, slots.len())
            })?;
        }
        Ok(())
    }

    /// Upserts whole rows: keys and all value fields.
    pub(crate) fn put_columns(
        &mut self,
        namespaces: &[i64],
        keys: &KeyBatch,
        values: &[ArrayRef],
    ) -> Result<(), StateError> {
        let (mut slots, mut new) = (vec![], vec![]);
        self.upsert_each(namespaces, keys, &mut slots, &mut new)?;
        values.iter().enumerate().try_for_each(|(field, column)| self.set_column(&slots, field, column))
    }

    /// The restored state under the schema and TTL it is registered with; the layout is the same.
    pub(crate) fn registered(mut self, schema: StateSchema, ttl_ms: Option<u64>) -> Self {
        self.schema = schema;
        self.ttl_ms = ttl_ms;
        self
    }

    pub(crate) fn max_parallelism(&self) -> u32 {
        self.groups.max_parallelism
    }
}

fn read_namespaces(reader: &mut Reader<'_>, puts: usize, rows: usize) -> Result<Vec<(i64, usize)>, Malformed> {
    let mut total = 0;
    let mut namespaces = vec![];
    for _ in 0..reader.count(12)? {
        let (namespace, count) = (reader.i64()?, reader.u32()? as usize);
        if total < puts && total + count > puts {
            return Err(Malformed("a namespace that runs from puts into removes"));
        }
        total += count;
        namespaces.push((namespace, count));
    }
    if total != rows {
        return Err(Malformed("namespaces that don't add up to the rows"));
    }
    Ok(namespaces)
}

/// The runs of one namespace, as ranges of rows.
fn ranges(namespaces: &[(i64, usize)]) -> impl Iterator<Item = (i64, std::ops::Range<usize>)> + '_ {
    namespaces.iter().scan(0, |at, (namespace, rows)| {
        let range = *at..*at + rows;
        *at = range.end;
        Some((*namespace, range))
    })
}
