//! How often jobs at rest are looked at: the more there are, the seldomer each. Pure.
//!
//! What is limited is what the operator asks in all, of the API server above all, which is everybody's. A change of a
//! job's spec or of one of its pods is looked at at once, however many jobs there are, and so is each step of what
//! follows from it.

use std::time::Duration;

use crate::settings::Settings;

/// Jobs that are asked how they go, per second.
const POLLS_PER_SECOND: u32 = 50;
/// A failure that no pod shows, as of a checkpoint, is noticed by then.
const LONGEST_POLL: Duration = Duration::from_secs(60);
/// Statuses that are written to show nothing but progress, per second.
const PROGRESS_PER_SECOND: u32 = 8;
/// The alert on old checkpoints allows for it, and for a poll.
const LONGEST_PROGRESS: Duration = Duration::from_secs(150);
/// So many jobs have their Checkpoints shown as often as their progress.
const JOBS_IN_FULL_VIEW: usize = 50;
/// For each job beyond: it takes some ten requests to show the Checkpoints of one.
const VIEW_SHARE: Duration = Duration::from_millis(1_500);
const LONGEST_VIEW: Duration = Duration::from_secs(1_800);

/// For each of so many jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two questions to a coordinator whose job runs.
    pub poll: Duration,
    /// Between two statuses of which only the progress differs.
    pub progress: Duration,
    /// Between two looks at the storage for the Checkpoint objects.
    pub view: Duration,
}

impl Pace {
    pub fn of(settings: &Settings, jobs: usize) -> Self {
        let between = |share: Duration, jobs: usize, least: Duration, most: Duration| {
            share.saturating_mul(u32::try_from(jobs).unwrap_or(u32::MAX)).min(most).max(least)
        };
        let (second, beyond) = (Duration::from_secs(1), jobs.saturating_sub(JOBS_IN_FULL_VIEW));
        Pace {
            poll: between(second / POLLS_PER_SECOND, jobs, settings.poll_interval, LONGEST_POLL),
            progress: between(second / PROGRESS_PER_SECOND, jobs, settings.status_interval, LONGEST_PROGRESS),
            view: between(VIEW_SHARE, beyond, settings.status_interval, LONGEST_VIEW),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_jobs_are_looked_at_seldomer() {
        let settings = Settings {
            image: String::new(),
            image_pull_policy: None,
            namespace: None,
            poll_interval: Duration::from_secs(5),
            status_interval: Duration::from_secs(10),
            open_metrics: false,
            concurrency: 1,
            certificate_lifetime: Duration::ZERO,
            token_key: vec![],
        };
        let pace = |jobs| {
            let Pace { poll, progress, view } = Pace::of(&settings, jobs);
            [poll, progress, view].map(|interval| interval.as_secs())
        };
        let rows = [
            (0, [5, 10, 10]),
            (50, [5, 10, 10]),
            (100, [5, 12, 75]),
            (1_000, [20, 125, 1_425]),
            (10_000, [60, 150, 1_800]),
            (usize::MAX, [60, 150, 1_800]),
        ];
        for (jobs, expected) in rows {
            assert_eq!(pace(jobs), expected, "{jobs} jobs");
        }
        // Who asks for less gets it.
        let slow = Settings { poll_interval: Duration::from_secs(300), ..settings.clone() };
        assert_eq!(Pace::of(&slow, 10_000).poll, Duration::from_secs(300));
    }
}
