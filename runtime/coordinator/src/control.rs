//! The control of a job over its workers, pure: the coordinator and the rollout together, and what stands between
//! them. What a coordinator's process does beside this is to carry messages, to wait, and to read and write storage.
//! The node's runner and the simulator drive the same.
//!
//! Every word of a worker carries the fence of the attempt that it speaks of; one of another attempt changes nothing.

use crate::{
    Acknowledged, Command, Config, Coordinator, Event, LeftRunning, ObjectBytes, Outcome, Phase, Placement,
    RegisteredWorker, RequestId, RescaleAnswer, Rollout, RolloutStep,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use weir_model::{AttemptNumber, Barrier, CheckpointId, CommitPermit, Durable, Epoch, Fence, SubtaskId, WorkerId};

/// What reaches the control of a job. `P`: what a task keeps for a checkpoint; `O`: an object that a worker wrote.
#[derive(Clone, Debug)]
pub enum JobEvent<P, O> {
    /// Time has passed.
    Tick,
    /// A worker has come.
    WorkerRegistered {
        worker: WorkerId,
        registered: RegisteredWorker,
    },
    WorkerLost {
        worker: WorkerId,
        reason: String,
    },
    /// The worker has made its tasks, or could not.
    Prepared {
        worker: WorkerId,
        fence: Fence,
        result: Result<(), DeployFailure>,
    },
    /// What runs on the worker goes on under this fence; or why it cannot.
    Adopted {
        worker: WorkerId,
        fence: Fence,
        result: Result<Adopted, String>,
    },
    /// None of the attempt's tasks runs on the worker any more.
    Stopped {
        worker: WorkerId,
        fence: Fence,
    },
    /// All tasks of one worker have what they keep for the checkpoint in its object, and that is durable.
    /// Without an object: nothing had to be written.
    Acknowledged {
        fence: Fence,
        checkpoint: CheckpointId,
        object: Option<O>,
        snapshots: Vec<(SubtaskId, P)>,
    },
    /// What the attempt starts from is known.
    Located {
        fence: Fence,
        result: Result<AttemptShape, DeployFailure>,
    },
    /// Sinks stand exactly where the attempt starts; with the number of the log's entry under which they were settled.
    Settled {
        fence: Fence,
        result: Result<u64, DeployFailure>,
    },
    /// What the coordinator takes as it is.
    Job(Event<P>),
}

/// What a worker goes on with under another coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Sources that have come to their end.
    pub ended: Vec<SubtaskId>,
    /// Checkpoints that were triggered there and have neither completed nor been given up.
    pub under_way: Vec<CheckpointId>,
    /// The highest checkpoint that was ever triggered there.
    pub highest: Option<CheckpointId>,
}

/// An attempt of the coordinator before this one that may still run, and can be gone on with then.
#[derive(Clone, Debug)]
pub struct Inherited {
    pub left_running: LeftRunning,
    /// What it has to have for that: the tasks that the job's own spec says.
    pub shape: AttemptShape,
    /// The checkpoint that it stands on: its commit may not have been told to everybody.
    pub stands_on: Option<Durable<CheckpointId>>,
    /// The oldest checkpoint that its tasks may still build on.
    pub oldest: Option<CheckpointId>,
    /// This coordinator's own entry of the log, under which it is gone on with.
    pub opening: u64,
}

/// Why an attempt could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployFailure {
    pub reason: String,
    /// Another try would fail the same way.
    pub is_fatal: bool,
}

/// What the process is to do.
#[derive(Clone, Debug)]
pub enum JobCommand<P, O> {
    /// Let the placement's workers make their tasks; each answers with `Prepared`.
    Prepare {
        fence: Fence,
        placement: Placement,
    },
    Tell {
        workers: Vec<WorkerId>,
        order: WorkerOrder,
    },
    /// Find what the attempt starts from; answer with `Located`. `parallelism`: what the job was rescaled to; none
    /// where its own spec says.
    Locate {
        fence: Fence,
        parallelism: Option<u32>,
    },
    /// All of it could be read: let sinks stand exactly there; answer with `Settled`.
    Settle {
        fence: Fence,
    },
    /// Append the manifest to the log; answer with `Appended`, `AppendFailed` or `Fenced`.
    Complete {
        acknowledged: Acknowledged<P>,
        /// What the workers wrote for it.
        objects: Vec<O>,
        /// The oldest checkpoint that a task may still build on, or a savepoint be made from, where it is known.
        protect_from: Option<CheckpointId>,
    },
    /// The attempt at the checkpoint was given up, for people to know; the workers are told by an order.
    CheckpointFailed {
        checkpoint: CheckpointId,
        reason: String,
    },
    /// Write the completed checkpoint as a savepoint; answer with `SavepointWritten`.
    WriteSavepoint {
        request: RequestId,
        checkpoint: CheckpointId,
    },
    AnswerSavepoint {
        request: RequestId,
        result: Result<String, String>,
    },
    /// May come twice for one request: that it was accepted, and how it ended.
    AnswerRescale {
        request: RequestId,
        answer: RescaleAnswer,
    },
    /// Remove checkpoints beyond what the retention keeps.
    Retain,
    /// The job is over; no command follows.
    Close {
        outcome: Outcome,
    },
}

