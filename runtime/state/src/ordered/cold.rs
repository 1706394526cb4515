//! An ordered state in front of a cold store: what was written lately lies over what is stored.
//!
//! The trees hold what changed since the last cut; a cut freezes them, and they lie over the store until it has
//! taken them in. In these trees a value begins with a byte that says whether the entry is there or was deleted.

use super::OrderedState;
use super::leaf::prefix_of;
use super::log::Log;
use super::tree::{Entries, Tree};
use crate::cold::{
    ColdBatch, ColdShared, ColdStore, PREFIX_BYTES, behind_prefix, cold_prefix, write_all, write_if_large,
};
use crate::rows::cold::delete_state;
use crate::{EncodedRows, StateError};
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::{KeyGroup, KeyGroupRange};

const DELETED: u8 = 0;
pub(super) const THERE: u8 = 1;

pub(super) struct OrderedCold {
    shared: Arc<ColdShared>,
    state: u16,
    /// Trees of the cuts that aren't in the store yet, oldest first.
    frozen: Vec<(u32, Arc<Vec<Tree>>)>,
    /// For each key group the first 8 bytes of the least place, where it's known.
    least: Vec<Option<Option<u64>>>,
}

/// Trees on their way into the store.
pub(crate) struct OrderedColdCut {
    owned: KeyGroupRange,
    trees: Arc<Vec<Tree>>,
}

impl OrderedState {
    /// Puts the state in front of a store that may hold entries of it.
    pub(crate) fn attach_cold(&mut self, shared: Arc<ColdShared>, state: u16) {
        let least = vec![None; self.owned.len()];
        self.cold = Some(OrderedCold { shared, state, frozen: vec![], least });
    }

    /// Puts the state in front of a store that holds nothing of it: all entries lie over it.
    pub(crate) fn spill(&mut self, shared: Arc<ColdShared>, state: u16) {
        let marked = |tree: &Tree| {
            let (mut over, mut value) = (Tree::default(), vec![]);
            for (place, stored) in tree.entries_from(&[]) {
                value.clear();
                value.push(THERE);
                value.extend_from_slice(stored);
                over.push(place, &value);
            }
            over
        };
        self.trees.iter_mut().for_each(|tree| *tree = marked(tree));
        // What a cut would hold of changes is in the trees; what was deleted, the store never had.
        self.log = Log::default();
        self.pending.clear();
        self.bytes = 0;
        self.least = None;
        self.attach_cold(shared, state);
    }

    /// Bytes of the entries here, and of what was noted of their changes.
    pub(crate) fn live_bytes(&self) -> usize {
        let frozen = self.cold.iter().flat_map(|cold| cold.frozen.iter().flat_map(|(_, trees)| trees.iter()));
        let logs = self.log.memory_bytes() + self.pending.iter().map(|(_, log)| log.memory_bytes()).sum::<usize>();
        self.trees.iter().chain(frozen).map(Tree::memory_bytes).sum::<usize>() + logs
    }

    /// What changed since the last cut, on its way into the store. `None` if nothing did.
    pub(crate) fn cut_cold(&mut self, interval: u32) -> Option<OrderedColdCut> {
        let owned = self.owned;
        let cold = self.cold.as_mut().expect("a state in front of a store");
        if self.trees.iter().all(Tree::is_empty) {
            return None;
        }
        let fresh = owned.iter().map(|_| Tree::default()).collect();
        let trees = Arc::new(std::mem::replace(&mut self.trees, fresh));
        cold.frozen.push((interval, trees.clone()));
        Some(OrderedColdCut { owned, trees })
    }

    /// The cuts up to this interval's are in the store.
    pub(crate) fn applied_cold(&mut self, interval: u32) {
        if let Some(cold) = &mut self.cold {
            cold.frozen.retain(|(frozen, _)| *frozen > interval);
        }
    }

