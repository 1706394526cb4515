//! One watermark out of several channels.

use super::{Announced, Progress};
use weir_model::{ChannelProgress, Watermark};

/// The least watermark of the channels that are neither idle nor at their end; never goes back.
///
/// An idle channel that wakes up behind holds the others where they are until it has caught up: what it
/// sends until then is late, what it sends afterwards is not.
#[derive(Clone, Debug)]
pub struct WatermarkMerger {
    channels: Vec<ChannelProgress>,
    announced: Announced,
}

impl WatermarkMerger {
    /// # Panics
    /// If `channels` is 0.
    pub fn new(channels: usize) -> Self {
        assert!(channels > 0, "a watermark over no channels");
        WatermarkMerger { channels: vec![ChannelProgress::START; channels], announced: Announced::nothing() }
    }

    /// One whose channels have come so far already, and of which `watermark` was sent on.
    ///
    /// # Panics
    /// If there is no channel.
    pub fn of_channels(channels: Vec<ChannelProgress>, watermark: Watermark) -> Self {
        assert!(!channels.is_empty(), "a watermark over no channels");
        WatermarkMerger { channels, announced: Announced { watermark, idle: false } }
    }

    pub fn channels(&self) -> &[ChannelProgress] {
        &self.channels
    }

    /// Goes on from the watermark in a checkpoint, so that a row which was late before a failure is late after it
    /// too, whichever channel speaks first. Whatever it says is to be done before the first element.
    pub fn resume_from(&mut self, watermark: Watermark) -> Progress {
        self.announced.active_at(watermark)
    }

    /// Also wakes an idle channel.
    pub fn on_watermark(&mut self, channel: usize, watermark: Watermark) -> Progress {
        let channel = &mut self.channels[channel];
        channel.watermark = channel.watermark.max(watermark);
        channel.idle = false;
        self.progress()
    }

    pub fn on_idle(&mut self, channel: usize) -> Progress {
        self.channels[channel].idle = true;
        self.progress()
    }

    /// At its end a channel no longer holds anything back; when all have ended, event time is at its end too.
    pub fn on_end(&mut self, channel: usize) -> Progress {
        self.channels[channel].ended = true;
        self.progress()
    }

    /// The last watermark sent on.
    pub fn current(&self) -> Watermark {
        self.announced.watermark
    }

    pub fn is_idle(&self) -> bool {
        self.announced.idle
    }

    /// The channel that holds event time back, for whoever looks for the slow one.
    pub fn slowest(&self) -> Option<usize> {
        let active = self.channels.iter().enumerate().filter(|(_, channel)| !channel.idle && !channel.ended);
        active.min_by_key(|(_, channel)| channel.watermark).map(|(index, _)| index)
    }

