//! What of the work on a batch is for the batch, and what for its size: a straight line through the last ones.

use super::{QUICK, faded};
use std::time::Duration;

/// A batch weighs less by this with each that follows: some 32 of them count.
const MEMORY: f64 = 1.0 - 1.0 / 32.0;
/// Below this (the standard deviation against the mean, squared) batches are as good as equal, and say nothing.
const LEAST_VARIATION: f64 = 0.01;

/// Of a task, batch by batch.
#[derive(Debug, Default)]
pub(super) struct Cost {
    recent_batches: f64,
    recent_seconds: f64,
    line: Line,
}

/// Weighted sums over batches: x is the size, y the seconds.
#[derive(Debug, Default)]
struct Line {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Cost {
    pub(super) fn note(&mut self, amount: usize, work: Duration) {
        let was_slow = self.is_slow();
        let weight = faded(work);
        self.recent_batches = self.recent_batches * weight + 1.0;
        self.recent_seconds = self.recent_seconds * weight + work.as_secs_f64();
        if self.is_slow() && !was_slow {
            // What batches cost before says nothing any more.
            self.line = Line::default();
        }
        self.line.note(amount as f64, work.as_secs_f64());
    }

    /// Whether a batch takes long, on average.
    pub(super) fn is_slow(&self) -> bool {
        self.recent_seconds >= self.recent_batches * QUICK.as_secs_f64() && self.recent_batches > 0.0
    }

    /// What a batch costs whatever its size; none if their sizes don't tell.
    pub(super) fn fixed(&self) -> Duration {
        Duration::from_secs_f64(self.line.at_nothing())
    }
}

impl Line {
    fn note(&mut self, x: f64, y: f64) {
        let add = |sum: &mut f64, value: f64| *sum = *sum * MEMORY + value;
        add(&mut self.weight, 1.0);
        add(&mut self.x, x);
        add(&mut self.y, y);
        add(&mut self.xx, x * x);
        add(&mut self.xy, x * y);
    }

    /// By least squares.
    fn at_nothing(&self) -> f64 {
        if self.weight == 0.0 {
            return 0.0;
        }
        let [x, y, xx, xy] = [self.x, self.y, self.xx, self.xy].map(|sum| sum / self.weight);
        let variance = xx - x * x;
        if variance <= LEAST_VARIATION * x * x {
            return 0.0;
        }
        // A batch that is smaller and takes longer is noise.
        let slope = ((xy - x * y) / variance).max(0.0);
        (y - slope * x).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of batches of these sizes in turn, which cost microseconds each, and nanoseconds for each of their size.
    fn fixed_us(sizes: &[usize], each_us: u64, of_one_ns: u64) -> u64 {
        let mut cost = Cost::default();
        for size in sizes.iter().cycle().take(100) {
            cost.note(*size, Duration::from_nanos(each_us * 1_000 + of_one_ns * *size as u64));
        }
        (cost.fixed().as_secs_f64() * 1e6).round() as u64
    }

    #[test]
    fn the_fixed_part_is_found_where_sizes_differ() {
        for (sizes, each_us, of_one_ns, expected) in [
            (&[100, 200][..], 0, 50_000, 0),
            (&[100, 200], 30_000, 0, 30_000),
            (&[400, 400, 400, 200], 700, 10_000, 700),
            (&[400, 399, 401], 700, 10_000, 0),
            (&[400], 30_000, 0, 0),
        ] {
            assert_eq!(fixed_us(sizes, each_us, of_one_ns), expected, "{sizes:?}, {each_us} us, {of_one_ns} ns");
        }
        assert_eq!(Cost::default().fixed(), Duration::ZERO);
    }

    #[test]
    fn a_batch_that_is_smaller_and_takes_longer_makes_no_cost_below_nothing() {
        let mut cost = Cost::default();
        cost.note(10, Duration::from_millis(9));
        cost.note(90, Duration::from_millis(3));
        let fixed_ms = cost.fixed().as_secs_f64() * 1e3;
        assert!((3.0..9.0).contains(&fixed_ms), "{fixed_ms}");
    }

    #[test]
    fn what_was_quick_says_nothing_of_what_is_slow() {
        let mut cost = Cost::default();
        (0..1_000).for_each(|batch| cost.note(4_000 + batch, Duration::from_micros(100)));
        assert!(!cost.is_slow());
        cost.note(5_000, Duration::from_millis(500));
        assert!(cost.is_slow());
        assert_eq!(cost.fixed(), Duration::ZERO);
    }
}
