//! Restart strategies, with the meaning they have in Flink.

use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq)]
pub enum RestartStrategy {
    ExponentialDelay {
        initial_ms: u64,
        max_ms: u64,
        multiplier: f64,
        /// Part of the delay, 0 to 1, by which it is made longer or shorter.
        jitter: f64,
        /// After running this long without a failure, the delay is the initial one again.
        reset_after_ms: u64,
        /// Failures since the last reset before the job fails for good.
        max_attempts: Option<u32>,
        /// Times that the data fails the job in the same way, without a checkpoint in between, before it fails for good.
        max_same_failures: u32,
    },
    FixedDelay {
        attempts: u32,
        delay_ms: u64,
    },
    /// At most `max_failures` within `interval_ms`.
    FailureRate {
        max_failures: u32,
        interval_ms: u64,
        delay_ms: u64,
    },
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    Restart {
        delay_ms: u64,
    },
    /// With the reason why not.
    GiveUp {
        reason: String,
    },
}

/// The failures that a strategy has to remember.
#[derive(Clone, Debug)]
pub struct RestartTracker {
    strategy: RestartStrategy,
    /// Of fixed delay and exponential delay: since the start or the last reset.
    failures: u32,
    /// Of failure rate: at most `max_failures` of them.
    recent_ms: VecDeque<u64>,
    /// Of exponential delay: what the data failed with since the last checkpoint, and how often.
    of_data: VecDeque<(String, u32)>,
}

/// Records that fail a job in turn, because several subtasks come to theirs first, now one and now the other: more
/// than these are told apart no longer.
const TRACKED_FAILURES: usize = 64;

/// A failure, as far as a strategy asks.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub now_ms: u64,
    /// When the attempt that failed had been deployed.
    pub running_since_ms: Option<u64>,
    /// Uniform in [0, 1).
    pub random: f64,
    /// What the data failed with; `None`: something else did, which may pass.
    pub of_data: Option<&'a str>,
}

impl RestartTracker {
    pub fn new(strategy: RestartStrategy) -> Self {
        RestartTracker { strategy, failures: 0, recent_ms: VecDeque::new(), of_data: VecDeque::new() }
    }

    /// A checkpoint completed: the job has come further than it was, and starts from there.
    pub fn on_checkpoint(&mut self) {
        self.of_data.clear();
    }

    pub fn on_failure(&mut self, failure: Failure<'_>) -> RestartDecision {
        let Failure { now_ms, running_since_ms, random, of_data } = failure;
        match self.strategy.clone() {
            RestartStrategy::None => RestartDecision::GiveUp { reason: "the restart strategy is `none`".to_owned() },
            RestartStrategy::FixedDelay { attempts, delay_ms } => {
                self.failures = self.failures.saturating_add(1);
                if self.failures > attempts {
                    let reason =
                        format!("fixedDelay allows {attempts} restarts, and this is failure {}", self.failures);
                    return RestartDecision::GiveUp { reason };
                }
                RestartDecision::Restart { delay_ms }
            }
            RestartStrategy::FailureRate { max_failures, interval_ms, delay_ms } => {
                while self.recent_ms.front().is_some_and(|at_ms| at_ms.saturating_add(interval_ms) <= now_ms) {
                    self.recent_ms.pop_front();
                }
                if self.recent_ms.len() as u32 >= max_failures {
                    let reason = format!(
                        "failureRate allows {max_failures} failures within {interval_ms} ms, and this is one more"
                    );
                    return RestartDecision::GiveUp { reason };
                }
                self.recent_ms.push_back(now_ms);
                RestartDecision::Restart { delay_ms }
            }
            RestartStrategy::ExponentialDelay {
                initial_ms,
                max_ms,
                multiplier,
                jitter,
                reset_after_ms,
                max_attempts,
                max_same_failures,
            } => {
                if let Some(times) = of_data.map(|reason| self.count(reason))
                    && times >= max_same_failures
                {
                    let reason = format!(
                        "the same data has failed it {times} times without a checkpoint in between, and \
                         exponentialDelay.maxSameFailures is {max_same_failures}"
                    );
                    return RestartDecision::GiveUp { reason };
                }
                if running_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= reset_after_ms) {
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(1);
                if let Some(limit) = max_attempts
                    && self.failures > limit
                {
                    let reason =
                        format!("exponentialDelay allows {limit} restarts, and this is failure {}", self.failures);
                    return RestartDecision::GiveUp { reason };
                }
                let growth = multiplier.powi(self.failures.saturating_sub(1).min(1_000) as i32);
                let delay_ms = (initial_ms as f64 * growth).min(max_ms as f64);
                let jittered_ms = delay_ms * (1.0 + jitter * (2.0 * random - 1.0));
                RestartDecision::Restart { delay_ms: jittered_ms.clamp(0.0, max_ms as f64) as u64 }
            }
        }
    }
}