/// What a worker is told, beside `Prepare`.
#[derive(Clone, Debug)]
pub enum WorkerOrder {
    /// Every worker has made its tasks: let records flow. `opening`: the log's entry under which sinks were settled.
    Start {
        fence: Fence,
        opening: u64,
    },
    /// Another coordinator has the job, and goes on with the attempt that runs there. Answered by `Adopted`.
    Adopt {
        from: Fence,
        fence: Fence,
        opening: u64,
    },
    /// Let those of the sources that are there send the barrier. `hold`: and no record behind it until `Resume`.
    Trigger {
        fence: Fence,
        barrier: Barrier,
        is_unaligned: bool,
        hold: bool,
    },
    /// The barriers of this checkpoint overtake rows from here on.
    TurnUnaligned {
        fence: Fence,
        checkpoint: CheckpointId,
    },
    CancelCheckpoint {
        fence: Fence,
        checkpoint: CheckpointId,
    },
    /// The checkpoint stands in the log.
    Commit(CommitPermit),
    /// Sources that hold go on.
    Resume {
        fence: Fence,
    },
    /// All is done and committed: end in order. Answered by `Stopped`.
    Finish {
        fence: Fence,
    },
    /// End as you are. Answered by `Stopped`.
    Stop {
        fence: Fence,
    },
}

/// The tasks of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptShape {
    /// Every subtask that acknowledges checkpoints; `sources` are among them.
    pub tasks: Vec<SubtaskId>,
    pub sources: Vec<SubtaskId>,
    /// Of every step that has none of its own.
    pub parallelism: u32,
    /// Subtasks of the widest task.
    pub slots: u32,
    /// By slot: the objects with the state that its subtasks start from, and how many bytes of it are in each.
    pub wanted: Vec<ObjectBytes>,
}

/// One job, for as long as this coordinator holds its epoch.
#[derive(Clone, Debug)]
pub struct JobControl<P, O> {
    coordinator: Coordinator<P>,
    rollout: Rollout,
    tasks: Vec<SubtaskId>,
    sources: Vec<SubtaskId>,
    /// Of the attempt; none where the job's own spec says.
    parallelism: Option<u32>,
    /// What may be gone on with by the first attempt.
    inherited: Option<Inherited>,
    /// What workers that go on with it have said.
    adopted: Vec<Adopted>,
    /// The log's entry under which sinks were settled, or what was running is gone on with.
    opening: u64,
    is_deployed: bool,
    /// What workers have written for the checkpoints under way.
    written: BTreeMap<CheckpointId, Vec<O>>,
    /// The checkpoint up to which each task knows that its changes are durable.
    confirmed: BTreeMap<SubtaskId, CheckpointId>,
    /// The last that was completed here: a task builds on no older one than that, or on one it was told of later.
    last_completed: Option<CheckpointId>,
}

impl<P, O> JobControl<P, O> {
    /// `next_checkpoint`: one above the highest in the log. `promised_workers`: how many somebody said will come.
    /// `inherited`: what the coordinator before this one may have left running.
    pub fn new(
        config: Config,
        epoch: Epoch,
        next_checkpoint: CheckpointId,
        promised_workers: usize,
        inherited: Option<Inherited>,
    ) -> Self {
        JobControl {
            coordinator: Coordinator::new(config, epoch, next_checkpoint),
            // What an attempt needs is said when it is located.
            rollout: Rollout::new(0, promised_workers),
            tasks: vec![],
            sources: vec![],
            parallelism: None,
            inherited,
            adopted: vec![],
            opening: 0,
            is_deployed: false,
            written: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            last_completed: None,
        }
    }

    /// The first commands.
    pub fn start(&mut self, now_ms: u64, random: f64) -> Vec<JobCommand<P, O>> {
        let commands = self.coordinator.start();
        let mut out = vec![];
        let events = self.carry_out(commands, now_ms, random, &mut out);
        self.settle_down(events, now_ms, random, &mut out);
        out
    }

