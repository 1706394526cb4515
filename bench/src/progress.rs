//! What `weir run` and `weir coordinator` show of a job's progress, line by line.

use crate::measure::{CheckpointSample, Sample};
use crate::process::Usage;
use std::time::Instant;

/// The source whose records are counted, in every job here.
pub const SOURCE: &str = "numbers";
/// Lines of progress that are kept for an error message.
const KEPT_LINES: usize = 20;

/// What the job has said.
#[derive(Default)]
pub struct Seen {
    pub samples: Vec<Sample>,
    pub checkpoints: Vec<CheckpointSample>,
    pub running_at: Option<Instant>,
    /// Where a coordinator waits for workers.
    pub address: Option<String>,
    /// Processes that count beside the first and its children.
    pub workers: Vec<u32>,
    pub failed_checkpoints: usize,
    pub restarts: u64,
    pub last_lines: Vec<String>,
    pub ended: bool,
}

impl Seen {
    /// One line of `weir run`'s progress.
    pub fn line(&mut self, line: &str, process: u32) {
        let at = Instant::now();
        if self.last_lines.len() == KEPT_LINES {
            self.last_lines.remove(0);
        }
        self.last_lines.push(line.to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [SOURCE, records, ..] => {
                let Ok(records) = records.replace(',', "").parse() else { return };
                // The process may have ended since: then there is nothing to measure either.
                let all = self.workers.iter().copied().chain([process]).chain(crate::process::children(process));
                let mut usages = all.map(crate::process::usage);
                let Ok(usage) = usages.try_fold(Usage::default(), |sum, usage| usage.map(|usage| sum + usage)) else {
                    return;
                };
                self.samples.push(Sample { at, records, usage });
            }
            [_, "Running", ..] => self.running_at = self.running_at.or(Some(at)),
            [_, "waiting", "at", address, ..] => self.address = Some((*address).to_owned()),
            [_, "restart", number, "after", ..] => self.restarts = number.parse().unwrap_or(self.restarts),
            [_, "checkpoint", _, "failed:", ..] => self.failed_checkpoints += 1,
            [_, "checkpoint", _, _, "in", duration, time_unit, bytes, unit, "new", ..] => {
                let duration_ms = scaled(duration, time_unit.trim_end_matches(','));
                let written = scaled(bytes, unit);
                if let (Some(duration_ms), Some(written_bytes)) = (duration_ms, written) {
                    self.checkpoints.push(CheckpointSample { at, duration_ms, written_bytes });
                }
            }
            _ => {}
        }
    }
}

/// `1.2 MiB` in bytes, `2.3 s` in milliseconds.
fn scaled(number: &str, unit: &str) -> Option<f64> {
    let scale = match unit {
        "ms" | "B" => 1.0,
        "s" => 1000.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        let mut seen = Seen::default();
        let own = std::process::id();
        seen.line("bench  Running (epoch 1, attempt 1)", own);
        seen.line("bench  checkpoint 1 Aligned in 1.5 s, 2.0 MiB new of 3.0 MiB", own);
        seen.line("bench  checkpoint 2 failed: the disk is full", own);
        seen.line("bench  restart 3 after worker 1 is lost: it left", own);
        seen.line("numbers            1,234,567   1.0 M/s", own);
        assert!(seen.running_at.is_some());
        assert_eq!((seen.checkpoints[0].duration_ms, seen.checkpoints[0].written_bytes), (1500.0, 2_097_152.0));
        assert_eq!((seen.failed_checkpoints, seen.restarts), (1, 3));
        assert_eq!(seen.samples[0].records, 1_234_567);
    }
}
