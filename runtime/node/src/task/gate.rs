//! The input of one task: a bounded queue per channel, and the mail from the coordinator.
//!
//! One lock for all channels of a task: it is taken once per batch, not per record. A channel whose queue is
//! full makes its writer wait (that is the backpressure), and a blocked channel (its barrier has come, others'
//! haven't) is simply not read.

use super::mail::Mail;
use crate::exchange::RemoteChannel;
use crate::task_clock::{self, Wait, waiting};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;
use weir_model::StreamElement;

/// Bytes of batches that one channel holds before its writer waits. What is in flight at a barrier has to be
/// worked off before the barrier is reached, so this bounds the time of an alignment too.
pub(crate) const CHANNEL_BYTES: usize = 1 << 20;
/// Mail is small and rare: more than this means that the task is not reading it.
const MAIL_LIMIT: usize = 1024;

/// What a task gets next.
pub(crate) enum Event {
    Mail(Mail),
    Element(usize, StreamElement),
    /// The deadline passed with nothing to read.
    TimedOut,
    Cancelled,
}

/// Tells the writer on another worker that so many bytes were taken.
pub(crate) type CreditReturn = Box<dyn Fn(usize) + Send>;

#[derive(Default)]
struct Channel {
    queue: VecDeque<(StreamElement, usize)>,
    bytes: usize,
    blocked: bool,
    credit: Option<CreditReturn>,
}

struct State {
    channels: Vec<Channel>,
    mail: VecDeque<Mail>,
    /// The channel to look at first, so that each has its turn.
    next: usize,
    cancelled: bool,
}

/// The reading side owns the gate; writers hold `ChannelWriter`s.
pub(crate) struct Gate {
    state: Mutex<State>,
    readable: Condvar,
    writable: Condvar,
}

impl Gate {
    pub(crate) fn new(channels: usize) -> Arc<Self> {
        let channels = (0..channels).map(|_| Channel::default()).collect();
        Arc::new(Gate {
            state: Mutex::new(State { channels, mail: VecDeque::new(), next: 0, cancelled: false }),
            readable: Condvar::new(),
            writable: Condvar::new(),
        })
    }

