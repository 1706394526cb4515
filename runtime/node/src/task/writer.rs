//! The writing side of channels.

use super::gate::Gate;
use crate::exchange::RemoteChannel;
use crate::task_clock::{self, Wait, waiting};
use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use weir_model::StreamElement;

/// What a task may put into a channel beyond its bound while something urgent waits for the task: the rest of what
/// it is at work on. Beyond that it waits as ever.
pub(crate) const OVERDRAFT_BYTES: usize = 16 << 20;

/// What a batch counts for in a channel. Of a slice, its own rows: what it is a slice of may be far larger.
fn batch_bytes(batch: &RecordBatch) -> usize {
    let of_column = |column: &ArrayRef| {
        let data = column.to_data();
        data.get_slice_memory_size().unwrap_or_else(|_| data.get_array_memory_size())
    };
    // Never nothing: that is what everything else than batches counts for.
    batch.columns().iter().map(of_column).sum::<usize>().max(1)
}

/// Whether something waits for a task that must not wait for its readers: set by the task's gate, heeded by its writers.
#[derive(Default)]
pub(crate) struct Urgent(AtomicBool);

impl Urgent {
    pub(super) fn set(&self, is_urgent: bool) {
        self.0.store(is_urgent, Ordering::SeqCst);
    }

    /// Whether this much may be put into a channel that holds so much already, and may hold `limit_bytes`.
    pub(crate) fn admits(&self, waiting_bytes: usize, bytes: usize, limit_bytes: usize) -> bool {
        let overdraft = if self.0.load(Ordering::SeqCst) { OVERDRAFT_BYTES } else { 0 };
        // A batch bigger than the bound goes through an empty channel.
        bytes == 0 || waiting_bytes == 0 || waiting_bytes + bytes <= limit_bytes + overdraft
    }
}

/// The task was cancelled while a writer waited.
#[derive(Debug)]
pub(crate) struct ChannelClosed;

/// One upstream subtask's way into one channel of a gate, here or on another worker.
#[derive(Clone)]
pub(crate) enum ChannelWriter {
    Local(LocalChannel),
    Remote(Arc<RemoteChannel>),
}

impl ChannelWriter {
    /// `urgent`: of the task that writes.
    pub(crate) fn local(gate: Arc<Gate>, channel: usize, urgent: Arc<Urgent>) -> Self {
        ChannelWriter::Local(LocalChannel { gate, channel, urgent })
    }

    /// Waits while the channel is full. Everything but a batch is let in at once: it is small, and bounded in number.
    pub(crate) fn push(&self, element: StreamElement) -> Result<(), ChannelClosed> {
        match self {
            ChannelWriter::Local(channel) => channel.push(element),
            ChannelWriter::Remote(channel) => channel.push(&element),
        }
    }

    /// Lets a writer that waits look again.
    pub(super) fn wake(&self) {
        match self {
            ChannelWriter::Local(channel) => channel.wake(),
            ChannelWriter::Remote(channel) => channel.wake(),
        }
    }
}

#[derive(Clone)]
pub(crate) struct LocalChannel {
    gate: Arc<Gate>,
    channel: usize,
    urgent: Arc<Urgent>,
}

impl LocalChannel {
    fn push(&self, element: StreamElement) -> Result<(), ChannelClosed> {
        let bytes = match &element {
            StreamElement::Batch(batch) => batch_bytes(batch),
            _ => 0,
        };
        let mut state = self.gate.lock();
        loop {
            if state.cancelled {
                return Err(ChannelClosed);
            }
            if self.urgent.admits(state.waiting_bytes(self.channel), bytes, state.limit_bytes()) {
                let limit_bytes = state.limit_bytes();
                let is_urgent = state.arrive(self.channel, element, bytes);
                self.gate.arrived(state, is_urgent);
                task_clock::sent(bytes, limit_bytes);
                return Ok(());
            }
            let waited = waiting(Wait::Output, || self.gate.writable.wait(state));
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Under the lock, or a writer that has looked and does not wait yet would miss it.
    fn wake(&self) {
        let _state = self.gate.lock();
        self.gate.writable.notify_all();
    }
}