    pub fn coordinator(&self) -> &Coordinator<P> {
        &self.coordinator
    }

    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Whether an attempt runs.
    pub fn is_deployed(&self) -> bool {
        self.is_deployed
    }

    /// What workers have written for the checkpoints under way.
    pub fn written(&self) -> impl Iterator<Item = &O> {
        self.written.values().flatten()
    }

    /// The worker has written an object of the attempt, and keeps a copy.
    pub fn holds(&mut self, worker: WorkerId, object: String, bytes: u64) {
        self.rollout.holds(worker, object, bytes);
    }

    /// Of what is kept on workers' disks, only these objects are of use.
    pub fn retain_held(&mut self, is_needed: impl Fn(&str) -> bool) {
        self.rollout.retain_held(is_needed);
    }

    /// These workers, and no others, are about to go.
    pub fn leave(&mut self, workers: BTreeSet<WorkerId>) {
        self.rollout.leave(workers);
    }

    /// When a `Tick` is due, if nothing else happens before.
    pub fn next_wake_ms(&self) -> Option<u64> {
        [self.coordinator.next_wake_ms(), self.rollout.next_wake_ms()].into_iter().flatten().min()
    }

    /// Takes an event; returns what is to be done, in order. `random`: uniform in [0, 1), for the jitter of a
    /// restart's delay.
    pub fn on(&mut self, event: JobEvent<P, O>, now_ms: u64, random: f64) -> Vec<JobCommand<P, O>> {
        let mut out = vec![];
        let events = self.translate(event, now_ms, random, &mut out);
        self.settle_down(events, now_ms, random, &mut out);
        out
    }

    /// Hands events to the coordinator, and what comes of its commands, until nothing is left.
    fn settle_down(&mut self, events: Vec<Event<P>>, now_ms: u64, random: f64, out: &mut Vec<JobCommand<P, O>>) {
        let mut events = VecDeque::from(events);
        while let Some(event) = events.pop_front() {
            let commands = self.coordinator.on(event, now_ms);
            events.extend(self.carry_out(commands, now_ms, random, out));
        }
    }

    /// What the coordinator is to know of an event.
    fn translate(
        &mut self,
        event: JobEvent<P, O>,
        now_ms: u64,
        random: f64,
        out: &mut Vec<JobCommand<P, O>>,
    ) -> Vec<Event<P>> {
        let steps = match event {
            JobEvent::Tick => {
                let steps = self.rollout.tick(now_ms);
                let mut events = self.take_steps(steps, random, out);
                events.push(Event::Tick);
                return events;
            }
            JobEvent::WorkerRegistered { worker, registered } => self.rollout.registered(worker, registered, now_ms),
            JobEvent::WorkerLost { worker, reason } => self.rollout.lost(worker, &reason),
            JobEvent::Prepared { worker, fence, result } => match result {
                Ok(()) => self.rollout.prepared(fence, worker),
                Err(DeployFailure { reason, is_fatal }) => self.rollout.not_prepared(fence, reason, is_fatal),
            },
            JobEvent::Adopted { worker, fence, result } => match result {
                Ok(_) if fence != self.coordinator.fence() => vec![],
                Ok(adopted) => {
                    self.adopted.push(adopted);
                    self.rollout.adopted(fence, worker)
                }
                Err(reason) => self.rollout.not_adopted(fence, reason),
            },
            JobEvent::Stopped { worker, fence } => self.rollout.stopped(fence, worker),
            JobEvent::Located { fence, result } => match result {
                Ok(_) if fence != self.coordinator.fence() => vec![],
                Ok(AttemptShape { tasks, sources, parallelism, slots, wanted }) => {
                    (self.tasks, self.sources) = (tasks, sources);
                    self.rollout.needs(slots, parallelism);
                    self.rollout.retain_held(|object| wanted.iter().any(|objects| objects.contains_key(object)));
                    self.rollout.located(fence, wanted, now_ms)
                }
                Err(DeployFailure { reason, is_fatal }) => self.rollout.not_located(fence, reason, is_fatal),
            },
            JobEvent::Settled { fence, result } => match result {
                Ok(_) if fence != self.coordinator.fence() => vec![],
                Ok(opening) => {
                    self.opening = opening;
                    self.rollout.settled(fence)
                }
                Err(DeployFailure { reason, is_fatal }) => self.rollout.not_settled(fence, reason, is_fatal),
            },
            JobEvent::Acknowledged { fence, checkpoint, object, snapshots } => {
                if fence != self.coordinator.fence() {
                    return vec![];
                }
                self.written.entry(checkpoint).or_default().extend(object);
                let acknowledged = |(task, payload)| Event::Acknowledged { fence, checkpoint, task, payload };
                return snapshots.into_iter().map(acknowledged).collect();
            }
            JobEvent::Job(event) => {
                match &event {
                    Event::Appended { checkpoint } => {
                        self.last_completed = Some(*checkpoint.get()).max(self.last_completed);
                    }
                    Event::Committed { fence, checkpoint, task } if *fence == self.coordinator.fence() => {
                        let confirmed = self.confirmed.entry(task.clone()).or_insert(*checkpoint);
                        *confirmed = (*confirmed).max(*checkpoint);
                    }
                    _ => {}
                }
                return vec![event];
            }
        };
        self.take_steps(steps, random, out)
    }

