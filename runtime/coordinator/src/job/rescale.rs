//! A rescale: a checkpoint behind which no record is read, and the next attempt at another parallelism.
//!
//! The parallelism changes with the append of that checkpoint, and not before: a failure up to there goes on as it was,
//! a failure from there on restores that checkpoint at the new one. Where no task runs there is nothing to hold, and
//! the next attempt simply begins at the new one.

use super::{Coordinator, Phase, Then};
use crate::{Command, RequestId, RescaleAnswer};
use weir_model::CheckpointId;

/// Where more has changed than in this time, a checkpoint that holds nothing comes first: sources wait until what has
/// changed since the checkpoint before is written.
const RECENT_MS: u64 = 5_000;

/// A rescale that is accepted and not done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rescale {
    request: RequestId,
    parallelism: u32,
    former: Option<u32>,
    asked_ms: u64,
    /// What has changed until lately is in a checkpoint, or was to be.
    is_prepared: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For the checkpoints under way to end.
    Waiting,
    /// Its own checkpoint is under way.
    Barrier(CheckpointId),
    /// The next attempt that runs is at the new parallelism.
    Moving,
}

impl<P> Coordinator<P> {
    /// That of the attempt that runs or comes next. None: what the job's own spec says.
    pub fn parallelism(&self) -> Option<u32> {
        self.parallelism
    }

    /// Whether a rescale was accepted that isn't done.
    pub fn is_rescaling(&self) -> bool {
        self.rescale.is_some()
    }

    pub(super) fn rescale_requested(
        &mut self,
        request: RequestId,
        parallelism: u32,
        now_ms: u64,
        commands: &mut Vec<Command<P>>,
    ) {
        if let Some(reason) = self.why_no_rescale() {
            commands.push(Command::AnswerRescale { request, answer: RescaleAnswer::Refused { reason } });
            return;
        }
        // Whoever asks last means it: the one before has not begun to hold anything, or waits for an attempt to run.
        self.fail_rescale(format!("a rescale to {parallelism} was asked for after it"), commands);
        commands.push(Command::AnswerRescale { request, answer: RescaleAnswer::Accepted });
        let former = self.parallelism;
        let mut rescale =
            Rescale { request, parallelism, former, asked_ms: now_ms, is_prepared: false, stage: Stage::Moving };
        match self.phase {
            Phase::Running => rescale.stage = Stage::Waiting,
            // It may be this very parallelism that it has no slots for.
            Phase::Deploying => {
                self.parallelism = Some(parallelism);
                commands.push(Command::StopTasks { fence: self.fence });
                self.phase = Phase::Stopping(Then::Restart { at_ms: now_ms });
            }
            _ => self.parallelism = Some(parallelism),
        }
        self.rescale = Some(rescale);
    }

    fn why_no_rescale(&self) -> Option<String> {
        let is_ending = match &self.phase {
            Phase::Stopping(Then::Close(_)) | Phase::Stopped(Then::Close(_)) | Phase::Finishing(_) => true,
            Phase::Running => self.is_draining || self.ending.is_some() || self.wants_final(),
            _ => self.is_draining,
        };
        if is_ending {
            return Some("the job is coming to its end".to_owned());
        }
        match self.rescale {
            Some(Rescale { parallelism, stage: Stage::Barrier(checkpoint), .. }) => Some(format!(
                "a rescale to {parallelism} is under way, with checkpoint {checkpoint}; ask again when it is done"
            )),
            _ => None,
        }
    }

    /// Whether a rescale waits for its checkpoint to be triggered.
    pub(super) fn wants_rescale(&self) -> bool {
        self.rescale.is_some_and(|rescale| rescale.stage == Stage::Waiting)
    }

    /// Whether a checkpoint is to come before its own; asked once.
    pub(super) fn prepares_rescale(&mut self, now_ms: u64) -> bool {
        let saved_ms = self.saved_ms.max(self.deployed_ms).unwrap_or(now_ms);
        let is_recent = now_ms.saturating_sub(saved_ms) <= RECENT_MS;
        match &mut self.rescale {
            Some(rescale) if !rescale.is_prepared => {
                rescale.is_prepared = true;
                !is_recent
            }
            _ => false,
        }
    }

    pub(super) fn rescale_triggered(&mut self, checkpoint: CheckpointId) {
        if let Some(rescale) = &mut self.rescale {
            rescale.stage = Stage::Barrier(checkpoint);
        }
    }

    pub(super) fn is_of_rescale(&self, checkpoint: CheckpointId) -> bool {
        self.rescale.is_some_and(|rescale| rescale.stage == Stage::Barrier(checkpoint))
    }

    /// Its checkpoint stands in the log: whatever happens now, the job goes on from there at the new parallelism. What
    /// the checkpoint prepared is committed as that of any restore point, before a record flows.
    pub(super) fn rescale_is_durable(&mut self, now_ms: u64, commands: &mut Vec<Command<P>>) {
        let Some(rescale) = &mut self.rescale else { return };
        rescale.stage = Stage::Moving;
        self.parallelism = Some(rescale.parallelism);
        if self.phase == Phase::Running {
            self.deployed_ms = None;
            commands.push(Command::StopTasks { fence: self.fence });
            self.phase = Phase::Stopping(Then::Restart { at_ms: now_ms });
        }
    }

    pub(super) fn rescale_runs(&mut self, now_ms: u64, commands: &mut Vec<Command<P>>) {
        if let Some(Rescale { request, parallelism, asked_ms, .. }) =
            self.rescale.take_if(|rescale| rescale.stage == Stage::Moving)
        {
            let duration_ms = now_ms.saturating_sub(asked_ms);
            self.history.rescaled += 1;
            commands.push(Command::AnswerRescale { request, answer: RescaleAnswer::Done { parallelism, duration_ms } });
        }
    }

    /// No attempt can be deployed at the new parallelism: the next one is tried at the former. False: none is under way.
    pub(super) fn revert_rescale(&mut self, reason: &str, commands: &mut Vec<Command<P>>) -> bool {
        let Some(Rescale { parallelism, former, .. }) = self.rescale.filter(|rescale| rescale.stage == Stage::Moving)
        else {
            return false;
        };
        self.parallelism = former;
        self.fail_rescale(format!("the job cannot run with parallelism {parallelism}: {reason}"), commands);
        true
    }

    pub(super) fn fail_rescale(&mut self, reason: String, commands: &mut Vec<Command<P>>) {
        if let Some(Rescale { request, .. }) = self.rescale.take() {
            commands.push(Command::AnswerRescale { request, answer: RescaleAnswer::Failed { reason } });
        }
    }
}
