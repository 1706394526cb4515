//! The aligner with a driver as a task is one: elements arrive in queues and are processed from them, in any order;
//! unaligned barriers are read when they arrive. Each row must be processed before the cut or be in flight, once.

use super::tests::{Event, IDS, channel, delivered, kind};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Queued {
    /// Numbered from 0 in each channel.
    Row(usize),
    Barrier(u64),
    /// An unaligned barrier, where it arrived.
    Overtook(u64),
    End,
}

#[derive(Debug, Default)]
struct Driven {
    queue: VecDeque<Queued>,
    rows_arrived: usize,
    rows_processed: usize,
    is_blocked: bool,
    has_ended: bool,
    /// Its barrier is awaited; what arrives is kept.
    is_kept: bool,
    kept: Vec<usize>,
}

struct Driver {
    aligner: Aligner,
    channels: Vec<Driven>,
    urgent: VecDeque<(usize, Event)>,
    unaligned: Vec<bool>,
    turned: u64,
    /// Checkpoint, and the rows of each channel that had been processed.
    cut: Option<(u64, Vec<usize>)>,
    plans: Vec<BTreeMap<u64, usize>>,
    decided: BTreeMap<u64, bool>,
    all_ended: bool,
}

impl Driver {
    fn new(plans: Vec<BTreeMap<u64, usize>>, unaligned: Vec<bool>) -> Self {
        Driver {
            aligner: Aligner::new(plans.len(), AlignmentMode::ExactlyOnce),
            channels: plans.iter().map(|_| Driven::default()).collect(),
            urgent: VecDeque::new(),
            unaligned,
            turned: 0,
            cut: None,
            plans,
            decided: BTreeMap::new(),
            all_ended: false,
        }
    }

    /// `None`: the channel's end.
    fn arrive(&mut self, index: usize, event: Option<Event>) {
        let is_cut = |id: u64| self.cut.as_ref().is_some_and(|(cut, _)| *cut == id);
        let overtakes = |id: u64| {
            kind(id) == CheckpointKind::Checkpoint && (self.unaligned[id as usize] || self.turned == id || is_cut(id))
        };
        let channel = &mut self.channels[index];
        match event {
            Some(Event::Row) => {
                if channel.is_kept {
                    channel.kept.push(channel.rows_arrived);
                }
                channel.queue.push_back(Queued::Row(channel.rows_arrived));
                channel.rows_arrived += 1;
            }
            Some(Event::Barrier(id)) if overtakes(id) => {
                channel.is_kept &= !is_cut(id);
                channel.queue.push_back(Queued::Overtook(id));
                self.urgent.push_back((index, Event::Barrier(id)));
            }
            Some(Event::Barrier(id)) => channel.queue.push_back(Queued::Barrier(id)),
            Some(cancel @ Event::Cancel(_)) => self.urgent.push_back((index, cancel)),
            None => {
                channel.is_kept = false;
                channel.queue.push_back(Queued::End);
            }
        }
    }

    fn turn(&mut self, id: u64) -> Result<(), TestCaseError> {
        if kind(id) == CheckpointKind::Checkpoint {
            self.turned = id;
            self.promote(id);
        }
        let actions = self.aligner.turn_unaligned(CheckpointId(id));
        self.act(actions)
    }

