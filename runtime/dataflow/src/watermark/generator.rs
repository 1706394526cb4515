//! Watermarks at a source: bounded out-of-orderness per split, with idleness.

use super::{Announced, Progress};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use std::collections::BTreeMap;
use weir_model::Watermark;
use weir_model::types::sql_type_name;

/// How a source's event time is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatermarkStrategy {
    /// Name of the event time column, for messages.
    pub column: String,
    /// A row may be this much behind the latest one of its split.
    pub max_out_of_orderness_us: i64,
    /// A split without a row for this long (of the clock) holds nothing back.
    pub idle_timeout_us: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
pub enum WatermarkError {
    #[error(
        "{nulls} of {rows} rows have no event time: column `{column}` is NULL. Filter such records out before the \
         source's watermark column is read, or name a column that is always there"
    )]
    NullTime { column: String, nulls: usize, rows: usize },
    #[error("the event time column `{column}` is {found}, and must be TIMESTAMP")]
    NotATimestamp { column: String, found: String },
}

/// Watermarks of the splits that one source subtask reads. A split's watermark is its latest time less the
/// bound; the stream's is the least of the splits that are neither idle nor finished.
#[derive(Clone, Debug)]
pub struct WatermarkGenerator {
    strategy: WatermarkStrategy,
    splits: BTreeMap<u32, Split>,
    announced: Announced,
}

#[derive(Clone, Copy, Debug)]
struct Split {
    watermark: Watermark,
    /// The clock at its last row, later by every wait that `on_backpressure` tells of.
    active_at_us: i64,
    idle: bool,
}

impl WatermarkGenerator {
    pub fn new(strategy: WatermarkStrategy) -> Self {
        WatermarkGenerator { strategy, splits: BTreeMap::new(), announced: Announced::nothing() }
    }

    /// Goes on from the watermark in a checkpoint, so that rows which were late before a failure are late again
    /// after it. The result is to be sent before the first batch.
    pub fn resume_from(&mut self, watermark: Watermark) -> Progress {
        self.announced.active_at(watermark)
    }

    /// A split that is known before its first row holds back the others from now on.
    pub fn add_split(&mut self, split: u32, now_us: i64) {
        self.splits.entry(split).or_insert(Split::new(now_us));
    }

    /// Takes the event times of a batch of `split`; `progress` then says what to send after the batch.
    pub fn on_batch(&mut self, split: u32, times: &ArrayRef, now_us: i64) -> Result<(), WatermarkError> {
        let column = &self.strategy.column;
        if !matches!(times.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            let found = sql_type_name(times.data_type());
            return Err(WatermarkError::NotATimestamp { column: column.clone(), found });
        }
        let (nulls, rows) = (times.null_count(), times.len());
        if nulls > 0 {
            return Err(WatermarkError::NullTime { column: column.clone(), nulls, rows });
        }
        let times = times.as_primitive::<TimestampMicrosecondType>().values();
        let Some(latest) = times.iter().copied().max() else { return Ok(()) };
        let split = self.splits.entry(split).or_insert(Split::new(now_us));
        split.watermark = split.watermark.max(Watermark(latest.saturating_sub(self.strategy.max_out_of_orderness_us)));
        split.active_at_us = now_us;
        split.idle = false;
        Ok(())
    }

    pub fn on_split_finished(&mut self, split: u32) {
        self.splits.remove(&split);
    }

    /// The source waited this long for its readers to take what it has: nobody was silent meanwhile.
    pub fn on_backpressure(&mut self, waited_us: i64) {
        self.splits.values_mut().for_each(|split| split.active_at_us = split.active_at_us.saturating_add(waited_us));
    }

    /// What to send now, after a batch or when time has passed.
    pub fn progress(&mut self, now_us: i64) -> Progress {
        if let Some(timeout_us) = self.strategy.idle_timeout_us {
            for split in self.splits.values_mut() {
                split.idle |= now_us.saturating_sub(split.active_at_us) >= timeout_us;
            }
        }
        let active = self.splits.values().filter(|split| !split.idle);
        if let Some(least) = active.map(|split| split.watermark).min() {
            return self.announced.active_at(least);
        }
        match self.splits.values().map(|split| split.watermark).max() {
            Some(furthest) => self.announced.idle_at(furthest),
            // Between two splits, or before the first.
            None => Progress::NONE,
        }
    }

    /// What to send when no split is left that could give a row: nothing is held back until there is one again.
    pub fn without_splits(&mut self) -> Progress {
        match self.splits.is_empty() {
            true => self.announced.idle_at(self.announced.watermark),
            false => Progress::NONE,
        }
    }

    /// When the next split becomes idle if it stays silent: `progress` is to be called then.
    pub fn next_idle_us(&self) -> Option<i64> {
        let timeout_us = self.strategy.idle_timeout_us?;
        let active = self.splits.values().filter(|split| !split.idle);
        active.map(|split| split.active_at_us.saturating_add(timeout_us)).min()
    }

