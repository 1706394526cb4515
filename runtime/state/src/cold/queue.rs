//! Cuts on their way into the store, in order: a checkpoint's files hold its cut, and nothing later.

use super::{CacheBudget, ColdBatch, ColdConfig, ColdHandle, ColdSnapshot, ColdStore};
use crate::ordered::cold::OrderedColdCut;
use crate::rows::cut::RowCut;
use crate::{SegmentSink, StateError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a subtask and the writers of its cuts share.
pub(crate) struct ColdShared {
    pub(crate) store: Arc<dyn ColdStore>,
    cache: Arc<CacheBudget>,
    queue: Mutex<Queue>,
    /// Held by whoever brings cuts into the store, or freezes it. The queue is free meanwhile: a subtask doesn't wait
    /// here for its next cut.
    writing: Mutex<()>,
    /// Cuts up to this interval's are in the store.
    applied: AtomicU32,
}

#[derive(Default)]
struct Queue {
    cuts: VecDeque<QueuedCut>,
    /// The store as it was with a wanted cut, by its interval: later ones had to go in before its checkpoint was written.
    frozen: Vec<(u32, Box<dyn ColdSnapshot>)>,
    /// A wanted cut is on its way into the store, or there and not frozen yet.
    is_freezing: bool,
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

impl ColdShared {
    pub(crate) fn new(config: ColdConfig) -> Arc<Self> {
        Arc::new(ColdShared {
            store: config.store,
            cache: config.cache,
            queue: Mutex::default(),
            writing: Mutex::default(),
            applied: AtomicU32::new(0),
        })
    }

    pub(crate) fn cache(&self) -> &Arc<CacheBudget> {
        &self.cache
    }

    /// Cuts up to this interval's are in the store.
    pub(crate) fn applied(&self) -> u32 {
        self.applied.load(Ordering::Acquire)
    }

    /// Adds a cut that goes into the store when its checkpoint is written, or when nobody wants one of it.
    pub(crate) fn push(&self, interval: u32, mut parts: Vec<QueuedPart>, wanted: bool) {
        // All of a cut goes into the store as one ascending sequence.
        parts.sort_unstable_by_key(QueuedPart::state);
        self.lock().cuts.push_back(QueuedCut { interval, parts, wanted });
    }

    /// Nobody will ask for a checkpoint of this cut any more.
    pub(crate) fn abandon(&self, interval: u32) {
        let mut queue = self.lock();
        queue.cuts.iter_mut().filter(|cut| cut.interval == interval).for_each(|cut| cut.wanted = false);
        let frozen = queue.take_frozen(interval);
        // What it holds of the disk is let go of without keeping others waiting.
        drop(queue);
        drop(frozen);
    }

    /// Brings the cut and those before it into the store and makes files of it. Only the first half of that keeps
    /// later changes out of the store.
    pub(crate) fn checkpoint(&self, interval: u32, sink: &mut dyn SegmentSink) -> Result<ColdHandle, StateError> {
        let writing = self.start_writing();
        let frozen = self.lock().take_frozen(interval);
        let frozen = match frozen {
            Some(frozen) => frozen,
            None if self.applied() >= interval => {
                let reason = "a later checkpoint of the subtask has been written already".into();
                return Err(StateError::ColdStore { action: "checkpoint", reason });
            }
            None => self.freeze(interval)?,
        };
        drop(writing);
        frozen.write(sink)
    }

    /// Brings all cuts into the store. Of one that is wanted for a checkpoint, the store is frozen as it is with it:
    /// when its checkpoint is written may depend on the subtask that waits for room here.
    pub(crate) fn apply_all(&self) -> Result<(), StateError> {
        let _writing = self.start_writing();
        loop {
            let wanted = self.lock().cuts.iter().find(|cut| cut.wanted).map(|cut| cut.interval);
            let Some(interval) = wanted else { break };
            let frozen = self.freeze(interval)?;
            self.lock().frozen.push((interval, frozen));
        }
        let last = self.lock().cuts.back().map(|cut| cut.interval);
        last.map_or(Ok(()), |last| self.apply(last))
    }

    /// The store with the cuts up to this interval's; whoever calls it is writing.
    fn freeze(&self, interval: u32) -> Result<Box<dyn ColdSnapshot>, StateError> {
        self.lock().is_freezing = true;
        let frozen = self.apply(interval).and_then(|()| self.store.freeze());
        self.lock().is_freezing = false;
        frozen
    }

    /// Brings all cuts into the store, if no checkpoint is to be made of any; whether it did.
    pub(crate) fn apply_unwanted(&self) -> Result<bool, StateError> {
        let is_wanted = |queue: &Queue| queue.is_freezing || queue.cuts.iter().any(|cut| cut.wanted);
        if is_wanted(&self.lock()) {
            return Ok(false);
        }
        let _writing = self.start_writing();
        let queue = self.lock();
        if is_wanted(&queue) {
            return Ok(false);
        }
        let Some(last) = queue.cuts.back().map(|cut| cut.interval) else { return Ok(true) };
        drop(queue);
        self.apply(last)?;
        Ok(true)
    }

    /// Brings cuts up to this interval's into the store; whoever calls it is writing.
    fn apply(&self, upto: u32) -> Result<(), StateError> {
        loop {
            let mut queue = self.lock();
            if let Some(reason) = &queue.broken {
                return Err(StateError::ColdStore { action: "go on after a failure", reason: reason.clone() });
            }
            if queue.cuts.front().is_none_or(|cut| cut.interval > upto) {
                return Ok(());
            }
            let cut = queue.cuts.pop_front().expect("just looked at");
            drop(queue);
            if let Err(error) = cut.write(&*self.store) {
                self.lock().broken = Some(error.to_string());
                return Err(error);
            }
            self.applied.store(cut.interval, Ordering::Release);
        }
    }

    /// The checkpoint with this handle is durable; what it names without an object lies in this one.
    ///
    /// # Panics
    /// If there is such, and `object` is empty.
    pub(crate) fn confirm(&self, handle: &mut ColdHandle, object: &str) {
        for segment in handle.files.iter_mut().flat_map(|file| &mut file.segments) {
            if segment.object.is_empty() {
                assert!(!object.is_empty(), "a confirmed segment lies in an object without a name");
                segment.object = object.to_string();
            }
        }
        self.store.confirm(handle);
    }

    fn start_writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn take_frozen(&mut self, interval: u32) -> Option<Box<dyn ColdSnapshot>> {
        let at = self.frozen.iter().position(|(of, _)| *of == interval)?;
        Some(self.frozen.swap_remove(at).1)
    }
}

impl QueuedCut {
    fn write(&self, store: &dyn ColdStore) -> Result<(), StateError> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let (mut batch, mut writer) = (ColdBatch::default(), store.writer()?);
        let mut write = |batch: &ColdBatch| writer.write(batch);
        for part in &self.parts {
            match part {
                QueuedPart::Rows { state, cut } => cut.write_cold(*state, &mut batch, &mut write)?,
                QueuedPart::Ordered { state, cut } => cut.write_cold(*state, &mut batch, &mut write)?,
            }
        }
        writer.finish()
    }
}

impl QueuedPart {
    fn state(&self) -> u16 {
        match self {
            QueuedPart::Rows { state, .. } | QueuedPart::Ordered { state, .. } => *state,
        }
    }
}

/// Bytes of a batch, about.
const BATCH_BYTES: usize = 1 << 20;

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
