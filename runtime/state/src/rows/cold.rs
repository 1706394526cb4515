//! A row state as a bounded cache of its rows in a cold store.
//!
//! Rows that changed since they went into the store are dirty and stay. A table knows whether it holds all rows
//! that there are of its key groups (`complete`); only if it doesn't are absent keys looked up in the store. A
//! removed row stays as a mark until the store knows.

use super::cut::{BufferPool, Chunk, RowCut, group_of};
use super::lookup::{OneNamespace, PEEK, Placement, View};
use super::stored::namespaces_of;
use super::sweep::Cursor;
use super::table::{DEAD, LIVE, NULL_KEY, REFERENCED, Table};
use super::words::{handle_length, handle_offset};
use super::{Removed, RowState};
use crate::cold::{
    ColdBatch, ColdShared, ColdStore, ROW_PREFIX_BYTES, behind_prefix, cold_prefix, row_prefix, write_all,
    write_if_large,
};
use crate::key_batch::{KeyBatch, KeyForm, Keys, Modulus};
use crate::layout::{Physical, Slot};
use crate::{EncodedRows, KeyCodec, StateError};
use arrow::array::ArrayRef;
use arrow::buffer::NullBuffer;
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::hash::{hash_rows, hash_u64};
use weir_model::{KeyGroup, KeyGroupRange};

/// Rows read from a store at once.
const LOAD_ROWS: usize = 8192;

pub(super) struct RowCold {
    shared: Arc<ColdShared>,
    state: u16,
}

impl RowState {
    /// Puts the state in front of a store that may hold rows of it.
    pub(crate) fn attach_cold(&mut self, shared: Arc<ColdShared>, state: u16) -> Result<(), StateError> {
        for namespace in stored_namespaces(&shared, state, self.groups.owned)? {
            let set = self.set_of(namespace)?;
            self.sets[set].born = 0;
            self.sets[set].tables.iter_mut().for_each(|table| table.complete = false);
        }
        self.cold = Some(RowCold { shared, state });
        Ok(())
    }

    /// Puts the state in front of a store that holds nothing of it: all rows are changes that the store doesn't have.
    pub(crate) fn spill(&mut self, shared: Arc<ColdShared>, state: u16) {
        self.cold = Some(RowCold { shared, state });
        // The store knows none of what was removed.
        self.changes.removed = Removed::default();
        self.changes.pending.clear();
        self.sets.iter_mut().flat_map(|set| &mut set.tables).for_each(Table::mark_all);
    }

    /// Brings the rows of absent keys here, where the store may have them.
    pub(super) fn load_absent(&mut self, placement: &impl Placement, keys: &KeyBatch) -> Result<(), StateError> {
        let Some(cold) = &self.cold else { return Ok(()) };
        let (store, state) = (cold.shared.store.clone(), cold.state);
        let view = placement.view(&self.sets, self.groups.owned.first);
        let may_be_stored = |at: usize| !view.table(at, keys.groups[at]).complete;
        if !(0..keys.len()).any(may_be_stored) {
            return Ok(());
        }
        let mut may_be_stored: Vec<bool> = (0..keys.len()).map(may_be_stored).collect();
        drop(view);
        let mut slots = vec![];
        self.access::<PEEK>(placement, keys, &mut slots, &mut vec![])?;
        let absent = slots.iter().zip(&mut may_be_stored).enumerate();
        let absent: Vec<usize> = absent.filter(|(_, (slot, may))| slot.is_none() && **may).map(|(at, _)| at).collect();
        let (wanted, positions) = self.cold_keys(state, placement, keys, absent);
        store.get_many(&wanted, &mut |found, image| self.insert_image(placement, keys, positions[found], image))
    }