impl RestartTracker {
    /// How often the data has failed like this, this time included.
    fn count(&mut self, reason: &str) -> u32 {
        if let Some((_, times)) = self.of_data.iter_mut().find(|(seen, _)| seen == reason) {
            *times = times.saturating_add(1);
            return *times;
        }
        if self.of_data.len() == TRACKED_FAILURES {
            self.of_data.pop_front();
        }
        self.of_data.push_back((reason.to_owned(), 1));
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The delays of failures at these times, each after running for `ran_ms`.
    fn delays(strategy: RestartStrategy, failures: &[(u64, u64)]) -> Vec<String> {
        let mut tracker = RestartTracker::new(strategy);
        let decide = |(now_ms, ran_ms): &(u64, u64)| {
            let running_since_ms = Some(now_ms - ran_ms);
            let failure = Failure { now_ms: *now_ms, running_since_ms, random: 0.5, of_data: None };
            match tracker.on_failure(failure) {
                RestartDecision::Restart { delay_ms } => delay_ms.to_string(),
                RestartDecision::GiveUp { .. } => "give up".to_owned(),
            }
        };
        failures.iter().map(decide).collect()
    }

    #[test]
    fn each_strategy() {
        assert_eq!(delays(RestartStrategy::None, &[(0, 0)]), ["give up"]);
        let fixed = RestartStrategy::FixedDelay { attempts: 2, delay_ms: 7 };
        assert_eq!(delays(fixed, &[(0, 0), (10, 0), (1_000_000, 0)]), ["7", "7", "give up"]);
        let rate = RestartStrategy::FailureRate { max_failures: 2, interval_ms: 100, delay_ms: 5 };
        assert_eq!(delays(rate.clone(), &[(0, 0), (50, 0), (99, 0)]), ["5", "5", "give up"]);
        assert_eq!(delays(rate, &[(0, 0), (50, 0), (100, 0), (149, 0)]), ["5", "5", "5", "give up"]);
        let exponential = RestartStrategy::ExponentialDelay {
            initial_ms: 100,
            max_ms: 350,
            multiplier: 2.0,
            jitter: 0.1,
            reset_after_ms: 10_000,
            max_attempts: None,
            max_same_failures: 3,
        };
        let failures = [(10, 0), (20, 0), (30, 0), (40, 0), (20_000, 10_000), (20_001, 1)];
        assert_eq!(delays(exponential, &failures), ["100", "200", "350", "350", "100", "200"]);
    }

    /// `c`: a checkpoint; `-`: a failure of something outside; all else: the data failed like this.
    #[test]
    fn data_that_fails_again_and_again_ends_the_job() {
        for (events, expected) in [
            // What may pass is tried for ever.
            ("- - - - - - - -", "go on"),
            ("a a", "go on"),
            ("a a a", "give up at 3"),
            ("a - a - - a", "give up at 6"),
            // Two records, of which now one and now the other is the first.
            ("a b a b b", "give up at 5"),
            // A checkpoint: the job gets further each time.
            ("a a c a a c a a c b b", "go on"),
            ("a a c a a a", "give up at 6"),
        ] {
            let mut tracker = RestartTracker::new(RestartStrategy::ExponentialDelay {
                initial_ms: 1,
                max_ms: 10,
                multiplier: 1.0,
                jitter: 0.0,
                reset_after_ms: 1,
                max_attempts: None,
                max_same_failures: 3,
            });
            let mut outcome = "go on".to_owned();
            for (index, event) in events.split(' ').enumerate() {
                assert_eq!(outcome, "go on", "{events}: it goes on too long");
                if event == "c" {
                    tracker.on_checkpoint();
                    continue;
                }
                let of_data = (event != "-").then_some(event);
                let failure = Failure { now_ms: index as u64, running_since_ms: None, random: 0.5, of_data };
                if let RestartDecision::GiveUp { .. } = tracker.on_failure(failure) {
                    outcome = format!("give up at {}", index + 1);
                }
            }
            assert_eq!(outcome, expected, "{events}");
        }
    }

    #[test]
    fn failures_of_data_are_tracked_within_bounds() {
        let strategy = RestartStrategy::FixedDelay { attempts: u32::MAX, delay_ms: 1 };
        let mut tracker = RestartTracker::new(strategy);
        for number in 0..3 * TRACKED_FAILURES {
            assert_eq!(tracker.count(&format!("record {number}")), 1);
        }
        assert_eq!(tracker.of_data.len(), TRACKED_FAILURES);
        assert_eq!(tracker.count("record 191"), 2);
    }

    #[test]
    fn jitter_stays_within_its_part() {
        let strategy = RestartStrategy::ExponentialDelay {
            initial_ms: 1000,
            max_ms: 100_000,
            multiplier: 1.5,
            jitter: 0.1,
            reset_after_ms: 1,
            max_attempts: None,
            max_same_failures: 3,
        };
        for (random, expected_ms) in [(0.0, 900), (0.5, 1000), (0.999_999_9, 1099)] {
            let failure = Failure { now_ms: 0, running_since_ms: None, random, of_data: None };
            let decision = RestartTracker::new(strategy.clone()).on_failure(failure);
            assert_eq!(decision, RestartDecision::Restart { delay_ms: expected_ms });
        }
    }
}
