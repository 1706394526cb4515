//! Ordered states: `(key group, bytes) -> bytes`, for lists, maps and timers.

pub(crate) mod cold;
pub(crate) mod cut;
pub(crate) mod leaf;
pub(crate) mod log;
mod sweep;
pub(crate) mod tree;

use crate::StateError;
use crate::codec::{self, EncodedRows, ValueCodec};
use crate::key_batch::KeyBatch;
use log::{Log, Operation};
use std::ops::ControlFlow;
use std::sync::Arc;
use tree::Tree;
use weir_model::{KeyGroup, KeyGroupRange, StateKind, StateSchema};

/// One ordered state of one operator subtask.
///
/// An entry's place is given in two parts that are put behind each other: first the encoded key, then the
/// encoded namespace (the list's position, the map's key). For a state of kind `Timer` it's the other way
/// round: first the time (`timer_time`), then the key. Both parts come from `KeyCodec` over the schema's
/// fields and values from `ValueCodec` over the schema's value fields, so that savepoints can decode them.
pub struct OrderedState {
    schema: StateSchema,
    owned: KeyGroupRange,
    max_parallelism: u32,
    trees: Vec<Tree>,
    log: Log,
    /// Logs of the cuts that aren't confirmed, oldest first.
    pending: Vec<(u32, Arc<Log>)>,
    /// Bytes of keys and values, about.
    bytes: usize,
    ttl_ms: Option<u64>,
    now_ms: u64,
    /// The least first-8-bytes of all groups; `None`: not known.
    least: Option<u64>,
    place: Vec<u8>,
    stamped: Vec<u8>,
    /// Where the sweep goes on: a group's place in the owned range, and the last place seen there.
    sweep_at: (usize, Vec<u8>),
    /// What the state lies over, if it's not all there is.
    cold: Option<cold::OrderedCold>,
}

/// A time as the first component of a timer's place.
#[inline]
pub fn timer_time(time_us: i64) -> [u8; 8] {
    (time_us as u64 ^ 1 << 63).to_be_bytes()
}

/// The inverse of [`timer_time`].
#[inline]
pub fn time_of_timer(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ 1 << 63) as i64
}

const STAMP_BYTES: usize = 8;
/// A block of a segment must hold an entry.
const MAX_ENTRY_BYTES: usize = 1 << 30;

impl OrderedState {
    pub(crate) fn new(
        schema: StateSchema,
        owned: KeyGroupRange,
        max_parallelism: u32,
        ttl_ms: Option<u64>,
    ) -> Result<Self, StateError> {
        codec::check_types(&schema.key)?;
        codec::check_types(&schema.namespace)?;
        ValueCodec::new(&schema.value)?;
        Ok(OrderedState {
            schema,
            owned,
            max_parallelism,
            trees: owned.iter().map(|_| Tree::default()).collect(),
            log: Log::default(),
            pending: vec![],
            bytes: 0,
            ttl_ms,
            now_ms: 0,
            least: None,
            place: vec![],
            stamped: vec![],
            sweep_at: (0, vec![]),
            cold: None,
        })
    }

    pub fn schema(&self) -> &StateSchema {
        &self.schema
    }

    pub fn key_groups(&self) -> KeyGroupRange {
        self.owned
    }

    pub fn max_parallelism(&self) -> u32 {
        self.max_parallelism
    }

