//! The input of one task: a bounded queue per channel, and the mail from the coordinator.
//!
//! One lock for all channels of a task: it is taken once per batch, not per record. A channel whose queue is
//! full makes its writer wait (that is the backpressure), and a blocked channel (its barrier has come, others'
//! haven't) is simply not read.
//!
//! What is *urgent* comes ahead of all that waits: barriers of unaligned checkpoints, and cancellations. The task may
//! itself be waiting for room in its outputs just then; so an urgent arrival lets its writers pass (`Urgent`).

#[cfg(test)]
mod tests;

use super::in_flight::InFlightKeeper;
use super::mail::Mail;
use super::writer::{ChannelWriter, Urgent};
use crate::task_clock::{self, Wait, waiting};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Instant;
use weir_model::{Barrier, CheckpointId, CheckpointKind, InFlightElement, StreamElement};

/// Bytes of batches that one channel holds before its writer waits, where its reader is quick; a slow one says less
/// (`Gate::limit`). What is in flight at a barrier has to be worked off before the barrier is reached.
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

#[derive(Default)]
struct Channel {
    /// An unaligned barrier stands here where it came in, although it has been read already: what is before it is in
    /// flight.
    queue: VecDeque<(StreamElement, usize)>,
    bytes: usize,
    blocked: bool,
    writer: Option<WriterLink>,
}

