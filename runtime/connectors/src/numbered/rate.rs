//! Rows per second.

use std::time::{Duration, Instant};

/// Rows are let through at most in slices of this long, so that a slow rate is a trickle and no bursts.
const SLICE: Duration = Duration::from_millis(20);
/// After a standstill at most this much is made up for.
const MAX_ARREARS: Duration = Duration::from_secs(1);

pub(super) struct RateLimit {
    rows_per_second: f64,
    /// Rows that may go now; earned with time.
    credit: f64,
    earned_at: Instant,
}

impl RateLimit {
    pub fn new(rows_per_second: f64, now: Instant) -> Self {
        RateLimit { rows_per_second, credit: 0.0, earned_at: now }
    }

    /// How many of `wanted` rows may go now; if none, when to ask again.
    pub fn take(&mut self, wanted: u64, now: Instant) -> Result<u64, Duration> {
        let earned = now.duration_since(self.earned_at).min(MAX_ARREARS);
        self.earned_at = now;
        let limit = (self.rows_per_second * MAX_ARREARS.as_secs_f64()).max(1.0);
        self.credit = (self.credit + earned.as_secs_f64() * self.rows_per_second).min(limit);
        let slice = (self.rows_per_second * SLICE.as_secs_f64()).clamp(1.0, wanted as f64);
        if self.credit < slice {
            let missing = Duration::try_from_secs_f64((slice - self.credit) / self.rows_per_second);
            return Err(missing.unwrap_or(MAX_ARREARS).min(MAX_ARREARS));
        }
        let taken = self.credit.min(wanted as f64).floor();
        self.credit -= taken;
        Ok(taken as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_a_standstill_is_not_made_up_for_at_length() {
        for rate in [0.5, 7.0, 1_000.0, 3_000_000.0] {
            let mut now = Instant::now();
            let mut limit = RateLimit::new(rate, now);
            let start = now;
            let mut given = 0;
            while now - start < Duration::from_secs(20) {
                match limit.take(8192, now) {
                    Ok(rows) => given += rows,
                    Err(wait) => now += wait.max(Duration::from_micros(1)),
                }
            }
            let expected = rate * 20.0;
            assert!((given as f64 - expected).abs() <= (expected * 0.01).max(1.0), "{given} rows at {rate} a second");
            now += Duration::from_secs(3600);
            let mut burst = 0;
            while let Ok(rows) = limit.take(8192, now) {
                burst += rows;
            }
            assert!(burst as f64 <= (rate * 1.1).max(2.0), "{burst} rows at once at {rate} a second");
        }
    }
}
