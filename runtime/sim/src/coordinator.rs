//! A coordinator's process: the node's runner around the same `JobControl`, with a connection for a channel and a
//! future for the storage thread.

use crate::bugs::Bug;
use crate::job;
use crate::keeper::{KeeperRequest, Keeping, keep, write_savepoint};
use crate::messages::{Deployment, Message, RestoreFrom, TaskSnapshot, WorkerWord};
use crate::world::{Clock, ConnectionId, Pid, World};
use futures::channel::mpsc::{UnboundedSender, unbounded};
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_coordinator::{
    DeployFailure, Event, Inherited, JobCommand, JobControl, JobEvent, Outcome, Phase, RegisteredWorker, RequestId,
    RunningAttempt, StopMode, WorkerOrder,
};
use weir_model::{CheckpointId, CommitPermit, Durable, Epoch, Fence, WorkerId};
use weir_snapshot::ObjectRef;

#[derive(Debug)]
pub(crate) enum CoordinatorInput {
    Message {
        connection: ConnectionId,
        message: Message,
    },
    ConnectionLost {
        connection: ConnectionId,
        reason: &'static str,
    },
    Wake,
    /// The log is open: this process holds the job.
    Opened {
        epoch: Epoch,
        next_checkpoint: CheckpointId,
        inherited: Option<Inherited>,
    },
    /// The job was at its end before.
    AlreadyFinished,
    NotOpened {
        reason: String,
    },
    Located {
        fence: Fence,
        result: Result<Option<RestoreFrom>, DeployFailure>,
    },
    Settled {
        fence: Fence,
        result: Result<u64, DeployFailure>,
    },
    Appended {
        checkpoint: Durable<CheckpointId>,
    },
    AppendFailed {
        checkpoint: CheckpointId,
        reason: String,
    },
    Fenced {
        by: String,
    },
    SavepointWritten {
        request: RequestId,
        result: Result<String, String>,
    },
    Closed {
        /// The job goes on elsewhere.
        fenced_by: Option<String>,
    },
    Savepoint {
        stop: bool,
    },
    Drain,
    Rescale {
        parallelism: u32,
    },
}

pub(crate) struct CoordinatorProcess {
    pid: Pid,
    clock: Clock,
    /// What the job's spec says.
    own_parallelism: u32,
    /// Of the attempt.
    parallelism: u32,
    keeping: Keeping,
    requests: UnboundedSender<KeeperRequest>,
    /// None: the log is not open yet.
    control: Option<JobControl<TaskSnapshot, ObjectRef>>,
    restore: Option<RestoreFrom>,
    links: BTreeMap<WorkerId, ConnectionId>,
    peers: BTreeMap<WorkerId, Pid>,
    /// Workers that came before the log was open.
    early: Vec<(ConnectionId, u32, Option<RunningAttempt>)>,
    next_worker: u32,
    next_request: u64,
    woken_at_ms: Option<u64>,
}

impl CoordinatorProcess {
    pub(crate) fn start(world: &mut World, pid: Pid, clock: Clock) -> Self {
        let start = world.next_start.clone();
        let keeping = Keeping {
            clock: clock.clone(),
            storage: world.storage.of(pid),
            external: world.external.clone(),
            scenario: world.scenario.clone(),
            parallelism: start.parallelism,
            bug: world.bug,
            post: world.post(pid),
        };
        let (requests, received) = unbounded();
        world.executor.spawn(pid, keep(keeping.clone(), start.savepoint, received));
        CoordinatorProcess {
            pid,
            clock,
            own_parallelism: start.parallelism,
            parallelism: start.parallelism,
            keeping,
            requests,
            control: None,
            restore: None,
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            early: vec![],
            next_worker: 1,
            next_request: 1,
            woken_at_ms: None,
        }
    }