    /// Reads all entries of a key group from a store into this state, which has none of them.
    pub(crate) fn load_group(&mut self, store: &dyn ColdStore, state: u16, group: KeyGroup) -> Result<(), StateError> {
        let from = cold_prefix(state, group);
        let tree_number = self.tree_of(group)?;
        let (tree, mut bytes) = (&mut self.trees[tree_number], 0);
        store.scan(&from, behind_prefix(&from).as_deref(), &mut |key, value| {
            bytes += key.len() + value.len();
            tree.push(&key[PREFIX_BYTES..], value);
            ControlFlow::Continue(())
        })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Writes all entries, which aren't in front of a store, for one.
    pub(crate) fn write_all_to(
        &self,
        state: u16,
        batch: &mut ColdBatch,
        write: &mut dyn FnMut(&ColdBatch) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for (group, tree) in self.owned.iter().zip(&self.trees) {
            let prefix = cold_prefix(state, group);
            for (place, value) in tree.entries_from(&[]) {
                batch.put(&[&prefix, place], |out| out.extend_from_slice(value));
                write_if_large(batch, write)?;
            }
        }
        write_all(batch, write)
    }

    /// Brings what changed into the store if it is more than `cache_bytes`; no cut is in the works.
    pub(crate) fn bound_cold(&mut self, cache_bytes: usize) -> Result<(), StateError> {
        if self.cold.is_some() && self.live_bytes() > cache_bytes { self.flush_cold() } else { Ok(()) }
    }

    /// Takes all entries out of the store.
    pub(crate) fn delete_cold(&mut self) -> Result<(), StateError> {
        let Some(cold) = &self.cold else { return Ok(()) };
        delete_state(&*cold.shared.store, cold.state, self.owned)
    }

    /// Brings what changed into the store, which takes part in no cut right now.
    pub(crate) fn flush_cold(&mut self) -> Result<(), StateError> {
        let Some(cold) = &self.cold else { return Ok(()) };
        let (store, state) = (cold.shared.store.clone(), cold.state);
        if let Some(cut) = self.cut_cold(0) {
            let mut writer = store.writer()?;
            cut.write_cold(state, &mut ColdBatch::default(), &mut |batch| writer.write(batch))?;
            writer.finish()?;
        }
        self.applied_cold(0);
        Ok(())
    }

    /// Writes over the store: `None` deletes.
    pub(super) fn write_over(&mut self, tree: usize, place: &[u8], value: Option<&[u8]>) {
        let cold = self.cold.as_mut().expect("a state in front of a store");
        let prefix = prefix_of(place);
        match (value, &mut cold.least[tree]) {
            (Some(_), Some(least)) => *least = Some(least.map_or(prefix, |least| least.min(prefix))),
            (None, least) if *least == Some(Some(prefix)) => *least = None,
            _ => {}
        }
        self.stamped.clear();
        self.stamped.push(if value.is_some() { THERE } else { DELETED });
        if value.is_some() && self.ttl_ms.is_some() {
            self.stamped.extend_from_slice(&self.now_ms.to_le_bytes());
        }
        self.stamped.extend_from_slice(value.unwrap_or_default());
        self.trees[tree].put(place, &self.stamped);
    }

    /// The value (with its stamp, if there is a TTL) as the trees or the store have it.
    pub(super) fn read_over(
        &mut self,
        group: KeyGroup,
        tree: usize,
        place: &[u8],
    ) -> Result<Option<&[u8]>, StateError> {
        let cold = self.cold.as_ref().expect("a state in front of a store");
        let layers = [&self.trees].into_iter().chain(cold.frozen.iter().rev().map(|(_, trees)| &**trees));
        let mut found = layers.map(|trees| trees[tree].get(place)).find(Option::is_some).flatten();
        if let Some(value) = found.take() {
            self.stamped.clear();
            self.stamped.extend_from_slice(value);
            return Ok(self.stamped.split_first().filter(|(mark, _)| **mark == THERE).map(|(_, value)| value));
        }
        let mut keys = EncodedRows::default();
        keys.push(&[&cold_prefix(cold.state, group)[..], place].concat());
        let (mut is_stored, buffer) = (false, &mut self.stamped);
        cold.shared.store.get_many(&keys, &mut |_, value| {
            is_stored = true;
            buffer.clear();
            buffer.extend_from_slice(value);
            Ok(())
        })?;
        Ok(is_stored.then_some(&self.stamped[..]))
    }

    /// Visits the entries of a group from `from` on (to `to`), values with their stamps, in order, until told to
    /// stop.
    pub(super) fn scan_over(
        &self,
        group: KeyGroup,
        tree: usize,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        let cold = self.cold.as_ref().expect("a state in front of a store");
        let layers = [&self.trees].into_iter().chain(cold.frozen.iter().rev().map(|(_, trees)| &**trees));
        let mut over = Over { layers: layers.map(|trees| trees[tree].entries_from(from).peekable()).collect() };
        let prefix = cold_prefix(cold.state, group);
        let begin = [&prefix[..], from].concat();
        let end = match to {
            Some(to) => Some([&prefix[..], to].concat()),
            None => behind_prefix(&prefix),
        };
        let mut go_on = ControlFlow::Continue(());
        cold.shared.store.scan(&begin, end.as_deref(), &mut |key, value| {
            let place = &key[PREFIX_BYTES..];
            go_on = over.visit_before(Some(place), visit);
            if go_on.is_continue() && !over.takes(place) {
                go_on = visit(place, value);
            } else if go_on.is_continue() {
                go_on = over.visit_through(place, visit);
            }
            go_on
        })?;
        if go_on.is_continue() {
            let _ = over.visit_before(to, visit);
        }
        Ok(())
    }

    /// The first 8 bytes of the least place of a group.
    pub(super) fn least_over(&mut self, group: KeyGroup, tree: usize) -> Result<Option<u64>, StateError> {
        let known = |state: &Self| state.cold.as_ref().and_then(|cold| cold.least[tree]);
        if let Some(least) = known(self) {
            return Ok(least);
        }
        let mut least = None;
        self.scan_over(group, tree, &[], None, &mut |place, _| {
            least = Some(prefix_of(place));
            ControlFlow::Break(())
        })?;
        self.cold.as_mut().expect("a state in front of a store").least[tree] = Some(least);
        Ok(least)
    }
}

/// Layers of trees, the newest first, as one sequence.
struct Over<'a> {
    layers: Vec<Peekable<Entries<'a>>>,
}