    /// Barriers that wait in a queue are read now.
    fn promote(&mut self, id: u64) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            for queued in channel.queue.iter_mut().filter(|queued| **queued == Queued::Barrier(id)) {
                *queued = Queued::Overtook(id);
                self.urgent.push_back((index, Event::Barrier(id)));
            }
        }
    }

    /// Takes what is urgent, or else the next of a channel. False: there is nothing to read in it.
    fn process(&mut self, index: usize) -> Result<bool, TestCaseError> {
        let actions = match self.urgent.pop_front() {
            Some((index, Event::Barrier(id))) => self.aligner.on_unaligned_barrier(index, barrier(id)),
            Some((index, Event::Cancel(id))) => self.aligner.on_cancel(index, CheckpointId(id)),
            Some((_, Event::Row)) => unreachable!("rows wait in queues"),
            None => {
                let channel = &mut self.channels[index];
                if channel.is_blocked {
                    return Ok(false);
                }
                match channel.queue.pop_front() {
                    None => return Ok(false),
                    Some(Queued::Row(number)) => {
                        prop_assert_eq!(number, channel.rows_processed);
                        channel.rows_processed += 1;
                        vec![]
                    }
                    Some(Queued::Overtook(_)) => vec![],
                    Some(Queued::Barrier(id)) => self.aligner.on_barrier(index, barrier(id)),
                    Some(Queued::End) => {
                        channel.has_ended = true;
                        self.aligner.on_end(index)
                    }
                }
            }
        };
        self.act(actions)?;
        Ok(true)
    }

    fn act(&mut self, actions: Vec<Action>) -> Result<(), TestCaseError> {
        for action in actions {
            match action {
                Action::Block(index) => self.channels[index].is_blocked = true,
                Action::UnblockAll => self.channels.iter_mut().for_each(|channel| channel.is_blocked = false),
                Action::Snapshot(barrier) => {
                    let id = barrier.checkpoint.0;
                    prop_assert_eq!(self.decided.insert(id, true), None);
                    for (index, channel) in self.channels.iter().enumerate() {
                        self.check(id, index, channel.rows_processed, &[])?;
                    }
                }
                Action::SnapshotInFlight { barrier, channels } => {
                    let id = barrier.checkpoint.0;
                    prop_assert_eq!(barrier.kind, CheckpointKind::Checkpoint);
                    prop_assert!(self.cut.is_none(), "{} is cut and not given up", self.cut.as_ref().unwrap().0);
                    prop_assert!(self.decided.keys().all(|decided| *decided < id || !self.decided[decided]));
                    self.promote(id);
                    self.cut = Some((id, self.channels.iter().map(|channel| channel.rows_processed).collect()));
                    for index in channels {
                        let channel = &mut self.channels[index];
                        let marker = channel.queue.iter().position(|queued| *queued == Queued::Overtook(id));
                        let before = channel.queue.iter().take(marker.unwrap_or(channel.queue.len()));
                        channel.kept.extend(before.filter_map(|queued| match queued {
                            Queued::Row(number) => Some(*number),
                            _ => None,
                        }));
                        channel.is_kept = marker.is_none() && !channel.queue.contains(&Queued::End);
                    }
                }
                Action::InFlightComplete(checkpoint) => {
                    let (id, processed) = self.cut.take().expect("it was cut");
                    prop_assert_eq!(checkpoint.0, id);
                    prop_assert_eq!(self.decided.insert(id, true), None);
                    for (index, processed) in processed.into_iter().enumerate() {
                        let kept = self.stop_keeping(index);
                        self.check(id, index, processed, &kept)?;
                    }
                }
                Action::ForwardCancel { checkpoint, .. } => {
                    prop_assert_eq!(self.decided.insert(checkpoint.0, false), None);
                    if self.cut.take_if(|(cut, _)| *cut == checkpoint.0).is_some() {
                        (0..self.channels.len()).for_each(|index| drop(self.stop_keeping(index)));
                    }
                }
                Action::AllEnded => self.all_ended = true,
            }
        }
        for (index, channel) in self.channels.iter().enumerate() {
            prop_assert_eq!(self.aligner.is_blocked(index), channel.is_blocked);
        }
        Ok(())
    }

    fn stop_keeping(&mut self, index: usize) -> Vec<usize> {
        self.channels[index].is_kept = false;
        std::mem::take(&mut self.channels[index].kept)
    }

    /// The rows before the barrier, or all of a channel that ended without one: processed first, then kept.
    fn check(&self, id: u64, index: usize, processed: usize, kept: &[usize]) -> Result<(), TestCaseError> {
        let all = (0..processed).chain(kept.iter().copied());
        match self.plans[index].get(&id) {
            Some(before) => prop_assert!(all.eq(0..*before), "checkpoint {} channel {}", id, index),
            None => prop_assert!(self.channels[index].has_ended, "channel {} is still to deliver {}", index, id),
        }
        Ok(())
    }
}

fn barrier(id: u64) -> Barrier {
    Barrier { checkpoint: CheckpointId(id), kind: kind(id) }
}

/// The barriers of a channel count up.
fn ascending(events: Vec<Event>) -> Vec<Event> {
    let mut last = 0;
    let is_next = |event: &Event| match event {
        Event::Barrier(id) if *id <= last => false,
        Event::Barrier(id) => {
            last = *id;
            true
        }
        Event::Row | Event::Cancel(_) => true,
    };
    events.into_iter().filter(is_next).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn each_row_is_before_the_cut_or_in_flight(
        channels in proptest::collection::vec(channel().prop_map(ascending), 1..5),
        unaligned in proptest::collection::vec(any::<bool>(), IDS as usize + 1),
        steps in proptest::collection::vec((0..20u8, any::<prop::sample::Index>()), 0..500),
    ) {
        let plans = channels.iter().map(|events| delivered(events)).collect();
        let mut driver = Driver::new(plans, unaligned);
        let mut arrivals: Vec<_> = channels.into_iter().map(|events| events.into_iter().map(Some).chain([None])).collect();
        for (what, pick) in steps {
            let index = pick.index(arrivals.len());
            match what {
                // Of checkpoints that nobody has heard of, that are under way, or that are decided.
                0 => driver.turn(pick.index(IDS as usize) as u64 + 1)?,
                1..10 => {
                    if let Some(event) = arrivals[index].next() {
                        driver.arrive(index, event);
                    }
                }
                _ => {
                    driver.process(index)?;
                }
            }
        }
        for (index, arrivals) in arrivals.into_iter().enumerate() {
            arrivals.for_each(|event| driver.arrive(index, event));
        }
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            for index in 0..driver.channels.len() {
                is_moving |= driver.process(index)?;
            }
        }
        prop_assert!(driver.all_ended, "stuck");
        prop_assert!(driver.cut.is_none() && driver.aligner.pending().is_none());
    }
}
