//! What a seed stands for: the job, its workers, and what is done to them.

use crate::job::{Job, Kind};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weir_coordinator::{CheckpointConfig, CheckpointMode, Config, RestartStrategy};
use weir_dataflow::alignment::AlignmentMode;
use weir_snapshot::Retention;

/// From the last fault on, everything works; so long may the job take to its end. Waiting for slots that are there is
/// not part of it.
const PROGRESS_US: u64 = 900_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) job: Job,
    pub(crate) parallelism: u32,
    pub(crate) workers: u32,
    pub(crate) slots_per_worker: u32,
    pub(crate) config: Config,
    pub(crate) retention: Retention,
    /// From one batch of a split to the next.
    pub(crate) source_pause_us: u64,
    /// Faults come until then.
    pub(crate) faults_until_us: u64,
    /// Between faults, on average.
    pub(crate) fault_gap_us: u64,
    pub(crate) kills: bool,
    pub(crate) pauses: bool,
    pub(crate) cuts: bool,
    pub(crate) slow_network: bool,
    /// Of a message: that a copy comes later.
    pub(crate) duplicates: f64,
    pub(crate) storage_fails: bool,
    pub(crate) clock_skew: bool,
    pub(crate) second_coordinators: bool,
    pub(crate) savepoints: bool,
    pub(crate) stops: bool,
    /// While it runs, and with a start after a failure.
    pub(crate) rescales: bool,
}

impl Scenario {
    pub(crate) fn of(seed: u64) -> Self {
        // Not the world's own numbers, so that a scenario can be changed by hand and its world looked at.
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x005c_e4a2_10c0_ffee);
        let workers = random.random_range(1..=3);
        let slots_per_worker = random.random_range(1..=2);
        let parallelism = random.random_range(1..=(workers * slots_per_worker).min(4));
        let mut job = Job {
            kind: if random.random_bool(0.6) { Kind::Totals } else { Kind::Windows },
            seed,
            splits: random.random_range(1..=4),
            records_per_split: random.random_range(20..80),
            keys: random.random_range(1..12),
            max_parallelism: [4, 7, 8, 16][random.random_range(0..4)],
            alignment: AlignmentMode::ExactlyOnce,
            is_unaligned: false,
            cache_bytes: None,
        };
        let mut config = Config {
            checkpoints: Some(CheckpointConfig {
                interval_ms: random.random_range(200..2_000),
                min_pause_ms: random.random_range(0..500),
                max_concurrent: random.random_range(1..=2),
                mode: CheckpointMode::ExactlyOnce,
                aligned_timeout_ms: None,
            }),
            timeout_ms: random.random_range(2_000..8_000),
            tolerable_failures: random.random_range(0..4),
            restart: RestartStrategy::ExponentialDelay {
                initial_ms: 100,
                max_ms: 2_000,
                multiplier: 2.0,
                jitter: 0.1,
                reset_after_ms: 10_000,
                max_attempts: None,
                max_same_failures: 3,
            },
        };
        let mut often = |rate: f64| random.random_bool(rate);
        let (kills, pauses, cuts, slow_network) = (often(0.8), often(0.4), often(0.4), often(0.3));
        let (has_duplicates, storage_fails, clock_skew) = (often(0.3), often(0.5), often(0.3));
        let (second_coordinators, savepoints, stops, rescales) = (often(0.3), often(0.3), often(0.3), often(0.4));
        let retention =
            Retention { count: random.random_range(1..=3), max_age_ms: random.random_bool(0.2).then_some(3_000) };
        let source_pause_us = random.random_range(100_000..600_000);
        let faults_until_us = random.random_range(4_000_000..20_000_000);
        let fault_gap_us = random.random_range(500_000..4_000_000);
        let duplicates = if has_duplicates { random.random_range(0.0..0.1) } else { 0.0 };
        // Last, so that whatever else a seed stands for stays as it was.
        let aligned_timeout_ms = match random.random_range(0..10) {
            0..5 => None,
            5..7 => Some(0),
            _ => Some(random.random_range(1..1_000)),
        };
        let is_at_least_once = random.random_bool(0.15);
        (job.alignment, job.is_unaligned) = match is_at_least_once {
            true => (AlignmentMode::AtLeastOnce, false),
            false => (AlignmentMode::ExactlyOnce, aligned_timeout_ms.is_some()),
        };
        if let Some(checkpoints) = &mut config.checkpoints {
            if is_at_least_once {
                checkpoints.mode = CheckpointMode::AtLeastOnce;
            } else {
                checkpoints.aligned_timeout_ms = aligned_timeout_ms;
            }
        }
        job.cache_bytes = match random.random_range(0..10) {
            0..6 => None,
            6..8 => Some(0),
            _ => Some(random.random_range(1..2_000)),
        };
        Scenario {
            seed,
            job,
            parallelism,
            workers,
            slots_per_worker,
            config,
            retention,
            source_pause_us,
            faults_until_us,
            fault_gap_us,
            kills,
            pauses,
            cuts,
            slow_network,
            duplicates,
            storage_fails,
            clock_skew,
            second_coordinators,
            savepoints,
            stops,
            rescales,
        }
    }

    /// The highest parallelism that its workers have slots for.
    pub(crate) fn max_slots(&self) -> u32 {
        (self.workers * self.slots_per_worker).min(self.job.max_parallelism).min(4)
    }

    pub(crate) fn deadline_us(&self) -> u64 {
        self.faults_until_us + PROGRESS_US
    }
}
