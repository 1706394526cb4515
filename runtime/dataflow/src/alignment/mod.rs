//! Barrier alignment over the input channels of one subtask, pure: what came in, and what is to be done about it.
//!
//! In `ExactlyOnce` a channel that has delivered barrier n is not read until all others have delivered n too, so
//! that the snapshot holds exactly the rows before n of every channel. In `AtLeastOnce` nothing waits, several
//! checkpoints may be under way at once, and a snapshot may hold rows from after its barrier.
//!
//! All rules follow from one fact: the checkpoint numbers of a channel only count up. A channel that delivered n
//! can't deliver m < n any more; an attempt at m that still needed it is lost and is given up at once.
//!
//! An unaligned barrier is delivered when it arrives, ahead of what waits in its channel. With the first one the
//! subtask cuts; what the others still have before their barriers, and what this one overtook, is *in flight* and
//! becomes part of the snapshot while it is processed as ever. A checkpoint may also begin aligned and turn: then
//! nothing is in flight in the channels that have delivered in order. The rules of who has delivered what are the same.

#[cfg(test)]
mod in_flight_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use weir_model::{Barrier, CheckpointId, CheckpointKind};

/// Attempts that one subtask follows at a time. The coordinator's bound on concurrent checkpoints is far below;
/// past this one the oldest is given up.
const PENDING_LIMIT: usize = 64;
/// Given-up checkpoints remembered one by one, so that their barriers still on the way aren't taken for new ones.
const CANCELLED_LIMIT: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignmentMode {
    ExactlyOnce,
    /// Savepoints and final checkpoints align here too: they are exact whatever the mode.
    AtLeastOnce,
}

/// What the driver does next, in the order given, before it reads another element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Don't read this channel until `UnblockAll`.
    Block(usize),
    UnblockAll,
    /// All channels have delivered this barrier: cut the state and send the barrier on.
    Snapshot(Barrier),
    /// Cut the state now and send the barrier on, ahead of all rows. What waits in these channels before their
    /// barrier, or arrives before it, is in flight and to be kept.
    SnapshotInFlight {
        barrier: Barrier,
        channels: Vec<usize>,
    },
    /// All channels have delivered the barrier of the last `SnapshotInFlight`: what is kept is whole.
    InFlightComplete(CheckpointId),
    /// Nothing will be snapshotted for this checkpoint: send the cancellation on.
    ForwardCancel {
        checkpoint: CheckpointId,
        cause: CancelCause,
    },
    /// Every channel has ended.
    AllEnded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelCause {
    /// A channel, or the coordinator, said so.
    Cancelled,
    /// This channel went on to a higher checkpoint without having delivered this one: the coordinator doesn't
    /// know yet and is to be told.
    Overtaken { channel: usize },
    /// More checkpoints under way than a subtask follows; the coordinator doesn't know yet.
    TooMany,
}

/// A checkpoint of which some channels have delivered the barrier.
#[derive(Clone, Debug)]
struct Pending {
    barrier: Barrier,
    delivered: Vec<bool>,
    /// The state was cut with rows in flight; only these are waited for.
    is_cut: bool,
}

#[derive(Clone, Debug)]
pub struct Aligner {
    mode: AlignmentMode,
    channels: Vec<Channel>,
    /// In ascending order of checkpoint.
    pending: Vec<Pending>,
    /// Every checkpoint up to this one is decided.
    decided: Option<CheckpointId>,
    /// Given up, above `decided`.
    cancelled: BTreeSet<CheckpointId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    ended: bool,
    blocked: bool,
    /// The highest checkpoint it delivered.
    last: Option<CheckpointId>,
}

impl Aligner {
    /// # Panics
    /// If `channels` is 0: a subtask without inputs (a source) has nothing to align.
    pub fn new(channels: usize, mode: AlignmentMode) -> Self {
        assert!(channels > 0, "alignment over no channels");
        Aligner {
            mode,
            channels: vec![Channel::default(); channels],
            pending: vec![],
            decided: None,
            cancelled: BTreeSet::new(),
        }
    }

    /// # Panics
    /// If the channel is blocked and the barrier is a new one: rows would then be on the wrong side of a snapshot.
    pub fn on_barrier(&mut self, channel: usize, barrier: Barrier) -> Vec<Action> {
        let checkpoint = barrier.checkpoint;
        let Channel { ended, blocked, last } = self.channels[channel];
        if ended || last.is_some_and(|last| checkpoint <= last) {
            return vec![];
        }
        assert!(!blocked, "channel {channel} was read while blocked, up to the barrier of checkpoint {checkpoint}");
        self.channels[channel].last = Some(checkpoint);

        let mut actions = vec![];
        if self.attempt(channel, barrier, &mut actions) {
            self.delivered(channel, checkpoint);
            let waits = self.pending.iter().any(|pending| pending.barrier.checkpoint == checkpoint && !pending.is_cut);
            if !self.complete(&mut actions) && waits && self.aligns(barrier.kind) {
                self.channels[channel].blocked = true;
                actions.push(Action::Block(channel));
            }
        }
        actions
    }