    /// The store's keys, ascending and each once, and a position in the batch for each.
    fn cold_keys(
        &self,
        state: u16,
        placement: &impl Placement,
        keys: &KeyBatch,
        absent: Vec<usize>,
    ) -> (EncodedRows, Vec<usize>) {
        let view = placement.view(&self.sets, self.groups.owned.first);
        let mut unsorted = EncodedRows::default();
        let mut key = Vec::new();
        for at in &absent {
            let namespace = self.sets[view.slot(*at, keys.groups[*at], 0).set()].namespace;
            key.clear();
            key.extend_from_slice(&row_prefix(state, keys.key_group(*at), namespace));
            match &keys.keys {
                Keys::Words { words, nulls } if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*at)) => {
                    key.extend_from_slice(&words[*at].to_be_bytes());
                }
                Keys::Words { .. } => {}
                Keys::Bytes(rows) => key.extend_from_slice(rows.row(*at)),
            }
            unsorted.push(&key);
        }
        let mut order: Vec<usize> = (0..absent.len()).collect();
        order.sort_unstable_by(|a, b| unsorted.row(*a).cmp(unsorted.row(*b)));
        order.dedup_by(|a, b| unsorted.row(*a) == unsorted.row(*b));
        let mut sorted = EncodedRows::default();
        order.iter().for_each(|at| sorted.push(unsorted.row(*at)));
        (sorted, order.into_iter().map(|at| absent[at]).collect())
    }

    /// Adds the row of a key that isn't here, as the store has it.
    fn insert_image(
        &mut self,
        placement: &impl Placement,
        keys: &KeyBatch,
        at: usize,
        image: &[u8],
    ) -> Result<(), StateError> {
        let view = placement.view(&self.sets, self.groups.owned.first);
        let place = view.slot(at, keys.groups[at], 0);
        drop(view);
        let is_null = matches!(&keys.keys, Keys::Words { nulls: Some(nulls), .. } if nulls.is_null(at));
        let set = &mut self.sets[place.set()];
        let table = &mut set.tables[place.table()];
        let row = if is_null {
            let row = table.allocate(&self.physical, 0);
            table.row_mut(&self.physical, row)[self.physical.header()] |= NULL_KEY;
            set.null_row = Some((place.table() as u8, row));
            Some(row)
        } else {
            super::lookup::insert_key(table, &self.physical, keys, at)
        };
        let Some(row) = row else { return Err(self.too_large("rows or bytes of one key group")) };
        table.unmark(row);
        if !table.read_image(&self.physical, row, image) {
            let what = format!("a row of state `{}` in the cold store", self.schema.name);
            return Err(StateError::decode(what, "its length isn't that of its schema"));
        }
        Ok(())
    }

    /// After a lookup: notes that the rows were used, revives removed ones (`INSERT`) or hides them.
    pub(super) fn settle<const INSERT: bool>(&mut self, slots: &mut [Slot], new: &mut Vec<u32>) {
        if self.cold.is_none() {
            return;
        }
        let header = self.physical.header();
        let known = new.len();
        for (at, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| !slot.is_none()) {
            let row = self.sets[slot.set()].tables[slot.table()].row_mut(&self.physical, slot.row());
            row[header] |= REFERENCED;
            if row[header] & DEAD == 0 {
                continue;
            }
            if INSERT {
                row[header] &= !DEAD;
                self.reset(*slot);
                new.push(at as u32);
            } else {
                *slot = Slot::NONE;
            }
        }
        if new.len() > known {
            // An expired row that was removed is new for two reasons.
            new.sort_unstable();
            new.dedup();
        }
    }

    /// Leaves a mark where the row was, until the store knows that it's gone.
    pub(super) fn bury(&mut self, slot: Slot) {
        let table = &mut self.sets[slot.set()].tables[slot.table()];
        table.mark(slot.row());
        let row = table.row_mut(&self.physical, slot.row());
        assert!(row[self.physical.header()] & DEAD == 0, "a row was removed twice");
        row[self.physical.header()] |= DEAD;
    }

    /// The rows that changed since the last cut, on their way into the store.
    pub(crate) fn cut_cold(&mut self, pool: &BufferPool) -> Option<RowCut> {
        self.cut_changed(pool)
    }

    /// Bytes of the rows here.
    pub(crate) fn live_bytes(&self) -> usize {
        let row_bytes = self.physical.stride * 8 + 6;
        let tables = self.sets.iter().flat_map(|set| &set.tables);
        tables.map(|table| table.live as usize * row_bytes + table.arena.live_bytes()).sum()
    }

    /// Lets go of about so many bytes of clean rows, those first that weren't used since the last time round;
    /// how many bytes it was. Goes round twice at most.
    pub(crate) fn evict(&mut self, bytes: usize) -> usize {
        let (mut evicted, mut turns) = (0, 0);
        while evicted < bytes && turns < 3 {
            let Cursor { set, table, row } = self.evict_at;
            let next = match self.sets.get(set) {
                None => {
                    turns += 1;
                    Cursor::default()
                }
                Some(of) if !of.in_use || table >= of.tables.len() => Cursor { set: set + 1, table: 0, row: 0 },
                Some(of) if row >= of.tables[table].used => Cursor { set, table: table + 1, row: 0 },
                Some(_) => {
                    evicted += self.evict_row(set, table, row);
                    Cursor { set, table, row: row + 1 }
                }
            };
            self.evict_at = next;
        }
        evicted
    }

    fn evict_row(&mut self, set: usize, table: usize, row: u32) -> usize {
        let header = self.physical.header();
        let of = &mut self.sets[set].tables[table];
        if of.is_dirty_row(row) {
            return 0;
        }
        let words = of.row_mut(&self.physical, row);
        if words[header] & LIVE == 0 {
            return 0;
        }
        if words[header] & REFERENCED != 0 {
            words[header] &= !REFERENCED;
            return 0;
        }
        self.let_go(Slot::new(set, table, row))
    }

    /// Takes a clean row out of memory.
    fn let_go(&mut self, slot: Slot) -> usize {
        let physical = &self.physical;
        let set = &mut self.sets[slot.set()];
        let table = &mut set.tables[slot.table()];
        let words = table.row(physical, slot.row());
        let header = words[physical.header()];
        let strings: usize = string_words(physical).map(|word| handle_length(words[word])).sum();
        if header & NULL_KEY != 0 {
            set.null_row = None;
        }
        table.complete &= header & DEAD != 0;
        table.remove(physical, slot.row());
        physical.stride * 8 + 6 + strings
    }

    /// The rows of a namespace that aren't here, as `RowState::scan` gives them. Those that `visit` leaves as
    /// they are don't stay.
    pub(super) fn scan_cold<E: From<StateError>>(
        &mut self,
        namespace: i64,
        number: usize,
        max_rows: usize,
        visit: &mut impl FnMut(&mut RowState, &[ArrayRef], &[Slot]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(cold) = &self.cold else { return Ok(()) };
        let (store, state) = (cold.shared.store.clone(), cold.state);
        for group in self.groups.owned.iter() {
            let is_scanned = |state: &RowState| state.by_namespace.get(&namespace) == Some(&number);
            if !is_scanned(self) {
                return Ok(());
            }
            let table = self.sets[number].table_of(&self.groups, group.0);
            if self.sets[number].tables[table].complete {
                continue;
            }
            let prefix = row_prefix(state, group, namespace);
            let end = behind_prefix(&prefix);
            let mut from = prefix.to_vec();
            loop {
                let (mut keys, mut images) = (EncodedRows::default(), EncodedRows::default());
                let mut take = |key: &[u8], image: &[u8]| {
                    keys.push(key);
                    images.push(image);
                    if keys.len() < max_rows.max(1) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                };
                store.scan(&from, end.as_deref(), &mut take)?;
                if keys.is_empty() || !is_scanned(self) {
                    break;
                }
                from = [keys.row(keys.len() - 1), &[0]].concat();
                self.visit_stored(number, group, &keys, &images, visit)?;
            }
        }
        Ok(())
    }

    fn visit_stored<E: From<StateError>>(
        &mut self,
        number: usize,
        group: KeyGroup,
        stored: &EncodedRows,
        images: &EncodedRows,
        visit: &mut impl FnMut(&mut RowState, &[ArrayRef], &[Slot]) -> Result<(), E>,
    ) -> Result<(), E> {
        let keys = self.keys_of_stored(group, stored)?;
        let placement = OneNamespace(number);
        let (mut before, mut slots) = (vec![], vec![]);
        self.access::<PEEK>(&placement, &keys, &mut before, &mut vec![])?;
        for at in (0..keys.len()).filter(|at| before[*at].is_none()) {
            self.insert_image(&placement, &keys, at, images.row(at))?;
        }
        self.access::<PEEK>(&placement, &keys, &mut slots, &mut vec![])?;
        // What was here before has been visited before.
        let mut loaded: Vec<Slot> =
            slots.iter().zip(&before).filter(|(_, before)| before.is_none()).map(|(slot, _)| *slot).collect();
        loaded.retain(|slot| !self.is_expired(*slot));
        if loaded.is_empty() {
            return Ok(());
        }
        let columns = self.keys(&loaded)?;
        visit(self, &columns, &loaded)?;
        for slot in loaded {
            let is_same = self.sets.get(slot.set()).is_some_and(|set| set.in_use && slot.table() < set.tables.len());
            if is_same && !self.table(slot).is_dirty_row(slot.row()) {
                self.let_go(slot);
            }
        }
        Ok(())
    }

    /// Reads all rows of a key group from a store into this state, which has none of them.
    pub(crate) fn load_group(&mut self, store: &dyn ColdStore, state: u16, group: KeyGroup) -> Result<(), StateError> {
        let mut from = cold_prefix(state, group).to_vec();
        let end = behind_prefix(&from);
        let (mut slots, mut new) = (vec![], vec![]);
        loop {
            let (mut stored, mut images) = (EncodedRows::default(), EncodedRows::default());
            store.scan(&from, end.as_deref(), &mut |key, image| {
                stored.push(key);
                images.push(image);
                if stored.len() < LOAD_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if stored.is_empty() {
                return Ok(());
            }
            from = [stored.row(stored.len() - 1), &[0]].concat();
            let namespaces = namespaces_of(&stored)?;
            let keys = self.keys_of_stored(group, &stored)?;
            self.upsert_each(&namespaces, &keys, &mut slots, &mut new)?;
            for (slot, image) in slots.iter().zip(images.iter()) {
                let table = &mut self.sets[slot.set()].tables[slot.table()];
                if !table.read_image(&self.physical, slot.row(), image) {
                    let what = format!("a row of state `{}` in the cold store", self.schema.name);
                    return Err(StateError::decode(what, "its length isn't that of its schema"));
                }
            }
        }
    }

    /// Brings what changed into the store and lets go of what is more than `cache_bytes`; no cut is in the works.
    pub(crate) fn bound_cold(&mut self, cache_bytes: usize) -> Result<(), StateError> {
        let bytes = self.live_bytes();
        if self.cold.is_some() && bytes > cache_bytes {
            self.flush_cold()?;
            self.evict(bytes - cache_bytes / 2);
        }
        Ok(())
    }

    /// Takes all rows out of the store.
    pub(crate) fn delete_cold(&mut self) -> Result<(), StateError> {
        let Some(cold) = &self.cold else { return Ok(()) };
        delete_state(&*cold.shared.store, cold.state, self.groups.owned)
    }

    /// Brings what changed into the store, which takes part in no cut right now.
    pub(crate) fn flush_cold(&mut self) -> Result<(), StateError> {
        let Some(cold) = &self.cold else { return Ok(()) };
        let (store, state) = (cold.shared.store.clone(), cold.state);
        if let Some(cut) = self.cut_changed(&BufferPool::default()) {
            let mut writer = store.writer()?;
            cut.write_cold(state, &mut ColdBatch::default(), &mut |batch| writer.write(batch))?;
            writer.finish()?;
        }
        self.confirm(self.changes.interval - 1);
        Ok(())
    }

    /// Keys as the store has them, of one key group.
    pub(super) fn keys_of_stored(&self, group: KeyGroup, stored: &EncodedRows) -> Result<KeyBatch, StateError> {
        let mut batch = KeyBatch::new();
        let keys: Vec<&[u8]> = stored.iter().map(|key| key.get(ROW_PREFIX_BYTES..).unwrap_or_default()).collect();
        match self.form() {
            KeyForm::Word => {
                let valid: Vec<bool> = keys.iter().map(|key| !key.is_empty()).collect();
                let mut words = Vec::with_capacity(keys.len());
                for key in keys {
                    words.push(match key.try_into() {
                        Ok(bytes) => u64::from_be_bytes(bytes),
                        Err(_) if key.is_empty() => 0,
                        Err(_) => return Err(StateError::decode("a key in the cold store", "it has another length")),
                    });
                }
                let hash = |(word, valid): (&u64, &bool)| if *valid { hash_u64(*word) } else { super::null_key_hash() };
                batch.hashes = words.iter().zip(&valid).map(hash).collect();
                let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
                batch.keys = Keys::Words { words, nulls };
            }
            KeyForm::Bytes => {
                let columns = KeyCodec::new(&self.schema.key)?.decode(keys.iter().copied())?;
                hash_rows(&columns, keys.len(), &mut batch.hashes)?;
                let mut rows = EncodedRows::default();
                keys.iter().for_each(|key| rows.push(key));
                batch.keys = Keys::Bytes(rows);
            }
        }
        batch.groups = vec![group.0; batch.hashes.len()];
        let modulus = Modulus::new(self.groups.max_parallelism);
        match batch.hashes.iter().all(|hash| modulus.group(*hash) == group.0) {
            true => Ok(batch),
            false => Err(StateError::decode("a key in the cold store", "it is of another key group")),
        }
    }
}

/// Takes all that is stored of a state out of the store.
pub(crate) fn delete_state(store: &dyn ColdStore, state: u16, owned: KeyGroupRange) -> Result<(), StateError> {
    let mut batch = ColdBatch::default();
    for group in owned.iter() {
        let from = cold_prefix(state, group);
        if let Some(to) = behind_prefix(&from) {
            batch.delete_range(&from, &to);
        }
    }
    let mut writer = store.writer()?;
    writer.write(&batch)?;
    writer.finish()
}

/// The words that are handles: a byte key's, and those of strings.
fn string_words(physical: &Physical) -> impl Iterator<Item = usize> + '_ {
    let key = (physical.form == KeyForm::Bytes).then_some(1);
    key.into_iter().chain(physical.var_words.iter().copied())
}

/// The namespaces of which the store holds rows.
fn stored_namespaces(shared: &ColdShared, state: u16, owned: KeyGroupRange) -> Result<Vec<i64>, StateError> {
    let mut namespaces = std::collections::BTreeSet::new();
    for group in owned.iter() {
        let mut from = cold_prefix(state, group).to_vec();
        let end = behind_prefix(&from);
        loop {
            let mut found = None;
            shared.store.scan(&from, end.as_deref(), &mut |key, _| {
                found = key.get(4..ROW_PREFIX_BYTES).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
                ControlFlow::Break(())
            })?;
            let Some(ordered) = found else { break };
            let namespace = (ordered ^ 1 << 63) as i64;
            namespaces.insert(namespace);
            match behind_prefix(&row_prefix(state, group, namespace)) {
                Some(next) => from = next,
                None => break,
            }
        }
    }
    Ok(namespaces.into_iter().collect())
}

impl Table {
    /// Whether the store doesn't have the row as it is.
    fn is_dirty_row(&self, row: u32) -> bool {
        self.has_changed(row)
    }

    fn mark_all(&mut self) {
        self.pending.clear();
        self.changed.fill(0);
        let used = self.used as usize;
        self.changed[..used / 64].fill(u64::MAX);
        if !used.is_multiple_of(64) {
            self.changed[used / 64] = (1 << (used % 64)) - 1;
        }
        self.dirty = used > 0;
    }

    fn unmark(&mut self, row: u32) {
        self.changed[row as usize / 64] &= !(1 << (row % 64));
    }

    /// Sets everything behind the key from an image; `false` if it isn't one of this layout.
    fn read_image(&mut self, physical: &Physical, row: u32, image: &[u8]) -> bool {
        let header = physical.header();
        let words = physical.stride - header - 1;
        let Some((nulls, rest)) = image.split_first_chunk::<4>() else { return false };
        let Some((fixed, mut strings)) = rest.split_at_checked(words * 8) else { return false };
        let into = self.row_mut(physical, row);
        into[header] = into[header] & u32::MAX as u64 | (u32::from_le_bytes(*nulls) as u64) << 32;
        for (word, bytes) in into[header + 1..].iter_mut().zip(fixed.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        for word in &physical.var_words {
            let length = self.row(physical, row)[*word] as usize;
            let handle = strings.split_at_checked(length).and_then(|(string, rest)| {
                strings = rest;
                self.arena.store(string)
            });
            // A row that didn't read to its end must not be left with lengths for handles.
            self.row_mut(physical, row)[*word] = handle.unwrap_or(0);
            if handle.is_none() {
                strings = &[0];
            }
        }
        strings.is_empty()
    }
}

impl RowCut {
    /// Brings the cut into a store, key group by key group.
    pub(crate) fn write_cold(
        &self,
        state: u16,
        batch: &mut ColdBatch,
        write: &mut dyn FnMut(&ColdBatch) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for namespace in self.removed.iter().flat_map(|removed| &removed.namespaces) {
            for group in self.groups.owned.iter() {
                let from = row_prefix(state, group, *namespace);
                if let Some(to) = behind_prefix(&from) {
                    batch.delete_range(&from, &to);
                }
            }
            write_if_large(batch, write)?;
        }
        let modulus = Modulus::new(self.groups.max_parallelism);
        let first_group = self.groups.owned.first;
        let mut by_group: Vec<Vec<(u32, u32)>> = vec![vec![]; self.groups.owned.len()];
        for (number, chunk) in self.chunks.iter().enumerate() {
            for row in 0..chunk.rows as u32 {
                let group = match chunk.groups.len() {
                    1 => chunk.groups.first,
                    _ => group_of(&self.physical, &modulus, self.row(chunk, row)).0,
                };
                by_group[(group - first_group) as usize].push((number as u32, row));
            }
        }
        for (rows, group) in by_group.iter().zip(self.groups.owned.iter()) {
            // A batch is sorted as a whole: its groups ascend, and each is sorted by itself.
            let first = batch.len();
            for (number, row) in rows {
                self.write_row(state, group, &self.chunks[*number as usize], *row, batch);
            }
            batch.sort_from(first);
            write_if_large(batch, write)?;
        }
        write_all(batch, write)
    }

    fn write_row(&self, state: u16, group: KeyGroup, chunk: &Chunk, row: u32, batch: &mut ColdBatch) {
        let words = self.row(chunk, row);
        let header = self.physical.header();
        let prefix = row_prefix(state, group, chunk.namespace);
        let word = words[0].to_be_bytes();
        let key: &[u8] = match self.physical.form {
            _ if words[header] & NULL_KEY != 0 => &[],
            KeyForm::Word => &word,
            KeyForm::Bytes => string_of(chunk, words[1]),
        };
        if words[header] & DEAD != 0 {
            return batch.delete(&[&prefix, key]);
        }
        batch.put(&[&prefix, key], |out| {
            out.extend_from_slice(&((words[header] >> 32) as u32).to_le_bytes());
            for (at, word) in words.iter().enumerate().skip(header + 1) {
                let is_string = self.physical.var_words.contains(&at);
                let word = if is_string { handle_length(*word) as u64 } else { *word };
                out.extend_from_slice(&word.to_le_bytes());
            }
            self.physical.var_words.iter().for_each(|at| out.extend_from_slice(string_of(chunk, words[*at])));
        });
    }
}

fn string_of(chunk: &Chunk, handle: u64) -> &[u8] {
    &chunk.strings[handle_offset(handle)..][..handle_length(handle)]
}
