use crate::Result;
use crate::operator::Context;
use crate::types::Timestamp;
use weir_model::types::TIMESTAMP;
use weir_model::{KeyGroup, StateField};
use weir_state::{EncodedRows, KeyedState, OrderedStateId, timer_time};

/// Timers of each key: at most one for each time. They are state: a checkpoint holds them.
///
/// An event-time timer fires when the watermark has come to its time, a processing-time timer when the clock has.
/// `Operator::on_timer` is called then, with the timer's key as the current one. Timers fire in the order of their
/// times; at one time, those of the set that was registered first in `Operator::new` come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Among the operator's timer sets.
    pub(crate) set: usize,
}

impl Timers {
    /// Sets a timer for the current key. If there is one at this time already, nothing changes. One whose time is
    /// over fires when time next moves on.
    pub fn register(&self, context: &mut Context<'_>, time: Timestamp) -> Result<()> {
        let (state, scope, row) = context.parts();
        let (group, key) = scope.ordered_key(row);
        let timers = state.ordered(scope.timers[self.set].id);
        let time_us = time.as_micros();
        if timers.get(group, &timer_time(time_us), key)?.is_none() {
            timers.put_timer(group, time_us, key, NO_VALUE)?;
            let set = &mut scope.timers[self.set];
            set.earliest_registered = set.earliest_registered.min(time_us);
        }
        Ok(())
    }

    /// Takes a timer of the current key back, if it is set.
    pub fn delete(&self, context: &mut Context<'_>, time: Timestamp) -> Result<()> {
        let (state, scope, row) = context.parts();
        let (group, key) = scope.ordered_key(row);
        state.ordered(scope.timers[self.set].id).delete_timer(group, time.as_micros(), key)?;
        scope.timers[self.set].has_deleted = true;
        Ok(())
    }
}

const NO_VALUE: &[u8] = &[];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeDomain {
    Event,
    Processing,
}

/// One set of timers.
pub(crate) struct TimerSet {
    pub(crate) id: OrderedStateId,
    pub(crate) domain: TimeDomain,
    /// Since the current round began.
    pub(crate) earliest_registered: i64,
    /// Since the current round began.
    pub(crate) has_deleted: bool,
}

impl TimerSet {
    pub(crate) fn new(id: OrderedStateId, domain: TimeDomain) -> Self {
        TimerSet { id, domain, earliest_registered: i64::MAX, has_deleted: false }
    }

    pub(crate) fn begin_round(&mut self) {
        self.earliest_registered = i64::MAX;
        self.has_deleted = false;
    }
}

/// The namespace of timers.
pub(crate) fn timer_time_field() -> StateField {
    StateField::new("timer_time", TIMESTAMP, false)
}

/// Timers that are due, in the order in which they fire. They are still set.
#[derive(Default)]
pub(crate) struct Due {
    timers: Vec<DueTimer>,
    keys: EncodedRows,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DueTimer {
    pub(crate) time_us: i64,
    pub(crate) set: usize,
    pub(crate) group: KeyGroup,
    /// Among the keys as they were found.
    key: usize,
}

/// Timers that a round looks at, over all key groups; a group gives one at least.
const ROUND_TIMERS: usize = 4096;

impl Due {
    /// Finds the next timers of the domain with a time of at most `upto_us`. None are left out that would fire
    /// before one that is found; there may be more behind.
    pub(crate) fn find(sets: &[TimerSet], domain: TimeDomain, upto_us: i64, state: &mut KeyedState) -> Result<Due> {
        let mut due = Due::default();
        let groups = state.key_groups();
        let most_of_a_group = (ROUND_TIMERS / groups.len().max(1)).max(1);
        let end = upto_us.checked_add(1).map(timer_time);
        // Where a group that gave all it may goes on, at the earliest.
        let mut horizon = (i64::MAX, usize::MAX);
        for (number, set) in sets.iter().enumerate().filter(|(_, set)| set.domain == domain) {
            let timers = state.ordered(set.id);
            if timers.first_time().is_none_or(|first_us| first_us > upto_us) {
                continue;
            }
            for group in groups.iter() {
                let before = due.timers.len();
                timers.scan_range(group, &[], end.as_ref().map(|end| &end[..]), |place, _| {
                    let (time, key) = place.split_at(size_of::<i64>());
                    let time_us = weir_state::time_of_timer(time.try_into().expect("as many as split off"));
                    due.timers.push(DueTimer { time_us, set: number, group, key: due.keys.len() });
                    due.keys.push(key);
                    match due.timers.len() - before < most_of_a_group {
                        true => std::ops::ControlFlow::Continue(()),
                        false => {
                            horizon = horizon.min((time_us, number));
                            std::ops::ControlFlow::Break(())
                        }
                    }
                })?;
            }
        }
        due.timers.sort_unstable();
        let within = due.timers.partition_point(|timer| (timer.time_us, timer.set) <= horizon);
        due.timers.truncate(within);
        Ok(due)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    pub(crate) fn timers(&self) -> &[DueTimer] {
        &self.timers
    }

    /// The keys of the timers, in the order in which they fire.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.timers.iter().map(|timer| self.keys.row(timer.key))
    }

    pub(crate) fn key(&self, timer: DueTimer) -> &[u8] {
        self.keys.row(timer.key)
    }
}