    /// A barrier that has overtaken what waits in its channel.
    pub fn on_unaligned_barrier(&mut self, channel: usize, barrier: Barrier) -> Vec<Action> {
        let checkpoint = barrier.checkpoint;
        let Channel { ended, last, .. } = self.channels[channel];
        if ended || last.is_some_and(|last| checkpoint <= last) {
            return vec![];
        }
        self.channels[channel].last = Some(checkpoint);
        let mut actions = vec![];
        if self.attempt(channel, barrier, &mut actions) {
            self.cut_in_flight(checkpoint, channel, &mut actions);
            self.delivered(channel, checkpoint);
            self.complete(&mut actions);
        }
        actions
    }

    /// The checkpoint has been aligning for too long: what it waits for is in flight from here on. Of a checkpoint
    /// without a barrier yet the driver delivers the barriers as unaligned ones.
    pub fn turn_unaligned(&mut self, checkpoint: CheckpointId) -> Vec<Action> {
        let mut actions = vec![];
        let pending = self.pending.iter().find(|pending| pending.barrier.checkpoint == checkpoint);
        if let Some(pending) = pending.filter(|pending| pending.barrier.kind == CheckpointKind::Checkpoint) {
            let first = pending.delivered.iter().position(|delivered| *delivered).unwrap_or(0);
            self.cut_in_flight(checkpoint, first, &mut actions);
        }
        actions
    }

    /// Finds or begins the checkpoint's attempt, and gives up those that the channel can't deliver any more. False:
    /// there is none, and won't be.
    fn attempt(&mut self, channel: usize, barrier: Barrier, actions: &mut Vec<Action>) -> bool {
        let checkpoint = barrier.checkpoint;
        let overtaken = |pending: &Pending| pending.barrier.checkpoint < checkpoint && !pending.delivered[channel];
        while let Some(index) = self.pending.iter().position(overtaken) {
            self.give_up(index, CancelCause::Overtaken { channel }, actions);
        }
        let index = match self.pending.binary_search_by_key(&checkpoint, |pending| pending.barrier.checkpoint) {
            Ok(_) => return true,
            Err(_) if self.is_decided(checkpoint) => return false,
            Err(index) => index,
        };
        let passed = |other: &Channel| other.last.is_some_and(|last| last > checkpoint);
        if let Some(channel) = self.channels.iter().position(passed) {
            self.remember_cancelled(checkpoint);
            let cause = CancelCause::Overtaken { channel };
            actions.push(Action::ForwardCancel { checkpoint, cause });
            return false;
        }
        // No channel is past it, so it is the highest: never the one that a full list gives up.
        let delivered = vec![false; self.channels.len()];
        self.pending.insert(index, Pending { barrier, delivered, is_cut: false });
        if self.pending.len() > PENDING_LIMIT {
            self.give_up(0, CancelCause::TooMany, actions);
        }
        true
    }

    fn delivered(&mut self, channel: usize, checkpoint: CheckpointId) {
        let pending = self.pending.iter_mut().filter(|pending| pending.barrier.checkpoint == checkpoint);
        pending.for_each(|pending| pending.delivered[channel] = true);
    }

