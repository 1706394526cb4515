//! Key groups: the unit in which keyed state is assigned, stored and moved.
//!
//! The formulas are those of Apache Flink's `KeyGroupRangeAssignment`, so that what people know of
//! max parallelism holds here too: `kg = hash(key) % max`, subtask `= kg * p / max`,
//! range of subtask i `= [ceil(i * max / p), ((i + 1) * max - 1) / p]`, both ends included.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Largest max parallelism: key groups are stored in two bytes.
pub const MAX_PARALLELISM_LIMIT: u32 = 1 << 15;

/// A key group, `0 .. max_parallelism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyGroup(pub u16);

impl KeyGroup {
    /// The group of a key with this (stable) hash.
    #[inline]
    pub fn of_hash(hash: u64, max_parallelism: u32) -> Self {
        // The lower half decides the group and the upper half the place in a hash table, so that
        // the keys of one group still spread over the whole table.
        KeyGroup(((hash as u32) % max_parallelism) as u16)
    }

    /// The subtask that owns this group.
    #[inline]
    pub fn subtask(self, parallelism: u32, max_parallelism: u32) -> u32 {
        self.0 as u32 * parallelism / max_parallelism
    }
}

/// Key groups `first ..= last`; `first > last` means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyGroupRange {
    pub first: u16,
    pub last: u16,
}

impl KeyGroupRange {
    /// The range owned by `subtask` of `parallelism`.
    ///
    /// # Panics
    /// If `subtask >= parallelism` or `parallelism > max_parallelism`: both are checked at validation.
    pub fn of_subtask(subtask: u32, parallelism: u32, max_parallelism: u32) -> Self {
        assert!(subtask < parallelism && parallelism <= max_parallelism);
        let first = (subtask * max_parallelism).div_ceil(parallelism);
        let last = ((subtask + 1) * max_parallelism - 1) / parallelism;
        KeyGroupRange { first: first as u16, last: last as u16 }
    }

    pub fn contains(&self, group: KeyGroup) -> bool {
        (self.first..=self.last).contains(&group.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = KeyGroup> + use<> {
        (self.first..=self.last).map(KeyGroup)
    }

    pub fn len(&self) -> usize {
        if self.is_empty() { 0 } else { (self.last - self.first) as usize + 1 }
    }

    pub fn is_empty(&self) -> bool {
        self.first > self.last
    }

    /// Groups in both.
    pub fn intersect(&self, other: &KeyGroupRange) -> Option<KeyGroupRange> {
        let both = KeyGroupRange { first: self.first.max(other.first), last: self.last.min(other.last) };
        (!both.is_empty()).then_some(both)
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_flinks() {
        let ranges = |p: u32, max: u32| {
            (0..p).map(|i| KeyGroupRange::of_subtask(i, p, max).to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ranges(1, 128), "0-127");
        assert_eq!(ranges(3, 128), "0-42 43-85 86-127");
        assert_eq!(ranges(4, 10), "0-2 3-4 5-7 8-9");
        assert_eq!(ranges(5, 5), "0-0 1-1 2-2 3-3 4-4");
    }

    proptest! {
        #[test]
        fn a_group_is_in_the_range_of_its_subtask_and_in_no_other(max in 1u32..2000, p in 1u32..64) {
            let p = p.min(max);
            for group in (0..max as u16).map(KeyGroup) {
                let owner = group.subtask(p, max);
                for subtask in 0..p {
                    let owned = KeyGroupRange::of_subtask(subtask, p, max).contains(group);
                    prop_assert_eq!(owned, subtask == owner);
                }
            }
        }
    }
}
