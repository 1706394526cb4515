//! Which key groups most rows go to: counted in a sample of batches where they are divided by key.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use weir_model::KeyGroup;

/// One batch of so many is looked at: what the others cost doesn't change.
const SAMPLED_BATCHES: u32 = 64;
/// Rows after which what was counted weighs half: the picture is that of late.
const FORGOTTEN_ROWS: u64 = 1 << 20;
/// Key groups that are told of each exchange.
const TOLD: usize = 8;

/// Of the exchanges that one subtask writes to, by the graph's node that reads.
#[derive(Default)]
pub struct HotKeyGroups(Mutex<BTreeMap<u32, Counts>>);

enum Counts {
    Here {
        rows: u64,
        by_group: Vec<u32>,
    },
    /// What a worker in another process told.
    Told(HottestKeyGroups),
}

/// The key groups of one exchange that got most of the sampled rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HottestKeyGroups {
    /// Index of the node that reads, in the job's graph.
    pub node: u32,
    /// In the sample, of all key groups.
    pub rows: u64,
    /// Key group and rows, most first.
    pub groups: Vec<(u32, u64)>,
}

impl HotKeyGroups {
    /// Counts the rows of a batch.
    pub(crate) fn count(&self, node: u32, hashes: &[u64], max_parallelism: u32) {
        let mut all = self.lock();
        let fresh = || Counts::Here { rows: 0, by_group: vec![0; max_parallelism as usize] };
        let Counts::Here { rows, by_group } = all.entry(node).or_insert_with(fresh) else { return };
        if *rows >= FORGOTTEN_ROWS {
            by_group.iter_mut().for_each(|count| *count /= 2);
            *rows = by_group.iter().map(|count| u64::from(*count)).sum();
        }
        for hash in hashes {
            by_group[usize::from(KeyGroup::of_hash(*hash, max_parallelism).0)] += 1;
        }
        *rows += hashes.len() as u64;
    }

    pub(crate) fn tell(&self, told: &[HottestKeyGroups]) {
        let mut all = self.lock();
        for one in told {
            all.insert(one.node, Counts::Told(one.clone()));
        }
    }

    pub fn hottest(&self) -> Vec<HottestKeyGroups> {
        self.lock().iter().map(|(node, counts)| counts.hottest(*node)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn hottest(&self, node: u32) -> HottestKeyGroups {
        match self {
            Counts::Told(told) => told.clone(),
            Counts::Here { rows, by_group } => {
                let counted = by_group.iter().enumerate().filter(|(_, rows)| **rows > 0);
                let mut groups: Vec<_> = counted.map(|(group, rows)| (group as u32, u64::from(*rows))).collect();
                groups.sort_unstable_by_key(|(group, rows)| (std::cmp::Reverse(*rows), *group));
                groups.truncate(TOLD);
                HottestKeyGroups { node, rows: *rows, groups }
            }
        }
    }
}

/// Says which batches are looked at.
#[derive(Default)]
pub(crate) struct Sampler(u32);

impl Sampler {
    /// The first one, and then one of so many.
    pub(crate) fn takes_next(&mut self) -> bool {
        let takes = self.0.is_multiple_of(SAMPLED_BATCHES);
        self.0 = self.0.wrapping_add(1);
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_come_first_and_what_was_long_ago_fades() {
        let hot = HotKeyGroups::default();
        let hash_of = |group: u16| (0u64..).find(|hash| KeyGroup::of_hash(*hash, 16).0 == group).expect("there is one");
        let (one, other) = (vec![hash_of(3); 1000], vec![hash_of(9); 10]);
        hot.count(5, &one, 16);
        hot.count(5, &other, 16);
        let expected = HottestKeyGroups { node: 5, rows: 1010, groups: vec![(3, 1000), (9, 10)] };
        assert_eq!(hot.hottest(), std::slice::from_ref(&expected));
        for _ in 0..FORGOTTEN_ROWS / 500 {
            hot.count(5, &vec![hash_of(9); 1000], 16);
        }
        let later = &hot.hottest()[0];
        assert_eq!(later.groups[0].0, 9, "{later:?}");
        assert!(later.rows < 2 * FORGOTTEN_ROWS && later.groups.get(1).is_none_or(|old| old.1 <= 500), "{later:?}");
        let elsewhere = HotKeyGroups::default();
        elsewhere.tell(std::slice::from_ref(&expected));
        assert_eq!(elsewhere.hottest(), [expected]);
    }

    #[test]
    fn one_batch_of_many_is_looked_at() {
        let mut sampler = Sampler::default();
        let taken = (0..SAMPLED_BATCHES * 3).filter(|_| sampler.takes_next()).count();
        assert_eq!(taken, 3);
    }
}
