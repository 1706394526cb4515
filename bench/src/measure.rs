//! What a run of one engine comes to.

use crate::process::Usage;
use anyhow::{Result, bail};
use serde::Serialize;
use std::time::Instant;

/// A job that reads fewer has come to a stop.
pub const SLOWEST_RECORDS_PER_SECOND: u64 = 10_000;

/// An engine's own counter of records, and what it had used by then.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Instant,
    pub records: u64,
    pub usage: Usage,
}

/// A checkpoint that completed.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointSample {
    pub at: Instant,
    pub duration_ms: f64,
    pub written_bytes: f64,
}

/// Over the measured window of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measure {
    pub records_per_second: f64,
    pub cpu_ns_per_record: f64,
    /// The most seen.
    pub resident_bytes: f64,
    pub checkpoints_per_second: f64,
    pub checkpoint_ms: f64,
    pub checkpoint_bytes: f64,
}

impl Measure {
    /// The window lies between the first and the last sample.
    pub fn of(samples: &[Sample], checkpoints: &[CheckpointSample]) -> Result<Self> {
        let ([first, .., last], true) = (samples, samples.len() >= 2) else {
            bail!("only {} samples in the measured window: measure for longer", samples.len());
        };
        let seconds = (last.at - first.at).as_secs_f64();
        let records = last.records.saturating_sub(first.records) as f64;
        if records == 0.0 {
            bail!("no record came through in {seconds:.0} s");
        }
        let within: Vec<_> = checkpoints.iter().filter(|done| done.at > first.at && done.at <= last.at).collect();
        let cpu = last.usage.cpu.saturating_sub(first.usage.cpu);
        Ok(Measure {
            records_per_second: records / seconds,
            cpu_ns_per_record: cpu.as_nanos() as f64 / records,
            resident_bytes: samples.iter().map(|sample| sample.usage.resident_bytes).max().unwrap_or(0) as f64,
            checkpoints_per_second: within.len() as f64 / seconds,
            checkpoint_ms: median(within.iter().map(|done| done.duration_ms)),
            checkpoint_bytes: median(within.iter().map(|done| done.written_bytes)),
        })
    }

    /// Figure by figure.
    pub fn median(runs: &[Measure]) -> Self {
        let of = |figure: fn(&Measure) -> f64| median(runs.iter().map(figure));
        Measure {
            records_per_second: of(|run| run.records_per_second),
            cpu_ns_per_record: of(|run| run.cpu_ns_per_record),
            resident_bytes: of(|run| run.resident_bytes),
            checkpoints_per_second: of(|run| run.checkpoints_per_second),
            checkpoint_ms: of(|run| run.checkpoint_ms),
            checkpoint_bytes: of(|run| run.checkpoint_bytes),
        }
    }
}

/// The middle value, or the mean of the two; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => 0.0,
        values if values.len() % 2 == 1 => values[values.len() / 2],
        values => (values[values.len() / 2 - 1] + values[values.len() / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
        assert_eq!(median([].into_iter()), 0.0);
    }
}
