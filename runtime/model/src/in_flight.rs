//! What an unaligned checkpoint holds of the channels: elements that the barrier has overtaken.

use crate::element::Watermark;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

/// Of one subtask, at its cut.
#[derive(Clone, Debug, PartialEq)]
pub struct SubtaskInFlight {
    /// The event time that the subtask had come to.
    pub watermark: Watermark,
    /// All its channels, of all its inputs, those without elements too.
    pub channels: Vec<ChannelInFlight>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChannelInFlight {
    /// The input of the reading operator.
    pub input: usize,
    /// The subtask that wrote.
    pub from: u32,
    pub progress: ChannelProgress,
    /// In their order.
    pub elements: Vec<InFlightElement>,
}

/// How far event time had come in one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelProgress {
    pub watermark: Watermark,
    pub idle: bool,
    pub ended: bool,
}

impl ChannelProgress {
    /// Nothing has come yet.
    pub const START: ChannelProgress = ChannelProgress { watermark: Watermark::MIN, idle: false, ended: false };
}

#[derive(Clone, Debug, PartialEq)]
pub enum InFlightElement {
    Batch(RecordBatch),
    Watermark(Watermark),
    Idle,
}

impl SubtaskInFlight {
    pub fn rows(&self) -> u64 {
        self.batches().map(|batch| batch.num_rows() as u64).sum()
    }

    pub fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.channels.iter().flat_map(|channel| &channel.elements).filter_map(|element| match element {
            InFlightElement::Batch(batch) => Some(batch),
            InFlightElement::Watermark(_) | InFlightElement::Idle => None,
        })
    }
}
