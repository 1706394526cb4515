//! What of a task's channels belongs to an unaligned checkpoint, from the cut until the last barrier has come.

use weir_model::{CheckpointId, InFlightElement, StreamElement};

/// Bytes that one task keeps for a checkpoint; with more in flight it declines. Far above what full channels hold:
/// only a channel whose barrier stays away comes to it.
pub const IN_FLIGHT_LIMIT_BYTES: usize = 256 << 20;

/// Batches are shared with the queues, not copied.
#[derive(Debug)]
pub(super) struct InFlightKeeper {
    checkpoint: CheckpointId,
    channels: Vec<Kept>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    /// Its barrier is yet to come.
    is_open: bool,
    elements: Vec<InFlightElement>,
}

impl InFlightKeeper {
    pub(super) fn new(checkpoint: CheckpointId, channels: usize) -> Self {
        InFlightKeeper { checkpoint, channels: (0..channels).map(|_| Kept::default()).collect(), bytes: 0 }
    }

    pub(super) fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    pub(super) fn open(&mut self, channel: usize) {
        self.channels[channel].is_open = true;
    }

    pub(super) fn close(&mut self, channel: usize) {
        self.channels[channel].is_open = false;
    }

    /// Notes what came in, up to the barrier.
    pub(super) fn passed(&mut self, channel: usize, element: &StreamElement, bytes: usize) {
        let kept = &mut self.channels[channel];
        if !kept.is_open {
            return;
        }
        let element = match element {
            StreamElement::Batch(batch) => InFlightElement::Batch(batch.clone()),
            StreamElement::Watermark(watermark) => InFlightElement::Watermark(*watermark),
            StreamElement::Idle => InFlightElement::Idle,
            StreamElement::UnalignedBarrier(barrier) | StreamElement::Barrier(barrier) => {
                kept.is_open = barrier.checkpoint != self.checkpoint;
                return;
            }
            StreamElement::CancelBarrier(_) => return,
            StreamElement::End => {
                kept.is_open = false;
                return;
            }
        };
        self.bytes += bytes;
        match self.bytes > IN_FLIGHT_LIMIT_BYTES {
            true => self.channels.iter_mut().for_each(|kept| kept.elements = vec![]),
            false => kept.elements.push(element),
        }
    }

    /// None: it was too much.
    pub(super) fn into_elements(self) -> Option<Vec<Vec<InFlightElement>>> {
        let elements = self.channels.into_iter().map(|kept| kept.elements).collect();
        (self.bytes <= IN_FLIGHT_LIMIT_BYTES).then_some(elements)
    }
}
