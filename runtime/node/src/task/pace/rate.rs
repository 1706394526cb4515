//! How much comes through in a second.

use super::faded;
use std::time::Duration;

/// Of all that was noted, the older the less it weighs.
#[derive(Debug, Default)]
pub(super) struct Rate {
    amount: f64,
    seconds: f64,
}

impl Rate {
    pub(super) fn note(&mut self, amount: usize, took: Duration) {
        let weight = faded(took);
        self.amount = self.amount * weight + amount as f64;
        self.seconds = self.seconds * weight + took.as_secs_f64();
    }

    /// What comes through in such a time.
    pub(super) fn in_time(&self, time: Duration) -> f64 {
        // Before anything was noted, and of what takes no time that a clock shows: whatever is asked for.
        if self.seconds > 0.0 { self.amount * (time.as_secs_f64() / self.seconds) } else { f64::MAX }
    }
}
