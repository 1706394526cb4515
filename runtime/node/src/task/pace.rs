//! How much is let into a task at a time, so that little is in flight where little comes through: a barrier has to wait
//! until that is worked off. Pure: durations come in.
//!
//! As Flink's buffer debloating, with one difference: what waits here are whole batches, so those have to be small too,
//! and it is the source that makes them.

use std::time::Duration;
use weir_model::element::BATCH_ROWS;

/// What a channel holds at most, in time that its reader takes for it: a barrier passes several channels one after the
/// other, and is to come through within half a second.
const IN_FLIGHT: Duration = Duration::from_millis(100);
/// Where a reader is so slow that it has not come to a judgement, or works for seconds on a single batch.
const LEAST_BYTES: usize = 4 << 10;
/// What is looked at together: single batches differ too much.
const WINDOW: Duration = Duration::from_millis(100);
const WINDOW_BATCHES: u32 = 64;

/// Of a task that reads channels: how many bytes each may hold.
#[derive(Debug)]
pub(crate) struct Room {
    most_bytes: usize,
    bytes: usize,
    busy: Duration,
}

impl Room {
    /// `most_bytes`: of a channel whose reader is quick enough.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Room { most_bytes, bytes: 0, busy: Duration::ZERO }
    }

    /// Notes a batch, and how long the task was at work on it, waiting for its own readers included. Returns what a
    /// channel may hold, if there is something new to say. `channels`: that share the task.
    pub(crate) fn worked(&mut self, bytes: usize, busy: Duration, channels: usize) -> Option<usize> {
        self.bytes += bytes;
        self.busy += busy;
        if self.busy < WINDOW {
            return None;
        }
        let bytes_per_second = self.bytes as f64 / self.busy.as_secs_f64();
        (self.bytes, self.busy) = (0, Duration::ZERO);
        let all = bytes_per_second * IN_FLIGHT.as_secs_f64();
        Some(((all / channels.max(1) as f64) as usize).clamp(LEAST_BYTES.min(self.most_bytes), self.most_bytes))
    }
}

/// A batch that takes longer than this to be worked off, or to find room, is too big.
const LONG: Duration = Duration::from_millis(20);
/// And this is how long it should take.
const RIGHT: Duration = Duration::from_millis(10);
/// Below this, they may be bigger again.
const SHORT: Duration = Duration::from_millis(5);
/// Less than this costs more than it brings, however slow the readers are.
const LEAST_ROWS: usize = 64;
/// A reader whose work is by batch and not by row (a round trip for each) comes to less with smaller ones. If so much is
/// lost, they grow again, and stay so for a while.
const LOSS: f64 = 0.8;
const HOLD_WINDOWS: u32 = 100;

/// Of a source: how many rows it puts into a batch.
#[derive(Debug)]
pub(crate) struct BatchSize {
    rows: usize,
    least_rows: usize,
    hold: u32,
    trial: Option<Trial>,
    seen_rows: usize,
    seen_batches: u32,
    seen: Duration,
}

/// After batches have become smaller.
#[derive(Clone, Copy, Debug)]
struct Trial {
    before: usize,
    rows_per_second: f64,
    /// What was on the way is worked off: the rate tells something.
    is_settled: bool,
}

impl BatchSize {
    pub(crate) fn new() -> Self {
        BatchSize {
            rows: BATCH_ROWS,
            least_rows: LEAST_ROWS,
            hold: 0,
            trial: None,
            seen_rows: 0,
            seen_batches: 0,
            seen: Duration::ZERO,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Notes a batch and how long it took until it was worked off or had found room.
    pub(crate) fn sent(&mut self, rows: usize, took: Duration) {
        self.seen_rows += rows;
        self.seen_batches += 1;
        self.seen += took;
        if self.seen >= WINDOW || self.seen_batches >= WINDOW_BATCHES {
            let rows_per_second = self.seen_rows as f64 / self.seen.as_secs_f64();
            let batch = self.seen / self.seen_batches;
            (self.seen_rows, self.seen_batches, self.seen) = (0, 0, Duration::ZERO);
            self.judge(batch, rows_per_second);
        }
    }

    fn judge(&mut self, batch: Duration, rows_per_second: f64) {
        self.hold = self.hold.saturating_sub(1);
        if self.hold == 0 {
            self.least_rows = LEAST_ROWS;
        }
        match self.trial.take() {
            Some(trial) if !trial.is_settled => {
                self.trial = Some(Trial { is_settled: true, ..trial });
                return;
            }
            Some(trial) if rows_per_second < trial.rows_per_second * LOSS => {
                (self.rows, self.least_rows, self.hold) = (trial.before, trial.before, HOLD_WINDOWS);
                return;
            }
            Some(_) | None => {}
        }
        if batch > LONG && self.rows > self.least_rows {
            let right = (self.rows as f64 * RIGHT.as_secs_f64() / batch.as_secs_f64()) as usize;
            self.trial = Some(Trial { before: self.rows, rows_per_second, is_settled: false });
            self.rows = right.max(self.least_rows);
        } else if batch < SHORT {
            self.rows = (self.rows * 2).min(BATCH_ROWS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn room_is_what_the_reader_takes_in_a_tenth_of_a_second() {
        let mut room = Room::new(1 << 20);
        assert_eq!(room.worked(100_000, 50 * MS, 2), None, "too early to tell");
        assert_eq!(room.worked(100_000, 50 * MS, 2), Some(100_000));
        // Quick ones keep what they have, slow ones something.
        assert_eq!(room.worked(100 << 20, 100 * MS, 2), Some(1 << 20));
        assert_eq!(room.worked(10, 2_000 * MS, 2), Some(LEAST_BYTES));
    }

    /// Sends batches to a reader that takes so long for each, and for each row; returns the size that comes of it.
    fn settled(size: &mut BatchSize, batch: Duration, row: Duration) -> usize {
        for _ in 0..500 {
            let rows = size.rows();
            size.sent(rows, batch + row * rows as u32);
        }
        size.rows()
    }

    #[test]
    fn batches_fit_the_speed_of_the_readers() {
        let mut size = BatchSize::new();
        assert_eq!(settled(&mut size, Duration::ZERO, Duration::from_nanos(50)), BATCH_ROWS);
        let rows = settled(&mut size, Duration::ZERO, Duration::from_micros(100));
        assert!((50..=200).contains(&rows), "{rows} rows of 100 us each");
        assert_eq!(settled(&mut size, Duration::ZERO, Duration::from_nanos(50)), BATCH_ROWS, "quick again");
        assert_eq!(settled(&mut size, Duration::ZERO, 10 * MS), LEAST_ROWS);
    }

    #[test]
    fn a_reader_with_work_by_batch_keeps_big_ones() {
        let mut size = BatchSize::new();
        let rows = settled(&mut size, 30 * MS, Duration::from_micros(1));
        assert!(rows >= BATCH_ROWS / 4, "{rows} rows: nothing comes through");
    }
}
