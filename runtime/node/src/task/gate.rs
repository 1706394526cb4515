//! The input of one task: its channels, with their bounds and the threads on both sides, and the mail from the
//! coordinator. What is read next is decided by `InputChannels`.
//!
//! One lock for all channels of a task: it is taken once per batch, not per record. A channel whose queue is full makes
//! its writer wait: that is the backpressure. The task may itself be waiting for room in its outputs when something
//! urgent comes; so an urgent arrival lets its writers pass (`Urgent`).

#[cfg(test)]
mod tests;

use super::mail::Mail;
use super::pace::first_room;
use super::writer::{ChannelWriter, Urgent};
use crate::task_clock::{self, Wait, waiting};
use arrow::record_batch::RecordBatch;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Instant;
use weir_dataflow::channels::InputChannels;
use weir_model::{CheckpointId, InFlightElement, StreamElement};

/// Bytes of batches that one channel holds before its writer waits, where its reader is known to be quick (`Gate::limit`).
/// What is in flight at a barrier has to be worked off before the barrier is reached.
pub(crate) const CHANNEL_BYTES: usize = 1 << 20;
/// Mail is small and rare: more than this means that the task is not reading it.
const MAIL_LIMIT: usize = 1024;

/// What a task gets next.
pub(crate) enum Event {
    Mail(Mail),
    /// From a channel, with the bytes that it held there.
    Element(usize, StreamElement, usize),
    /// The deadline passed with nothing to read.
    TimedOut,
    Cancelled,
}

/// What the writer on another worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToWriter {
    /// So many bytes were taken.
    Credit(usize),
    /// So many may be on the way at a time.
    Limit(usize),
}

/// The way to the writer of a channel on another worker.
pub(crate) type WriterLink = Box<dyn Fn(ToWriter) + Send>;

pub(super) struct State {
    inputs: InputChannels,
    /// By channel: the way to its writer, if that is on another worker.
    writers: Vec<Option<WriterLink>>,
    /// What each channel may hold.
    limit_bytes: usize,
    mail: VecDeque<Mail>,
    pub(super) cancelled: bool,
}

/// The reading side owns the gate; writers hold `ChannelWriter`s.
pub(crate) struct Gate {
    state: Mutex<State>,
    readable: Condvar,
    pub(super) writable: Condvar,
    urgent: Arc<Urgent>,
    /// Where this task writes, to be woken by what is urgent.
    outputs: OnceLock<Vec<ChannelWriter>>,
}

impl Gate {
    pub(crate) fn new(inputs: InputChannels) -> Arc<Self> {
        let channels = inputs.count();
        Arc::new(Gate {
            state: Mutex::new(State {
                inputs,
                writers: (0..channels).map(|_| None).collect(),
                limit_bytes: first_room(channels),
                mail: VecDeque::new(),
                cancelled: false,
            }),
            readable: Condvar::new(),
            writable: Condvar::new(),
            urgent: Arc::default(),
            outputs: OnceLock::new(),
        })
    }

    /// What lets the task's own writers pass while something urgent waits here.
    pub(crate) fn urgent(&self) -> Arc<Urgent> {
        Arc::clone(&self.urgent)
    }

    /// The writers of the task that reads this gate; to be said once.
    pub(crate) fn wakes(&self, outputs: Vec<ChannelWriter>) {
        assert!(self.outputs.set(outputs).is_ok(), "a task's outputs are made once");
    }

