//! What changes per second: the difference of two looks at the counters.

use super::Shared;
use crate::metrics::TimeTotals;
use crate::status::JobStatus;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use weir_api::view::TimeShares;

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Of the attempt that runs, by node of the graph and subtask.
#[derive(Default)]
pub(super) struct Rates {
    /// Epoch and attempt: another one counts anew.
    attempt: (u64, u32),
    before: BTreeMap<(usize, usize), Counted>,
    before_at: Option<Instant>,
    rates: BTreeMap<(usize, usize), Rate>,
}

#[derive(Clone, Copy)]
struct Counted {
    records_in: u64,
    records_out: u64,
    time: TimeTotals,
}

/// Between the last two looks.
#[derive(Clone, Copy, Default)]
pub(super) struct Rate {
    /// Per second.
    pub(super) records_in: f64,
    pub(super) records_out: f64,
    /// Of the task, where this is its first node.
    pub(super) time: TimeShares,
}

impl Rates {
    pub(super) fn of(&self, node: usize, subtask: usize) -> Rate {
        self.rates.get(&(node, subtask)).copied().unwrap_or_default()
    }

    fn look(&mut self, status: &JobStatus, now: Instant) {
        let attempt = (status.epoch, status.attempt);
        if self.attempt != attempt {
            *self = Rates { attempt, ..Rates::default() };
        }
        let mut counted = BTreeMap::new();
        for (node, shown) in status.nodes.iter().enumerate() {
            for (subtask, metrics) in shown.subtasks.iter().enumerate() {
                let now = Counted {
                    records_in: metrics.records_in.get(),
                    records_out: metrics.records_out.get(),
                    time: metrics.task.clock.totals(),
                };
                counted.insert((node, subtask), now);
            }
        }
        if let Some(before_at) = self.before_at {
            let seconds = (now - before_at).as_secs_f64().max(1e-3);
            let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            self.rates = counted
                .iter()
                .filter_map(|(key, now)| {
                    let before = self.before.get(key)?;
                    let rate = Rate {
                        records_in: per_second(now.records_in, before.records_in),
                        records_out: per_second(now.records_out, before.records_out),
                        time: shares(before.time, now.time).unwrap_or_else(|| self.of(key.0, key.1).time),
                    };
                    Some((*key, rate))
                })
                .collect();
        }
        (self.before, self.before_at) = (counted, Some(now));
    }
}

/// None: nothing new was told since; of another process that may be.
fn shares(before: TimeTotals, now: TimeTotals) -> Option<TimeShares> {
    let total_us = now.total_us.checked_sub(before.total_us).filter(|total_us| *total_us > 0)? as f64;
    let share = |now: u64, before: u64| (now.saturating_sub(before) as f64 / total_us).min(1.0);
    let idle = share(now.idle_us, before.idle_us);
    let backpressured = share(now.backpressured_us, before.backpressured_us).min(1.0 - idle);
    Some(TimeShares { busy: 1.0 - idle - backpressured, idle, backpressured })
}

/// Looks every second, as long as the server lives.
pub(super) async fn sample(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut rates = shared.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let status = shared.status.lock();
        rates.look(&status, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_need_news() {
        let at = |total_us, idle_us, backpressured_us| TimeTotals { total_us, idle_us, backpressured_us };
        let Some(TimeShares { busy, idle, backpressured }) = shares(at(1_000, 500, 0), at(2_000, 700, 300)) else {
            panic!("there is news");
        };
        assert_eq!([busy, idle, backpressured].map(|share| (share * 100.0).round()), [50.0, 20.0, 30.0]);
        assert_eq!(shares(at(1_000, 0, 0), at(1_000, 0, 0)), None);
        // Two counters that were not read at one moment.
        let Some(TimeShares { busy, .. }) = shares(at(0, 0, 0), at(100, 80, 40)) else { panic!("there is news") };
        assert!(busy.abs() < 1e-9, "{busy}");
    }
}
