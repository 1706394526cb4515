use super::leaf::{Leaf, prefix_of};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The sorted entries of one key group: a sequence of leaves. A snapshot shares the leaves; writing to a
/// shared one copies it first.
#[derive(Default)]
pub(crate) struct Tree {
    leaves: VecDeque<(u64, Arc<Leaf>)>,
    entries: usize,
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The first 8 bytes of the least key.
    #[inline]
    pub(super) fn first_prefix(&self) -> Option<u64> {
        self.leaves.front().map(|(prefix, _)| *prefix)
    }

    /// The leaf that holds the key if any does: the last whose first key isn't greater.
    fn leaf_of(&self, prefix: u64, key: &[u8]) -> usize {
        let behind = self.leaves.partition_point(|(first, leaf)| {
            *first < prefix || *first == prefix && leaf.compare(0, prefix, key).is_le()
        });
        behind.saturating_sub(1)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let prefix = prefix_of(key);
        let (_, leaf) = self.leaves.get(self.leaf_of(prefix, key))?;
        leaf.search(prefix, key).ok().map(|at| leaf.value(at))
    }

    /// Sets the value; whether the key was there.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.leaves.is_empty() {
            let mut leaf = Leaf::default();
            leaf.insert(0, key, value);
            self.leaves.push_back((prefix_of(key), Arc::new(leaf)));
            self.entries = 1;
            return false;
        }
        let prefix = prefix_of(key);
        let number = self.leaf_of(prefix, key);
        let (first, leaf) = &mut self.leaves[number];
        let leaf = Arc::make_mut(leaf);
        match leaf.search(prefix, key) {
            Ok(at) => {
                leaf.set_value(at, value);
                true
            }
            Err(at) => {
                leaf.insert(at, key, value);
                *first = leaf.first_prefix();
                self.entries += 1;
                if leaf.wants_split() {
                    let upper = leaf.split(at);
                    self.leaves.insert(number + 1, (upper.first_prefix(), Arc::new(upper)));
                }
                false
            }
        }
    }

    /// Whether the key was there.
    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        let prefix = prefix_of(key);
        let number = self.leaf_of(prefix, key);
        let Some((first, leaf)) = self.leaves.get_mut(number) else { return false };
        let Ok(at) = leaf.search(prefix, key) else { return false };
        self.entries -= 1;
        if leaf.len() == 1 {
            self.leaves.remove(number);
            return true;
        }
        let leaf = Arc::make_mut(leaf);
        leaf.remove(at);
        *first = leaf.first_prefix();
        self.merge_with_next(number);
        true
    }

    fn merge_with_next(&mut self, number: usize) {
        let Some((_, next)) = self.leaves.get(number + 1) else { return };
        if !self.leaves[number].1.fits(next) {
            return;
        }
        let (_, next) = self.leaves.remove(number + 1).expect("just looked at");
        Arc::make_mut(&mut self.leaves[number].1).append(&next);
    }

    /// The greatest key.
    pub(super) fn last(&self) -> Option<&[u8]> {
        self.leaves.back().map(|(_, leaf)| leaf.key(leaf.len() - 1))
    }

    /// Adds an entry behind all others.
    ///
    /// # Panics
    /// If the key isn't greater than all there are.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        let full = self.leaves.back().is_none_or(|(_, leaf)| leaf.len() >= super::leaf::MAX_ENTRIES * 3 / 4);
        if let Some((_, leaf)) = self.leaves.back() {
            assert!(leaf.key(leaf.len() - 1) < key, "entries are pushed in order");
        }
        if full {
            self.leaves.push_back((prefix_of(key), Arc::default()));
        }
        let leaf = Arc::make_mut(&mut self.leaves.back_mut().expect("there is one now").1);
        leaf.insert(leaf.len(), key, value);
        self.entries += 1;
    }

    /// Visits the entries from `from` on, in order, until told to stop.
    pub(super) fn scan_from(&self, from: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>) {
        let _ = self.entries_from(from).try_for_each(|(key, value)| visit(key, value));
    }

    /// The entries from `from` on, in order.
    pub(super) fn entries_from(&self, from: &[u8]) -> Entries<'_> {
        if self.leaves.is_empty() {
            return Entries { leaves: self.leaves.iter(), leaf: None, at: 0 };
        }
        let prefix = prefix_of(from);
        let first = self.leaf_of(prefix, from);
        let mut leaves = self.leaves.range(first..);
        let leaf = leaves.next().map(|(_, leaf)| &**leaf);
        let at = leaf.map_or(0, |leaf| leaf.search(prefix, from).unwrap_or_else(|at| at));
        Entries { leaves, leaf, at }
    }

    /// Removes the entries that `take` says yes to, from the least on, until it says no; in order.
    pub(super) fn take_while(&mut self, mut take: impl FnMut(&[u8], &[u8]) -> bool) -> usize {
        let mut taken = 0;
        while let Some((_, leaf)) = self.leaves.front() {
            let count = (0..leaf.len()).position(|at| !take(leaf.key(at), leaf.value(at))).unwrap_or(leaf.len());
            let whole = count == leaf.len();
            taken += count;
            if whole {
                self.leaves.pop_front();
                continue;
            }
            if count > 0 {
                let (first, leaf) = &mut self.leaves[0];
                let leaf = Arc::make_mut(leaf);
                (0..count).rev().for_each(|at| leaf.remove(at));
                *first = leaf.first_prefix();
            }
            break;
        }
        self.entries -= taken;
        taken
    }

    /// The entries as they are now.
    pub(super) fn snapshot(&self) -> Vec<Arc<Leaf>> {
        self.leaves.iter().map(|(_, leaf)| leaf.clone()).collect()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.leaves.iter().map(|(_, leaf)| leaf.memory_bytes() + 16).sum()
    }
}

/// Entries of a tree in order.
pub(super) struct Entries<'a> {
    leaves: std::collections::vec_deque::Iter<'a, (u64, Arc<Leaf>)>,
    leaf: Option<&'a Leaf>,
    at: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let leaf = self.leaf?;
            if self.at < leaf.len() {
                self.at += 1;
                return Some((leaf.key(self.at - 1), leaf.value(self.at - 1)));
            }
            (self.leaf, self.at) = (self.leaves.next().map(|(_, leaf)| &**leaf), 0);
        }
    }
}