    /// The last watermark sent.
    pub fn current(&self) -> Watermark {
        self.announced.watermark
    }

    pub fn is_idle(&self) -> bool {
        self.announced.idle
    }
}

impl Split {
    fn new(now_us: i64) -> Self {
        Split { watermark: Watermark::MIN, active_at_us: now_us, idle: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use std::sync::Arc;

    fn generator(bound_us: i64, idle_timeout_us: Option<i64>) -> WatermarkGenerator {
        let strategy = WatermarkStrategy { column: "at".into(), max_out_of_orderness_us: bound_us, idle_timeout_us };
        WatermarkGenerator::new(strategy)
    }

    fn times(values: &[i64]) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values.to_vec()))
    }

    fn to(watermark: i64) -> Progress {
        Progress { watermark: Some(Watermark(watermark)), idle: false }
    }

    #[test]
    fn the_latest_row_less_the_bound() {
        let mut generator = generator(5, None);
        assert_eq!(generator.progress(0), Progress::NONE);
        generator.on_batch(0, &times(&[10, 30, 20]), 0).unwrap();
        assert_eq!(generator.progress(0), to(25));
        generator.on_batch(0, &times(&[26]), 0).unwrap();
        assert_eq!(generator.progress(0), Progress::NONE);
        generator.on_batch(0, &times(&[i64::MIN]), 0).unwrap();
        assert_eq!(generator.progress(0), Progress::NONE);
        assert_eq!(generator.current(), Watermark(25));
    }

    #[test]
    fn the_slowest_split_decides_until_it_is_finished() {
        let mut generator = generator(0, None);
        generator.add_split(0, 0);
        generator.add_split(1, 0);
        generator.on_batch(0, &times(&[100]), 0).unwrap();
        assert_eq!(generator.progress(0), Progress::NONE, "split 1 has sent nothing yet");
        generator.on_batch(1, &times(&[40]), 0).unwrap();
        assert_eq!(generator.progress(0), to(40));
        generator.on_split_finished(1);
        assert_eq!(generator.progress(0), to(100));
        generator.on_split_finished(0);
        assert_eq!(generator.progress(i64::MAX), Progress::NONE);
    }

    #[test]
    fn without_splits_it_is_idle_and_a_new_one_wakes_it() {
        let mut generator = generator(0, None);
        generator.on_batch(0, &times(&[100]), 0).unwrap();
        assert_eq!(generator.progress(0), to(100));
        assert_eq!(generator.without_splits(), Progress::NONE, "there is one");
        generator.on_split_finished(0);
        assert_eq!(generator.without_splits(), Progress { watermark: None, idle: true });
        assert_eq!(generator.without_splits(), Progress::NONE, "once is enough");
        generator.add_split(1, 0);
        assert_eq!(generator.progress(0), to(100), "it holds back what comes");
        generator.on_batch(1, &times(&[90]), 0).unwrap();
        assert_eq!(generator.progress(0), Progress::NONE);
    }

    #[test]
    fn resumes_where_it_was() {
        let mut generator = generator(0, None);
        assert_eq!(generator.resume_from(Watermark::MIN), Progress::NONE);
        assert_eq!(generator.resume_from(Watermark(50)), to(50));
        generator.on_batch(0, &times(&[40]), 0).unwrap();
        assert_eq!(generator.progress(0), Progress::NONE);
        generator.on_batch(0, &times(&[60]), 0).unwrap();
        assert_eq!(generator.progress(0), to(60));
    }

    #[test]
    fn silence_is_idleness_unless_the_source_had_to_wait() {
        let mut generator = generator(0, Some(10));
        generator.on_batch(0, &times(&[100]), 0).unwrap();
        generator.on_batch(1, &times(&[40]), 5).unwrap();
        assert_eq!(generator.progress(5), to(40));
        assert_eq!(generator.next_idle_us(), Some(10));
        generator.on_backpressure(50);
        assert_eq!(generator.progress(55), Progress::NONE);
        generator.on_batch(0, &times(&[101]), 60).unwrap();
        assert_eq!(generator.next_idle_us(), Some(65));
        assert_eq!(generator.progress(65), to(101), "split 1 is idle");
        assert_eq!(generator.progress(70), Progress { watermark: None, idle: true });
        assert_eq!(generator.progress(80), Progress::NONE);
        generator.on_batch(1, &times(&[50]), 80).unwrap();
        assert_eq!(generator.progress(80), to(101), "awake again, at the time it was");
    }

    #[test]
    fn a_row_without_a_time_is_an_error_that_names_the_column() {
        let mut generator = generator(0, None);
        let missing: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]));
        let error = generator.on_batch(0, &missing, 0).unwrap_err().to_string();
        assert!(error.starts_with("1 of 2 rows have no event time: column `at` is NULL"), "{error}");
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let error = generator.on_batch(0, &number, 0).unwrap_err().to_string();
        assert_eq!(error, "the event time column `at` is BIGINT, and must be TIMESTAMP");
    }
}