    /// Waits for mail, an element of an unblocked channel, or the deadline.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Event {
        let mut state = self.lock();
        loop {
            if state.cancelled {
                return Event::Cancelled;
            }
            if let Some(mail) = state.mail.pop_front() {
                return Event::Mail(mail);
            }
            if let Some((channel, element)) = state.take() {
                drop(state);
                self.writable.notify_all();
                return Event::Element(channel, element);
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

    /// From here on, what is taken from the channel is told to its writer.
    pub(crate) fn return_credit(&self, channel: usize, credit: CreditReturn) {
        self.lock().channels[channel].credit = Some(credit);
    }

    /// Puts in what a writer on another worker had credit for.
    pub(crate) fn deliver(&self, channel: usize, element: StreamElement, bytes: usize) {
        let mut state = self.lock();
        state.channels[channel].bytes += bytes;
        state.channels[channel].queue.push_back((element, bytes));
        drop(state);
        self.readable.notify_one();
    }

    /// Puts mail before everything that waits in the channels.
    pub(crate) fn send(&self, mail: Mail) {
        let mut state = self.lock();
        assert!(state.mail.len() < MAIL_LIMIT, "a task has left {MAIL_LIMIT} messages unread");
        state.mail.push_back(mail);
        drop(state);
        self.readable.notify_all();
    }

    /// Ends the reader and lets every waiting writer go.
    pub(crate) fn cancel(&self) {
        self.lock().cancelled = true;
        self.readable.notify_all();
        self.writable.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; a poisoned one still holds a usable queue.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn take(&mut self) -> Option<(usize, StreamElement)> {
        let count = self.channels.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            let channel = &mut self.channels[index];
            if channel.blocked {
                continue;
            }
            if let Some((element, bytes)) = channel.queue.pop_front() {
                channel.bytes -= bytes;
                task_clock::received(bytes);
                if let Some(credit) = channel.credit.as_ref().filter(|_| bytes > 0) {
                    credit(bytes);
                }
                self.next = (index + 1) % count;
                return Some((index, element));
            }
        }
        None
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
    pub(crate) fn local(gate: Arc<Gate>, channel: usize) -> Self {
        ChannelWriter::Local(LocalChannel { gate, channel })
    }

    /// Waits while the channel is full. Everything but a batch is let in at once: it is small, and bounded in number.
    pub(crate) fn push(&self, element: StreamElement) -> Result<(), ChannelClosed> {
        match self {
            ChannelWriter::Local(channel) => channel.push(element),
            ChannelWriter::Remote(channel) => channel.push(&element),
        }
    }
}

#[derive(Clone)]
pub(crate) struct LocalChannel {
    gate: Arc<Gate>,
    channel: usize,
}

impl LocalChannel {
    fn push(&self, element: StreamElement) -> Result<(), ChannelClosed> {
        let bytes = match &element {
            StreamElement::Batch(batch) => batch.get_array_memory_size(),
            _ => 0,
        };
        let mut state = self.gate.lock();
        loop {
            if state.cancelled {
                return Err(ChannelClosed);
            }
            let channel = &mut state.channels[self.channel];
            // A batch bigger than the bound goes through an empty channel.
            if bytes == 0 || channel.bytes == 0 || channel.bytes + bytes <= CHANNEL_BYTES {
                channel.bytes += bytes;
                channel.queue.push_back((element, bytes));
                drop(state);
                self.gate.readable.notify_one();
                task_clock::sent(bytes);
                return Ok(());
            }
            let waited = waiting(Wait::Output, || self.gate.writable.wait(state));
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::record_batch::RecordBatch;
    use weir_model::Watermark;

    fn batch(rows: usize) -> StreamElement {
        let column = Arc::new(Int64Array::from(vec![0; rows])) as _;
        StreamElement::Batch(RecordBatch::try_from_iter([("n", column)]).unwrap())
    }

    fn channel_of(event: Event) -> usize {
        match event {
            Event::Element(channel, _) => channel,
            _ => panic!("expected an element"),
        }
    }

    #[test]
    fn channels_take_turns_and_a_blocked_one_is_passed_over() {
        let gate = Gate::new(3);
        let writers: Vec<_> = (0..3).map(|channel| ChannelWriter::local(gate.clone(), channel)).collect();
        for writer in &writers {
            for _ in 0..3 {
                writer.push(StreamElement::Watermark(Watermark(0))).unwrap();
            }
        }
        assert_eq!([0; 3].map(|_| channel_of(gate.next(None))), [0, 1, 2]);
        gate.block(1);
        assert_eq!([0; 4].map(|_| channel_of(gate.next(None))), [0, 2, 0, 2]);
        assert!(matches!(gate.next(Some(Instant::now())), Event::TimedOut));
        gate.unblock_all();
        assert_eq!(channel_of(gate.next(None)), 1);
    }

    #[test]
    fn a_full_channel_makes_its_writer_wait_and_no_other() {
        let gate = Gate::new(2);
        let slow = ChannelWriter::local(gate.clone(), 0);
        let quick = ChannelWriter::local(gate.clone(), 1);
        let rows = CHANNEL_BYTES / 8 / 2;
        slow.push(batch(rows)).unwrap();
        let waiting = std::thread::spawn(move || {
            slow.push(batch(rows)).unwrap();
            slow.push(batch(rows)).is_err()
        });
        quick.push(batch(rows)).unwrap();
        assert_eq!(channel_of(gate.next(None)), 0);
        assert_eq!(channel_of(gate.next(None)), 1);
        // The second batch of the slow channel comes through; the third waits until the cancellation.
        assert_eq!(channel_of(gate.next(None)), 0);
        gate.cancel();
        waiting.join().unwrap();
        assert!(matches!(gate.next(None), Event::Cancelled));
    }
}
