//! What waits for one subtask, by input channel, pure: what is read next, and what of it an unaligned checkpoint keeps.
//!
//! Channels have their turns, and a blocked one is passed over. The reader says how much it takes at a time: of a larger
//! batch it gets a slice, and the rest stays where it was. What is *urgent* is read ahead of all that waits: barriers of
//! unaligned checkpoints, and cancellations. Channels *in order* let no barrier overtake; those that would are aligned.

mod keeper;
#[cfg(test)]
mod tests;

pub use keeper::IN_FLIGHT_LIMIT_BYTES;

use arrow::record_batch::RecordBatch;
use keeper::InFlightKeeper;
use std::collections::VecDeque;
use weir_model::{Barrier, CheckpointId, CheckpointKind, InFlightElement, StreamElement};

/// The input of one subtask.
#[derive(Debug)]
pub struct InputChannels {
    channels: Vec<Channel>,
    /// Barriers and cancellations that are read ahead of what waits in their channels.
    urgent: VecDeque<(usize, StreamElement)>,
    /// Barriers of this checkpoint overtake, however they come; in order, they would.
    turned: Option<CheckpointId>,
    in_order: bool,
    in_flight: Option<InFlightKeeper>,
    /// The channel to look at first, so that each has its turn.
    next: usize,
}

#[derive(Debug, Default)]
struct Channel {
    /// An unaligned barrier stands here where it came in, although it has been read already: what is before it is in
    /// flight.
    queue: VecDeque<(StreamElement, usize)>,
    bytes: usize,
    blocked: bool,
}

impl InputChannels {
    pub fn new(channels: usize) -> Self {
        InputChannels {
            channels: (0..channels).map(|_| Channel::default()).collect(),
            urgent: VecDeque::new(),
            turned: None,
            in_order: false,
            in_flight: None,
            next: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.channels.len()
    }

    /// No barrier overtakes what waits.
    pub fn in_order(self) -> Self {
        InputChannels { in_order: true, ..self }
    }

    pub fn are_in_order(&self) -> bool {
        self.in_order
    }

    /// Whether the checkpoint's barriers overtake, here or elsewhere.
    pub fn is_turned(&self, checkpoint: CheckpointId) -> bool {
        self.turned == Some(checkpoint)
    }

    /// Bytes of batches that wait in a channel.
    pub fn waiting_bytes(&self, channel: usize) -> usize {
        self.channels[channel].bytes
    }

    pub fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Whether `next_urgent` or `next_waiting` may have something.
    pub fn is_readable(&self) -> bool {
        self.has_urgent() || self.channels.iter().any(|channel| !channel.blocked && !channel.queue.is_empty())
    }

    /// Puts an element in, which counts for so many bytes of its channel. True: it is urgent.
    pub fn arrive(&mut self, channel: usize, element: StreamElement, bytes: usize) -> bool {
        let element = match element {
            StreamElement::CancelBarrier(_) => {
                self.urgent.push_back((channel, element));
                return true;
            }
            StreamElement::UnalignedBarrier(barrier) if self.in_order => {
                self.turned = self.turned.max(Some(barrier.checkpoint));
                StreamElement::Barrier(barrier)
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

    /// Takes what is to be read ahead of all that waits, with its channel.
    pub fn next_urgent(&mut self) -> Option<(usize, StreamElement)> {
        self.urgent.pop_front()
    }

    /// Takes the next element that waits in a channel that isn't blocked, with the channel and the bytes that it counted
    /// for there. Of a batch that is a good deal larger than `at_most_bytes` it takes about so much.
    pub fn next_waiting(&mut self, at_most_bytes: usize) -> Option<(usize, StreamElement, usize)> {
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
                let (element, bytes) = channel.slice(element, bytes, at_most_bytes);
                channel.bytes -= bytes;
                self.next = (index + 1) % count;
                return Some((index, element, bytes));
            }
        }
        None
    }

    /// Takes the next element of this channel too, if that is a batch of at most so many bytes.
    pub fn next_batch_of(&mut self, channel: usize, at_most_bytes: usize) -> Option<(RecordBatch, usize)> {
        let channel = &mut self.channels[channel];
        let (StreamElement::Batch(batch), bytes) = channel.queue.front()? else { return None };
        if channel.blocked || *bytes > at_most_bytes {
            return None;
        }
        let taken = (batch.clone(), *bytes);
        channel.queue.pop_front();
        channel.bytes -= taken.1;
        Some(taken)
    }

    /// The channel is not read until `unblock_all`, but for what is urgent.
    pub fn block(&mut self, channel: usize) {
        self.channels[channel].blocked = true;
    }

    pub fn unblock_all(&mut self) {
        self.channels.iter_mut().for_each(|channel| channel.blocked = false);
    }

    /// From here on the checkpoint's barriers overtake, those that wait already too.
    pub fn turn_unaligned(&mut self, checkpoint: CheckpointId) {
        self.turned = self.turned.max(Some(checkpoint));
        if self.in_order {
            return;
        }
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

    /// Keeps what these channels hold and get before the checkpoint's barrier, until `take_in_flight`.
    pub fn keep_in_flight(&mut self, checkpoint: CheckpointId, channels: &[usize]) {
        self.turn_unaligned(checkpoint);
        let mut keeper = InFlightKeeper::new(checkpoint, self.channels.len());
        for index in channels {
            let queue = &mut self.channels[*index].queue;
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
        self.in_flight = Some(keeper);
    }

    /// What was kept for the checkpoint, by channel. None: that was too much.
    pub fn take_in_flight(&mut self, checkpoint: CheckpointId) -> Option<Vec<Vec<InFlightElement>>> {
        let keeper = self.in_flight.take();
        keeper.filter(|keeper| keeper.checkpoint() == checkpoint).and_then(InFlightKeeper::into_elements)
    }

    /// Whatever is kept belongs to no checkpoint any more.
    pub fn drop_in_flight(&mut self, checkpoint: CheckpointId) {
        self.in_flight.take_if(|keeper| keeper.checkpoint() == checkpoint);
    }

    fn overtakes(&self, barrier: Barrier) -> bool {
        !self.in_order && barrier.kind == CheckpointKind::Checkpoint && self.is_turned(barrier.checkpoint)
    }
}

/// A batch that is not larger by this than what is asked for is given whole: a small rest would cost as much again.
const WORTH_SLICING: f64 = 1.5;

impl Channel {
    /// Leaves in the queue what of a batch goes beyond the bytes that are asked for.
    fn slice(&mut self, element: StreamElement, bytes: usize, at_most_bytes: usize) -> (StreamElement, usize) {
        let StreamElement::Batch(batch) = &element else { return (element, bytes) };
        if bytes as f64 <= at_most_bytes as f64 * WORTH_SLICING {
            return (element, bytes);
        }
        let rows = batch.num_rows();
        let taken = ((rows as f64 * at_most_bytes as f64 / bytes as f64) as usize).max(1);
        if taken >= rows {
            return (element, bytes);
        }
        let taken_bytes = (bytes as f64 * taken as f64 / rows as f64) as usize;
        let rest = StreamElement::Batch(batch.slice(taken, rows - taken));
        self.queue.push_front((rest, bytes - taken_bytes));
        (StreamElement::Batch(batch.slice(0, taken)), taken_bytes)
    }
}
