//! Window arithmetic, and the one place that says when a window is complete.
//!
//! A window is half-open, `[start, end)`. A watermark of `w` says that no event earlier than `w` is expected
//! (`weir_model::Watermark`), so the window is **complete when `w >= end`**: it fires then, and rows that come
//! for it afterwards are late. Flink's watermark `t` says that no event at or before `t` is expected and its
//! window fires at `t >= end - 1`; with `w = t + 1` these are the same moment.
//! With an allowed lateness the window's state is kept, and late rows refine its result, until
//! `w >= end + lateness`; rows that come later still are dropped and counted.

use weir_model::Watermark;

/// `window_time` is this much before the window's end: Flink's `TIMESTAMP(3)` resolution.
pub const WINDOW_TIME_BEFORE_END_US: i64 = 1000;

/// Whether a window that ends at `end_us` gets no more rows, or none for `lateness_us` after its end.
pub fn is_complete(end_us: i64, lateness_us: i64, watermark: Watermark) -> bool {
    watermark.0 >= end_us.saturating_add(lateness_us)
}

/// Whether two sessions are one: they overlap or touch, as in Flink.
pub fn sessions_meet(a: (i64, i64), b: (i64, i64)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// Tumbling windows (`slide == size`) and hopping ones: starts are `offset + n * slide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub size_us: i64,
    pub slide_us: i64,
    pub offset_us: i64,
}

impl Grid {
    /// # Errors
    /// If size or slide aren't positive, or the size is no multiple of the slide.
    pub fn new(size_us: i64, slide_us: i64, offset_us: i64) -> Result<Self, String> {
        if size_us <= 0 || slide_us <= 0 {
            return Err(format!("a window's size and slide must be positive, not {size_us} us and {slide_us} us"));
        }
        if size_us % slide_us != 0 {
            return Err(format!(
                "the size of a hopping window ({size_us} us) must be a multiple of its slide ({slide_us} us)"
            ));
        }
        Ok(Grid { size_us, slide_us, offset_us: offset_us.rem_euclid(slide_us) })
    }

    /// Windows that a row is in.
    pub fn windows_per_row(&self) -> usize {
        (self.size_us / self.slide_us) as usize
    }

    /// Start of the last window that contains `time_us`; also the start of its slice, which is `slide_us` long.
    #[inline]
    pub fn last_start(&self, time_us: i64) -> i64 {
        time_us.saturating_sub(time_us.saturating_sub(self.offset_us).rem_euclid(self.slide_us))
    }

    /// End of the slice of every row: the first window end after its time.
    pub fn slice_ends(&self, times_us: &[i64], ends: &mut Vec<i64>) {
        ends.clear();
        // Times come nearly sorted: most rows are in the slice of the row before, which spares the division.
        let (mut start, mut end) = (0, 0);
        ends.extend(times_us.iter().map(|&time| {
            if time < start || time >= end {
                start = self.last_start(time);
                end = start.saturating_add(self.slide_us);
            }
            end
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_before_the_epoch_and_on_the_edge() {
        let grid = Grid::new(10, 5, 2).unwrap();
        assert_eq!([-4, -3, 1, 2, 6, 7].map(|time| grid.last_start(time)), [-8, -3, -3, 2, 2, 7]);
        let mut ends = vec![];
        grid.slice_ends(&[2, 6, 7, 1, i64::MAX], &mut ends);
        assert_eq!(ends[..4], [7, 7, 12, 2]);
        assert_eq!(grid.windows_per_row(), 2);
    }

    #[test]
    fn a_window_is_complete_when_the_watermark_reaches_its_end() {
        assert!(!is_complete(10, 0, Watermark(9)));
        assert!(is_complete(10, 0, Watermark(10)));
        assert!(!is_complete(10, 5, Watermark(14)));
        assert!(is_complete(i64::MAX, 5, Watermark::MAX));
    }

    #[test]
    fn impossible_windows_say_why() {
        assert!(Grid::new(10, 3, 0).unwrap_err().contains("multiple"));
        assert!(Grid::new(0, 3, 0).unwrap_err().contains("positive"));
    }
}