    /// Carries out what the rollout says; returns what the coordinator is to know of it.
    fn take_steps(&mut self, steps: Vec<RolloutStep>, random: f64, out: &mut Vec<JobCommand<P, O>>) -> Vec<Event<P>> {
        let mut events = vec![];
        for step in steps {
            match step {
                RolloutStep::Prepare { fence, placement } => out.push(JobCommand::Prepare { fence, placement }),
                RolloutStep::Locate { fence } => {
                    out.push(JobCommand::Locate { fence, parallelism: self.parallelism });
                }
                RolloutStep::Dismiss { worker, fence } => {
                    out.push(JobCommand::Tell { workers: vec![worker], order: WorkerOrder::Stop { fence } });
                }
                RolloutStep::Adopt { fence, from, workers } => {
                    self.adopted.clear();
                    let opening = self.opening;
                    out.push(JobCommand::Tell { workers, order: WorkerOrder::Adopt { from, fence, opening } });
                }
                RolloutStep::Adopted { fence, workers } => events.extend(self.adopted(fence, &workers, out)),
                RolloutStep::Settle { fence } => out.push(JobCommand::Settle { fence }),
                RolloutStep::Start { fence, workers } => {
                    let opening = self.opening;
                    out.push(JobCommand::Tell { workers, order: WorkerOrder::Start { fence, opening } });
                    self.is_deployed = true;
                    self.confirmed.clear();
                    let (tasks, sources) = (self.tasks.clone(), self.sources.clone());
                    events.push(Event::Deployed { fence, tasks, sources });
                }
                RolloutStep::Finish { fence, workers } => {
                    out.push(JobCommand::Tell { workers, order: WorkerOrder::Finish { fence } });
                }
                RolloutStep::Stop { fence, workers } => {
                    out.push(JobCommand::Tell { workers, order: WorkerOrder::Stop { fence } });
                }
                RolloutStep::NotDeployed { fence, reason, is_fatal } => {
                    self.is_deployed = false;
                    // A stop that came before is answered by this, too.
                    events.push(match self.coordinator.phase() {
                        Phase::Stopping(_) => Event::Stopped { fence },
                        _ => Event::DeployFailed { fence, reason, is_fatal, random },
                    });
                }
                RolloutStep::Lost { fence, reason } => events.push(Event::AttemptFailed { fence, reason, random }),
                RolloutStep::Ended { fence } => {
                    self.is_deployed = false;
                    self.written.clear();
                    events.push(Event::Stopped { fence });
                }
            }
        }
        events
    }

    /// Workers go on with what ran. The dead coordinator's last words are said again, or taken back: the commit of the
    /// last checkpoint, those that were under way, and a stop that held sources.
    fn adopted(&mut self, fence: Fence, workers: &[WorkerId], out: &mut Vec<JobCommand<P, O>>) -> Vec<Event<P>> {
        let Some(Inherited { stands_on, oldest, .. }) = self.inherited.take() else { return vec![] };
        let mut tell = |order| out.push(JobCommand::Tell { workers: workers.to_vec(), order });
        let last = stands_on.as_ref().map(|checkpoint| *checkpoint.get());
        self.last_completed = last;
        // Until they say otherwise: retention leaves all that they may build on.
        let oldest = oldest.map(|oldest| self.tasks.iter().map(move |task| (task.clone(), oldest)));
        self.confirmed = oldest.into_iter().flatten().collect();
        if let Some(checkpoint) = &stands_on {
            tell(WorkerOrder::Commit(CommitPermit::for_durable(checkpoint, fence)));
        }
        let adopted = std::mem::take(&mut self.adopted);
        let under_way: BTreeSet<CheckpointId> =
            adopted.iter().flat_map(|part| part.under_way.iter().copied()).collect();
        for checkpoint in under_way.into_iter().filter(|checkpoint| Some(*checkpoint) > last) {
            tell(WorkerOrder::CancelCheckpoint { fence, checkpoint });
        }
        tell(WorkerOrder::Resume { fence });
        self.is_deployed = true;
        let highest = adopted.iter().filter_map(|part| part.highest).chain(last).max();
        let next_checkpoint = highest.map_or(CheckpointId(1), CheckpointId::next);
        let (tasks, sources) = (self.tasks.clone(), self.sources.clone());
        let ended = adopted.into_iter().flat_map(|part| part.ended);
        let ended = ended.map(|task| Event::EndOfInput { fence, task });
        std::iter::once(Event::Adopted { fence, tasks, sources, next_checkpoint }).chain(ended).collect()
    }

