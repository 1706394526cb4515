//! Counters of each node, shared by its subtasks and read by whoever shows progress.

pub use crate::hot_keys::{HotKeyGroups, HottestKeyGroups};
pub use crate::task_clock::{TaskClock, TimeTotals};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use weir_connectors::api::SplitLag;

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

/// How far behind the ends of its splits a source is.
#[derive(Default)]
pub struct SplitLags(Mutex<Vec<SplitLag>>);

impl SplitLags {
    /// A series each: a topic of thousands of partitions must not become as many of them.
    pub const MAX_SPLITS: usize = 200;

    pub fn set(&self, lags: Vec<SplitLag>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Self::shown(lags);
    }

    pub fn get(&self) -> Vec<SplitLag> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first by their names: always the same ones.
    pub fn shown(mut lags: Vec<SplitLag>) -> Vec<SplitLag> {
        lags.sort_unstable();
        lags.dedup_by(|one, other| one.split == other.split);
        lags.truncate(Self::MAX_SPLITS);
        lags
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
    /// That wait outside to be read by a source; `i64::MIN` where nobody can tell.
    pub pending_records: Gauge,
    /// That the other side keeps until a source has read them; `i64::MIN` where nobody can tell.
    pub pending_bytes: Gauge,
    /// Of a source's splits, at most `MAX_SPLITS`.
    pub split_lags: SplitLags,
    /// Microseconds since the Unix epoch; `i64::MIN` before the first.
    pub watermark_us: Gauge,
    /// What the whole task does; counted at the first node of its chain alone.
    pub task: TaskMetrics,
}

/// Of one subtask of a task, which is a chain of nodes.
#[derive(Default)]
pub struct TaskMetrics {
    /// Bytes of batches taken from channels, and put into them.
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub clock: TaskClock,
    pub hot_key_groups: HotKeyGroups,
    /// The latest checkpoint of which a barrier has come, that was cut, and whose part was written; 0 before the first.
    pub barrier_seen: Counter,
    pub barrier_cut: Counter,
    pub barrier_written: Counter,
}

/// What one subtask did for a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointFigures {
    /// When its first barrier came, by this machine's clock.
    pub first_barrier_ms: u64,
    /// From the first barrier to the last.
    pub alignment_us: u64,
    /// The cut, while nothing is processed.
    pub sync_us: u64,
    /// From the cut until its part was written.
    pub async_us: u64,
    /// Written of its state.
    pub bytes: u64,
}