pub(super) struct State {
    channels: Vec<Channel>,
    /// What each channel may hold.
    limit_bytes: usize,
    mail: VecDeque<Mail>,
    /// Barriers and cancellations that are read ahead of what waits in their channels.
    urgent: VecDeque<(usize, StreamElement)>,
    /// Barriers of this checkpoint overtake, however they come.
    turned: Option<CheckpointId>,
    in_flight: Option<InFlightKeeper>,
    /// The channel to look at first, so that each has its turn.
    next: usize,
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
    pub(crate) fn new(channels: usize) -> Arc<Self> {
        let channels = (0..channels).map(|_| Channel::default()).collect();
        Arc::new(Gate {
            state: Mutex::new(State {
                channels,
                limit_bytes: CHANNEL_BYTES,
                mail: VecDeque::new(),
                urgent: VecDeque::new(),
                turned: None,
                in_flight: None,
                next: 0,
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

    /// Waits for mail, an element of an unblocked channel, or the deadline.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Event {
        let mut state = self.lock();
        loop {
            if state.cancelled {
                return Event::Cancelled;
            }
            if let Some(mail) = state.mail.pop_front() {
                self.urgent.set(state.has_urgent());
                return Event::Mail(mail);
            }
            if let Some((channel, element)) = state.urgent.pop_front() {
                self.urgent.set(state.has_urgent());
                return Event::Element(channel, element, 0);
            }
            if let Some((channel, element, bytes)) = state.take() {
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

    pub(crate) fn block(&self, channel: usize) {
        self.lock().channels[channel].blocked = true;
    }

    pub(crate) fn unblock_all(&self) {
        self.lock().channels.iter_mut().for_each(|channel| channel.blocked = false);
    }

    /// From here on, what is taken from the channel is told to its writer, and what it may hold.
    pub(crate) fn link_writer(&self, channel: usize, writer: WriterLink) {
        let mut state = self.lock();
        if state.limit_bytes < CHANNEL_BYTES {
            writer(ToWriter::Limit(state.limit_bytes));
        }
        state.channels[channel].writer = Some(writer);
    }

    /// What each channel may hold from here on; changes that don't matter are passed over.
    pub(crate) fn limit(&self, bytes: usize) {
        let mut state = self.lock();
        if bytes.abs_diff(state.limit_bytes) <= state.limit_bytes / 8 {
            return;
        }
        state.limit_bytes = bytes;
        for writer in state.channels.iter().filter_map(|channel| channel.writer.as_ref()) {
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
            state.turn(checkpoint);
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

    /// Keeps what these channels hold and get before the checkpoint's barrier, until `take_in_flight`.
    pub(crate) fn keep_in_flight(&self, checkpoint: CheckpointId, channels: &[usize]) {
        let mut state = self.lock();
        state.turn(checkpoint);
        let State { channels: all, in_flight, .. } = &mut *state;
        let mut keeper = InFlightKeeper::new(checkpoint, all.len());
        for index in channels {
            let queue = &mut all[*index].queue;
            let is_barrier = |(element, _): &(StreamElement, usize)| matches!(element, StreamElement::UnalignedBarrier(barrier) if barrier.checkpoint == checkpoint);
            let barrier = queue.iter().position(is_barrier);
            keeper.open(*index);
            for (element, bytes) in queue.iter().take(barrier.unwrap_or(queue.len())) {
                keeper.passed(*index, element, *bytes);
            }
            if let Some(barrier) = barrier {
                queue.remove(barrier);
                keeper.close(*index);
            }
        }
        *in_flight = Some(keeper);
    }

    /// What was kept for the checkpoint, by channel. None: that was too much.
    pub(crate) fn take_in_flight(&self, checkpoint: CheckpointId) -> Option<Vec<Vec<InFlightElement>>> {
        let keeper = self.lock().in_flight.take();
        keeper.filter(|keeper| keeper.checkpoint() == checkpoint).and_then(InFlightKeeper::into_elements)
    }

    /// Whatever is kept belongs to no checkpoint any more.
    pub(crate) fn drop_in_flight(&self, checkpoint: CheckpointId) {
        let mut state = self.lock();
        if state.in_flight.as_ref().is_some_and(|keeper| keeper.checkpoint() == checkpoint) {
            state.in_flight = None;
        }
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
        self.channels[channel].bytes
    }

    /// Puts an element in. True: it is urgent.
    pub(super) fn arrive(&mut self, channel: usize, element: StreamElement, bytes: usize) -> bool {
        let element = match element {
            StreamElement::CancelBarrier(_) => {
                self.urgent.push_back((channel, element));
                return true;
            }
            StreamElement::Barrier(barrier) if self.overtakes(barrier) => StreamElement::UnalignedBarrier(barrier),
            element => element,
        };
        let is_urgent = matches!(element, StreamElement::UnalignedBarrier(_));
        if is_urgent {
            self.urgent.push_back((channel, element.clone()));
        }
        if let Some(keeper) = &mut self.in_flight {
            keeper.passed(channel, &element, bytes);
        }
        self.channels[channel].bytes += bytes;
        self.channels[channel].queue.push_back((element, bytes));
        is_urgent
    }

    pub(super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    fn overtakes(&self, barrier: Barrier) -> bool {
        barrier.kind == CheckpointKind::Checkpoint && self.turned == Some(barrier.checkpoint)
    }

    /// From here on the checkpoint's barriers overtake, those that wait already too.
    fn turn(&mut self, checkpoint: CheckpointId) {
        self.turned = self.turned.max(Some(checkpoint));
        for (index, channel) in self.channels.iter_mut().enumerate() {
            for (element, _) in &mut channel.queue {
                if let StreamElement::Barrier(barrier) = *element
                    && barrier.checkpoint == checkpoint
                    && barrier.kind == CheckpointKind::Checkpoint
                {
                    *element = StreamElement::UnalignedBarrier(barrier);
                    self.urgent.push_back((index, element.clone()));
                }
            }
        }
    }

    fn has_urgent(&self) -> bool {
        !self.urgent.is_empty() || self.mail.iter().any(Mail::is_urgent)
    }

    fn take(&mut self) -> Option<(usize, StreamElement, usize)> {
        let count = self.channels.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            let channel = &mut self.channels[index];
            if channel.blocked {
                continue;
            }
            while let Some((element, bytes)) = channel.queue.pop_front() {
                if matches!(element, StreamElement::UnalignedBarrier(_)) {
                    // It was read when it came.
                    continue;
                }
                channel.bytes -= bytes;
                task_clock::received(bytes);
                if let Some(writer) = channel.writer.as_ref().filter(|_| bytes > 0) {
                    writer(ToWriter::Credit(bytes));
                }
                self.next = (index + 1) % count;
                return Some((index, element, bytes));
            }
        }
        None
    }
}