    /// Waits for mail, an element of an unblocked channel, or the deadline. Of a batch that is larger it takes about
    /// `at_most_bytes`.
    pub(crate) fn next(&self, deadline: Option<Instant>, at_most_bytes: usize) -> Event {
        let mut state = self.lock();
        loop {
            if state.cancelled {
                return Event::Cancelled;
            }
            if let Some(mail) = state.mail.pop_front() {
                self.urgent.set(state.has_urgent());
                return Event::Mail(mail);
            }
            if let Some((channel, element)) = state.inputs.next_urgent() {
                self.urgent.set(state.has_urgent());
                return Event::Element(channel, element, 0);
            }
            if let Some((channel, element, bytes)) = state.take(at_most_bytes) {
                drop(state);
                self.writable.notify_all();
                return Event::Element(channel, element, bytes);
            }
            state = match deadline {
                None => {
                    waiting(Wait::Input, || self.readable.wait(state)).unwrap_or_else(|poisoned| poisoned.into_inner())
                }
                Some(deadline) => {
                    let now = Instant::now();
                    if now >= deadline {
                        return Event::TimedOut;
                    }
                    let waited = waiting(Wait::Input, || self.readable.wait_timeout(state, deadline - now));
                    waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
    }

    /// As `InputChannels::next_batch_of`.
    pub(crate) fn next_batch_of(&self, channel: usize, at_most_bytes: usize) -> Option<(RecordBatch, usize)> {
        let mut state = self.lock();
        let taken = state.inputs.next_batch_of(channel, at_most_bytes)?;
        state.taken(channel, taken.1);
        drop(state);
        self.writable.notify_all();
        Some(taken)
    }

    pub(crate) fn block(&self, channel: usize) {
        self.lock().inputs.block(channel);
    }

    pub(crate) fn unblock_all(&self) {
        self.lock().inputs.unblock_all();
    }

    /// From here on, what is taken from the channel is told to its writer, and what it may hold.
    pub(crate) fn link_writer(&self, channel: usize, writer: WriterLink) {
        let mut state = self.lock();
        if state.limit_bytes != first_room(state.writers.len()) {
            writer(ToWriter::Limit(state.limit_bytes));
        }
        state.writers[channel] = Some(writer);
    }

    /// What each channel may hold from here on.
    pub(crate) fn limit(&self, bytes: usize) {
        let mut state = self.lock();
        state.limit_bytes = bytes;
        for writer in state.writers.iter().flatten() {
            writer(ToWriter::Limit(bytes));
        }
        drop(state);
        self.writable.notify_all();
    }

    /// Puts in what a writer on another worker had credit for.
    pub(crate) fn deliver(&self, channel: usize, element: StreamElement, bytes: usize) {
        let mut state = self.lock();
        let is_urgent = state.arrive(channel, element, bytes);
        self.arrived(state, is_urgent);
    }

    /// Wakes whom an arrival concerns.
    pub(super) fn arrived(&self, state: MutexGuard<'_, State>, is_urgent: bool) {
        if is_urgent {
            self.urgent.set(true);
        }
        drop(state);
        self.readable.notify_one();
        if is_urgent {
            self.wake_outputs();
        }
    }

    /// Puts mail before everything that waits in the channels.
    pub(crate) fn send(&self, mail: Mail) {
        let mut state = self.lock();
        assert!(state.mail.len() < MAIL_LIMIT, "a task has left {MAIL_LIMIT} messages unread");
        let is_urgent = mail.is_urgent();
        if let Mail::TurnUnaligned(checkpoint) = mail {
            state.inputs.turn_unaligned(checkpoint);
        }
        state.mail.push_back(mail);
        if is_urgent {
            self.urgent.set(true);
        }
        drop(state);
        self.readable.notify_all();
        if is_urgent {
            self.wake_outputs();
        }
    }

    /// As `InputChannels::are_in_order`.
    pub(crate) fn is_in_order(&self) -> bool {
        self.lock().inputs.are_in_order()
    }

    /// As `InputChannels::is_turned`.
    pub(crate) fn is_turned(&self, checkpoint: CheckpointId) -> bool {
        self.lock().inputs.is_turned(checkpoint)
    }

    /// As `InputChannels::keep_in_flight`.
    pub(crate) fn keep_in_flight(&self, checkpoint: CheckpointId, channels: &[usize]) {
        self.lock().inputs.keep_in_flight(checkpoint, channels);
    }

    /// As `InputChannels::take_in_flight`.
    pub(crate) fn take_in_flight(&self, checkpoint: CheckpointId) -> Option<Vec<Vec<InFlightElement>>> {
        self.lock().inputs.take_in_flight(checkpoint)
    }

    /// As `InputChannels::drop_in_flight`.
    pub(crate) fn drop_in_flight(&self, checkpoint: CheckpointId) {
        self.lock().inputs.drop_in_flight(checkpoint);
    }

    /// The task has to do something else first, for which its writers wait as ever.
    pub(crate) fn put_off_urgent(&self) {
        self.urgent.set(false);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    fn wake_outputs(&self) {
        self.outputs.get().into_iter().flatten().for_each(ChannelWriter::wake);
    }

    /// Ends the reader and lets every waiting writer go.
    pub(crate) fn cancel(&self) {
        self.lock().cancelled = true;
        self.readable.notify_all();
        self.writable.notify_all();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; a poisoned one still holds a usable queue.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// Bytes of batches that wait in a channel.
    pub(super) fn waiting_bytes(&self, channel: usize) -> usize {
        self.inputs.waiting_bytes(channel)
    }

    /// Puts an element in. True: it is urgent.
    pub(super) fn arrive(&mut self, channel: usize, element: StreamElement, bytes: usize) -> bool {
        self.inputs.arrive(channel, element, bytes)
    }

    pub(super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    fn has_urgent(&self) -> bool {
        self.inputs.has_urgent() || self.mail.iter().any(Mail::is_urgent)
    }

    fn take(&mut self, at_most_bytes: usize) -> Option<(usize, StreamElement, usize)> {
        let (channel, element, bytes) = self.inputs.next_waiting(at_most_bytes)?;
        self.taken(channel, bytes);
        Some((channel, element, bytes))
    }

    fn taken(&self, channel: usize, bytes: usize) {
        task_clock::received(bytes);
        if let Some(writer) = self.writers[channel].as_ref().filter(|_| bytes > 0) {
            writer(ToWriter::Credit(bytes));
        }
    }
}
