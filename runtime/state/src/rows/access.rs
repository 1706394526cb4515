//! Single rows and loops over slots.

use super::table::{LIVE, NULL_KEY, Table};
use super::{RowState, Set};
use crate::StateError;
use crate::key_batch::KeyForm;
use crate::layout::{FieldKind, FieldLayout, Physical, Slot};

/// Of a row's header: its marks. The upper half is the first null bits.
const LOWER_HALF: u64 = u32::MAX as u64;

impl RowState {
    /// The row's bytes, laid out as `RowState::layout` says.
    ///
    /// # Panics
    /// If the slot is `Slot::NONE` or no longer good.
    #[inline]
    pub fn row(&self, slot: Slot) -> &[u8] {
        let row = self.table(slot).row(&self.physical, slot.row());
        &bytes_of(row)[self.physical.lent_at..][..self.physical.lent_bytes]
    }

    /// As `row`, and marks the row as changed.
    #[inline]
    pub fn row_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.touch(slot);
        let table = &mut self.sets[slot.set()].tables[slot.table()];
        table.mark(slot.row());
        let row = table.row_mut(&self.physical, slot.row());
        &mut bytes_of_mut(row)[self.physical.lent_at..][..self.physical.lent_bytes]
    }

    /// Calls `update(position, row)` for each slot but `Slot::NONE`, and marks those rows as changed. The
    /// fastest way to apply a batch: no table is looked up twice in a row.
    ///
    /// # Panics
    /// If a slot is no longer good.
    #[inline]
    pub fn for_each_mut(&mut self, slots: &[Slot], mut update: impl FnMut(usize, &mut [u8])) {
        let Physical { stride, lent_at, lent_bytes, last_write, .. } = self.physical;
        let now_ms = self.now_ms;
        for (position, slot) in slots.iter().enumerate() {
            if slot.is_none() {
                continue;
            }
            let table: &mut Table = &mut self.sets[slot.set()].tables[slot.table()];
            let words = table.marked_row_ptr(stride, slot.row());
            // SAFETY: the row has `stride` words, of which `lent_at .. + lent_bytes` are lent; the table is
            // borrowed mutably for as long as the slice lives.
            let bytes = unsafe {
                if let Some(word) = last_write {
                    *words.add(word) = now_ms;
                }
                std::slice::from_raw_parts_mut(words.cast::<u8>().add(lent_at), lent_bytes)
            };
            update(position, bytes);
        }
    }

    /// Calls `read(position, row)` for each slot but `Slot::NONE`.
    #[inline]
    pub fn for_each(&self, slots: &[Slot], mut read: impl FnMut(usize, &[u8])) {
        for (position, slot) in slots.iter().enumerate().filter(|(_, slot)| !slot.is_none()) {
            read(position, self.row(*slot));
        }
    }

    /// Copies the rows, one behind the other, as words: first the null bits (32 of them, then 64 in each further
    /// word), then the fields as `RowLayout` has them. The fastest way to take the rows of a batch.
    ///
    /// # Panics
    /// If a slot is `Slot::NONE` or no longer good, or if `into` isn't as long as all rows.
    pub fn read_words(&self, slots: &[Slot], into: &mut [u64]) {
        match self.layout().row_words() {
            2 => self.read_rows::<2>(slots, into),
            3 => self.read_rows::<3>(slots, into),
            4 => self.read_rows::<4>(slots, into),
            words => {
                assert_eq!(into.len(), slots.len() * words, "room for each row");
                for (into, slot) in into.chunks_exact_mut(words).zip(slots) {
                    let row = &self.table(*slot).row(&self.physical, slot.row())[self.physical.header()..][..words];
                    into.copy_from_slice(row);
                    into[0] >>= 32;
                }
            }
        }
    }

    /// A loop for one length of rows: the copy is a few instructions.
    fn read_rows<const WORDS: usize>(&self, slots: &[Slot], into: &mut [u64]) {
        let (header, stride) = (self.physical.header(), self.physical.stride);
        let (into, rest) = into.as_chunks_mut::<WORDS>();
        assert!(rest.is_empty() && into.len() == slots.len(), "room for each row");
        for (into, slot) in into.iter_mut().zip(slots) {
            let table = self.table(*slot);
            assert!(slot.row() < table.used, "a slot of a row that isn't there");
            // SAFETY: the row has `stride` words, and those of `WORDS` from the header on are among them.
            *into = unsafe { table.row_ptr(stride, slot.row()).add(header).cast::<[u64; WORDS]>().read() };
            into[0] >>= 32;
        }
    }

    /// Writes rows back that `read_words` has copied, but for those of `Slot::NONE`, and marks them as changed.
    ///
    /// # Panics
    /// If a slot is no longer good, or if `from` isn't as long as all rows.
    pub fn write_words(&mut self, slots: &[Slot], from: &[u64]) {
        match self.layout().row_words() {
            2 => self.write_rows::<2>(slots, from),
            3 => self.write_rows::<3>(slots, from),
            4 => self.write_rows::<4>(slots, from),
            words => {
                assert_eq!(from.len(), slots.len() * words, "words of each row");
                for (from, slot) in from.chunks_exact(words).zip(slots).filter(|(_, slot)| !slot.is_none()) {
                    self.touch(*slot);
                    let header = self.physical.header();
                    let table = &mut self.sets[slot.set()].tables[slot.table()];
                    table.mark(slot.row());
                    let row = &mut table.row_mut(&self.physical, slot.row())[header..][..words];
                    row[0] = row[0] & LOWER_HALF | from[0] << 32;
                    row[1..].copy_from_slice(&from[1..]);
                }
            }
        }
    }

    fn write_rows<const WORDS: usize>(&mut self, slots: &[Slot], from: &[u64]) {
        let Physical { stride, last_write, .. } = self.physical;
        let (header, now_ms) = (self.physical.header(), self.now_ms);
        let (from, rest) = from.as_chunks::<WORDS>();
        assert!(rest.is_empty() && from.len() == slots.len(), "words of each row");
        for (from, slot) in from.iter().zip(slots) {
            if slot.is_none() {
                continue;
            }
            let row = self.sets[slot.set()].tables[slot.table()].marked_row_ptr(stride, slot.row());
            // SAFETY: the row has `stride` words; those of `WORDS` from the header on and the last write are among
            // them.
            unsafe {
                if let Some(word) = last_write {
                    *row.add(word) = now_ms;
                }
                let row = &mut *row.add(header).cast::<[u64; WORDS]>();
                let kept = row[0] & LOWER_HALF;
                *row = *from;
                row[0] = kept | from[0] << 32;
            }
        }
    }

    /// The value of a string or binary field; `None` if it is null.
    ///
    /// # Panics
    /// If the field is of another kind.
    pub fn get_var(&self, slot: Slot, field: FieldLayout) -> Option<&[u8]> {
        assert_eq!(field.kind, FieldKind::Var, "a fixed-width field is in the row itself");
        let table = self.table(slot);
        let row = &bytes_of(table.row(&self.physical, slot.row()))[self.physical.lent_at..];
        (!field.is_null(row)).then(|| table.arena.get(field.get_u64(row)))
    }

    /// Sets a string or binary field and marks the row as changed.
    ///
    /// # Errors
    /// If the string is longer than 1 GiB, or the key group's strings pass 32 GiB.
    ///
    /// # Panics
    /// If the field is of another kind.
    pub fn set_var(&mut self, slot: Slot, field: FieldLayout, value: Option<&[u8]>) -> Result<(), StateError> {
        assert_eq!(field.kind, FieldKind::Var, "a fixed-width field is in the row itself");
        self.touch(slot);
        let physical = &self.physical;
        let table = &mut self.sets[slot.set()].tables[slot.table()];
        table.mark(slot.row());
        let old = field.get_u64(&bytes_of(table.row(physical, slot.row()))[physical.lent_at..]);
        let new = match value {
            Some(value) => table.arena.replace(old, value),
            None => {
                table.arena.free(old);
                Some(0)
            }
        };
        let row = &mut bytes_of_mut(table.row_mut(physical, slot.row()))[physical.lent_at..];
        // Without a place for the new value the field becomes null: the old handle is free.
        field.put_u64(row, new.unwrap_or(0));
        if value.is_some() && new.is_some() {
            field.set_valid(row)
        } else {
            field.set_null(row)
        }
        table.compact_arena(physical);
        match new {
            Some(_) => Ok(()),
            None => Err(self.too_large("a string of 1 GiB, or 32 GiB of strings in one key group")),
        }
    }

    /// Removes a row. Slots of other rows stay good; a namespace without rows goes away with its last one.
    ///
    /// # Panics
    /// If the slot is `Slot::NONE` or no longer good.
    pub fn remove(&mut self, slot: Slot) {
        if self.is_cache() {
            return self.bury(slot);
        }
        let physical = &self.physical;
        let set: &mut Set = &mut self.sets[slot.set()];
        let table = &mut set.tables[slot.table()];
        let words = table.row(physical, slot.row());
        let header = words[physical.header()];
        assert!(header & LIVE != 0, "a row was removed twice");
        let removed = &mut self.changes.removed.keys;
        if !super::born_in(header & super::table::BORN, self.changes.interval) {
            match physical.form {
                _ if header & NULL_KEY != 0 => removed.nulls.push(set.namespace),
                KeyForm::Word => removed.words.push(words[0]),
                KeyForm::Bytes => {
                    removed.hashes.push(words[0]);
                    removed.bytes.push(table.arena.get(words[1]));
                }
            }
            if header & NULL_KEY == 0 {
                removed.namespaces.push(set.namespace);
            }
        }
        if header & NULL_KEY != 0 {
            set.null_row = None;
        }
        table.remove(physical, slot.row());
        if table.live == 0 && set.live() == 0 {
            let namespace = set.namespace;
            self.by_namespace.remove(&namespace);
            self.release(slot.set());
        }
    }

    fn is_cache(&self) -> bool {
        self.cold.is_some()
    }

    #[inline]
    pub(super) fn table(&self, slot: Slot) -> &Table {
        &self.sets[slot.set()].tables[slot.table()]
    }
}

#[inline]
pub(super) fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: words are initialised and have no padding, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8) }
}

#[inline]
pub(super) fn bytes_of_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`, and any bytes are valid words.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 8) }
}
