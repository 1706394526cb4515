use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of memory that subtasks in front of cold stores share: those that hold state, in equal parts.
#[derive(Debug)]
pub struct CacheBudget {
    bytes: usize,
    shares: AtomicUsize,
}

impl CacheBudget {
    /// So many bytes of rows and entries.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(CacheBudget { bytes, shares: AtomicUsize::new(0) })
    }

    /// What one subtask may keep now.
    pub fn share_bytes(&self) -> usize {
        self.bytes / self.shares.load(Ordering::Relaxed).max(1)
    }
}

/// A subtask's claim, for as long as it holds state.
pub(crate) struct CacheShare(Arc<CacheBudget>);

impl CacheShare {
    pub(crate) fn of(budget: Arc<CacheBudget>) -> Self {
        budget.shares.fetch_add(1, Ordering::Relaxed);
        CacheShare(budget)
    }
}

impl Drop for CacheShare {
    fn drop(&mut self) {
        self.0.shares.fetch_sub(1, Ordering::Relaxed);
    }
}
