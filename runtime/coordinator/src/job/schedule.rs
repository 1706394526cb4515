//! What time allows: timeouts, triggers, restarts, and when to be woken for them.

use super::{Coordinator, Phase, Then};
use crate::Command;
use crate::checkpoints::{Pending, SavepointRequest};
use std::collections::BTreeMap;
use weir_model::{CheckpointId, CheckpointKind};

/// From a failed final checkpoint to the next, where no min pause is longer.
const FINAL_RETRY_MS: u64 = 200;

impl<P> Coordinator<P> {
    /// When a `Tick` is due, if nothing else happens before.
    pub fn next_wake_ms(&self) -> Option<u64> {
        match &self.phase {
            Phase::Running => {
                let timeouts = self.pending.values().filter(|pending| !pending.is_completing);
                let timeout =
                    timeouts.clone().map(|pending| pending.triggered_ms.saturating_add(self.config.timeout_ms)).min();
                let turn = timeouts.filter_map(|pending| pending.turns_unaligned_ms).min();
                let trigger = if self.wants_final() { self.final_retry_ms() } else { self.periodic_due_ms() };
                [timeout, turn, trigger.filter(|_| self.may_trigger())].into_iter().flatten().min()
            }
            Phase::Stopped(Then::Restart { at_ms }) if !self.is_appending() => Some(*at_ms),
            _ => None,
        }
    }

    /// Does what time and the new state allow.
    pub(super) fn advance(&mut self, now_ms: u64, commands: &mut Vec<Command<P>>) {
        if self.phase == Phase::Running {
            self.time_out(now_ms, commands);
        }
        if self.phase == Phase::Running {
            self.turn_unaligned(now_ms, commands);
        }
        if self.phase == Phase::Running {
            self.trigger_due(now_ms, commands);
            self.finish_ending(commands);
        }
        // An append under way decides what the next attempt restores from, and what a closing entry follows.
        if let Phase::Stopped(then) = &self.phase
            && !self.is_appending()
        {
            match then.clone() {
                Then::Restart { at_ms } if at_ms <= now_ms => self.deploy(commands),
                Then::Restart { .. } => {}
                Then::Close(outcome) => self.close(outcome, commands),
            }
        }
    }

    pub(super) fn is_appending(&self) -> bool {
        self.pending.values().any(|pending| pending.is_completing)
    }

    fn time_out(&mut self, now_ms: u64, commands: &mut Vec<Command<P>>) {
        let timeout_ms = self.config.timeout_ms;
        let is_late =
            |pending: &&Pending<P>| !pending.is_completing && pending.triggered_ms.saturating_add(timeout_ms) <= now_ms;
        let late: Vec<_> = self.pending.values().filter(is_late).map(|pending| pending.checkpoint).collect();
        for checkpoint in late {
            let awaited = self.awaited(checkpoint);
            let reason = format!("not complete after {timeout_ms} ms; waited for {awaited}");
            self.checkpoint_failed(checkpoint, reason, now_ms, commands);
        }
    }

    fn turn_unaligned(&mut self, now_ms: u64, commands: &mut Vec<Command<P>>) {
        for pending in self.pending.values_mut().filter(|pending| !pending.is_completing) {
            if pending.turns_unaligned_ms.take_if(|at_ms| *at_ms <= now_ms).is_some() {
                pending.is_unaligned = true;
                commands.push(Command::TurnUnaligned { fence: self.fence, checkpoint: pending.checkpoint });
            }
        }
    }

    /// The first tasks that haven't acknowledged, as text.
    fn awaited(&self, checkpoint: CheckpointId) -> String {
        const SHOWN: usize = 3;
        let Some(pending) = self.pending.get(&checkpoint) else { return String::new() };
        let missing: Vec<_> = self.tasks.iter().filter(|task| !pending.acknowledged.contains_key(*task)).collect();
        let shown = missing.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match missing.len().saturating_sub(SHOWN) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    }

