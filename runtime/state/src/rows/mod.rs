//! Row states: `(namespace, key) -> row of fixed layout`, in batches.

mod access;
pub(crate) mod cold;
mod columns;
pub(crate) mod cut;
mod import;
mod index;
mod lookup;
pub(crate) mod read;
mod set;
mod stored;
mod sweep;
mod table;
mod take_over;
mod words;
mod write;

use crate::key_batch::KeyForm;
use crate::layout::{Physical, RowLayout, Slot};
use crate::{StateError, codec};
use set::{Groups, Set};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use weir_model::{KeyGroupRange, StateSchema};

/// One row state of one operator subtask: for each namespace (a window's start; 0 where there is none) and key
/// a row of the layout of the schema's value fields.
pub struct RowState {
    schema: StateSchema,
    layout: RowLayout,
    physical: Physical,
    groups: Groups,
    /// Sets by the number that slots carry; the free ones are empty.
    sets: Vec<Set>,
    free_sets: Vec<usize>,
    by_namespace: BTreeMap<i64, usize>,
    changes: Changes,
    ttl_ms: Option<u64>,
    /// Milliseconds since the epoch, as of the last `between_batches`.
    now_ms: u64,
    scratch: lookup::Scratch,
    sweep_at: sweep::Cursor,
    /// What the state is a cache of, if it's not all there is.
    cold: Option<cold::RowCold>,
    evict_at: sweep::Cursor,
}

/// What was removed since the last cut; changes themselves are bits in the tables.
struct Changes {
    /// Number of the current interval; cuts end intervals.
    interval: u32,
    removed: Removed,
    /// Those of the cuts that aren't confirmed, oldest first.
    pending: Vec<(u32, Arc<Removed>)>,
}

#[derive(Default)]
struct Removed {
    keys: RemovedKeys,
    namespaces: Vec<i64>,
}

/// Removed keys that a confirmed checkpoint may hold.
#[derive(Default)]
struct RemovedKeys {
    namespaces: Vec<i64>,
    hashes: Vec<u64>,
    words: Vec<u64>,
    bytes: KeyList,
    /// Namespaces whose null key was removed.
    nulls: Vec<i64>,
}

/// Byte keys one behind the other; more than 4 GiB of them if need be.
#[derive(Default)]
struct KeyList {
    bytes: Vec<u8>,
    ends: Vec<u64>,
}

impl KeyList {
    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len() as u64);
    }

    fn get(&self, at: usize) -> &[u8] {
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[begin as usize..self.ends[at] as usize]
    }
}

/// What the key hash of one null column is.
fn null_key_hash() -> u64 {
    static HASH: LazyLock<u64> = LazyLock::new(|| {
        let null = arrow::array::new_null_array(&arrow::datatypes::DataType::Int64, 1);
        let mut hashes = vec![];
        weir_model::hash::hash_rows(&[null], 1, &mut hashes).expect("an Int64 column has a hash");
        hashes[0]
    });
    *HASH
}

impl RowState {
    pub(crate) fn new(
        schema: StateSchema,
        owned: KeyGroupRange,
        max_parallelism: u32,
        ttl_ms: Option<u64>,
        interval: u32,
    ) -> Result<Self, StateError> {
        codec::check_types(&schema.key)?;
        let layout = RowLayout::of(&schema.value)?;
        let physical = Physical::new(&schema.key, &layout, ttl_ms.is_some());
        Ok(RowState {
            schema,
            layout,
            physical,
            groups: Groups { owned, max_parallelism },
            sets: vec![],
            free_sets: vec![],
            by_namespace: BTreeMap::new(),
            changes: Changes { interval, removed: Removed::default(), pending: vec![] },
            ttl_ms,
            now_ms: 0,
            scratch: lookup::Scratch::default(),
            sweep_at: sweep::Cursor::default(),
            cold: None,
            evict_at: sweep::Cursor::default(),
        })
    }

    pub fn schema(&self) -> &StateSchema {
        &self.schema
    }

    /// Where the value fields are in a row.
    pub fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// Rows of all namespaces, expired ones that weren't swept yet included; before a cold store: those in memory.
    pub fn len(&self) -> usize {
        self.sets.iter().map(Set::live).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.by_namespace.is_empty()
    }

    /// Rows of one namespace.
    pub fn len_of(&self, namespace: i64) -> usize {
        self.by_namespace.get(&namespace).map_or(0, |set| self.sets[*set].live())
    }

    /// Namespaces that hold rows, in ascending order; before a cold store, some may hold none any more.
    pub fn namespaces(&self) -> impl DoubleEndedIterator<Item = i64> + '_ {
        self.by_namespace.keys().copied()
    }

    /// Bytes of memory that the state holds on to.
    pub fn memory_bytes(&self) -> usize {
        let tables = self.sets.iter().flat_map(|set| &set.tables);
        tables.map(|table| table.capacity_bytes() + size_of_val(table)).sum::<usize>()
            + self.sets.capacity() * size_of::<Set>()
    }

    /// Removes the namespace with all its rows.
    pub fn drop_namespace(&mut self, namespace: i64) {
        let Some(number) = self.by_namespace.remove(&namespace) else { return };
        let set = &self.sets[number];
        if !born_in(set.born as u64, self.changes.interval) {
            self.changes.removed.namespaces.push(namespace);
        }
        self.release(number);
    }

    fn release(&mut self, number: usize) {
        let set = &mut self.sets[number];
        set.tables = vec![];
        set.null_row = None;
        set.in_use = false;
        self.free_sets.push(number);
    }

    /// The set of the namespace, made if there is none.
    fn set_of(&mut self, namespace: i64) -> Result<usize, StateError> {
        if let Some(number) = self.by_namespace.get(&namespace) {
            return Ok(*number);
        }
        let set = Set::new(namespace, self.changes.interval);
        let number = match self.free_sets.pop() {
            Some(number) => {
                self.sets[number] = set;
                number
            }
            None if self.sets.len() >= Slot::MAX_SETS => return Err(self.too_large("2^24 namespaces at once")),
            None => {
                self.sets.push(set);
                self.sets.len() - 1
            }
        };
        self.by_namespace.insert(namespace, number);
        Ok(number)
    }

    fn too_large(&self, what: &'static str) -> StateError {
        StateError::TooLarge { state: self.schema.name.clone(), what }
    }

    fn form(&self) -> KeyForm {
        self.physical.form
    }
}

/// Whether this birth mark says "after the last cut", so that no checkpoint knows of it. Interval numbers past
/// what a mark holds are never recognised, which only costs tombstones.
fn born_in(mark: u64, interval: u32) -> bool {
    mark == interval as u64 && mark < table::BORN
}

#[cfg(test)]
mod tests;
