//! The interval of an interval join: which times match, and until when a row has to stay.

use crate::join::LEFT;
use std::ops::Range;

/// Timers of one key that are nearer to each other than this part of the interval become one.
const TIMERS_PER_INTERVAL: i64 = 16;
/// The most by which a row's removal (and an outer row's emission) is put off to share a timer.
const MAX_TIMER_SPACING_US: i64 = 60_000_000;

/// `right + lower <= left <= right + upper`.
#[derive(Clone, Copy)]
pub(super) struct Interval {
    lower_us: i64,
    upper_us: i64,
    timer_spacing_us: i64,
}

impl Interval {
    pub(super) fn new(lower_us: i64, upper_us: i64) -> Self {
        let spacing = upper_us.saturating_sub(lower_us) / TIMERS_PER_INTERVAL;
        Interval { lower_us, upper_us, timer_spacing_us: spacing.clamp(1, MAX_TIMER_SPACING_US) }
    }

    /// The times of partners for a row of `input` at `time`, both ends included.
    pub(super) fn partners(&self, input: usize, time: i64) -> (i64, i64) {
        match input {
            LEFT => (time.saturating_sub(self.upper_us), time.saturating_sub(self.lower_us)),
            _ => (time.saturating_add(self.lower_us), time.saturating_add(self.upper_us)),
        }
    }

    /// The watermark from which on no partner can come for a row of `input` at `time`.
    pub(super) fn expiry(&self, input: usize, time: i64) -> i64 {
        self.partners(input, time).1.saturating_add(1)
    }

    /// Rows of `input` below this time have expired at `watermark`; `None`: all have.
    pub(super) fn expired_below(&self, input: usize, watermark: i64) -> Option<i64> {
        match (watermark, input) {
            (i64::MAX, _) => None,
            (_, LEFT) => Some(watermark.saturating_add(self.lower_us)),
            _ => Some(watermark.saturating_sub(self.upper_us)),
        }
    }

    /// When to look for expired rows: the expiry, rounded up.
    pub(super) fn timer(&self, expiry: i64) -> i64 {
        let beyond = expiry.rem_euclid(self.timer_spacing_us);
        if beyond == 0 { expiry } else { expiry.saturating_add(self.timer_spacing_us - beyond) }
    }

    /// How far behind the watermark the time of an emitted row of `input` may be: it was in time when it came,
    /// and then stayed until its expiry and the timer after it.
    pub(super) fn held_back_us(&self, input: usize) -> i64 {
        let stays = if input == LEFT { self.lower_us.saturating_neg() } else { self.upper_us };
        stays.saturating_add(self.timer_spacing_us).max(0)
    }
}

/// The candidates (of one key, in the order of their times) whose times are from `first` to `last`.
pub(super) fn within(times: &[i64], candidates: Range<u32>, (first, last): (i64, i64)) -> Range<u32> {
    let of_key = &times[candidates.start as usize..candidates.end as usize];
    let from = of_key.partition_point(|time| *time < first) as u32;
    let to = of_key.partition_point(|time| *time <= last) as u32;
    candidates.start + from..candidates.start + to.max(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::RIGHT;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn expiry_is_where_the_last_partner_would_be_late(
            lower in -50i64..50, width in 0i64..50, time in -100i64..100, watermark in -200i64..200,
        ) {
            let interval = Interval { lower_us: lower, upper_us: lower + width, timer_spacing_us: 7 };
            for input in [LEFT, RIGHT] {
                let (first, last) = interval.partners(input, time);
                prop_assert!(first <= last);
                let expired = last < watermark;
                prop_assert_eq!(interval.expiry(input, time) <= watermark, expired);
                prop_assert_eq!(time < interval.expired_below(input, watermark).unwrap(), expired);
                let timer = interval.timer(interval.expiry(input, time));
                prop_assert!(timer >= interval.expiry(input, time) && timer - interval.expiry(input, time) < 7);
                // A row that is still there, or goes out at this very watermark, isn't below what is held back.
                if timer >= watermark {
                    prop_assert!(time.max(watermark.min(time)) >= watermark - interval.held_back_us(input));
                }
            }
        }

        #[test]
        fn within_is_what_a_filter_finds(mut times in proptest::collection::vec(0i64..30, 0..20), first in 0i64..30, width in 0i64..10) {
            times.sort();
            let all = 0..times.len() as u32;
            let found: Vec<_> = within(&times, all.clone(), (first, first + width)).collect();
            let expected: Vec<_> = all.filter(|i| (first..=first + width).contains(&times[*i as usize])).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
