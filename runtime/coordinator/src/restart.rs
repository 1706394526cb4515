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
}

impl RestartTracker {
    pub fn new(strategy: RestartStrategy) -> Self {
        RestartTracker { strategy, failures: 0, recent_ms: VecDeque::new() }
    }

    /// `running_since_ms`: when the attempt that failed had been deployed. `random`: uniform in [0, 1).
    pub fn on_failure(&mut self, now_ms: u64, running_since_ms: Option<u64>, random: f64) -> RestartDecision {
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
            } => {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The delays of failures at these times, each after running for `ran_ms`.
    fn delays(strategy: RestartStrategy, failures: &[(u64, u64)]) -> Vec<String> {
        let mut tracker = RestartTracker::new(strategy);
        let decide = |(now_ms, ran_ms): &(u64, u64)| match tracker.on_failure(*now_ms, Some(now_ms - ran_ms), 0.5) {
            RestartDecision::Restart { delay_ms } => delay_ms.to_string(),
            RestartDecision::GiveUp { .. } => "give up".to_owned(),
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
        };
        let failures = [(10, 0), (20, 0), (30, 0), (40, 0), (20_000, 10_000), (20_001, 1)];
        assert_eq!(delays(exponential, &failures), ["100", "200", "350", "350", "100", "200"]);
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
        };
        for (random, expected_ms) in [(0.0, 900), (0.5, 1000), (0.999_999_9, 1099)] {
            let decision = RestartTracker::new(strategy.clone()).on_failure(0, None, random);
            assert_eq!(decision, RestartDecision::Restart { delay_ms: expected_ms });
        }
    }
}
