//! Event time: made at sources (`WatermarkGenerator`), and merged where channels meet (`WatermarkMerger`).
//!
//! A watermark w says that no row with a time below w is expected: a row at w itself is in time, and the window
//! `[start, end)` is complete at `w >= end`. (Flink's watermarks also cover the time they name, and are therefore
//! one unit lower at the same moment; windows fire at the same rows.)
//! Pure: the clock is passed in.

mod generator;
mod merger;

pub use generator::{WatermarkError, WatermarkGenerator, WatermarkStrategy};
pub use merger::WatermarkMerger;

use weir_model::Watermark;

/// What a change means for the readers of the stream: first the watermark, if any, then `Idle` if so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// To be sent on. Higher than all before it, but for the first one after `Idle`, which may repeat the last:
    /// it says that the stream is active again.
    pub watermark: Option<Watermark>,
    /// The stream has just become idle.
    pub idle: bool,
}

impl Progress {
    pub const NONE: Progress = Progress { watermark: None, idle: false };
}

/// What was last told to the readers of the stream.
#[derive(Clone, Copy, Debug)]
struct Announced {
    watermark: Watermark,
    idle: bool,
}

impl Announced {
    fn nothing() -> Self {
        Announced { watermark: Watermark::MIN, idle: false }
    }

    /// Active, and at `watermark` (or where it was, if that is higher).
    fn active_at(&mut self, watermark: Watermark) -> Progress {
        let higher = watermark > self.watermark;
        let told = higher || self.idle;
        self.watermark = self.watermark.max(watermark);
        self.idle = false;
        Progress { watermark: told.then_some(self.watermark), idle: false }
    }

    /// Idle, all parts of the stream having come to `watermark` at most.
    fn idle_at(&mut self, watermark: Watermark) -> Progress {
        let higher = watermark > self.watermark;
        self.watermark = self.watermark.max(watermark);
        // A watermark wakes the readers up, so that idleness is said again after it.
        let told = higher || !self.idle;
        self.idle = true;
        Progress { watermark: higher.then_some(self.watermark), idle: told }
    }
}