type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

impl<'a> Over<'a> {
    fn least(&mut self) -> Option<&'a [u8]> {
        self.layers.iter_mut().filter_map(|layer| layer.peek().map(|(place, _)| *place)).min()
    }

    /// Takes the place from all layers; what the newest says.
    fn take(&mut self, place: &[u8]) -> Option<&'a [u8]> {
        let mut newest = None;
        for layer in &mut self.layers {
            if let Some((_, value)) = layer.next_if(|(at, _)| *at == place) {
                newest = newest.or(Some(value));
            }
        }
        newest.filter(|value| value[0] == THERE).map(|value| &value[1..])
    }

    fn takes(&mut self, place: &[u8]) -> bool {
        self.least() == Some(place)
    }

    /// Visits what comes before the place (all, without one).
    fn visit_before(&mut self, end: Option<&[u8]>, visit: &mut Visit<'_>) -> ControlFlow<()> {
        while let Some(place) = self.least().filter(|place| end.is_none_or(|end| *place < end)) {
            self.visit_through(place, visit)?;
        }
        ControlFlow::Continue(())
    }

    fn visit_through(&mut self, place: &[u8], visit: &mut Visit<'_>) -> ControlFlow<()> {
        match self.take(place) {
            Some(value) => visit(place, value),
            None => ControlFlow::Continue(()),
        }
    }
}

impl OrderedColdCut {
    /// Brings the trees into a store.
    pub(crate) fn write_cold(
        &self,
        state: u16,
        batch: &mut ColdBatch,
        write: &mut dyn FnMut(&ColdBatch) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for (group, tree) in self.owned.iter().zip(self.trees.iter()) {
            let prefix = cold_prefix(state, group);
            for (place, value) in tree.entries_from(&[]) {
                match value.split_first() {
                    Some((&THERE, value)) => batch.put(&[&prefix, place], |out| out.extend_from_slice(value)),
                    _ => batch.delete(&[&prefix, place]),
                }
                write_if_large(batch, write)?;
            }
        }
        write_all(batch, write)
    }
}
