//! What the operator is told when it starts.

use std::time::Duration;

/// The same for all jobs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image of a job that names none: the operator's own.
    pub image: String,
    pub image_pull_policy: Option<String>,
    /// The only namespace that is looked after; all of them if nothing is said.
    pub namespace: Option<String>,
    /// How often the coordinator of a running job is asked how it goes.
    pub poll_interval: Duration,
    /// How often progress that changes nothing else is written to a job's status.
    pub status_interval: Duration,
    /// Whoever reaches a job's pods may read its metrics without its token.
    pub open_metrics: bool,
    /// Reconciles at the same time.
    pub concurrency: u16,
    /// How long certificates of jobs are good for; they are replaced when half of it is over.
    pub certificate_lifetime: Duration,
    /// Tokens of coordinators, and the CAs of jobs, are made from it.
    pub token_key: Vec<u8>,
}
