//! Counters of each node, shared by its subtasks and read by whoever shows progress.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

pub struct Gauge(AtomicI64);

impl Default for Gauge {
    fn default() -> Self {
        Gauge(AtomicI64::new(i64::MIN))
    }
}

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Of one subtask of one node.
#[derive(Default)]
pub struct NodeMetrics {
    pub records_in: Counter,
    pub records_out: Counter,
    /// Dropped because they came after the watermark.
    pub late_records: Counter,
    /// Could not be decoded, and were skipped or sent to the dead-letter sink.
    pub bad_records: Counter,
    /// Microseconds since the Unix epoch; `i64::MIN` before the first.
    pub watermark_us: Gauge,
}
