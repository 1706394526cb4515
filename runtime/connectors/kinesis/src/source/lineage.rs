//! Which shards may be read: those whose parents have been read to the end. Pure.

use crate::client::Shard;
use std::collections::HashMap;

/// Of a whole stream, as far as this job reads it.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// By shard: whether it has been read to its end, by whichever subtask.
    shards: HashMap<String, bool>,
    /// The last of the service's order that was listed.
    latest: Option<String>,
}

impl Lineage {
    /// A shard that this job reads.
    pub(super) fn add(&mut self, shard: &str, is_ended: bool) {
        *self.shards.entry(shard.to_owned()).or_default() |= is_ended;
    }

    pub(super) fn ended(&mut self, shard: &str) {
        self.add(shard, true);
    }

    /// Shards that were listed: those among them that are new to this job, which are children of what it reads. What has no
    /// part in that was closed before the job began.
    pub(super) fn listed(&mut self, listed: &[Shard]) -> Vec<Shard> {
        let mut new = vec![];
        for shard in listed {
            if self.latest.as_ref().is_none_or(|latest| *latest < shard.id) {
                self.latest = Some(shard.id.clone());
            }
            let is_descendant = shard.parents.iter().any(|parent| self.shards.contains_key(parent));
            if is_descendant && !self.shards.contains_key(&shard.id) {
                self.add(&shard.id, false);
                new.push(shard.clone());
            }
        }
        new
    }

    /// Nothing to wait for: its parents are read to the end, or are none of this job's.
    pub(super) fn may_begin(&self, parents: &[String]) -> bool {
        parents.iter().all(|parent| self.shards.get(parent).is_none_or(|is_ended| *is_ended))
    }

    pub(super) fn latest(&self) -> Option<&str> {
        self.latest.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::HashKeys;

    fn shard(id: &str, parents: &[&str]) -> Shard {
        let parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
        Shard { id: id.into(), parents, hash_keys: HashKeys { first: 0, last: 1 } }
    }

    fn names(shards: &[Shard]) -> Vec<&str> {
        shards.iter().map(|shard| shard.id.as_str()).collect()
    }

    #[test]
    fn a_merge_waits_for_both() {
        let mut lineage = Lineage::default();
        lineage.add("0", false);
        lineage.add("1", false);
        let merged = shard("2", &["0", "1"]);
        assert_eq!(names(&lineage.listed(std::slice::from_ref(&merged))), ["2"]);
        lineage.ended("1");
        assert!(!lineage.may_begin(&merged.parents));
        lineage.ended("0");
        assert!(lineage.may_begin(&merged.parents));
        assert_eq!(lineage.listed(std::slice::from_ref(&merged)), [], "once is enough");
        assert_eq!(lineage.latest(), Some("2"));
    }

    #[test]
    fn only_descendants_are_new_and_generations_come_at_once() {
        let mut lineage = Lineage::default();
        lineage.add("5", true);
        let listed = [shard("3", &["1"]), shard("5", &["3"]), shard("6", &["5"]), shard("7", &["6", "4"])];
        assert_eq!(names(&lineage.listed(&listed)), ["6", "7"], "3 was closed before the job began");
        assert!(lineage.may_begin(&listed[2].parents));
        assert!(!lineage.may_begin(&listed[3].parents), "6 is still to be read; nobody reads 4");
    }
}
