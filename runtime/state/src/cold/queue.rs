//! Cuts on their way into the store, in order: a checkpoint's files hold its cut, and nothing later.

use super::{ColdBatch, ColdConfig, ColdHandle, ColdStore};
use crate::ordered::cold::OrderedColdCut;
use crate::rows::cut::RowCut;
use crate::{SegmentSink, StateError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a subtask and the writers of its cuts share.
pub(crate) struct ColdShared {
    pub(crate) store: Arc<dyn ColdStore>,
    pub(crate) cache_bytes: usize,
    queue: Mutex<Queue>,
    /// Cuts up to this interval's are in the store.
    applied: AtomicU32,
    progress: Condvar,
}

#[derive(Default)]
struct Queue {
    cuts: VecDeque<QueuedCut>,
    /// The store failed in the middle of a cut: what it holds is unknown.
    broken: Option<String>,
}

struct QueuedCut {
    interval: u32,
    parts: Vec<QueuedPart>,
    /// Whether a checkpoint of it may still be asked for. Until then, nothing later may go into the store.
    wanted: bool,
}

pub(crate) enum QueuedPart {
    Rows { state: u16, cut: RowCut },
    Ordered { state: u16, cut: OrderedColdCut },
}

/// How long a subtask waits for its cuts to be written before it fails: longer than any write takes.
const MAX_WAIT: Duration = Duration::from_secs(120);

impl ColdShared {
    pub(crate) fn new(config: ColdConfig) -> Arc<Self> {
        Arc::new(ColdShared {
            store: config.store,
            cache_bytes: config.cache_bytes,
            queue: Mutex::default(),
            applied: AtomicU32::new(0),
            progress: Condvar::new(),
        })
    }

    /// Cuts up to this interval's are in the store.
    pub(crate) fn applied(&self) -> u32 {
        self.applied.load(Ordering::Acquire)
    }

    /// Adds a cut that goes into the store when its checkpoint is written, or when nobody wants one of it.
    pub(crate) fn push(&self, interval: u32, parts: Vec<QueuedPart>, wanted: bool) {
        self.lock().cuts.push_back(QueuedCut { interval, parts, wanted });
    }

    /// Nobody will ask for a checkpoint of this cut any more.
    pub(crate) fn abandon(&self, interval: u32) {
        let mut queue = self.lock();
        queue.cuts.iter_mut().filter(|cut| cut.interval == interval).for_each(|cut| cut.wanted = false);
        self.progress.notify_all();
    }

    /// Brings the cut and those before it into the store and makes files of it.
    pub(crate) fn checkpoint(&self, interval: u32, sink: &mut dyn SegmentSink) -> Result<ColdHandle, StateError> {
        let mut queue = self.lock();
        if self.applied() >= interval {
            let reason = "a later checkpoint of the subtask has been written already".into();
            return Err(StateError::ColdStore { action: "checkpoint", reason });
        }
        self.apply(&mut queue, interval)?;
        let handle = self.store.checkpoint(sink);
        self.progress.notify_all();
        handle
    }

    /// Brings all cuts into the store, if no checkpoint is to be made of any; whether it did.
    pub(crate) fn apply_unwanted(&self) -> Result<bool, StateError> {
        let mut queue = self.lock();
        if queue.cuts.iter().any(|cut| cut.wanted) {
            return Ok(false);
        }
        let Some(last) = queue.cuts.back().map(|cut| cut.interval) else { return Ok(true) };
        self.apply(&mut queue, last)?;
        Ok(true)
    }

    /// Waits until a checkpoint is made of every cut that is wanted for one.
    pub(crate) fn wait_until_unwanted(&self) -> Result<(), StateError> {
        let queue = self.lock();
        let waited = self
            .progress
            .wait_timeout_while(queue, MAX_WAIT, |queue| queue.cuts.iter().any(|cut| cut.wanted))
            .unwrap_or_else(PoisonError::into_inner);
        match waited.1.timed_out() {
            false => Ok(()),
            true => Err(StateError::ColdStore {
                action: "take changed rows",
                reason: format!("its cache is full and a checkpoint wasn't written within {MAX_WAIT:?}"),
            }),
        }
    }

    fn apply(&self, queue: &mut Queue, upto: u32) -> Result<(), StateError> {
        if let Some(reason) = &queue.broken {
            return Err(StateError::ColdStore { action: "go on after a failure", reason: reason.clone() });
        }
        let mut batch = ColdBatch::default();
        while let Some(cut) = queue.cuts.front().filter(|cut| cut.interval <= upto) {
            let interval = cut.interval;
            for part in &cut.parts {
                let mut write = |batch: &ColdBatch| self.store.write(batch);
                let written = match part {
                    QueuedPart::Rows { state, cut } => cut.write_cold(*state, &mut batch, &mut write),
                    QueuedPart::Ordered { state, cut } => cut.write_cold(*state, &mut batch, &mut write),
                };
                if let Err(error) = written {
                    queue.broken = Some(error.to_string());
                    return Err(error);
                }
            }
            queue.cuts.pop_front();
            self.applied.store(interval, Ordering::Release);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a batch, about.
const BATCH_BYTES: usize = 1 << 22;

/// Hands the batch on once it is large.
pub(crate) fn write_if_large(
    batch: &mut ColdBatch,
    write: &mut dyn FnMut(&ColdBatch) -> Result<(), StateError>,
) -> Result<(), StateError> {
    if batch.bytes() < BATCH_BYTES { Ok(()) } else { write_all(batch, write) }
}

/// Hands on what is in the batch.
pub(crate) fn write_all(
    batch: &mut ColdBatch,
    write: &mut dyn FnMut(&ColdBatch) -> Result<(), StateError>,
) -> Result<(), StateError> {
    if !batch.is_empty() {
        write(batch)?;
        batch.clear();
    }
    Ok(())
}
