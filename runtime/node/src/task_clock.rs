//! How the thread of a subtask spends its time: told when it waits, so that work costs nothing.

use crate::metrics::NodeMetrics;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Something to read.
    Input = 1,
    /// Room in a reader's channel.
    Output = 2,
}

/// Since the thread began, microseconds; what is neither idle nor backpressured is busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeTotals {
    pub total_us: u64,
    pub idle_us: u64,
    pub backpressured_us: u64,
}

impl TimeTotals {
    pub fn busy_us(&self) -> u64 {
        self.total_us.saturating_sub(self.idle_us + self.backpressured_us)
    }
}

/// Written by one thread, read by others: of a wait that goes on, they see how long it has lasted.
#[derive(Default)]
pub struct TaskClock {
    /// 0: the thread hasn't begun here.
    began_us: AtomicU64,
    /// 0, or when the wait began and what for, in the lowest bits.
    wait: AtomicU64,
    /// What another process reported, or what has been waited here.
    total_us: AtomicU64,
    idle_us: AtomicU64,
    backpressured_us: AtomicU64,
}

impl TaskClock {
    pub fn totals(&self) -> TimeTotals {
        let began_us = self.began_us.load(Relaxed);
        let mut totals = TimeTotals {
            total_us: self.total_us.load(Relaxed),
            idle_us: self.idle_us.load(Relaxed),
            backpressured_us: self.backpressured_us.load(Relaxed),
        };
        if began_us > 0 {
            let now_us = now_us();
            totals.total_us = now_us.saturating_sub(began_us);
            let wait = self.wait.load(Relaxed);
            let waited_us = now_us.saturating_sub(wait >> KIND_BITS);
            match wait & KIND_MASK {
                INPUT => totals.idle_us += waited_us,
                OUTPUT => totals.backpressured_us += waited_us,
                _ => {}
            }
        }
        totals
    }

    /// What a worker in another process has told.
    pub(crate) fn set(&self, totals: TimeTotals) {
        self.total_us.store(totals.total_us, Relaxed);
        self.idle_us.store(totals.idle_us, Relaxed);
        self.backpressured_us.store(totals.backpressured_us, Relaxed);
    }

    fn begin(&self) {
        self.began_us.store(now_us(), Relaxed);
    }

    fn wait_begins(&self, wait: Wait) -> u64 {
        let since_us = now_us();
        self.wait.store(since_us << KIND_BITS | wait as u64, Relaxed);
        since_us
    }

    fn wait_ends(&self, wait: Wait, since_us: u64) {
        self.wait.store(0, Relaxed);
        let waited = match wait {
            Wait::Input => &self.idle_us,
            Wait::Output => &self.backpressured_us,
        };
        waited.fetch_add(now_us().saturating_sub(since_us), Relaxed);
    }
}

const KIND_BITS: u32 = 2;
const KIND_MASK: u64 = (1 << KIND_BITS) - 1;
const INPUT: u64 = Wait::Input as u64;
const OUTPUT: u64 = Wait::Output as u64;

/// Microseconds since this process first asked; never 0.
fn now_us() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed().as_micros() as u64 + 1
}

thread_local! {
    /// Of the subtask that this thread runs: channels are shared by many, and know none of them.
    static OWN: RefCell<Option<Arc<NodeMetrics>>> = const { RefCell::new(None) };
    /// Since the spell began.
    static FULLEST: Cell<f64> = const { Cell::new(0.0) };
}

/// From here on this thread is that of the subtask.
pub(crate) fn count_for(metrics: Arc<NodeMetrics>) {
    metrics.task.clock.begin();
    OWN.set(Some(metrics));
}

/// Waits, and counts how long.
pub(crate) fn waiting<T>(wait: Wait, until: impl FnOnce() -> T) -> T {
    let own = OWN.with_borrow(Clone::clone);
    let Some(own) = own else { return until() };
    let since_us = own.task.clock.wait_begins(wait);
    let result = until();
    own.task.clock.wait_ends(wait, since_us);
    result
}

/// What this thread does from here on, with a piece of work.
pub(crate) struct Spell {
    began: Instant,
    backpressured_us: u64,
}

/// What came of a piece of work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worked {
    pub(crate) work: Duration,
    /// For room in the channels of readers.
    pub(crate) waited: Duration,
    /// The largest batch that was sent, as a share of what its channel may hold.
    pub(crate) fullest: f64,
}

impl Spell {
    pub(crate) fn begin() -> Self {
        FULLEST.set(0.0);
        Spell { began: Instant::now(), backpressured_us: backpressured_us() }
    }

    pub(crate) fn end(self) -> Worked {
        let waited = Duration::from_micros(backpressured_us().saturating_sub(self.backpressured_us));
        Worked { work: self.began.elapsed().saturating_sub(waited), waited, fullest: FULLEST.get() }
    }
}

fn backpressured_us() -> u64 {
    OWN.with_borrow(|own| own.as_deref().map_or(0, |own| own.task.clock.backpressured_us.load(Relaxed)))
}

pub(crate) fn received(bytes: usize) {
    with_own(|own| own.task.bytes_in.add(bytes as u64));
}

/// `limit_bytes`: what the channel may hold.
pub(crate) fn sent(bytes: usize, limit_bytes: usize) {
    FULLEST.set(FULLEST.get().max(bytes as f64 / limit_bytes as f64));
    with_own(|own| own.task.bytes_out.add(bytes as u64));
}

fn with_own(count: impl FnOnce(&NodeMetrics)) {
    OWN.with_borrow(|own| own.as_deref().map(count));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_wait_is_seen_while_it_lasts_and_after_it() {
        let metrics = Arc::new(NodeMetrics::default());
        let (go, gone) = channel::<()>();
        let own = Arc::clone(&metrics);
        let thread = std::thread::spawn(move || {
            count_for(own);
            waiting(Wait::Output, || gone.recv().ok());
            sent(7, 10);
        });
        while metrics.task.clock.totals().backpressured_us == 0 {
            std::thread::yield_now();
        }
        go.send(()).unwrap();
        thread.join().unwrap();
        let totals = metrics.task.clock.totals();
        assert!(totals.backpressured_us > 0 && totals.backpressured_us <= totals.total_us, "{totals:?}");
        assert_eq!((totals.idle_us, metrics.task.bytes_out.get()), (0, 7));
        // Of a thread that is no subtask nothing is counted.
        assert_eq!(waiting(Wait::Input, || 3), 3);
    }
}