    /// Entries, expired ones that weren't swept yet included; in front of a cold store: those that it hasn't taken in
    /// yet, so use `first` or a scan to know whether there are any.
    pub fn len(&self) -> usize {
        self.trees.iter().map(Tree::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.trees.iter().all(Tree::is_empty)
    }

    /// Bytes of memory that the state holds on to.
    pub fn memory_bytes(&self) -> usize {
        let logs = self.pending.iter().map(|(_, log)| log.memory_bytes()).sum::<usize>();
        self.trees.iter().map(Tree::memory_bytes).sum::<usize>() + logs + self.log.memory_bytes()
    }

    /// Sets the value at `key`, `namespace` (see the type for the order of the parts).
    ///
    /// # Errors
    /// A key group that this subtask doesn't own; an entry of more than 1 GiB.
    pub fn put(&mut self, group: KeyGroup, key: &[u8], namespace: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.join(key, namespace);
        let place = std::mem::take(&mut self.place);
        let result = self.put_place(group, &place, value);
        self.place = place;
        result
    }

    /// As `put`, at the joined place.
    pub(crate) fn put_place(&mut self, group: KeyGroup, place: &[u8], value: &[u8]) -> Result<(), StateError> {
        let tree = self.tree_of(group)?;
        if place.len() + value.len() > MAX_ENTRY_BYTES {
            return Err(StateError::TooLarge { state: self.schema.name.clone(), what: "an entry of 1 GiB" });
        }
        if self.cold.is_some() {
            self.write_over(tree, place, Some(value));
            return Ok(());
        }
        let value = match self.ttl_ms {
            None => value,
            Some(_) => {
                self.stamped.clear();
                self.stamped.extend_from_slice(&self.now_ms.to_le_bytes());
                self.stamped.extend_from_slice(value);
                &self.stamped
            }
        };
        let existed = self.trees[tree].put(place, value);
        if !existed {
            self.bytes += place.len() + value.len();
            if let Some(least) = &mut self.least {
                *least = (*least).min(leaf::prefix_of(place));
            }
        }
        self.log.add(Operation { group, existed, key: place, value: Some(value) }, self.bytes);
        Ok(())
    }

    /// The restored state under the schema and TTL it is registered with.
    pub(crate) fn registered(mut self, schema: StateSchema, ttl_ms: Option<u64>) -> Self {
        self.schema = schema;
        self.ttl_ms = ttl_ms;
        self
    }

    /// The value at `key`, `namespace`.
    pub fn get(&mut self, group: KeyGroup, key: &[u8], namespace: &[u8]) -> Result<Option<&[u8]>, StateError> {
        let tree = self.tree_of(group)?;
        self.join(key, namespace);
        if self.cold.is_none() {
            return Ok(self.trees[tree].get(&self.place).and_then(|value| self.live(value)));
        }
        let (ttl_ms, now_ms) = (self.ttl_ms, self.now_ms);
        let place = std::mem::take(&mut self.place);
        let value = self.read_over(group, tree, &place);
        Ok(value?.and_then(|value| live(value, ttl_ms, now_ms)))
    }

    /// Removes the entry at `key`, `namespace`, if there is one.
    pub fn delete(&mut self, group: KeyGroup, key: &[u8], namespace: &[u8]) -> Result<(), StateError> {
        self.join(key, namespace);
        let place = std::mem::take(&mut self.place);
        let result = self.delete_place(group, &place);
        self.place = place;
        result
    }

    /// Removes the entry at the joined place, as `scan_range` gives it.
    pub fn delete_place(&mut self, group: KeyGroup, place: &[u8]) -> Result<(), StateError> {
        let tree = self.tree_of(group)?;
        if self.cold.is_some() {
            self.write_over(tree, place, None);
        } else if self.trees[tree].delete(place) {
            self.note_deleted(group, place);
        }
        Ok(())
    }

    fn note_deleted(&mut self, group: KeyGroup, place: &[u8]) {
        self.bytes = self.bytes.saturating_sub(place.len());
        if self.least.is_some_and(|least| least == leaf::prefix_of(place)) {
            self.least = None;
        }
        self.log.add(Operation { group, existed: true, key: place, value: None }, self.bytes);
    }

    /// Visits `(namespace, value)` of all entries whose place begins with `key`, in order, until told to stop.
    pub fn scan_prefix(
        &mut self,
        group: KeyGroup,
        key: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        let tree = self.tree_of(group)?;
        self.scan_tree(group, tree, key, None, &mut |place, value| match place.strip_prefix(key) {
            None => ControlFlow::Break(()),
            Some(namespace) => visit(namespace, value),
        })
    }

    /// Visits `(place, value)` of the group's entries with `from <= place < to`, in order, until told to stop.
    /// Without `to`: all from `from` on.
    pub fn scan_range(
        &mut self,
        group: KeyGroup,
        from: &[u8],
        to: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        let tree = self.tree_of(group)?;
        self.scan_tree(group, tree, from, to, &mut visit)
    }

    fn scan_tree(
        &self,
        group: KeyGroup,
        tree: usize,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        let mut visit = |place: &[u8], value: &[u8]| match self.live(value) {
            _ if to.is_some_and(|to| place >= to) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
            Some(value) => visit(place, value),
        };
        if self.cold.is_some() {
            return self.scan_over(group, tree, from, to, &mut visit);
        }
        self.trees[tree].scan_from(from, visit);
        Ok(())
    }

    /// The entry of the group with the least place.
    pub fn first(&mut self, group: KeyGroup) -> Result<Option<(Vec<u8>, Vec<u8>)>, StateError> {
        let mut first = None;
        self.scan_range(group, &[], None, |place, value| {
            first = Some((place.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    /// Puts an entry for each key of the batch, with the namespaces and values of the same rows.
    ///
    /// # Panics
    /// If they aren't equally many, or the keys aren't from `KeyEncoder::for_ordered`.
    pub fn put_batch(
        &mut self,
        keys: &KeyBatch,
        namespaces: &EncodedRows,
        values: &EncodedRows,
    ) -> Result<(), StateError> {
        assert!(keys.len() == namespaces.len() && keys.len() == values.len(), "one of each for each row");
        (0..keys.len())
            .try_for_each(|row| self.put(keys.key_group(row), keys.key(row), namespaces.row(row), values.row(row)))
    }

    /// Deletes the entry of each key of the batch and the namespace of the same row.
    ///
    /// # Panics
    /// As `put_batch`.
    pub fn delete_batch(&mut self, keys: &KeyBatch, namespaces: &EncodedRows) -> Result<(), StateError> {
        assert_eq!(keys.len(), namespaces.len(), "a namespace for each row");
        (0..keys.len()).try_for_each(|row| self.delete(keys.key_group(row), keys.key(row), namespaces.row(row)))
    }

    /// `scan_prefix` for each key of the batch: visits `(row, namespace, value)`. A break ends that row's scan.
    pub fn scan_prefixes(
        &mut self,
        keys: &KeyBatch,
        mut visit: impl FnMut(usize, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        (0..keys.len()).try_for_each(|row| {
            self.scan_prefix(keys.key_group(row), keys.key(row), |namespace, value| visit(row, namespace, value))
        })
    }

    /// The earliest timer of all key groups. Costs nothing while no timer at the front changes. If a cold store
    /// fails it is the earliest time there is, so that `take_due` is called and says why.
    pub fn first_time(&mut self) -> Option<i64> {
        let least = if self.cold.is_some() { self.first_over().unwrap_or(Some(0)) } else { self.first_here() };
        least.map(|prefix| time_of_timer(prefix.to_be_bytes()))
    }

    fn first_here(&mut self) -> Option<u64> {
        if self.least.is_none() {
            self.least = self.trees.iter().filter_map(Tree::first_prefix).min();
        }
        self.least
    }

    fn first_over(&mut self) -> Result<Option<u64>, StateError> {
        let mut least = None;
        for (tree, group) in self.owned.iter().enumerate() {
            least = [least, self.least_over(group, tree)?].into_iter().flatten().min();
        }
        Ok(least)
    }

    /// Sets a timer for a key. For states of kind `Timer`, as are all that follow.
    pub fn put_timer(&mut self, group: KeyGroup, time_us: i64, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.put(group, &timer_time(time_us), key, value)
    }

    pub fn delete_timer(&mut self, group: KeyGroup, time_us: i64, key: &[u8]) -> Result<(), StateError> {
        self.delete(group, &timer_time(time_us), key)
    }

    /// Removes the timers with a time of at most `upto_us`, at most `max` of them, and hands over
    /// `(group, time, key, value)`: by group, within it by time and key. How many were taken; less than `max`
    /// means that none is left. Expired timers of states with a TTL are removed and not handed over.
    pub fn take_due(
        &mut self,
        upto_us: i64,
        max: usize,
        mut due: impl FnMut(KeyGroup, i64, &[u8], &[u8]),
    ) -> Result<usize, StateError> {
        let mut taken = 0;
        if self.first_time().is_none_or(|first| first > upto_us) {
            return Ok(0);
        }
        if self.cold.is_some() {
            return self.take_due_over(upto_us, max, &mut due);
        }
        let last = u64::from_be_bytes(timer_time(upto_us));
        for (group, tree) in self.owned.iter().zip(&mut self.trees) {
            if tree.first_prefix().is_none_or(|first| first > last) {
                continue;
            }
            tree.take_while(|place, value| {
                if leaf::prefix_of(place) > last || taken >= max {
                    return false;
                }
                taken += 1;
                self.log.add(Operation { group, existed: true, key: place, value: None }, self.bytes);
                self.bytes = self.bytes.saturating_sub(place.len() + value.len());
                let (time, key) = place.split_at(8);
                let value = match self.ttl_ms {
                    None => value,
                    Some(ttl_ms) if is_expired(value, ttl_ms, self.now_ms) => return true,
                    Some(_) => &value[STAMP_BYTES..],
                };
                due(group, time_of_timer(time.try_into().expect("8 bytes")), key, value);
                true
            });
            if taken >= max {
                break;
            }
        }
        self.least = None;
        Ok(taken)
    }

    fn take_due_over(
        &mut self,
        upto_us: i64,
        max: usize,
        due: &mut dyn FnMut(KeyGroup, i64, &[u8], &[u8]),
    ) -> Result<usize, StateError> {
        let last = u64::from_be_bytes(timer_time(upto_us));
        let behind = upto_us.checked_add(1).map(timer_time);
        let mut taken = 0;
        for (tree, group) in self.owned.iter().enumerate() {
            if self.least_over(group, tree)?.is_none_or(|least| least > last) {
                continue;
            }
            let mut places = EncodedRows::default();
            let (ttl_ms, now_ms) = (self.ttl_ms, self.now_ms);
            self.scan_over(group, tree, &[], behind.as_ref().map(|behind| &behind[..]), &mut |place, value| {
                if taken >= max {
                    return ControlFlow::Break(());
                }
                taken += 1;
                places.push(place);
                if let (Some(value), Some((time, key))) = (live(value, ttl_ms, now_ms), place.split_first_chunk()) {
                    due(group, time_of_timer(*time), key, value);
                }
                ControlFlow::Continue(())
            })?;
            places.iter().for_each(|place| self.write_over(tree, place, None));
            if taken >= max {
                break;
            }
        }
        Ok(taken)
    }

    #[inline]
    fn tree_of(&self, group: KeyGroup) -> Result<usize, StateError> {
        match self.owned.contains(group) {
            true => Ok((group.0 - self.owned.first) as usize),
            false => Err(StateError::NotOwned { group: group.0, owned: self.owned }),
        }
    }

    fn join(&mut self, first: &[u8], second: &[u8]) {
        debug_assert!(self.schema.kind != StateKind::Timer || first.len() == 8, "a timer's place begins with its time");
        self.place.clear();
        self.place.extend_from_slice(first);
        self.place.extend_from_slice(second);
    }

    /// The value without its stamp; `None` if its time to live is over.
    #[inline]
    fn live<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        live(value, self.ttl_ms, self.now_ms)
    }
}

#[inline]
fn live(value: &[u8], ttl_ms: Option<u64>, now_ms: u64) -> Option<&[u8]> {
    match ttl_ms {
        None => Some(value),
        Some(ttl_ms) => (!is_expired(value, ttl_ms, now_ms)).then(|| value.get(STAMP_BYTES..).unwrap_or_default()),
    }
}

/// 0: written before the clock was known; the sweep stamps it.
fn is_expired(value: &[u8], ttl_ms: u64, now_ms: u64) -> bool {
    let stamp = stamp_of(value);
    stamp != 0 && stamp.saturating_add(ttl_ms) <= now_ms
}

/// When the value was written, in milliseconds since the epoch. Values that came from outside were checked to
/// hold it.
fn stamp_of(value: &[u8]) -> u64 {
    value.first_chunk::<STAMP_BYTES>().map_or(0, |stamp| u64::from_le_bytes(*stamp))
}

#[cfg(test)]
mod tests;
