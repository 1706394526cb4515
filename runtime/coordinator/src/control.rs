//! The control of a job over its workers, pure: the coordinator and the rollout together, and what stands between
//! them. What a coordinator's process does beside this is to carry messages, to wait, and to read and write storage.
//! The simulator drives this; the node's runner decides the same beside what it shows, and is to be built on it.
//!
//! Every word of a worker carries the fence of the attempt that it speaks of; one of another attempt changes nothing.

use crate::{
    Acknowledged, Command, Config, Coordinator, Event, ObjectBytes, Outcome, Phase, Placement, RegisteredWorker,
    RequestId, RescaleAnswer, Rollout, RolloutStep,
};
use std::collections::{BTreeMap, VecDeque};
use weir_model::{Barrier, CheckpointId, CommitPermit, Epoch, Fence, SubtaskId, WorkerId};

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
    /// Sinks stand exactly where the attempt starts.
    Settled {
        fence: Fence,
        result: Result<(), DeployFailure>,
    },
    /// What the coordinator takes as it is.
    Job(Event<P>),
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
    /// Every worker has made its tasks: let records flow.
    Start {
        fence: Fence,
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
    pub fn new(config: Config, epoch: Epoch, next_checkpoint: CheckpointId, promised_workers: usize) -> Self {
        JobControl {
            coordinator: Coordinator::new(config, epoch, next_checkpoint),
            // What an attempt needs is said when it is located.
            rollout: Rollout::new(0, promised_workers),
            tasks: vec![],
            sources: vec![],
            parallelism: None,
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
            JobEvent::Stopped { worker, fence } => self.rollout.stopped(fence, worker),
            JobEvent::Located { fence, result } => match result {
                Ok(_) if fence != self.coordinator.fence() => vec![],
                Ok(AttemptShape { tasks, sources, slots, wanted }) => {
                    (self.tasks, self.sources) = (tasks, sources);
                    self.rollout.needs(slots);
                    self.rollout.retain_held(|object| wanted.iter().any(|objects| objects.contains_key(object)));
                    self.rollout.located(fence, wanted, now_ms)
                }
                Err(DeployFailure { reason, is_fatal }) => self.rollout.not_located(fence, reason, is_fatal),
            },
            JobEvent::Settled { fence, result } => match result {
                Ok(()) => self.rollout.settled(fence),
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
                RolloutStep::Adopt { .. } | RolloutStep::Adopted { .. } => {
                    unreachable!("the attempt began with nothing to go on with")
                }
                RolloutStep::Settle { fence } => out.push(JobCommand::Settle { fence }),
                RolloutStep::Start { fence, workers } => {
                    out.push(JobCommand::Tell { workers, order: WorkerOrder::Start { fence } });
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
                    // What a coordinator before this one left running is ended, not gone on with.
                    let steps = self.rollout.begin(fence, None, now_ms);
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
