//! Runs a job: the coordinator's commands carried out by workers and on storage.

use crate::attempt::node_status;
use crate::backends::local_folder;
use crate::checkpoint_objects::TaskFigures;
use crate::control::{ControlEvent, Request, StartPoint, WorkerLink};
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::physical::PhysicalPlan;
use crate::savepoint;
use crate::standing::Adopted;
use crate::start::{LeftRunning, Opened, StartError};
use crate::status::{CheckpointLine, NodeStatus, StatusHandle, UnderWay};
use crate::storage_thread::{StorageRequest, StorageThread, now_ms};
use crate::task::{TaskEvent, TaskEventKind, TaskSnapshot};
use crate::worker::{Deployment, SubtaskMetrics, WorkerCommand, WorkerEvent};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use weir_coordinator::{
    AttemptResult, Command, Coordinator, Event, ObjectBytes, Outcome, Phase, Placement, RegisteredWorker, RequestId,
    RescaleAnswer, Rollout, RolloutStep, Then,
};
use weir_dataflow::alignment::AlignmentMode;
use weir_model::{AttemptNumber, Barrier, CheckpointId, CommitPermit, Fence, SubtaskId, WorkerId};
use weir_snapshot::log::Began;
use weir_snapshot::{CheckpointSizes, JobFolder, ObjectRef};

/// What workers get to leave once the job is over; one that is paused or cut off learns it from nobody.
const FAREWELL: Duration = Duration::from_secs(3);

/// A job that runs, or has ended.
pub struct Runner {
    /// At the parallelism of the attempt.
    job: Arc<Job>,
    coordinator: Coordinator<TaskSnapshot>,
    rollout: Rollout,
    /// What the job file says.
    own_parallelism: u32,
    links: BTreeMap<WorkerId, WorkerLink>,
    /// Where workers reach each other.
    addresses: BTreeMap<WorkerId, String>,
    mode: AlignmentMode,
    /// Every subtask of the job; `sources` are among them.
    tasks: Vec<SubtaskId>,
    sources: Vec<SubtaskId>,
    status: StatusHandle,
    folder: JobFolder,
    runtime: tokio::runtime::Handle,
    events: Sender<ControlEvent>,
    received: Receiver<ControlEvent>,
    storage: Sender<StorageRequest>,
    /// What the attempt that is being deployed starts from.
    start_point: StartPoint,
    /// The log's entry under which sinks were settled, or what was running is gone on with.
    opening: u64,
    left_running: Option<LeftRunning>,
    /// What workers that go on with it have said.
    adopted: Vec<Adopted>,
    is_deployed: bool,
    /// What workers have written for the checkpoints under way.
    written: BTreeMap<CheckpointId, Vec<ObjectRef>>,
    /// The checkpoint up to which each task knows that its changes are durable.
    confirmed: BTreeMap<SubtaskId, CheckpointId>,
    restored: Option<CheckpointId>,
    requests: BTreeMap<RequestId, SavepointWish>,
    rescales: BTreeMap<RequestId, Sender<RescaleAnswer>>,
    next_request: u64,
    sizes: BTreeMap<CheckpointId, CheckpointSizes>,
    /// What subtasks told of the checkpoints under way.
    figures: BTreeMap<CheckpointId, TaskFigures>,
    shown_attempts: u64,
    is_closed: bool,
    fenced_by: Option<String>,
}

struct SavepointWish {
    folder: Option<String>,
    answer: Sender<Result<String, String>>,
}

/// Sends requests to a runner from another thread.
#[derive(Clone)]
pub struct RequestSender(Sender<ControlEvent>);

impl RequestSender {
    /// False: the job has ended.
    pub fn send(&self, request: Request) -> bool {
        self.0.send(ControlEvent::Request(request)).is_ok()
    }
}

