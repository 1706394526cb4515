//! Windows and time, in microseconds.

/// What drives a window or timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeDomain {
    /// The event time in this column, as far as the watermark has come.
    EventTime { column: usize },
    /// The clock of the machine that runs the operator.
    ProcessingTime,
}

/// How rows are grouped in time. Windows are half-open, `[start, end)`, and aligned to the Unix epoch plus `offset_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    Tumble {
        size_us: i64,
        offset_us: i64,
    },
    /// `size_us` is a multiple of `slide_us`: a row is in `size_us / slide_us` windows.
    Hop {
        size_us: i64,
        slide_us: i64,
        offset_us: i64,
    },
    /// Closed by `gap_us` without a row; sessions of one key merge when a row bridges them.
    Session {
        gap_us: i64,
    },
}