    /// Carries out what the coordinator says, or passes it on; returns what it is to know of that.
    fn carry_out(
        &mut self,
        commands: Vec<Command<P>>,
        now_ms: u64,
        random: f64,
        out: &mut Vec<JobCommand<P, O>>,
    ) -> Vec<Event<P>> {
        let mut events = vec![];
        for command in commands {
            match command {
                Command::Deploy { fence, parallelism } => {
                    self.parallelism = parallelism;
                    let steps = self.begin(fence, now_ms);
                    events.extend(self.take_steps(steps, random, out));
                }
                Command::Trigger { fence, checkpoint, kind, is_unaligned, sources: _, hold } => {
                    let barrier = Barrier { checkpoint, kind };
                    self.tell_all(WorkerOrder::Trigger { fence, barrier, is_unaligned, hold }, out);
                }
                Command::TurnUnaligned { fence, checkpoint } => {
                    self.tell_all(WorkerOrder::TurnUnaligned { fence, checkpoint }, out);
                }
                Command::CancelCheckpoint { fence, checkpoint, reason } => {
                    self.written.remove(&checkpoint);
                    out.push(JobCommand::CheckpointFailed { checkpoint, reason });
                    self.tell_all(WorkerOrder::CancelCheckpoint { fence, checkpoint }, out);
                }
                Command::Complete(acknowledged) => {
                    let protect_from = self.protect_from();
                    let objects = self.written.remove(&acknowledged.checkpoint).unwrap_or_default();
                    out.push(JobCommand::Complete { acknowledged, objects, protect_from });
                }
                Command::Commit { permit, tasks: _ } => self.tell_all(WorkerOrder::Commit(permit), out),
                Command::Resume { fence } => self.tell_all(WorkerOrder::Resume { fence }, out),
                Command::WriteSavepoint { request, checkpoint } => {
                    out.push(JobCommand::WriteSavepoint { request, checkpoint });
                }
                Command::AnswerSavepoint { request, result } => {
                    out.push(JobCommand::AnswerSavepoint { request, result });
                }
                Command::AnswerRescale { request, answer } => {
                    out.push(JobCommand::AnswerRescale { request, answer });
                }
                Command::Retain => out.push(JobCommand::Retain),
                Command::Finish { fence } => {
                    let steps = self.rollout.finish(fence);
                    events.extend(self.take_steps(steps, random, out));
                }
                Command::StopTasks { fence } => {
                    let steps = self.rollout.stop(fence);
                    events.extend(self.take_steps(steps, random, out));
                }
                Command::Close { outcome } => out.push(JobCommand::Close { outcome }),
            }
        }
        events
    }

    fn begin(&mut self, fence: Fence, now_ms: u64) -> Vec<RolloutStep> {
        // What was left running is gone on with by the first attempt, or never.
        if fence.attempt > AttemptNumber(1) {
            self.inherited = None;
        }
        let Some(Inherited { left_running, shape, opening, .. }) = &self.inherited else {
            return self.rollout.begin(fence, None, now_ms);
        };
        (self.tasks, self.sources, self.opening) = (shape.tasks.clone(), shape.sources.clone(), *opening);
        self.rollout.needs(shape.slots, shape.parallelism);
        self.rollout.begin(fence, Some(*left_running), now_ms)
    }

    /// To every worker that runs a part of the attempt.
    fn tell_all(&self, order: WorkerOrder, out: &mut Vec<JobCommand<P, O>>) {
        if let Some(placement) = self.rollout.placement() {
            out.push(JobCommand::Tell { workers: placement.workers().collect(), order });
        }
    }

    /// The oldest checkpoint whose segments the next cut of some task may name, or a savepoint still reads.
    fn protect_from(&self) -> Option<CheckpointId> {
        if !self.is_deployed {
            return None;
        }
        let known = self.tasks.iter().map(|task| self.confirmed.get(task).copied());
        let built_on = known.min().flatten().or(self.last_completed);
        // A savepoint that is being written still reads its checkpoint.
        self.coordinator.savepoints_being_written().chain(built_on).min()
    }
}
