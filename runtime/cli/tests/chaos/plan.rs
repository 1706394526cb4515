//! All that a seed decides.

use crate::support::traffic::BACKENDS;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::time::Duration;

/// Longer than the silence after which a process is taken for lost, with what a busy machine adds.
const BEYOND_HEARTBEATS_MS: std::ops::Range<u64> = 10_500..14_000;

#[derive(Clone, Debug)]
pub struct Plan {
    pub workers: usize,
    /// One worker more than needed: the job can go on without it.
    pub has_spare: bool,
    pub parallelism: u32,
    pub backend: &'static str,
    pub storage: Store,
    pub rows_per_second: u32,
    /// Barriers overtake what a slow sink lets wait, after so long.
    pub unaligned_after_ms: Option<u64>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Files,
    S3,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// After the step before.
    pub after: Duration,
    /// 0 is the coordinator, the others are workers.
    pub process: usize,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// SIGKILL; started again like a pod, after this.
    Kill {
        back_after: Duration,
    },
    /// SIGSTOP, and SIGCONT after this.
    Pause(Duration),
    Cut(Duration),
    /// This process and that one don't hear each other.
    Part(Duration, usize),
    Slow(Duration, u32),
    /// New certificates by a new CA, for all processes.
    Rotate,
}

impl Plan {
    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        let workers = rng.random_range(2..=4);
        let steps = (0..rng.random_range(2..=5)).map(|_| Step {
            after: Duration::from_millis(rng.random_range(100..2_500)),
            // The coordinator as often as a worker.
            process: if rng.random_bool(0.35) { 0 } else { rng.random_range(1..=workers) },
            fault: Fault::random(rng, workers),
        });
        let steps = steps.collect();
        let only_s3 = std::env::var("WEIR_CHAOS_STORAGE").is_ok_and(|only| only == "s3");
        Plan {
            workers,
            has_spare: workers > 2 && rng.random_bool(0.5),
            parallelism: rng.random_range(2..=4),
            backend: BACKENDS[rng.random_range(0..BACKENDS.len())],
            storage: if rng.random_bool(0.5) || only_s3 { Store::S3 } else { Store::Files },
            rows_per_second: rng.random_range(5_000..15_000),
            unaligned_after_ms: rng.random_bool(0.4).then(|| rng.random_range(0..4) * 10),
            steps,
        }
    }
}

impl Fault {
    fn random(rng: &mut ChaCha8Rng, workers: usize) -> Self {
        let lasts = |rng: &mut ChaCha8Rng| {
            let range = if rng.random_bool(0.3) { BEYOND_HEARTBEATS_MS } else { 50..3_000 };
            Duration::from_millis(rng.random_range(range))
        };
        match rng.random_range(0..100) {
            0..35 => Fault::Kill { back_after: Duration::from_millis(rng.random_range(0..1_500)) },
            35..60 => Fault::Pause(lasts(rng)),
            60..73 => Fault::Cut(lasts(rng)),
            73..80 => Fault::Part(lasts(rng), rng.random_range(1..=workers)),
            80..92 => Fault::Slow(lasts(rng), rng.random_range(200..8_000)),
            _ => Fault::Rotate,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { workers, has_spare, parallelism, backend, storage, rows_per_second, unaligned_after_ms, steps } =
            self;
        let spare = if *has_spare { " (one to spare)" } else { "" };
        write!(f, "{workers} workers{spare}, p={parallelism}, {backend}, {storage:?}, {rows_per_second} rows/s")?;
        if let Some(after_ms) = unaligned_after_ms {
            write!(f, ", unaligned after {after_ms} ms")?;
        }
        for Step { after, process, fault } in steps {
            let who = if *process == 0 { "coordinator".to_owned() } else { format!("worker {process}") };
            write!(f, "; +{after:.0?} {who}: ")?;
            match fault {
                Fault::Kill { back_after } => write!(f, "killed, back after {back_after:.0?}")?,
                Fault::Pause(lasts) => write!(f, "paused for {lasts:.0?}")?,
                Fault::Cut(lasts) => write!(f, "cut off for {lasts:.0?}")?,
                Fault::Part(lasts, other) => write!(f, "and worker {other} out of each other's reach for {lasts:.0?}")?,
                Fault::Slow(lasts, kbit) => write!(f, "slowed to {kbit} kbit/s for {lasts:.0?}")?,
                Fault::Rotate => write!(f, "new certificates for all")?,
            }
        }
        Ok(())
    }
}
