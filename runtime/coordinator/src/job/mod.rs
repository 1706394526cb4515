//! The state machine: what each event does to the job.

mod rescale;
mod schedule;

use crate::checkpoints::{CheckpointUnderWay, Pending, SavepointRequest};
use crate::{
    Acknowledged, AttemptResult, Command, Config, Event, Failure, History, Outcome, RequestId, RestartDecision,
    RestartRecord, RestartTracker, StopMode,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use weir_model::{AttemptNumber, CheckpointId, CheckpointKind, CommitPermit, Durable, Epoch, Fence, SubtaskId};

/// From the start of an attempt to its first checkpoint, if the interval is longer: a new version is known to work
/// (and an upgrade verified) as soon as it has completed one, and after a failure nothing is visible before.
const FIRST_CHECKPOINT_MS: u64 = 100;
/// Savepoint requests that wait; a script that asks in a loop is told so.
const SAVEPOINT_QUEUE: usize = 16;

/// Where the job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was commanded yet.
    Created,
    /// Tasks are being started.
    Deploying,
    Running,
    /// Tasks are being ended after a failure or a stop.
    Stopping(Then),
    /// No task runs.
    Stopped(Then),
    /// All is committed; tasks end in order.
    Finishing(Outcome),
    Closed(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    Restart { at_ms: u64 },
    Close(Outcome),
}

/// The last checkpoint of a job that finishes or stops, from its append to the end of the tasks.
#[derive(Clone, Debug)]
struct Ending {
    checkpoint: CheckpointId,
    uncommitted: BTreeSet<SubtaskId>,
    savepoint: EndingSavepoint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum EndingSavepoint {
    NotAsked,
    Writing,
    /// The answer waits for the stop, which may still fail.
    Written {
        request: RequestId,
        path: String,
    },
}

/// Why an attempt failed.
struct Cause {
    reason: String,
    /// No restart can help.
    is_fatal: bool,
    /// The data fails it, and will again.
    is_of_data: bool,
    random: f64,
}

/// The coordinator of one job, for as long as it holds the epoch.
#[derive(Clone, Debug)]
pub struct Coordinator<P> {
    config: Config,
    fence: Fence,
    phase: Phase,
    tasks: BTreeSet<SubtaskId>,
    sources: Vec<SubtaskId>,
    sources_at_end: BTreeSet<SubtaskId>,
    pending: BTreeMap<CheckpointId, Pending<P>>,
    next_checkpoint: CheckpointId,
    last_completed: Option<CheckpointId>,
    next_trigger_ms: u64,
    last_end_ms: Option<u64>,
    failures_in_a_row: u32,
    deployed_ms: Option<u64>,
    /// The trigger of the last checkpoint that completed.
    saved_ms: Option<u64>,
    restarts: RestartTracker,
    savepoint_queue: VecDeque<SavepointRequest>,
    writing_savepoints: BTreeMap<RequestId, (SavepointRequest, CheckpointId)>,
    is_draining: bool,
    ending: Option<Ending>,
    parallelism: Option<u32>,
    rescale: Option<rescale::Rescale>,
    history: History,
}

impl<P> Coordinator<P> {
    /// `next_checkpoint`: one above the highest in the log.
    pub fn new(config: Config, epoch: Epoch, next_checkpoint: CheckpointId) -> Self {
        Coordinator {
            restarts: RestartTracker::new(config.restart.clone()),
            config,
            fence: Fence { epoch, attempt: AttemptNumber(0) },
            phase: Phase::Created,
            tasks: BTreeSet::new(),
            sources: vec![],
            sources_at_end: BTreeSet::new(),
            pending: BTreeMap::new(),
            next_checkpoint,
            last_completed: None,
            next_trigger_ms: 0,
            last_end_ms: None,
            failures_in_a_row: 0,
            deployed_ms: None,
            saved_ms: None,
            savepoint_queue: VecDeque::new(),
            writing_savepoints: BTreeMap::new(),
            is_draining: false,
            ending: None,
            parallelism: None,
            rescale: None,
            history: History::default(),
        }
    }

    /// The first commands.
    pub fn start(&mut self) -> Vec<Command<P>> {
        assert_eq!(self.phase, Phase::Created, "a coordinator starts once");
        let mut commands = vec![];
        self.deploy(&mut commands);
        commands
    }

    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    pub fn fence(&self) -> Fence {
        self.fence
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Checkpoints that failed since the last one that completed.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Since when the attempt's tasks run.
    pub fn running_since_ms(&self) -> Option<u64> {
        self.deployed_ms
    }

    pub fn under_way(&self) -> impl Iterator<Item = CheckpointUnderWay<'_>> {
        self.pending.values().map(|pending| {
            let is_awaited = |task: &&SubtaskId| !pending.is_completing && !pending.acknowledged.contains_key(*task);
            CheckpointUnderWay {
                checkpoint: pending.checkpoint,
                kind: pending.kind,
                triggered_ms: pending.triggered_ms,
                is_unaligned: pending.is_unaligned,
                turns_unaligned_ms: pending.turns_unaligned_ms.filter(|_| !pending.is_completing),
                awaited: self.tasks.iter().filter(is_awaited).collect(),
            }
        })
    }

    /// Checkpoints of which savepoints are being written: their objects must stay until that is done.
    pub fn savepoints_being_written(&self) -> impl Iterator<Item = CheckpointId> {
        self.writing_savepoints.values().map(|(_, checkpoint)| *checkpoint)
    }

    /// Takes an event; returns what is to be done, in order.
    pub fn on(&mut self, event: Event<P>, now_ms: u64) -> Vec<Command<P>> {
        let mut commands = vec![];
        if matches!(self.phase, Phase::Closed(_)) {
            return commands;
        }
        if !self.is_stale(&event) {
            self.apply(event, now_ms, &mut commands);
            self.advance(now_ms, &mut commands);
        }
        commands
    }

    fn is_stale(&self, event: &Event<P>) -> bool {
        match event {
            Event::Deployed { fence, .. }
            | Event::Adopted { fence, .. }
            | Event::DeployFailed { fence, .. }
            | Event::Acknowledged { fence, .. }
            | Event::Declined { fence, .. }
            | Event::EndOfInput { fence, .. }
            | Event::Committed { fence, .. }
            | Event::TaskFailed { fence, .. }
            | Event::AttemptFailed { fence, .. }
            | Event::Stopped { fence } => *fence != self.fence,
            Event::Tick
            | Event::Appended { .. }
            | Event::AppendFailed { .. }
            | Event::Fenced { .. }
            | Event::SavepointRequested { .. }
            | Event::SavepointWritten { .. }
            | Event::StopRequested { .. }
            | Event::RescaleRequested { .. } => false,
        }
    }

    fn apply(&mut self, event: Event<P>, now_ms: u64, commands: &mut Vec<Command<P>>) {
        match event {
            Event::Tick => {}
            Event::Deployed { fence: _, tasks, sources } => self.deployed(tasks, sources, now_ms, commands),
            Event::Adopted { fence: _, tasks, sources, next_checkpoint } => {
                self.next_checkpoint = self.next_checkpoint.max(next_checkpoint);
                self.deployed(tasks, sources, now_ms, commands);
            }
            Event::DeployFailed { fence: _, reason, is_fatal, random } => {
                if self.phase == Phase::Deploying {
                    let is_fatal = is_fatal && !self.revert_rescale(&reason, commands);
                    let cause = Cause { reason, is_fatal, is_of_data: false, random };
                    let then = self.after_failure(cause, now_ms, commands);
                    self.phase = Phase::Stopped(then);
                }
            }
            Event::Acknowledged { fence: _, checkpoint, task, payload } => {
                self.acknowledged(checkpoint, task, payload, commands);
            }
            Event::Declined { fence: _, checkpoint, task, reason } => {
                self.checkpoint_failed(checkpoint, format!("{task}: {reason}"), now_ms, commands);
            }
            Event::EndOfInput { fence: _, task } => {
                self.sources_at_end.insert(task);
            }
            Event::Appended { checkpoint } => self.appended(checkpoint, now_ms, commands),
            Event::AppendFailed { checkpoint, reason } => {
                if let Some(pending) = self.pending.get_mut(&checkpoint) {
                    pending.is_completing = false;
                    match self.last_completed.filter(|last| *last > checkpoint) {
                        // The log takes them in order only; that isn't the checkpoint's fault.
                        Some(last) => {
                            let reason = format!("checkpoint {last} completed first");
                            self.give_up(checkpoint, reason, now_ms, commands);
                        }
                        None => self.checkpoint_failed(checkpoint, reason, now_ms, commands),
                    }
                }
            }
            Event::Fenced { by } => {
                // Whatever was being appended is the other coordinator's to know.
                for pending in self.pending.values_mut() {
                    pending.is_completing = false;
                }
                self.stop(Outcome::Fenced { by }, now_ms, commands);
            }
            Event::Committed { fence: _, checkpoint, task } => self.committed(checkpoint, task),
            Event::TaskFailed { fence: _, task, reason, is_fatal, is_of_data, random } => {
                self.failed(
                    Cause { reason: format!("{task}: {reason}"), is_fatal, is_of_data, random },
                    now_ms,
                    commands,
                );
            }
            Event::AttemptFailed { fence: _, reason, random } => {
                self.failed(Cause { reason, is_fatal: false, is_of_data: false, random }, now_ms, commands);
            }
            Event::Stopped { fence: _ } => match std::mem::replace(&mut self.phase, Phase::Created) {
                Phase::Stopping(then) => self.phase = Phase::Stopped(then),
                Phase::Finishing(outcome) => self.phase = Phase::Stopped(Then::Close(outcome)),
                other => self.phase = other,
            },
            Event::SavepointRequested { request, stop } => self.savepoint_requested(request, stop, commands),
            Event::SavepointWritten { request, result } => self.savepoint_written(request, result, commands),
            Event::StopRequested { mode: StopMode::Cancel } => self.stop(Outcome::Cancelled, now_ms, commands),
            Event::StopRequested { mode: StopMode::Drain } => self.is_draining = true,
            Event::RescaleRequested { request, parallelism } => {
                self.rescale_requested(request, parallelism, now_ms, commands);
            }
        }
    }

    fn deployed(
        &mut self,
        tasks: Vec<SubtaskId>,
        sources: Vec<SubtaskId>,
        now_ms: u64,
        commands: &mut Vec<Command<P>>,
    ) {
        if self.phase != Phase::Deploying {
            return;
        }
        self.phase = Phase::Running;
        self.tasks = tasks.into_iter().collect();
        self.sources = sources;
        self.deployed_ms = Some(now_ms);
        let interval_ms = self.config.checkpoints.as_ref().map_or(u64::MAX, |config| config.interval_ms);
        self.next_trigger_ms = now_ms.saturating_add(interval_ms.min(FIRST_CHECKPOINT_MS));
        self.rescale_runs(now_ms, commands);
    }

    fn acknowledged(&mut self, checkpoint: CheckpointId, task: SubtaskId, payload: P, commands: &mut Vec<Command<P>>) {
        let Some(pending) = self.pending.get_mut(&checkpoint) else { return };
        if pending.is_completing || self.phase != Phase::Running || !self.tasks.contains(&task) {
            return;
        }
        pending.acknowledged.entry(task).or_insert(payload);
        if pending.acknowledged.len() == self.tasks.len() {
            pending.is_completing = true;
            commands.push(Command::Complete(Acknowledged {
                fence: self.fence,
                checkpoint,
                kind: pending.kind,
                is_unaligned: pending.is_unaligned,
                triggered_ms: pending.triggered_ms,
                parts: std::mem::take(&mut pending.acknowledged).into_iter().collect(),
            }));
        }
    }

    fn appended(&mut self, durable: Durable<CheckpointId>, now_ms: u64, commands: &mut Vec<Command<P>>) {
        let checkpoint = *durable.get();
        let Some(pending) = self.pending.remove(&checkpoint) else { return };
        self.last_completed = Some(checkpoint);
        self.saved_ms = Some(pending.triggered_ms);
        self.restarts.on_checkpoint();
        self.history.attempt(pending.record(now_ms, AttemptResult::Completed));
        self.failures_in_a_row = 0;
        self.last_end_ms = Some(now_ms);
        let older: Vec<_> = self.pending.range(..checkpoint).map(|(id, _)| *id).collect();
        for id in older {
            self.give_up(id, format!("checkpoint {checkpoint} completed first"), now_ms, commands);
        }
        let is_rescale = self.is_of_rescale(checkpoint);
        if is_rescale {
            self.rescale_is_durable(now_ms, commands);
        } else if self.phase == Phase::Running {
            let permit = CommitPermit::for_durable(&durable, self.fence);
            commands.push(Command::Commit { permit, tasks: self.tasks.iter().cloned().collect() });
            if pending.holds || pending.kind == CheckpointKind::Final {
                let savepoint = match pending.savepoint {
                    Some(_) => EndingSavepoint::Writing,
                    None => EndingSavepoint::NotAsked,
                };
                self.ending = Some(Ending { checkpoint, uncommitted: self.tasks.clone(), savepoint });
            }
        }
        if let Some(savepoint) = pending.savepoint {
            self.writing_savepoints.insert(savepoint.request, (savepoint, checkpoint));
            commands.push(Command::WriteSavepoint { request: savepoint.request, checkpoint });
        }
        // The job is silent until the next attempt runs; what may go goes with the next checkpoint.
        if !is_rescale {
            commands.push(Command::Retain);
        }
    }

    fn committed(&mut self, checkpoint: CheckpointId, task: SubtaskId) {
        // The confirmation of an earlier checkpoint may still have been on its way.
        if let Some(ending) = self.ending.as_mut().filter(|ending| ending.checkpoint <= checkpoint) {
            ending.uncommitted.remove(&task);
        }
    }

    fn savepoint_requested(&mut self, request: RequestId, stop: bool, commands: &mut Vec<Command<P>>) {
        if self.savepoint_queue.len() >= SAVEPOINT_QUEUE {
            let result = Err(format!("{SAVEPOINT_QUEUE} savepoints are already asked for; wait for one of them"));
            commands.push(Command::AnswerSavepoint { request, result });
        } else {
            self.savepoint_queue.push_back(SavepointRequest { request, stop });
        }
    }

    fn savepoint_written(
        &mut self,
        request: RequestId,
        result: Result<String, String>,
        commands: &mut Vec<Command<P>>,
    ) {
        let Some((savepoint, _)) = self.writing_savepoints.remove(&request) else { return };
        let ending = self.ending.as_mut().filter(|ending| ending.savepoint == EndingSavepoint::Writing);
        let answer = match (savepoint.stop, ending, result) {
            (false, _, result) => result,
            (true, Some(ending), Ok(path)) => {
                ending.savepoint = EndingSavepoint::Written { request, path };
                return;
            }
            (true, Some(_), Err(reason)) => {
                // The job goes on: without its savepoint it must not stop.
                self.ending = None;
                commands.push(Command::Resume { fence: self.fence });
                Err(reason)
            }
            (true, None, Ok(path)) => Err(not_stopped(&path)),
            (true, None, Err(reason)) => Err(reason),
        };
        commands.push(Command::AnswerSavepoint { request, result: answer });
    }

    fn failed(&mut self, cause: Cause, now_ms: u64, commands: &mut Vec<Command<P>>) {
        if matches!(self.phase, Phase::Deploying | Phase::Running) {
            let then = self.after_failure(cause, now_ms, commands);
            commands.push(Command::StopTasks { fence: self.fence });
            self.phase = Phase::Stopping(then);
        }
    }

    /// What follows a failure of the attempt; its checkpoints that aren't being appended are lost with it.
    fn after_failure(&mut self, cause: Cause, now_ms: u64, commands: &mut Vec<Command<P>>) -> Then {
        let Cause { reason, is_fatal, is_of_data, random } = cause;
        self.give_up_all(&format!("the attempt failed: {reason}"), now_ms, commands);
        if let Some(Ending { savepoint: EndingSavepoint::Written { request, path }, .. }) = self.ending.take() {
            commands.push(Command::AnswerSavepoint { request, result: Err(not_stopped(&path)) });
        }
        let decision = match is_fatal {
            true => RestartDecision::GiveUp { reason: "no restart can help".to_owned() },
            false => self.restarts.on_failure(Failure {
                now_ms,
                running_since_ms: self.deployed_ms,
                random,
                of_data: is_of_data.then_some(&reason),
            }),
        };
        self.deployed_ms = None;
        match decision {
            RestartDecision::Restart { delay_ms } => {
                self.history.restart(RestartRecord { at_ms: now_ms, reason, delay_ms });
                Then::Restart { at_ms: now_ms.saturating_add(delay_ms) }
            }
            RestartDecision::GiveUp { reason: why } => {
                Then::Close(Outcome::Failed { reason: format!("{reason} (not restarted: {why})") })
            }
        }
    }

    fn stop(&mut self, outcome: Outcome, now_ms: u64, commands: &mut Vec<Command<P>>) {
        self.give_up_all("the job is being stopped", now_ms, commands);
        match self.phase {
            Phase::Deploying | Phase::Running => {
                commands.push(Command::StopTasks { fence: self.fence });
                self.phase = Phase::Stopping(Then::Close(outcome));
            }
            Phase::Stopping(_) => self.phase = Phase::Stopping(Then::Close(outcome)),
            Phase::Created | Phase::Stopped(_) => self.phase = Phase::Stopped(Then::Close(outcome)),
            Phase::Finishing(_) | Phase::Closed(_) => {}
        }
    }

    /// A checkpoint that counts against the tolerable failures.
    fn checkpoint_failed(
        &mut self,
        checkpoint: CheckpointId,
        reason: String,
        now_ms: u64,
        commands: &mut Vec<Command<P>>,
    ) {
        if !self.give_up(checkpoint, reason.clone(), now_ms, commands) || self.phase != Phase::Running {
            return;
        }
        self.failures_in_a_row += 1;
        if self.failures_in_a_row > self.config.tolerable_failures {
            let reason = format!(
                "{} checkpoints failed in a row, and {} are tolerable; the last, {checkpoint}: {reason}",
                self.failures_in_a_row, self.config.tolerable_failures
            );
            self.failures_in_a_row = 0;
            let cause = Cause { reason, is_fatal: false, is_of_data: false, random: 0.5 };
            let then = self.after_failure(cause, now_ms, commands);
            commands.push(Command::StopTasks { fence: self.fence });
            self.phase = Phase::Stopping(then);
        }
    }

    /// Forgets a checkpoint that isn't being appended. False: there was none.
    fn give_up(
        &mut self,
        checkpoint: CheckpointId,
        reason: String,
        now_ms: u64,
        commands: &mut Vec<Command<P>>,
    ) -> bool {
        let Some(pending) = self.pending.get(&checkpoint) else { return false };
        if pending.is_completing {
            return false;
        }
        self.history.attempt(pending.record(now_ms, AttemptResult::Failed { reason: reason.clone() }));
        self.last_end_ms = Some(now_ms);
        commands.push(Command::CancelCheckpoint { fence: self.fence, checkpoint, reason: reason.clone() });
        if pending.holds && self.phase == Phase::Running {
            commands.push(Command::Resume { fence: self.fence });
        }
        if let Some(savepoint) = pending.savepoint {
            commands.push(Command::AnswerSavepoint { request: savepoint.request, result: Err(reason.clone()) });
        }
        if self.is_of_rescale(checkpoint) {
            self.fail_rescale(format!("its checkpoint {checkpoint} failed: {reason}"), commands);
        }
        self.pending.remove(&checkpoint);
        true
    }

    fn give_up_all(&mut self, reason: &str, now_ms: u64, commands: &mut Vec<Command<P>>) {
        let all: Vec<_> = self.pending.keys().copied().collect();
        for checkpoint in all {
            self.give_up(checkpoint, reason.to_owned(), now_ms, commands);
        }
    }

    /// Ends the tasks once the last checkpoint is committed everywhere, and every savepoint written that was asked for.
    fn finish_ending(&mut self, commands: &mut Vec<Command<P>>) {
        let Some(ending) = &self.ending else { return };
        if !ending.uncommitted.is_empty() || !self.writing_savepoints.is_empty() {
            return;
        }
        let outcome = match &ending.savepoint {
            EndingSavepoint::Written { path, .. } => Outcome::Stopped { savepoint: Some(path.clone()) },
            EndingSavepoint::NotAsked if self.is_draining => Outcome::Stopped { savepoint: None },
            EndingSavepoint::NotAsked | EndingSavepoint::Writing => Outcome::Finished,
        };
        self.answer_ending(commands);
        commands.push(Command::Finish { fence: self.fence });
        self.phase = Phase::Finishing(outcome);
    }

    /// The job stops, so the savepoint that it stops with is answered.
    fn answer_ending(&mut self, commands: &mut Vec<Command<P>>) {
        if let Some(Ending { savepoint: EndingSavepoint::Written { request, path }, .. }) = self.ending.take() {
            commands.push(Command::AnswerSavepoint { request, result: Ok(path) });
        }
    }

    fn deploy(&mut self, commands: &mut Vec<Command<P>>) {
        self.fence.attempt = AttemptNumber(self.fence.attempt.0 + 1);
        self.tasks.clear();
        self.sources_at_end.clear();
        self.phase = Phase::Deploying;
        commands.push(Command::Deploy { fence: self.fence, parallelism: self.parallelism });
    }

    fn close(&mut self, outcome: Outcome, commands: &mut Vec<Command<P>>) {
        self.answer_ending(commands);
        let unanswered = std::mem::take(&mut self.savepoint_queue).into_iter();
        let unanswered = unanswered
            .chain(std::mem::take(&mut self.writing_savepoints).into_values().map(|(savepoint, _)| savepoint));
        for savepoint in unanswered {
            let result = Err("the job ended before the savepoint was taken".to_owned());
            commands.push(Command::AnswerSavepoint { request: savepoint.request, result });
        }
        self.fail_rescale("the job ended before".to_owned(), commands);
        commands.push(Command::Close { outcome: outcome.clone() });
        self.phase = Phase::Closed(outcome);
    }
}

fn not_stopped(path: &str) -> String {
    format!("the savepoint stands in {path}, but the job failed before it stopped, and was restarted")
}