    /// Once for each attempt. `channel`: whose barrier brought it about.
    fn cut_in_flight(&mut self, checkpoint: CheckpointId, channel: usize, actions: &mut Vec<Action>) {
        // A snapshot of an earlier checkpoint could only follow this one's, with more rows in it than its barriers
        // had before them.
        while let Some(index) = self.pending.iter().position(|pending| pending.barrier.checkpoint < checkpoint) {
            self.give_up(index, CancelCause::Overtaken { channel }, actions);
        }
        let channels = &self.channels;
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.barrier.checkpoint == checkpoint) else {
            return;
        };
        if std::mem::replace(&mut pending.is_cut, true) {
            return;
        }
        let in_flight = (0..channels.len()).filter(|index| !pending.delivered[*index] && !channels[*index].ended);
        actions.push(Action::SnapshotInFlight { barrier: pending.barrier, channels: in_flight.collect() });
        self.unblock(actions);
    }

    /// A channel's word that the attempt was given up.
    pub fn on_cancel(&mut self, _channel: usize, checkpoint: CheckpointId) -> Vec<Action> {
        self.cancel(checkpoint)
    }

    /// The same from the coordinator, by no channel.
    pub fn cancel(&mut self, checkpoint: CheckpointId) -> Vec<Action> {
        let mut actions = vec![];
        if let Some(index) = self.pending.iter().position(|pending| pending.barrier.checkpoint == checkpoint) {
            self.give_up(index, CancelCause::Cancelled, &mut actions);
        } else if !self.is_decided(checkpoint) {
            self.remember_cancelled(checkpoint);
            actions.push(Action::ForwardCancel { checkpoint, cause: CancelCause::Cancelled });
        }
        actions
    }

    /// The channel sends nothing more: it counts as having delivered every barrier.
    pub fn on_end(&mut self, channel: usize) -> Vec<Action> {
        if std::mem::replace(&mut self.channels[channel].ended, true) {
            return vec![];
        }
        let mut actions = vec![];
        self.complete(&mut actions);
        if self.channels.iter().all(|channel| channel.ended) {
            actions.push(Action::AllEnded);
        }
        actions
    }

    /// The oldest checkpoint that waits for channels here.
    pub fn pending(&self) -> Option<CheckpointId> {
        self.pending.first().map(|pending| pending.barrier.checkpoint)
    }

    /// The channels that `pending` waits for.
    pub fn awaited(&self) -> impl Iterator<Item = usize> + '_ {
        let delivered = self.pending.first().map(|pending| &pending.delivered);
        let awaited = move |channel: &usize| {
            delivered.is_some_and(|delivered| !delivered[*channel] && !self.channels[*channel].ended)
        };
        (0..self.channels.len()).filter(awaited)
    }

    pub fn is_blocked(&self, channel: usize) -> bool {
        self.channels[channel].blocked
    }

    pub fn is_ended(&self, channel: usize) -> bool {
        self.channels[channel].ended
    }

    fn aligns(&self, kind: CheckpointKind) -> bool {
        self.mode == AlignmentMode::ExactlyOnce || kind != CheckpointKind::Checkpoint
    }

    fn is_decided(&self, checkpoint: CheckpointId) -> bool {
        self.decided.is_some_and(|decided| checkpoint <= decided) || self.cancelled.contains(&checkpoint)
    }

    /// Snapshots whatever all open channels have delivered. Whether there was any.
    fn complete(&mut self, actions: &mut Vec<Action>) -> bool {
        let channels = &self.channels;
        let everywhere = |pending: &Pending| {
            pending.delivered.iter().zip(channels).all(|(delivered, channel)| *delivered || channel.ended)
        };
        // An open channel delivers in ascending order, so what all have delivered is a prefix.
        let count = self.pending.iter().take_while(|pending| everywhere(pending)).count();
        for pending in self.pending.drain(..count) {
            actions.push(match pending.is_cut {
                true => Action::InFlightComplete(pending.barrier.checkpoint),
                false => Action::Snapshot(pending.barrier),
            });
            self.decided = self.decided.max(Some(pending.barrier.checkpoint));
        }
        if let Some(decided) = self.decided {
            self.cancelled = self.cancelled.split_off(&decided.next());
        }
        if count > 0 {
            self.unblock(actions);
        }
        count > 0
    }

    fn give_up(&mut self, index: usize, cause: CancelCause, actions: &mut Vec<Action>) {
        let checkpoint = self.pending.remove(index).barrier.checkpoint;
        self.remember_cancelled(checkpoint);
        actions.push(Action::ForwardCancel { checkpoint, cause });
        self.unblock(actions);
    }

    /// Lets go what no aligning checkpoint holds. A blocked channel delivers nothing, so there is at most one
    /// such checkpoint, and either all blocked channels are released or none.
    fn unblock(&mut self, actions: &mut Vec<Action>) {
        let held = self.pending.iter().any(|pending| self.aligns(pending.barrier.kind) && !pending.is_cut);
        if !held && self.channels.iter().any(|channel| channel.blocked) {
            self.channels.iter_mut().for_each(|channel| channel.blocked = false);
            actions.push(Action::UnblockAll);
        }
    }

    fn remember_cancelled(&mut self, checkpoint: CheckpointId) {
        self.cancelled.insert(checkpoint);
        if self.cancelled.len() > CANCELLED_LIMIT {
            let lowest = self.cancelled.pop_first();
            self.decided = self.decided.max(lowest);
        }
    }
}