    fn progress(&mut self) -> Progress {
        let open = || self.channels.iter().filter(|channel| !channel.ended);
        if let Some(least) = open().filter(|channel| !channel.idle).map(|channel| channel.watermark).min() {
            return self.announced.active_at(least);
        }
        // All open channels are idle: none holds the furthest of them back.
        match open().map(|channel| channel.watermark).max() {
            Some(furthest) => self.announced.idle_at(furthest),
            None => self.announced.active_at(Watermark::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(watermark: i64) -> Progress {
        Progress { watermark: Some(Watermark(watermark)), idle: false }
    }

    const IDLE: Progress = Progress { watermark: None, idle: true };

    #[test]
    fn the_slowest_active_channel_decides() {
        let mut merger = WatermarkMerger::new(3);
        assert_eq!(merger.on_watermark(0, Watermark(10)), Progress::NONE);
        assert_eq!(merger.on_watermark(1, Watermark(20)), Progress::NONE);
        assert_eq!(merger.slowest(), Some(2));
        assert_eq!(merger.on_watermark(2, Watermark(5)), to(5));
        assert_eq!(merger.on_watermark(2, Watermark(3)), Progress::NONE, "a watermark never goes back");
        assert_eq!(merger.on_idle(2), to(10));
        assert_eq!(merger.on_end(0), to(20));
        assert_eq!(merger.on_watermark(2, Watermark(7)), Progress::NONE);
        assert_eq!(merger.on_watermark(1, Watermark(40)), Progress::NONE, "channel 2 is awake and behind");
        assert_eq!(merger.on_watermark(2, Watermark(30)), to(30));
        assert_eq!(merger.on_end(2), to(40));
        assert_eq!(merger.on_end(1), to(i64::MAX));
    }

    #[test]
    fn all_idle_is_idle_and_nothing_is_held_back() {
        let mut merger = WatermarkMerger::new(2);
        merger.on_watermark(0, Watermark(10));
        merger.on_watermark(1, Watermark(20));
        assert_eq!(merger.on_idle(1), Progress::NONE);
        let both = Progress { watermark: Some(Watermark(20)), idle: true };
        assert_eq!(merger.on_idle(0), both);
        assert_eq!(merger.on_idle(0), Progress::NONE, "said once");
        assert_eq!(merger.on_watermark(0, Watermark(15)), to(20), "awake again, at the time it was");
        assert_eq!(merger.on_end(0), IDLE);
        assert_eq!(merger.on_end(1), to(i64::MAX));
    }

    #[test]
    fn resumes_where_it_was() {
        let mut merger = WatermarkMerger::new(2);
        assert_eq!(merger.resume_from(Watermark(50)), to(50));
        assert_eq!(merger.on_watermark(0, Watermark(60)), Progress::NONE);
        assert_eq!(merger.on_watermark(1, Watermark(40)), Progress::NONE);
        assert_eq!(merger.on_watermark(1, Watermark(55)), to(55));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Watermark(usize, i64),
        Idle(usize),
        End(usize),
    }

    fn events(channels: usize) -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            8 => (0..channels, 0i64..100).prop_map(|(channel, time)| Event::Watermark(channel, time)),
            3 => (0..channels).prop_map(Event::Idle),
            1 => (0..channels).prop_map(Event::End),
        ];
        proptest::collection::vec(event, 0..60)
    }

    proptest! {
        /// Event time only grows, never passes an active channel that hasn't been woken up behind it, and is
        /// idle exactly when every open channel is.
        #[test]
        fn never_back_and_never_ahead(events in events(3)) {
            let mut merger = WatermarkMerger::new(3);
            let (mut watermark, mut idle) = (i64::MIN, false);
            let (mut times, mut asleep, mut ended) = ([i64::MIN; 3], [false; 3], [false; 3]);
            for event in events {
                let before = watermark;
                let progress = match event {
                    Event::Watermark(channel, time) if !ended[channel] => {
                        times[channel] = times[channel].max(time);
                        asleep[channel] = false;
                        merger.on_watermark(channel, Watermark(time))
                    }
                    Event::Idle(channel) if !ended[channel] => {
                        asleep[channel] = true;
                        merger.on_idle(channel)
                    }
                    Event::End(channel) => {
                        ended[channel] = true;
                        merger.on_end(channel)
                    }
                    _ => continue,
                };
                if let Some(Watermark(time)) = progress.watermark {
                    prop_assert!(time > watermark || (idle && time == watermark));
                    watermark = time;
                    idle = false;
                }
                idle |= progress.idle;
                let open: Vec<_> = (0..3).filter(|channel| !ended[*channel]).collect();
                let active: Vec<_> = open.iter().copied().filter(|channel| !asleep[*channel]).collect();
                prop_assert_eq!(idle, active.is_empty() && !open.is_empty());
                if let Some(least) = active.iter().map(|channel| times[*channel]).min() {
                    prop_assert_eq!(watermark, before.max(least));
                }
                prop_assert_eq!(open.is_empty(), watermark == i64::MAX);
            }
        }
    }
}
