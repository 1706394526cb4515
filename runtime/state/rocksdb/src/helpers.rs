use std::sync::atomic::{AtomicUsize, Ordering};

/// Processors beside the one that asks. More threads than that would only take turns.
pub(crate) struct Helpers {
    free: AtomicUsize,
}

/// Some of them, given back when dropped.
pub(crate) struct Taken<'h> {
    helpers: &'h Helpers,
    count: usize,
}

/// A lookup takes no more: the others are for other subtasks, and for compaction.
const MAX_TAKEN: usize = 3;

impl Helpers {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |processors| processors.get());
        Helpers { free: AtomicUsize::new(processors - 1) }
    }

    /// As many as are free, of those wanted.
    pub(crate) fn take(&self, wanted: usize) -> Taken<'_> {
        let mut count = 0;
        let take = |free: usize| {
            count = free.min(wanted).min(MAX_TAKEN);
            (count > 0).then(|| free - count)
        };
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        Taken { helpers: self, count: if taken { count } else { 0 } }
    }
}

impl Taken<'_> {
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.helpers.free.fetch_add(self.count, Ordering::Relaxed);
    }
}
