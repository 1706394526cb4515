//! How much a task takes at a time, and how much may wait for it, so that little is in flight where little comes through:
//! a barrier has to wait until that is worked off. Pure: durations come in.
//!
//! As Flink's buffer debloating, with two differences. What waits here are batches, so those are measured too: a source
//! makes smaller ones, and a reader takes slices of what is too large, or several at once of what is too small. And each
//! task judges by itself alone, by the work that it was given: a source that shares its readers with others can't tell
//! from its own rate whether they are better off with smaller batches. Those can.

mod cost;
mod rate;
#[cfg(test)]
mod tests;

use crate::task_clock::Worked;
use cost::Cost;
use rate::Rate;
use std::time::Duration;
use weir_model::element::BATCH_ROWS;

/// What a task has in its hands, in time that it takes for it.
const AT_WORK: Duration = Duration::from_millis(20);
/// What all channels of a task hold, in time that it takes for it. A barrier passes one task after the other, with two
/// exchanges between source and sink too, and is to come through within half a second.
const WAITING: Duration = Duration::from_millis(100);
/// What a batch may be of what its channel may hold: while one is worked off, there is room for the next.
const SHARE_OF_CHANNEL: f64 = 0.5;
/// The part of its work that a task may spend on what each batch costs whatever its size (a round trip, a row for each
/// key): where that is more, smaller batches would bring fewer records through, and larger ones bring more.
const LARGEST_FIXED_SHARE: f64 = 0.25;
/// Nobody is known to be quick from the beginning: what is at hand grows by this with each batch.
const GROWTH: f64 = 1.25;
/// Of a task whose batches take less, it doesn't matter what each costs by itself.
const QUICK: Duration = Duration::from_millis(1);
/// What is longer ago than this hardly counts: a sink that has begun to be slow is to be known as such soon, and one pause
/// (a file is closed) says little.
const RECENT: Duration = Duration::from_millis(200);

/// What a source begins with, and the least that it makes.
const FIRST_ROWS: usize = 256;
const LEAST_ROWS: usize = 8;
/// What a reader begins with, for what it takes and for what all of its channels hold.
const FIRST_BYTES: usize = 8 << 10;
const LEAST_BYTES: usize = 512;
/// A reader that takes so much at a time is not held back.
const MOST_BYTES: usize = 1 << 30;

/// Of one task: how much it takes at a time. Of a source that is rows, of others bytes.
#[derive(Debug)]
pub(crate) struct Pace {
    least: f64,
    most: f64,
    at_most: f64,
    /// Of its work alone.
    own: Rate,
    /// With what it waits for its readers.
    rate: Rate,
    cost: Cost,
    batches: u32,
}

impl Pace {
    pub(crate) fn of_source() -> Self {
        Pace::new(LEAST_ROWS, FIRST_ROWS, BATCH_ROWS)
    }

    pub(crate) fn of_reader() -> Self {
        Pace::new(LEAST_BYTES, FIRST_BYTES, MOST_BYTES)
    }

    fn new(least: usize, first: usize, most: usize) -> Self {
        let [least, at_most, most] = [least, first, most].map(|amount| amount as f64);
        Pace { least, most, at_most, own: Rate::default(), rate: Rate::default(), cost: Cost::default(), batches: 0 }
    }

    /// Notes a batch. How long the task waited for its readers says nothing of how large its batches should be: it may
    /// share them, and on a busy machine it is a while until it is woken. What they let in does.
    pub(crate) fn worked(&mut self, amount: usize, worked: Worked) {
        let Worked { work, waited, fullest } = worked;
        self.own.note(amount, work);
        self.rate.note(amount, work + waited);
        self.cost.note(amount, work);
        self.batches = self.batches.wrapping_add(1);
        let fitting = if fullest > 0.0 { amount as f64 * SHARE_OF_CHANNEL / fullest } else { f64::MAX };
        let right = self.own.in_time(AT_WORK).min(fitting).max(self.worth_while());
        self.at_most = right.min(self.at_most * GROWTH).clamp(self.least, self.most);
    }

    /// The most that the task takes at a time.
    pub(crate) fn at_most(&self) -> usize {
        let probes = self.cost.is_slow() && is_probe(self.batches);
        let at_most = if probes { self.at_most / 2.0 } else { self.at_most };
        at_most.max(1.0) as usize
    }

    /// What it takes together, if so much is there in smaller pieces.
    pub(crate) fn at_least(&self) -> usize {
        self.together().min(self.at_most())
    }

    fn together(&self) -> usize {
        if self.cost.is_slow() { self.worth_while().min(self.at_most) as usize } else { 0 }
    }

    /// With smaller batches the fixed share would be too large.
    fn worth_while(&self) -> f64 {
        self.rate.in_time(self.cost.fixed().div_f64(LARGEST_FIXED_SHARE))
    }
}

/// One batch in four is made smaller, where it matters what size costs: only batches of several sizes show that. They come
/// in no fixed distance, which could be that of something else (a buffer that is full with every fourth batch).
fn is_probe(batch: u32) -> bool {
    let mixed = batch.wrapping_mul(0x9E37_79B9);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B) >> 30 == 0
}

/// What weighs 1 weighs this after such a time.
fn faded(time: Duration) -> f64 {
    (-time.div_duration_f64(RECENT)).exp()
}

/// What a channel may hold before its reader has said anything, of a reader with so many.
pub(crate) fn first_room(channels: usize) -> usize {
    (FIRST_BYTES / channels.max(1)).max(LEAST_BYTES)
}

/// How many bytes each channel of a reader may hold.
#[derive(Debug)]
pub(crate) struct Room {
    channels: f64,
    most_bytes: f64,
    bytes: f64,
    /// What was last said.
    said_bytes: usize,
}

impl Room {
    /// `most_bytes`: of a channel whose reader is quick enough.
    pub(crate) fn new(channels: usize, most_bytes: usize) -> Self {
        let first = first_room(channels);
        Room { channels: channels.max(1) as f64, most_bytes: most_bytes as f64, bytes: first as f64, said_bytes: first }
    }

    /// After a batch: as much as the reader works off in a while, in all of its channels, and in each what it wants to take
    /// at a time. Returned if it is worth saying.
    pub(crate) fn worked(&mut self, pace: &Pace) -> Option<usize> {
        let wanted = (pace.rate.in_time(WAITING) / self.channels).max(pace.together() as f64);
        self.bytes = wanted.min(self.bytes * GROWTH).clamp(LEAST_BYTES as f64, self.most_bytes);
        let bytes = self.bytes as usize;
        if bytes.abs_diff(self.said_bytes) <= self.said_bytes / 8 {
            return None;
        }
        self.said_bytes = bytes;
        Some(bytes)
    }
}
