//! What an unaligned checkpoint had in flight, after a restore: which subtask takes which rows, and in what order they
//! are processed.
//!
//! At the same parallelism each subtask takes what its predecessor had. At another, rows of keyed inputs go to the
//! owners of their key groups, as they would have come, and what the old subtask i had of other inputs goes to the
//! subtask i modulo the new parallelism: there is one taker for each row in any case.
//!
//! A row must be as late, or in time, as it was. The old subtasks had come to different watermarks; so each one's
//! channels are merged as it would have merged them, and the one furthest behind has its turn first. By the end they
//! have all come as far: to what the writers had sent before their barriers.

mod share;
#[cfg(test)]
mod tests;

pub use share::{InputDivision, Taker, share};

use crate::watermark::WatermarkMerger;
use arrow::record_batch::RecordBatch;
use std::collections::VecDeque;
use weir_model::{ChannelInFlight, InFlightElement, SubtaskInFlight, Watermark};

#[derive(Clone, Debug, PartialEq)]
pub enum ReplayStep {
    Batch { input: usize, batch: RecordBatch },
    Watermark(Watermark),
}

/// Works off what several old subtasks had in flight.
#[derive(Debug)]
pub struct Replay {
    old: Vec<Old>,
    watermark: Watermark,
    announced: bool,
}

#[derive(Debug)]
struct Old {
    merger: WatermarkMerger,
    channels: Vec<(usize, VecDeque<InFlightElement>)>,
    /// The channel whose turn it is.
    next: usize,
}

impl Replay {
    /// `watermark`: that of the old subtask furthest behind, of those without anything in flight too.
    pub fn new(watermark: Watermark, in_flight: Vec<SubtaskInFlight>) -> Self {
        let with_rows = in_flight.into_iter().filter(|old| old.rows() > 0 && !old.channels.is_empty());
        let old = with_rows.map(|SubtaskInFlight { watermark, channels }| {
            let progress = channels.iter().map(|channel| channel.progress).collect();
            let queue = |channel: ChannelInFlight| (channel.input, VecDeque::from(channel.elements));
            Old {
                merger: WatermarkMerger::of_channels(progress, watermark),
                channels: channels.into_iter().map(queue).collect(),
                next: 0,
            }
        });
        Replay { old: old.collect(), watermark, announced: watermark == Watermark::MIN }
    }

    /// Where event time is, after the steps so far.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// `None`: all is done.
    pub fn next_step(&mut self) -> Option<ReplayStep> {
        if !std::mem::replace(&mut self.announced, true) {
            return Some(ReplayStep::Watermark(self.watermark));
        }
        loop {
            self.old.retain(Old::has_rows);
            let least = self.old.iter().map(|old| old.merger.current()).min()?;
            if let Some(step) = self.advance(least) {
                return Some(step);
            }
            let behind = self.old.iter_mut().find(|old| old.merger.current() == least)?;
            if let Some((input, batch)) = behind.take() {
                return Some(ReplayStep::Batch { input, batch });
            }
        }
    }

    /// The end of event time is not among what is replayed: the source says it again.
    fn advance(&mut self, watermark: Watermark) -> Option<ReplayStep> {
        if watermark <= self.watermark || watermark == Watermark::MAX {
            return None;
        }
        self.watermark = watermark;
        Some(ReplayStep::Watermark(watermark))
    }
}

impl Old {
    /// What follows the last row comes once more through the channels of the new attempt.
    fn has_rows(&self) -> bool {
        let is_batch = |element: &InFlightElement| matches!(element, InFlightElement::Batch(_));
        self.channels.iter().any(|(_, elements)| elements.iter().any(is_batch))
    }

    /// Takes elements up to a batch, or up to one that changes the watermark.
    fn take(&mut self) -> Option<(usize, RecordBatch)> {
        let before = self.merger.current();
        while self.merger.current() == before {
            let count = self.channels.len();
            let order = (0..count).map(|step| (self.next + step) % count);
            let channel = order.into_iter().find(|channel| !self.channels[*channel].1.is_empty())?;
            self.next = (channel + 1) % count;
            let (input, elements) = &mut self.channels[channel];
            match elements.pop_front()? {
                InFlightElement::Batch(batch) => return Some((*input, batch)),
                InFlightElement::Watermark(watermark) => {
                    self.merger.on_watermark(channel, watermark);
                }
                InFlightElement::Idle => {
                    self.merger.on_idle(channel);
                }
            }
        }
        None
    }
}