    pub(crate) fn on(&mut self, input: CoordinatorInput, world: &mut World) -> Result<(), String> {
        let event = match input {
            CoordinatorInput::Opened { epoch, next_checkpoint, inherited } => {
                self.opened(epoch, next_checkpoint, inherited, world);
                return Ok(());
            }
            CoordinatorInput::NotOpened { reason } => return world.coordinator_ended(self.pid, Err(reason)),
            CoordinatorInput::AlreadyFinished => {
                world.already_finished();
                return Ok(());
            }
            CoordinatorInput::Message { connection, message } => self.message(connection, message, world),
            CoordinatorInput::ConnectionLost { connection, reason } => {
                let worker = self.links.iter().find(|(_, own)| **own == connection).map(|(worker, _)| *worker);
                self.early.retain(|(early, ..)| *early != connection);
                worker.map(|worker| {
                    self.links.remove(&worker);
                    JobEvent::WorkerLost { worker, reason: reason.to_owned() }
                })
            }
            CoordinatorInput::Wake => {
                let due = self.control.as_ref().and_then(JobControl::next_wake_ms);
                due.filter(|due_ms| *due_ms <= self.clock.now_ms()).map(|_| JobEvent::Tick)
            }
            CoordinatorInput::Settled { fence, result } => Some(JobEvent::Settled { fence, result }),
            CoordinatorInput::Located { fence, result } => {
                let result = result.map(|restore| {
                    self.restore = restore;
                    job::shape(self.parallelism)
                });
                Some(JobEvent::Located { fence, result })
            }
            CoordinatorInput::Appended { checkpoint } => Some(JobEvent::Job(Event::Appended { checkpoint })),
            CoordinatorInput::AppendFailed { checkpoint, reason } => {
                Some(JobEvent::Job(Event::AppendFailed { checkpoint, reason }))
            }
            CoordinatorInput::Fenced { by } => Some(JobEvent::Job(Event::Fenced { by })),
            CoordinatorInput::SavepointWritten { request, result } => {
                Some(JobEvent::Job(Event::SavepointWritten { request, result }))
            }
            CoordinatorInput::Savepoint { stop } => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                Some(JobEvent::Job(Event::SavepointRequested { request, stop }))
            }
            CoordinatorInput::Rescale { parallelism } => {
                // As the node does: what its workers have no slots for is refused at once.
                let shortage = self.control.as_ref().and_then(|control| control.rollout().shortage(parallelism));
                let request = RequestId(self.next_request);
                self.next_request += 1;
                shortage.is_none().then_some(JobEvent::Job(Event::RescaleRequested { request, parallelism }))
            }
            CoordinatorInput::Drain => Some(JobEvent::Job(Event::StopRequested { mode: StopMode::Drain })),
            CoordinatorInput::Closed { fenced_by: Some(by) } => {
                return world.coordinator_ended(self.pid, Ok(Outcome::Fenced { by }));
            }
            CoordinatorInput::Closed { fenced_by: None } => {
                for connection in self.links.values() {
                    world.send(*connection, self.pid, Message::Goodbye);
                }
                let outcome = match self.control.as_ref().map(|control| control.coordinator().phase()) {
                    Some(Phase::Closed(outcome)) => outcome.clone(),
                    other => return Err(format!("{} closed its log in phase {other:?}", self.pid)),
                };
                return world.coordinator_ended(self.pid, Ok(outcome));
            }
        };
        if let (Some(event), Some(control)) = (event, self.control.as_mut()) {
            let commands = control.on(event, self.clock.now_ms(), world.random.random());
            self.carry_out(commands, world);
        }
        self.plan_wake(world);
        Ok(())
    }

    fn opened(&mut self, epoch: Epoch, next_checkpoint: CheckpointId, inherited: Option<Inherited>, world: &mut World) {
        let (config, promised_workers) = (world.scenario.config.clone(), world.scenario.workers as usize);
        let mut control = JobControl::new(config, epoch, next_checkpoint, promised_workers, inherited);
        let (pid, parallelism) = (self.pid, self.parallelism);
        world.note(|| format!("{pid} has epoch {epoch}, at parallelism {parallelism}"));
        let commands = control.start(self.clock.now_ms(), world.random.random());
        self.control = Some(control);
        self.carry_out(commands, world);
        for (connection, slots, running) in std::mem::take(&mut self.early) {
            if let Some(event) = self.register(connection, slots, running, world)
                && let Some(control) = self.control.as_mut()
            {
                let commands = control.on(event, self.clock.now_ms(), world.random.random());
                self.carry_out(commands, world);
            }
        }
        self.plan_wake(world);
    }

    fn register(
        &mut self,
        connection: ConnectionId,
        slots: u32,
        running: Option<RunningAttempt>,
        world: &mut World,
    ) -> Option<JobEvent<TaskSnapshot, ObjectRef>> {
        let process = world.worker_of(connection)?;
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.links.insert(worker, connection);
        self.peers.insert(worker, process);
        world.send(connection, self.pid, Message::Registered { worker });
        Some(JobEvent::WorkerRegistered {
            worker,
            registered: RegisteredWorker { slots, running, ..RegisteredWorker::default() },
        })
    }

    fn message(
        &mut self,
        connection: ConnectionId,
        message: Message,
        world: &mut World,
    ) -> Option<JobEvent<TaskSnapshot, ObjectRef>> {
        match message {
            Message::Register { slots, running } if self.control.is_none() => {
                self.early.push((connection, slots, running));
                None
            }
            Message::Register { slots, running } => self.register(connection, slots, running, world),
            Message::Word(word) => {
                // What comes from a worker that was given up counts no more.
                let worker = self.links.iter().find(|(_, own)| **own == connection).map(|(worker, _)| *worker)?;
                Some(self.word(worker, word, world))
            }
            other => unreachable!("{other} to a coordinator"),
        }
    }

    fn word(&mut self, worker: WorkerId, word: WorkerWord, world: &mut World) -> JobEvent<TaskSnapshot, ObjectRef> {
        let random = world.random.random();
        let job = JobEvent::Job;
        match word {
            WorkerWord::Prepared { fence, result } => JobEvent::Prepared { worker, fence, result },
            WorkerWord::Adopted { fence, result } => JobEvent::Adopted { worker, fence, result },
            WorkerWord::Stopped { fence } => JobEvent::Stopped { worker, fence },
            WorkerWord::Acknowledged { fence, checkpoint, object, snapshots } => {
                let (fence, checkpoint) = match (world.bug, self.control.as_ref().map(JobControl::coordinator)) {
                    (Some(Bug::StaleAcknowledgement), Some(coordinator)) => {
                        let under_way = coordinator.under_way().next().map(|shown| shown.checkpoint);
                        (coordinator.fence(), under_way.unwrap_or(checkpoint))
                    }
                    _ => (fence, checkpoint),
                };
                JobEvent::Acknowledged { fence, checkpoint, object, snapshots }
            }
            WorkerWord::Declined { fence, checkpoint, task, reason } => {
                job(Event::Declined { fence, checkpoint, task, reason })
            }
            WorkerWord::EndOfInput { fence, task } => job(Event::EndOfInput { fence, task }),
            WorkerWord::Committed { fence, checkpoint, task } => job(Event::Committed { fence, checkpoint, task }),
            WorkerWord::TaskFailed { fence, task, reason, is_fatal } => {
                job(Event::TaskFailed { fence, task, reason, is_fatal, is_of_data: false, random })
            }
            WorkerWord::AttemptFailed { fence, reason } => job(Event::AttemptFailed { fence, reason, random }),
        }
    }

    fn carry_out(&mut self, commands: Vec<JobCommand<TaskSnapshot, ObjectRef>>, world: &mut World) {
        for command in commands {
            match command {
                JobCommand::Prepare { fence, placement } => {
                    let deployment = Arc::new(Deployment {
                        fence,
                        parallelism: self.parallelism,
                        slots: placement.slots().to_vec(),
                        peers: self.peers.clone(),
                        restore: self.restore.clone(),
                    });
                    for worker in placement.workers() {
                        self.tell(worker, Message::Prepare(Arc::clone(&deployment)), world);
                    }
                }
                JobCommand::Tell { workers, order } => {
                    if let WorkerOrder::Adopt { from, .. } = &order {
                        world.adopted(self.pid, *from);
                    }
                    for worker in workers {
                        self.tell(worker, Message::Order(order.clone()), world);
                    }
                }
                JobCommand::Locate { fence, parallelism } => {
                    self.parallelism = parallelism.unwrap_or(self.own_parallelism);
                    self.ask(KeeperRequest::Locate { fence, parallelism: self.parallelism });
                }
                JobCommand::Settle { fence } => self.ask(KeeperRequest::Settle { fence }),
                JobCommand::Complete { acknowledged, objects, protect_from } => {
                    if world.bug == Some(Bug::CommitBeforeDurable) {
                        let permit = CommitPermit::from_coordinator(acknowledged.checkpoint, acknowledged.fence);
                        for worker in self.links.keys().copied().collect::<Vec<_>>() {
                            self.tell(worker, Message::Order(WorkerOrder::Commit(permit)), world);
                        }
                    }
                    self.ask(KeeperRequest::Complete { acknowledged, objects, protect_from });
                }
                JobCommand::CheckpointFailed { checkpoint, reason } => {
                    let pid = self.pid;
                    world.note(|| format!("{pid}: checkpoint {checkpoint} failed: {reason}"));
                }
                JobCommand::WriteSavepoint { request, checkpoint } => {
                    let writing = write_savepoint(self.keeping.clone(), request, checkpoint);
                    world.executor.spawn(self.pid, writing);
                }
                JobCommand::AnswerSavepoint { request, result } => {
                    let pid = self.pid;
                    world.note(|| format!("{pid}: savepoint {} is answered: {result:?}", request.0));
                }
                JobCommand::AnswerRescale { request, answer } => {
                    let pid = self.pid;
                    world.note(|| format!("{pid}: rescale {} is answered: {answer:?}", request.0));
                }
                JobCommand::Retain => self.ask(KeeperRequest::Retain),
                JobCommand::Close { outcome } => {
                    if let Outcome::Fenced { by } = &outcome {
                        let pid = self.pid;
                        world.note(|| format!("{pid} is fenced: {by}"));
                    }
                    self.ask(KeeperRequest::Close { outcome });
                }
            }
        }
    }

    fn tell(&self, worker: WorkerId, message: Message, world: &mut World) {
        if let Some(connection) = self.links.get(&worker) {
            world.send(*connection, self.pid, message);
        }
    }

    fn ask(&self, request: KeeperRequest) {
        self.requests.unbounded_send(request).expect("the keeper lives as long as its process");
    }

    fn plan_wake(&mut self, world: &mut World) {
        let Some(due_ms) = self.control.as_ref().and_then(JobControl::next_wake_ms) else { return };
        let now_ms = self.clock.now_ms();
        if self.woken_at_ms.is_some_and(|at_ms| at_ms <= due_ms && at_ms > now_ms) {
            return;
        }
        self.woken_at_ms = Some(due_ms.max(now_ms + 1));
        let wait_ms = due_ms.saturating_sub(now_ms).max(1);
        world.send_to_coordinator(self.pid, wait_ms * 1000, CoordinatorInput::Wake);
    }
}
