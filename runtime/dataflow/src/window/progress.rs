//! How far time has come, as keyed state: a window that has fired must not fire again after a restore, and a row
//! that was late must stay late, though watermarks start anew.

use crate::operator::OperatorError;
use arrow::array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use std::sync::Arc;
use weir_model::hash::hash_u64;
use weir_model::types::TIMESTAMP;
use weir_model::{KeyGroup, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::{KeyBatch, KeyEncoder, KeyedState, RowStateId, Slot};

/// The time up to which windows have fired, for each key group: after rescaling, a subtask may own groups that
/// had come differently far.
///
/// As keyed state it moves with its key group: each group has one row, under the least number from 0 whose hash
/// falls into the group.
pub struct Progress {
    state: RowStateId,
    members: KeyBatch,
    owned: KeyGroupRange,
    /// By owned group, as restored; what came since is in `current_us`.
    restored_us: Vec<i64>,
    greatest_restored_us: i64,
    current_us: i64,
    slots: Vec<Slot>,
}

impl Progress {
    pub fn schema() -> StateSchema {
        StateSchema {
            name: "progress".into(),
            kind: StateKind::Value,
            key: vec![StateField::new("key_group_member", DataType::Int64, true)],
            namespace: vec![],
            value: vec![StateField::new("fired_until", TIMESTAMP, true)],
            semantics: vec!["time that has been reached".into()],
        }
    }

    pub fn open(state: &mut KeyedState) -> Result<Self, OperatorError> {
        let schema = Self::schema();
        let (owned, max_parallelism) = (state.key_groups(), state.max_parallelism());
        let numbers: ArrayRef = Arc::new(Int64Array::from(members(owned, max_parallelism)));
        let mut members = KeyBatch::new();
        KeyEncoder::new(&schema.key).encode(&[numbers], owned.len(), max_parallelism, &mut members)?;
        let id = state.register_rows(schema)?;
        let rows = state.rows(id);
        let mut slots = vec![];
        rows.find(0, &members, &mut slots)?;
        let times = rows.column(&slots, 0)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let restored_us: Vec<i64> = times.iter().map(|time| time.unwrap_or(i64::MIN)).collect();
        let greatest_restored_us = restored_us.iter().copied().max().unwrap_or(i64::MIN);
        Ok(Progress { state: id, members, owned, restored_us, greatest_restored_us, current_us: i64::MIN, slots })
    }

    /// The time reached for keys of this group.
    #[inline]
    pub fn of_group(&self, group: KeyGroup) -> i64 {
        match self.is_uniform() {
            true => self.current_us,
            false => self.current_us.max(self.restored_us[(group.0 - self.owned.first) as usize]),
        }
    }

    /// The time reached by all groups in this run.
    pub fn current(&self) -> i64 {
        self.current_us
    }

    /// The time reached by the group that has come farthest.
    pub fn greatest(&self) -> i64 {
        self.current_us.max(self.greatest_restored_us)
    }

    /// Whether all groups have come equally far.
    #[inline]
    pub fn is_uniform(&self) -> bool {
        self.current_us >= self.greatest_restored_us
    }

    /// Notes that `time_us` is reached. The end of time isn't written: if a bounded job goes on from its last
    /// checkpoint after all, with more input, then that input isn't late.
    pub fn advance(&mut self, time_us: i64, state: &mut KeyedState) -> Result<(), OperatorError> {
        self.current_us = self.current_us.max(time_us);
        if time_us == i64::MAX {
            return Ok(());
        }
        let reached = self.restored_us.iter().map(|restored| self.current_us.max(*restored));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(reached));
        let rows = state.rows(self.state);
        rows.upsert(0, &self.members, &mut self.slots, &mut vec![])?;
        rows.set_column(&self.slots, 0, &times)?;
        Ok(())
    }

    /// As `advance`, without writing: for a time that decides nothing that the last one didn't.
    pub fn advance_in_memory(&mut self, time_us: i64) {
        self.current_us = self.current_us.max(time_us);
    }
}

/// For each owned group the least number whose key hash falls into it.
fn members(owned: KeyGroupRange, max_parallelism: u32) -> Vec<i64> {
    let mut members = vec![None; owned.len()];
    let mut missing = owned.len();
    for number in 0i64.. {
        if missing == 0 {
            break;
        }
        let group = KeyGroup::of_hash(hash_u64(number as u64), max_parallelism);
        if owned.contains(group) {
            let member = &mut members[(group.0 - owned.first) as usize];
            missing -= member.is_none() as usize;
            member.get_or_insert(number);
        }
    }
    members.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_a_member_of_its_own() {
        let owned = KeyGroupRange { first: 3, last: 40 };
        let members = members(owned, 128);
        let groups = members.iter().map(|number| KeyGroup::of_hash(hash_u64(*number as u64), 128).0);
        assert!(groups.eq(3..=40));
    }

    #[test]
    fn groups_that_came_differently_far() {
        let mut state = KeyedState::new(KeyGroupRange { first: 0, last: 7 }, 8);
        let mut progress = Progress::open(&mut state).unwrap();
        progress.advance(50, &mut state).unwrap();
        progress.restored_us[2] = 70;
        progress.greatest_restored_us = 70;
        assert!(!progress.is_uniform());
        assert_eq!((progress.of_group(KeyGroup(1)), progress.of_group(KeyGroup(2))), (50, 70));
        progress.advance(60, &mut state).unwrap();
        let rows = state.rows(progress.state);
        let mut slots = vec![];
        rows.find(0, &progress.members, &mut slots).unwrap();
        let times = rows.column(&slots, 0).unwrap();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.values()[..], [60, 60, 70, 60, 60, 60, 60, 60]);
        progress.advance_in_memory(70);
        assert!(progress.is_uniform());
    }
}