    fn trigger_due(&mut self, now_ms: u64, commands: &mut Vec<Command<P>>) {
        if !self.may_trigger() {
            return;
        }
        if self.wants_rescale() && self.wants_final() {
            self.fail_rescale("the job is coming to its end".to_owned(), commands);
        }
        if self.wants_rescale() && self.prepares_rescale(now_ms) {
            self.trigger(CheckpointKind::Checkpoint, None, false, now_ms, commands);
        } else if self.wants_rescale() {
            let checkpoint = self.next_checkpoint;
            self.trigger(CheckpointKind::Checkpoint, None, true, now_ms, commands);
            self.rescale_triggered(checkpoint);
        } else if let Some(savepoint) = self.savepoint_queue.pop_front() {
            self.trigger(CheckpointKind::Savepoint, Some(savepoint), savepoint.stop, now_ms, commands);
        } else if self.wants_final() {
            if self.final_retry_ms().is_none_or(|at_ms| at_ms <= now_ms) {
                self.trigger(CheckpointKind::Final, None, self.is_draining, now_ms, commands);
            }
        } else if self.periodic_due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.trigger(CheckpointKind::Checkpoint, None, false, now_ms, commands);
        }
    }

    /// Whether another checkpoint can begin, if it is time for one. If not, it is the end of one that is waited for.
    fn may_trigger(&self) -> bool {
        let max_concurrent = self.config.checkpoints.as_ref().map_or(1, |config| config.max_concurrent.max(1));
        // The last checkpoint comes after all others, and nothing after it: what it holds is all there is to commit.
        let waits_for_all = self.wants_rescale() || self.wants_final() && self.savepoint_queue.is_empty();
        let is_last = |pending: &Pending<P>| pending.holds || pending.kind == CheckpointKind::Final;
        let is_last_under_way = self.ending.is_some() || self.pending.values().any(is_last);
        let limit = if waits_for_all { 1 } else { max_concurrent };
        !is_last_under_way && (self.pending.len() as u32) < limit
    }

    pub(super) fn wants_final(&self) -> bool {
        self.is_draining || self.sources.iter().all(|source| self.sources_at_end.contains(source))
    }

    fn final_retry_ms(&self) -> Option<u64> {
        let pause_ms = self.config.checkpoints.as_ref().map_or(0, |config| config.min_pause_ms).max(FINAL_RETRY_MS);
        let last_end_ms = self.last_end_ms.filter(|_| self.failures_in_a_row > 0)?;
        Some(last_end_ms.saturating_add(pause_ms))
    }

    fn periodic_due_ms(&self) -> Option<u64> {
        let config = self.config.checkpoints.as_ref()?;
        let rested_ms = self.last_end_ms.map_or(0, |end_ms| end_ms.saturating_add(config.min_pause_ms));
        Some(self.next_trigger_ms.max(rested_ms))
    }

    fn trigger(
        &mut self,
        kind: CheckpointKind,
        savepoint: Option<SavepointRequest>,
        hold: bool,
        now_ms: u64,
        commands: &mut Vec<Command<P>>,
    ) {
        let checkpoint = self.next_checkpoint;
        self.next_checkpoint = checkpoint.next();
        if let Some(config) = &self.config.checkpoints {
            self.next_trigger_ms = now_ms.saturating_add(config.interval_ms);
        }
        let aligned_ms = self.config.checkpoints.as_ref().and_then(|config| config.aligned_timeout_ms);
        let aligned_ms = aligned_ms.filter(|_| kind == CheckpointKind::Checkpoint && !hold);
        let is_unaligned = aligned_ms == Some(0);
        let pending = Pending {
            checkpoint,
            kind,
            triggered_ms: now_ms,
            turns_unaligned_ms: aligned_ms
                .filter(|_| !is_unaligned)
                .map(|timeout_ms| now_ms.saturating_add(timeout_ms)),
            is_unaligned,
            savepoint,
            holds: hold,
            acknowledged: BTreeMap::new(),
            is_completing: false,
        };
        self.pending.insert(checkpoint, pending);
        let (fence, sources) = (self.fence, self.sources.clone());
        commands.push(Command::Trigger { fence, checkpoint, kind, is_unaligned, sources, hold });
    }
}
