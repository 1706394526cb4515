//! What an unaligned checkpoint had in flight, after a restore: which subtask takes which rows, and in what order they
//! are processed.
//!
//! At the same parallelism each subtask takes what its predecessor had. At another, rows of keyed inputs go to the
//! owners of their key groups, as they would have come, and what the old subtask i had of other inputs goes to the
//! subtask i modulo the new parallelism: there is one taker for each row in any case.
//!
//! A row that was in time must be in time. The old subtasks had come to different watermarks; so each one's channels
//! are merged as it would have merged them, and the one furthest behind has its turn first. Where every writer had sent
//! to all of them they come equally far by the end. Behind forward edges they don't, each having heard of its own
//! source alone, and what the slowest of these sends next is still to come: none is left behind, with rows or without.

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

/// One old subtask. Without anything in flight it only says how far event time may go.
#[derive(Debug)]
struct Old {
    /// `None`: it has no channels, and stays at `watermark`.
    merger: Option<WatermarkMerger>,
    watermark: Watermark,
    channels: Vec<(usize, VecDeque<InFlightElement>)>,
    /// The channel whose turn it is.
    next: usize,
}

impl Replay {
    /// `in_flight`: of all old subtasks whose place this one takes, also of those that had nothing.
    pub fn new(in_flight: Vec<SubtaskInFlight>) -> Self {
        let at_cut = in_flight.iter().map(|old| old.watermark).min();
        // At the end of event time nothing is late any more, and the sources say it again.
        let watermark = at_cut.filter(|watermark| *watermark < Watermark::MAX).unwrap_or(Watermark::MIN);
        let old = in_flight.into_iter().map(Old::new).collect();
        Replay { old, watermark, announced: watermark == Watermark::MIN }
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
        while self.old.iter().any(Old::has_rows) {
            let least = self.old.iter().map(|old| old.watermark).min()?;
            if let Some(step) = self.advance(least) {
                return Some(step);
            }
            let behind = self.old.iter_mut().filter(|old| old.has_rows()).min_by_key(|old| old.watermark)?;
            if let Some((input, batch)) = behind.take() {
                return Some(ReplayStep::Batch { input, batch });
            }
        }
        None
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
    fn new(SubtaskInFlight { watermark, channels }: SubtaskInFlight) -> Self {
        let progress: Vec<_> = channels.iter().map(|channel| channel.progress).collect();
        let merger = (!progress.is_empty()).then(|| WatermarkMerger::of_channels(progress, watermark));
        let queue = |channel: ChannelInFlight| (channel.input, VecDeque::from(channel.elements));
        let channels = channels.into_iter().map(queue).collect();
        let mut old = Old { merger, watermark, channels, next: 0 };
        old.come_to_its_end();
        old
    }

    fn has_rows(&self) -> bool {
        let is_batch = |element: &InFlightElement| matches!(element, InFlightElement::Batch(_));
        self.channels.iter().any(|(_, elements)| elements.iter().any(is_batch))
    }

    /// Takes elements up to a batch, or up to one that changes the watermark.
    fn take(&mut self) -> Option<(usize, RecordBatch)> {
        let taken = self.next_batch();
        self.come_to_its_end();
        taken
    }

    fn next_batch(&mut self) -> Option<(usize, RecordBatch)> {
        let before = self.watermark;
        while self.watermark == before {
            match self.next_element()? {
                (_, input, InFlightElement::Batch(batch)) => return Some((input, batch)),
                (channel, _, element) => self.hear(channel, element),
            }
        }
        None
    }

    /// With its last row gone, it is where it would have been at its barriers.
    fn come_to_its_end(&mut self) {
        while !self.has_rows() {
            let Some((channel, _, element)) = self.next_element() else { break };
            self.hear(channel, element);
        }
    }

    /// The channels have their turns.
    fn next_element(&mut self) -> Option<(usize, usize, InFlightElement)> {
        let count = self.channels.len();
        let mut order = (0..count).map(|step| (self.next + step) % count);
        let channel = order.find(|channel| !self.channels[*channel].1.is_empty())?;
        self.next = (channel + 1) % count;
        let (input, elements) = &mut self.channels[channel];
        Some((channel, *input, elements.pop_front()?))
    }

    fn hear(&mut self, channel: usize, element: InFlightElement) {
        let Some(merger) = &mut self.merger else { return };
        match element {
            InFlightElement::Batch(_) => {}
            InFlightElement::Watermark(watermark) => {
                merger.on_watermark(channel, watermark);
            }
            InFlightElement::Idle => {
                merger.on_idle(channel);
            }
        }
        self.watermark = merger.current();
    }
}
