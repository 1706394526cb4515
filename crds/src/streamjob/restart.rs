//! Restart strategies: what happens after a failure.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NoOptions;
use crate::{defaults, duration::HumanDuration, rules::at_most_one};

/// What happens after a failure: one of the four. If nothing is said: exponentialDelay with checkpoints, none without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = at_most_one(&["exponentialDelay", "fixedDelay", "failureRate", "none"]))]
pub struct RestartStrategy {
    /// Wait longer after each failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponential_delay: Option<ExponentialDelay>,
    /// Wait the same, so many times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_delay: Option<FixedDelay>,
    /// Give up when failures come too often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
    /// Never restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub none: Option<NoOptions>,
}

/// Wait longer after each failure, begin again after a quiet time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ExponentialDelay {
    #[schemars(extend("default" = defaults::EXPONENTIAL_DELAY_INITIAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<HumanDuration>,
    #[schemars(extend("default" = defaults::EXPONENTIAL_DELAY_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<HumanDuration>,
    #[schemars(extend("default" = defaults::EXPONENTIAL_DELAY_MULTIPLIER))]
    #[schemars(range(min = 1.0, max = 100.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<f64>,
    /// The part of a delay, 0 to 1, by which it is made longer or shorter at random.
    #[schemars(extend("default" = defaults::EXPONENTIAL_DELAY_JITTER))]
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// After running this long the delay is the initial one again.
    #[schemars(extend("default" = defaults::EXPONENTIAL_DELAY_RESET_AFTER))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_after: Option<HumanDuration>,
    /// Failures before the job fails for good, counted since the last reset. No limit if nothing is said.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Times that the same record may fail the job, without a checkpoint in between, before the job fails for good: an
    /// expression that fails on it. What is away and may come back is not counted.
    #[schemars(extend("default" = defaults::EXPONENTIAL_DELAY_MAX_SAME_FAILURES))]
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_same_failures: Option<u32>,
}

/// Wait the same, so many times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FixedDelay {
    #[schemars(extend("default" = defaults::FIXED_DELAY_ATTEMPTS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[schemars(extend("default" = defaults::FIXED_DELAY_DELAY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<HumanDuration>,
}

/// Give up when more than `maxFailures` come within `interval`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FailureRate {
    #[schemars(extend("default" = defaults::FAILURE_RATE_MAX_FAILURES))]
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    #[schemars(extend("default" = defaults::FAILURE_RATE_INTERVAL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<HumanDuration>,
    #[schemars(extend("default" = defaults::FAILURE_RATE_DELAY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<HumanDuration>,
}