impl Runner {
    /// Takes the opened job; nothing runs before `run`. `promised_workers`: how many somebody said will come.
    pub(crate) fn new(
        job: Arc<Job>,
        opened: Opened,
        promised_workers: usize,
        runtime: tokio::runtime::Handle,
        status: StatusHandle,
    ) -> Result<Self, StartError> {
        let Opened { log, folder, config, retention, mode, fall_back, left_running } = opened;
        let (events, received) = channel();
        let coordinator = Coordinator::new(config, log.epoch(), log.next_checkpoint());
        let manifests = log.history().checkpoints();
        let known_objects = manifests.flat_map(|manifest| &manifest.objects);
        let known_objects = known_objects.map(|object| (object.path.clone(), object.clone())).collect();
        let storage_thread = StorageThread {
            job: Arc::clone(&job),
            log,
            retention,
            fall_back,
            runtime: runtime.clone(),
            events: events.clone(),
            known_objects,
            located: None,
            appended: None,
        };
        let (storage, storage_requests) = channel();
        std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || storage_thread.run(storage_requests))
            .map_err(StartError::thread)?;
        let plan = PhysicalPlan::of(&job.graph);
        let (tasks, sources) = plan.subtasks(&job.graph);
        status.lock().started_ms = now_ms();
        Ok(Runner {
            coordinator,
            rollout: Rollout::new(plan.slots(), promised_workers),
            own_parallelism: job.parallelism(),
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            mode,
            tasks,
            sources,
            job,
            status,
            folder,
            runtime,
            events,
            received,
            storage,
            start_point: StartPoint::default(),
            opening: 0,
            left_running,
            adopted: vec![],
            is_deployed: false,
            written: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            restored: None,
            requests: BTreeMap::new(),
            rescales: BTreeMap::new(),
            next_request: 0,
            sizes: BTreeMap::new(),
            figures: BTreeMap::new(),
            shown_attempts: 0,
            is_closed: false,
            fenced_by: None,
        })
    }

    pub fn requests(&self) -> RequestSender {
        RequestSender(self.events.clone())
    }

    /// How workers and what watches over them reach this loop.
    pub(crate) fn events(&self) -> Sender<ControlEvent> {
        self.events.clone()
    }

    /// The most slots that the job can ever need.
    pub(crate) fn most_slots(&self) -> u32 {
        self.job.graph.max_parallelism
    }

    /// The slots that the job needs.
    pub(crate) fn slots(&self) -> u32 {
        PhysicalPlan::of(&self.job.graph).slots()
    }

    /// Runs the job to its end.
    pub fn run(mut self) -> Outcome {
        let mut span = self.span();
        let commands = span.1.in_scope(|| self.coordinator.start());
        span.1.in_scope(|| self.carry_out(commands));
        while !self.is_closed {
            if span.0 != self.coordinator.fence() {
                span = self.span();
            }
            let _around = span.1.clone().entered();
            self.show();
            let due_ms = [self.coordinator.next_wake_ms(), self.rollout.next_wake_ms()].into_iter().flatten().min();
            let wait = match due_ms {
                Some(due_ms) => Duration::from_millis(due_ms.saturating_sub(now_ms())),
                None => Duration::from_secs(1),
            };
            let events = match self.received.recv_timeout(wait) {
                Ok(event) => self.translate(event),
                Err(RecvTimeoutError::Timeout) => {
                    let steps = self.rollout.tick(now_ms());
                    let mut events = self.take_steps(steps);
                    events.push(Event::Tick);
                    events
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the runner holds a sender itself"),
            };
            self.apply(events);
        }
        let outcome = match (self.fenced_by.take(), self.coordinator.phase()) {
            (Some(by), _) => Outcome::Fenced { by },
            (None, Phase::Closed(outcome)) => outcome.clone(),
            (None, other) => unreachable!("closed in phase {other:?}"),
        };
        self.part_with_workers(&outcome);
        self.show();
        outcome
    }

    /// Lets workers know that the job is over. They leave by themselves; a process that ended at once would take the
    /// word with it, and they would look for it for minutes.
    fn part_with_workers(&mut self, outcome: &Outcome) {
        // The job isn't over, only here: workers lose this coordinator, and look for the one that has it.
        if matches!(outcome, Outcome::Fenced { .. }) {
            return;
        }
        self.tell(&self.links.keys().copied().collect::<Vec<_>>(), || WorkerCommand::Goodbye);
        let until = Instant::now() + FAREWELL;
        while !self.addresses.is_empty() {
            match self.received.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(ControlEvent::WorkerLost { worker, .. }) => drop(self.addresses.remove(&worker)),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// What every line of the log says of the attempt.
    fn span(&self) -> (Fence, tracing::Span) {
        let fence = self.coordinator.fence();
        let Fence { epoch, attempt } = fence;
        (fence, tracing::error_span!("attempt", job = %self.job.name, epoch = epoch.0, attempt = attempt.0))
    }

    /// Hands events to the coordinator, and what comes of its commands, until nothing is left.
    fn apply(&mut self, events: Vec<Event<TaskSnapshot>>) {
        let mut events = VecDeque::from(events);
        while let Some(event) = events.pop_front() {
            let commands = self.coordinator.on(event, now_ms());
            events.extend(self.carry_out(commands));
        }
    }

    /// What the coordinator is to know of an event; what only the runner needs is done here.
    fn translate(&mut self, event: ControlEvent) -> Vec<Event<TaskSnapshot>> {
        vec![match event {
            ControlEvent::WorkerRegistered { worker, slots, data_address, held, running, link } => {
                self.links.insert(worker, link);
                self.addresses.extend(data_address.map(|address| (worker, address)));
                let held = if held.job_uid == self.job.uid { held.objects } else { ObjectBytes::new() };
                let steps = self.rollout.registered(worker, RegisteredWorker { slots, held, running }, now_ms());
                return self.take_steps(steps);
            }
            ControlEvent::WorkerLost { worker, reason } => {
                self.links.remove(&worker);
                self.addresses.remove(&worker);
                let steps = self.rollout.lost(worker, &reason);
                return self.take_steps(steps);
            }
            ControlEvent::Worker { worker, event } => return self.worker_event(worker, event),
            ControlEvent::Located { fence, result } => {
                let steps = match result {
                    Ok(mut start_point) => {
                        let wanted = std::mem::take(&mut start_point.wanted);
                        self.rollout.retain_held(|object| wanted.iter().any(|objects| objects.contains_key(object)));
                        self.start_point = start_point;
                        self.rollout.located(fence, wanted, now_ms())
                    }
                    Err(error) => self.rollout.not_located(fence, error.reason, error.is_fatal),
                };
                return self.take_steps(steps);
            }
            ControlEvent::Settled { fence, result } => {
                let steps = match result {
                    Ok(opening) => {
                        self.opening = opening;
                        self.rollout.settled(fence)
                    }
                    Err(error) => self.rollout.not_settled(fence, error.reason, error.is_fatal),
                };
                return self.take_steps(steps);
            }
            ControlEvent::Appended { checkpoint, new_bytes, full_bytes, in_flight_bytes, objects } => {
                let is_under_way =
                    |object: &str| self.written.values().flatten().any(|own| own.path.as_str() == object);
                self.rollout.retain_held(|object| objects.contains(object) || is_under_way(object));
                self.sizes.insert(*checkpoint.get(), CheckpointSizes { new_bytes, full_bytes, in_flight_bytes });
                self.restored = Some(*checkpoint.get()).max(self.restored);
                Event::Appended { checkpoint }
            }
            ControlEvent::AppendFailed { checkpoint, reason } => Event::AppendFailed { checkpoint, reason },
            ControlEvent::Fenced { by } => Event::Fenced { by },
            ControlEvent::SavepointWritten { request, result } => Event::SavepointWritten { request, result },
            ControlEvent::Request(Request::Stop(mode)) => Event::StopRequested { mode },
            ControlEvent::Request(Request::Savepoint { folder, stop, answer }) => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                self.requests.insert(request, SavepointWish { folder, answer });
                Event::SavepointRequested { request, stop }
            }
            ControlEvent::Request(Request::Rescale { parallelism, leaving, answer }) => {
                return self.rescale(parallelism, &leaving, answer).into_iter().collect();
            }
            ControlEvent::Closed { fenced_by } => {
                self.is_closed = true;
                self.fenced_by = fenced_by;
                return vec![];
            }
        }]
    }

    fn worker_event(&mut self, worker: WorkerId, event: WorkerEvent) -> Vec<Event<TaskSnapshot>> {
        match event {
            WorkerEvent::Prepared { fence, result } => {
                let steps = match result {
                    Ok(()) => self.rollout.prepared(fence, worker),
                    Err(error) => self.rollout.not_prepared(fence, error.reason, error.is_fatal),
                };
                self.take_steps(steps)
            }
            WorkerEvent::Adopted { fence, result } => {
                let steps = match result {
                    Ok(adopted) => {
                        if fence == self.coordinator.fence() {
                            self.adopted.push(adopted);
                        }
                        self.rollout.adopted(fence, worker)
                    }
                    Err(reason) => self.rollout.not_adopted(fence, reason),
                };
                self.take_steps(steps)
            }
            WorkerEvent::Stopped { fence } => {
                let steps = self.rollout.stopped(fence, worker);
                self.take_steps(steps)
            }
            WorkerEvent::Acknowledged { fence, checkpoint, object, snapshots, figures } => {
                if fence != self.coordinator.fence() {
                    return vec![];
                }
                if let Some(object) = &object
                    && self.job.resource.spec.local_recovery()
                {
                    self.rollout.holds(worker, object.path.as_str().to_owned(), object.length);
                }
                self.figures.entry(checkpoint).or_default().extend(figures);
                self.written.entry(checkpoint).or_default().extend(object);
                let acknowledged = |(task, payload)| Event::Acknowledged { fence, checkpoint, task, payload };
                snapshots.into_iter().map(acknowledged).collect()
            }
            WorkerEvent::Metrics { fence, subtasks } => {
                if fence == self.coordinator.fence() {
                    self.count(&subtasks);
                }
                vec![]
            }
            WorkerEvent::AttemptFailed { fence, reason } => {
                vec![Event::AttemptFailed { fence, reason, random: rand::random() }]
            }
            WorkerEvent::Task(event) => self.task_event(event).into_iter().collect(),
        }
    }

    /// Refuses what can't be; the rest is the coordinator's to decide.
    fn rescale(
        &mut self,
        parallelism: u32,
        leaving: &[String],
        answer: Sender<RescaleAnswer>,
    ) -> Option<Event<TaskSnapshot>> {
        let refuse = |reason: String| {
            // Who asked may have gone.
            answer.send(RescaleAnswer::Refused { reason }).ok();
            None
        };
        let rescaled = match self.job.at_parallelism(parallelism) {
            Ok(rescaled) => rescaled,
            Err(reason) => return refuse(reason),
        };
        if !self.coordinator.is_rescaling() {
            if parallelism == self.job.parallelism() && self.is_deployed {
                answer.send(RescaleAnswer::Done { parallelism, duration_ms: 0 }).ok();
                return None;
            }
            let widths = |job: &Job| job.graph.nodes.iter().map(|node| node.parallelism).collect::<Vec<_>>();
            if parallelism != self.job.parallelism() && widths(&rescaled) == widths(&self.job) {
                return refuse(
                    "nothing would change: each step has a `parallelism` of its own, or is one that cannot be divided"
                        .to_owned(),
                );
            }
        }
        if let Some(shortage) = self.rollout.shortage(PhysicalPlan::of(&rescaled.graph).slots()) {
            let remedy = "start more workers (`weir worker --coordinator ADDRESS --slots N`), and ask again";
            return refuse(format!("with parallelism {parallelism} {shortage}: {remedy}"));
        }
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.rescales.insert(request, answer);
        let is_leaving = |address: &String| leaving.contains(address);
        let leaving = self.addresses.iter().filter(|(_, address)| is_leaving(address)).map(|(worker, _)| *worker);
        self.rollout.leave(leaving.collect());
        Some(Event::RescaleRequested { request, parallelism })
    }

    fn deploy(&mut self, fence: Fence, parallelism: Option<u32>) -> Vec<Event<TaskSnapshot>> {
        let parallelism = parallelism.unwrap_or(self.own_parallelism);
        if parallelism != self.job.parallelism() {
            match self.job.at_parallelism(parallelism) {
                Ok(job) => self.job = Arc::new(job),
                Err(reason) => {
                    return vec![Event::DeployFailed { fence, reason, is_fatal: true, random: rand::random() }];
                }
            }
        }
        let plan = PhysicalPlan::of(&self.job.graph);
        (self.tasks, self.sources) = plan.subtasks(&self.job.graph);
        self.rollout.needs(plan.slots());
        // What was left running is gone on with by the first attempt, or never.
        if fence.attempt > AttemptNumber(1) {
            self.left_running = None;
        }
        let left_running = self.left_running.as_ref().map(|left| match left.began {
            Began::Under(opening) => weir_coordinator::LeftRunning::Under(opening),
            Began::As(fence) => weir_coordinator::LeftRunning::As(fence),
        });
        let steps = self.rollout.begin(fence, left_running, now_ms());
        self.take_steps(steps)
    }

    fn count(&self, subtasks: &[SubtaskMetrics]) {
        let status = self.status.lock();
        for counted in subtasks {
            let node = status.nodes.get(counted.node as usize);
            let Some(metrics) = node.and_then(|node| node.subtasks.get(counted.subtask as usize)) else { continue };
            counted.show(metrics);
        }
    }

    fn task_event(&mut self, event: TaskEvent) -> Option<Event<TaskSnapshot>> {
        let TaskEvent { fence, task, kind } = event;
        Some(match kind {
            TaskEventKind::Declined { checkpoint, reason } => Event::Declined { fence, checkpoint, task, reason },
            TaskEventKind::EndOfInput => Event::EndOfInput { fence, task },
            TaskEventKind::Committed { checkpoint } => {
                if fence == self.coordinator.fence() {
                    self.confirmed.insert(task.clone(), checkpoint);
                }
                Event::Committed { fence, checkpoint, task }
            }
            TaskEventKind::Failed(failure) => {
                let reason = match &failure.node {
                    Some(node) if *node != task.operator => format!("{node}: {}", failure.reason),
                    _ => failure.reason,
                };
                let (is_fatal, is_of_data) = (failure.is_fatal, failure.is_of_data);
                Event::TaskFailed { fence, task, reason, is_fatal, is_of_data, random: rand::random() }
            }
            // The join of all threads says it for all.
            TaskEventKind::Ended => return None,
        })
    }

    /// Carries out what the rollout says; returns what the coordinator is to know of it.
    fn take_steps(&mut self, steps: Vec<RolloutStep>) -> Vec<Event<TaskSnapshot>> {
        let mut events = vec![];
        for step in steps {
            match step {
                RolloutStep::Prepare { fence, placement } => self.prepare(fence, &placement),
                RolloutStep::Settle { fence } => self.ask_storage(StorageRequest::Settle { fence }),
                RolloutStep::Locate { fence } => {
                    let (job, is_rescale) = (Arc::clone(&self.job), self.coordinator.is_rescaling());
                    self.ask_storage(StorageRequest::Locate { fence, job, is_rescale });
                }
                RolloutStep::Dismiss { worker, fence } => self.tell(&[worker], || WorkerCommand::Stop { fence }),
                RolloutStep::Adopt { fence, from, workers } => self.adopt(fence, from, &workers),
                RolloutStep::Adopted { fence, workers } => events.extend(self.adopted(fence, &workers)),
                RolloutStep::Start { fence, workers } => {
                    let from = self.start_point.words.as_deref().unwrap_or("nothing");
                    tracing::info!(workers = workers.len(), from, "the attempt's tasks run");
                    let opening = self.opening;
                    self.tell(&workers, || WorkerCommand::Start { fence, opening });
                    self.is_deployed = true;
                    self.confirmed.clear();
                    let (tasks, sources) = (self.tasks.clone(), self.sources.clone());
                    events.push(Event::Deployed { fence, tasks, sources });
                }
                RolloutStep::Finish { fence, workers } => self.tell(&workers, || WorkerCommand::Finish { fence }),
                RolloutStep::Stop { fence, workers } => self.tell(&workers, || WorkerCommand::Stop { fence }),
                RolloutStep::NotDeployed { fence, reason, is_fatal } => {
                    self.is_deployed = false;
                    // A stop that came before is answered by this, too.
                    events.push(match self.coordinator.phase() {
                        Phase::Stopping(_) => Event::Stopped { fence },
                        _ => Event::DeployFailed { fence, reason, is_fatal, random: rand::random() },
                    });
                }
                RolloutStep::Lost { fence, reason } => {
                    events.push(Event::AttemptFailed { fence, reason, random: rand::random() });
                }
                RolloutStep::Ended { fence } => {
                    self.is_deployed = false;
                    self.written.clear();
                    events.push(Event::Stopped { fence });
                }
            }
        }
        events
    }

    fn prepare(&mut self, fence: Fence, placement: &Placement) {
        let nodes: Vec<NodeStatus> = self.job.graph.nodes.iter().map(node_status).collect();
        let mut status = self.status.lock();
        status.nodes = nodes.clone();
        status.job = Some(Arc::clone(&self.job));
        status.slots = placement.slots().to_vec();
        status.restored_from = self.start_point.words.clone();
        drop(status);
        for worker in placement.workers() {
            self.tell(&[worker], || {
                WorkerCommand::Prepare(Box::new(Deployment {
                    fence,
                    job: Arc::clone(&self.job),
                    worker,
                    slots: placement.slots().to_vec(),
                    peers: self.addresses.clone(),
                    mode: self.mode,
                    restore: self.start_point.restore.clone(),
                    nodes: nodes.clone(),
                }))
            });
        }
    }

    /// Lets workers go on with what the coordinator before this one left running.
    fn adopt(&mut self, fence: Fence, from: Fence, workers: &[WorkerId]) {
        let Some(left) = &self.left_running else { return };
        let opening = left.opening;
        self.adopted.clear();
        let words = format!("what ran as attempt {} of epoch {} was gone on with", from.attempt, from.epoch);
        tracing::warn!("{words}: its coordinator is gone, and all its tasks are there");
        let mut status = self.status.lock();
        status.nodes = self.job.graph.nodes.iter().map(node_status).collect();
        status.job = Some(Arc::clone(&self.job));
        status.slots = self.rollout.placement().map_or(vec![], |placement| placement.slots().to_vec());
        status.restored_from = Some(words);
        drop(status);
        self.tell(workers, || WorkerCommand::Adopt { from, fence, opening });
    }

    /// They do. The dead coordinator's last words are said again, or taken back: the commit of the last checkpoint, those
    /// that were under way, and a stop that held sources.
    fn adopted(&mut self, fence: Fence, workers: &[WorkerId]) -> Vec<Event<TaskSnapshot>> {
        let Some(LeftRunning { stands_on, oldest, .. }) = self.left_running.take() else { return vec![] };
        let last = stands_on.as_ref().map(|checkpoint| *checkpoint.get());
        self.restored = last;
        // Until they say otherwise: retention leaves all that they may build on.
        let oldest = oldest.map(|oldest| self.tasks.iter().map(move |task| (task.clone(), oldest)));
        self.confirmed = oldest.into_iter().flatten().collect();
        if let Some(checkpoint) = &stands_on {
            let permit = CommitPermit::for_durable(checkpoint, fence);
            self.tell(workers, || WorkerCommand::Commit(permit));
        }
        let adopted = std::mem::take(&mut self.adopted);
        let under_way: BTreeSet<CheckpointId> =
            adopted.iter().flat_map(|part| part.under_way.iter().copied()).collect();
        for checkpoint in under_way.into_iter().filter(|checkpoint| Some(*checkpoint) > last) {
            self.tell(workers, || WorkerCommand::CancelCheckpoint { fence, checkpoint });
        }
        self.tell(workers, || WorkerCommand::Resume { fence });
        self.is_deployed = true;
        let highest = adopted.iter().filter_map(|part| part.highest).chain(last).max();
        let next_checkpoint = highest.map_or(CheckpointId(1), CheckpointId::next);
        let (tasks, sources) = (self.tasks.clone(), self.sources.clone());
        let ended = adopted.into_iter().flat_map(|part| part.ended);
        let ended = ended.map(|task| Event::EndOfInput { fence, task });
        std::iter::once(Event::Adopted { fence, tasks, sources, next_checkpoint }).chain(ended).collect()
    }

    fn carry_out(&mut self, commands: Vec<Command<TaskSnapshot>>) -> Vec<Event<TaskSnapshot>> {
        let mut events = vec![];
        for command in commands {
            match command {
                Command::Deploy { fence, parallelism } => events.extend(self.deploy(fence, parallelism)),
                Command::Trigger { fence, checkpoint, kind, is_unaligned, sources: _, hold } => {
                    let barrier = Barrier { checkpoint, kind };
                    self.tell_all(|| WorkerCommand::Trigger { fence, barrier, is_unaligned, hold });
                }
                Command::TurnUnaligned { fence, checkpoint } => {
                    self.tell_all(|| WorkerCommand::TurnUnaligned { fence, checkpoint });
                }
                Command::CancelCheckpoint { fence, checkpoint, reason } => {
                    tracing::warn!(checkpoint = checkpoint.0, %reason, "checkpoint failed");
                    self.written.remove(&checkpoint);
                    self.tell_all(|| WorkerCommand::CancelCheckpoint { fence, checkpoint });
                }
                Command::Complete(acknowledged) => {
                    let protect_from = self.protect_from();
                    let objects = self.written.remove(&acknowledged.checkpoint).unwrap_or_default();
                    self.ask_storage(StorageRequest::Complete { acknowledged, objects, protect_from });
                }
                Command::Commit { permit, tasks: _ } => {
                    failpoint("before-commit");
                    self.tell_all(|| WorkerCommand::Commit(permit));
                }
                Command::Resume { fence } => self.tell_all(|| WorkerCommand::Resume { fence }),
                Command::WriteSavepoint { request, checkpoint } => self.write_savepoint(request, checkpoint),
                Command::AnswerSavepoint { request, result } => {
                    if let Some(wish) = self.requests.remove(&request) {
                        wish.answer.send(result).ok();
                    }
                }
                Command::AnswerRescale { request, answer } => {
                    let is_last = answer != RescaleAnswer::Accepted;
                    if let Some(asked) = self.rescales.get(&request) {
                        asked.send(answer).ok();
                    }
                    if is_last {
                        self.rescales.remove(&request);
                    }
                }
                Command::Retain => self.ask_storage(StorageRequest::Retain),
                Command::Finish { fence } => {
                    let steps = self.rollout.finish(fence);
                    events.extend(self.take_steps(steps));
                }
                Command::StopTasks { fence } => {
                    let steps = self.rollout.stop(fence);
                    events.extend(self.take_steps(steps));
                }
                Command::Close { outcome } => self.ask_storage(StorageRequest::Close { outcome }),
            }
        }
        events
    }

    fn tell(&self, workers: &[WorkerId], command: impl Fn() -> WorkerCommand) {
        for link in workers.iter().filter_map(|worker| self.links.get(worker)) {
            link(command());
        }
    }

    /// Every worker that runs a part of the attempt.
    fn tell_all(&self, command: impl Fn() -> WorkerCommand) {
        if let Some(placement) = self.rollout.placement() {
            self.tell(&placement.workers().collect::<Vec<_>>(), command);
        }
    }

    /// The oldest checkpoint whose segments the next cut of some task may name, or a savepoint still reads.
    fn protect_from(&self) -> Option<CheckpointId> {
        if !self.is_deployed {
            return None;
        }
        let known = self.tasks.iter().map(|task| self.confirmed.get(task).copied());
        let built_on = known.min().flatten().or(self.restored);
        // A savepoint that is being written still reads its checkpoint.
        self.coordinator.savepoints_being_written().chain(built_on).min()
    }

    fn write_savepoint(&mut self, request: RequestId, checkpoint: CheckpointId) {
        let folder = self.requests.get(&request).and_then(|wish| wish.folder.clone());
        let target = folder.unwrap_or_else(|| savepoint::default_target(&self.job, checkpoint));
        let (job, source, local) = (Arc::clone(&self.job), self.folder.clone(), local_folder(&self.job));
        let (runtime, events) = (self.runtime.clone(), self.events.clone());
        std::thread::spawn(move || {
            let result = savepoint::write(&job, &source, checkpoint, &target, local.as_deref(), &runtime);
            events.send(ControlEvent::SavepointWritten { request, result }).ok();
        });
    }

    fn ask_storage(&self, request: StorageRequest) {
        self.storage.send(request).expect("the storage thread ends after the closing request only");
    }

    /// Brings what others see up to date.
    fn show(&mut self) {
        let waits_for = self.rollout.waits_for();
        let mut status = self.status.lock();
        status.waits_for = waits_for;
        status.parallelism = self.coordinator.parallelism().unwrap_or(self.own_parallelism);
        status.phase = phase_name(self.coordinator.phase()).to_owned();
        status.epoch = self.coordinator.fence().epoch.0;
        status.attempt = self.coordinator.fence().attempt.0;
        status.running_since_ms = self.coordinator.running_since_ms();
        if let Phase::Closed(outcome) = self.coordinator.phase() {
            status.outcome = Some(outcome_words(outcome));
        }
        if !status.workers.keys().eq(self.links.keys()) {
            let workers = self.links.keys().map(|worker| (*worker, self.addresses.get(worker).cloned()));
            status.workers = workers.collect();
        }
        let under_way = self.coordinator.under_way().map(|(checkpoint, kind, triggered_ms, awaited)| UnderWay {
            checkpoint: checkpoint.0,
            kind,
            triggered_ms,
            awaited: awaited.into_iter().cloned().collect(),
        });
        status.under_way = under_way.collect();
        status.checkpoints_failed_in_a_row = self.coordinator.failures_in_a_row();
        let history = self.coordinator.history();
        let restarts: Vec<_> = history.restarts().collect();
        let fresh = (history.restart_count - status.restarts) as usize;
        for restart in &restarts[restarts.len().saturating_sub(fresh)..] {
            tracing::warn!(reason = %restart.reason, delay_ms = restart.delay_ms, "the attempt failed and is restarted");
            status.restarted(restart);
        }
        status.restarts = history.restart_count;
        status.last_restart = restarts.last().map(|restart| restart.reason.clone());
        (status.completed_checkpoints, status.failed_checkpoints) = (history.completed, history.failed);
        let ended = history.completed + history.failed;
        let fresh = (ended - self.shown_attempts) as usize;
        let all: Vec<_> = history.attempts().collect();
        for attempt in &all[all.len().saturating_sub(fresh)..] {
            let CheckpointSizes { new_bytes, full_bytes, in_flight_bytes } =
                self.sizes.remove(&attempt.checkpoint).unwrap_or_default();
            let duration_ms = attempt.ended_ms.saturating_sub(attempt.triggered_ms);
            if attempt.result == AttemptResult::Completed {
                let checkpoint = attempt.checkpoint.0;
                let is_unaligned = attempt.is_unaligned;
                tracing::info!(checkpoint, kind = ?attempt.kind, is_unaligned, duration_ms, new_bytes, full_bytes, in_flight_bytes, "checkpoint completed");
            }
            status.checkpoint(CheckpointLine {
                checkpoint: attempt.checkpoint.0,
                kind: attempt.kind,
                is_unaligned: attempt.is_unaligned,
                triggered_ms: attempt.triggered_ms,
                duration_ms,
                new_bytes,
                full_bytes,
                in_flight_bytes,
                subtasks: self.figures.remove(&attempt.checkpoint).unwrap_or_default(),
                failure: match &attempt.result {
                    AttemptResult::Completed => None,
                    AttemptResult::Failed { reason } => Some(reason.clone()),
                },
            });
        }
        self.shown_attempts = ended;
        // Of a checkpoint that was decided before its last acknowledgement came.
        self.figures
            .retain(|checkpoint, _| status.under_way.iter().any(|under_way| under_way.checkpoint == checkpoint.0));
    }
}

fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created | Phase::Deploying => "Deploying",
        Phase::Running => "Running",
        Phase::Stopping(Then::Restart { .. }) | Phase::Stopped(Then::Restart { .. }) => "Restarting",
        Phase::Stopping(Then::Close(_)) | Phase::Stopped(Then::Close(_)) | Phase::Finishing(_) => "Ending",
        Phase::Closed(Outcome::Finished) => "Finished",
        Phase::Closed(Outcome::Stopped { .. }) => "Stopped",
        Phase::Closed(Outcome::Cancelled) => "Cancelled",
        Phase::Closed(Outcome::Failed { .. }) => "Failed",
        Phase::Closed(Outcome::Fenced { .. }) => "Fenced",
    }
}

fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Finished => "finished: all input was read, and everything is committed".to_owned(),
        Outcome::Stopped { savepoint: Some(savepoint) } => format!("stopped with the savepoint {savepoint}"),
        Outcome::Stopped { savepoint: None } => "stopped after a last checkpoint".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Failed { reason } => format!("failed: {reason}"),
        Outcome::Fenced { by } => format!("taken over: {by}"),
    }
}

/// The alignment that a checkpoint mode asks for.
pub(crate) fn alignment_mode(mode: weir_coordinator::CheckpointMode) -> AlignmentMode {
    match mode {
        weir_coordinator::CheckpointMode::ExactlyOnce => AlignmentMode::ExactlyOnce,
        weir_coordinator::CheckpointMode::AtLeastOnce => AlignmentMode::AtLeastOnce,
    }
}
