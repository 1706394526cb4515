//! Runs a job: what its control commands, carried out by workers and on storage.

mod show;
mod words;

use crate::attempt::{DeployError, node_status};
use crate::backends::local_folder;
use crate::checkpoint_objects::TaskFigures;
use crate::control::{ControlEvent, Request, StartPoint, WorkerLink};
use crate::ended_splits::{EndedSplits, ended_splits};
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::physical::PhysicalPlan;
use crate::savepoint;
use crate::sink_commits::{CommitFailure, SinkCommits, SinksCommitted, of_sinks};
use crate::start::{Opened, StartError};
use crate::status::{NodeStatus, StatusHandle};
use crate::storage_thread::{StorageRequest, StorageThread, now_ms};
use crate::task::TaskSnapshot;
use crate::worker::{Deployment, SubtaskMetrics, WorkerCommand, WorkerEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use weir_coordinator::{
    Event, JobCommand, JobControl, JobEvent, ObjectBytes, Outcome, Phase, Placement, RegisteredWorker, RequestId,
    RescaleAnswer, WorkerOrder,
};
use weir_dataflow::alignment::AlignmentMode;
use weir_model::{CheckpointId, Fence, WorkerId};
use weir_snapshot::{CheckpointSizes, JobFolder, ObjectRef};
use words::{deploy_failure, inherited, shape, task_event, worker_command};

/// What workers get to leave once the job is over; one that is paused or cut off learns it from nobody.
const FAREWELL: Duration = Duration::from_secs(3);

/// A job that runs, or has ended.
pub struct Runner {
    /// At the parallelism of the attempt.
    job: Arc<Job>,
    control: JobControl<TaskSnapshot, ObjectRef>,
    /// What the job file says.
    own_parallelism: u32,
    links: BTreeMap<WorkerId, WorkerLink>,
    /// Where workers reach each other.
    addresses: BTreeMap<WorkerId, String>,
    mode: AlignmentMode,
    status: StatusHandle,
    folder: JobFolder,
    runtime: tokio::runtime::Handle,
    events: Sender<ControlEvent>,
    received: Receiver<ControlEvent>,
    storage: Sender<StorageRequest>,
    /// Of sinks that have one committer for all subtasks.
    sink_commits: Option<SinkCommits>,
    /// What the last checkpoint in the log holds of splits that have ended.
    ended: Arc<EndedSplits>,
    /// What the attempt that is being deployed starts from.
    start_point: StartPoint,
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
        let inherited = left_running.map(|left| inherited(&job, left));
        let control = JobControl::new(config, log.epoch(), log.next_checkpoint(), promised_workers, inherited);
        let mut sink_commits = SinkCommits::start(&job, log.epoch(), events.clone()).map_err(StartError::thread)?;
        // What ran may be gone on with, and nobody knows whether the last commit was carried out.
        if let Some(commits) = &mut sink_commits
            && let Some(last) = log.history().checkpoints().last()
        {
            commits.prepared(last.checkpoint, of_sinks(&job, last).map_err(StartError::Storage)?);
        }
        let ended = log.history().checkpoints().last().map(ended_splits).transpose().map_err(StartError::Storage)?;
        let ended = Arc::new(ended.unwrap_or_default());
        let storage_thread = StorageThread {
            job: Arc::clone(&job),
            log,
            retention,
            fall_back,
            runtime: runtime.clone(),
            events: events.clone(),
            located: None,
            appended: None,
        };
        let (storage, storage_requests) = channel();
        std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || storage_thread.run(storage_requests))
            .map_err(StartError::thread)?;
        status.lock().started_ms = now_ms();
        Ok(Runner {
            control,
            own_parallelism: job.parallelism(),
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            mode,
            job,
            status,
            folder,
            runtime,
            events,
            received,
            storage,
            sink_commits,
            ended,
            start_point: StartPoint::default(),
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
        let commands = span.1.in_scope(|| self.control.start(now_ms(), rand::random()));
        span.1.in_scope(|| self.carry_out(commands));
        while !self.is_closed {
            if span.0 != self.control.coordinator().fence() {
                span = self.span();
            }
            let _around = span.1.clone().entered();
            self.show();
            let wait = match self.control.next_wake_ms() {
                Some(due_ms) => Duration::from_millis(due_ms.saturating_sub(now_ms())),
                None => Duration::from_secs(1),
            };
            let event = match self.received.recv_timeout(wait) {
                Ok(event) => self.translate(event),
                Err(RecvTimeoutError::Timeout) => Some(JobEvent::Tick),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the runner holds a sender itself"),
            };
            if let Some(event) = event {
                let commands = self.control.on(event, now_ms(), rand::random());
                self.carry_out(commands);
            }
        }
        let outcome = match (self.fenced_by.take(), self.control.coordinator().phase()) {
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
        let fence = self.control.coordinator().fence();
        let Fence { epoch, attempt } = fence;
        (fence, tracing::error_span!("attempt", job = %self.job.name, epoch = epoch.0, attempt = attempt.0))
    }

    /// What the control is to know of an event; what only the runner needs is done here.
    fn translate(&mut self, event: ControlEvent) -> Option<JobEvent<TaskSnapshot, ObjectRef>> {
        Some(match event {
            ControlEvent::WorkerRegistered { worker, slots, data_address, held, running, link } => {
                self.links.insert(worker, link);
                self.addresses.extend(data_address.map(|address| (worker, address)));
                let held = if held.job_uid == self.job.uid { held.objects } else { ObjectBytes::new() };
                JobEvent::WorkerRegistered { worker, registered: RegisteredWorker { slots, held, running } }
            }
            ControlEvent::WorkerLost { worker, reason } => {
                self.links.remove(&worker);
                self.addresses.remove(&worker);
                JobEvent::WorkerLost { worker, reason }
            }
            ControlEvent::Worker { worker, event } => return self.worker_event(worker, event),
            ControlEvent::Located { fence, result } => {
                let result = result.map(|mut start_point| {
                    let wanted = std::mem::take(&mut start_point.wanted);
                    self.start_point = start_point;
                    shape(&self.job, wanted)
                });
                JobEvent::Located { fence, result: result.map_err(deploy_failure) }
            }
            ControlEvent::Settled { fence, result } => {
                JobEvent::Settled { fence, result: result.map_err(deploy_failure) }
            }
            ControlEvent::Appended { checkpoint, new_bytes, full_bytes, in_flight_bytes, objects, of_sinks, ended } => {
                self.ended = Arc::new(ended);
                if let Some(commits) = &mut self.sink_commits {
                    commits.prepared(*checkpoint.get(), of_sinks);
                }
                let under_way: BTreeSet<String> =
                    self.control.written().map(|own| own.path.as_str().to_owned()).collect();
                self.control.retain_held(|object| objects.contains(object) || under_way.contains(object));
                self.sizes.insert(*checkpoint.get(), CheckpointSizes { new_bytes, full_bytes, in_flight_bytes });
                JobEvent::Job(Event::Appended { checkpoint })
            }
            ControlEvent::SinksCommitted(committed) => return self.sinks_committed(committed),
            ControlEvent::AppendFailed { checkpoint, reason } => {
                JobEvent::Job(Event::AppendFailed { checkpoint, reason })
            }
            ControlEvent::Fenced { by } => JobEvent::Job(Event::Fenced { by }),
            ControlEvent::SavepointWritten { request, result } => {
                JobEvent::Job(Event::SavepointWritten { request, result })
            }
            ControlEvent::Request(Request::Stop(mode)) => JobEvent::Job(Event::StopRequested { mode }),
            ControlEvent::Request(Request::Savepoint { folder, stop, answer }) => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                self.requests.insert(request, SavepointWish { folder, answer });
                JobEvent::Job(Event::SavepointRequested { request, stop })
            }
            ControlEvent::Request(Request::Pin { checkpoint, is_pinned, answer }) => {
                // Once the log is closed nobody listens there, which whoever asked hears by the answer's end.
                self.storage.send(StorageRequest::Pin { checkpoint, is_pinned, answer }).ok();
                return None;
            }
            ControlEvent::Request(Request::Rescale { parallelism, leaving, answer }) => {
                JobEvent::Job(self.rescale(parallelism, &leaving, answer)?)
            }
            ControlEvent::Closed { fenced_by } => {
                self.is_closed = true;
                self.fenced_by = fenced_by;
                return None;
            }
        })
    }

    /// Tasks let go of what is committed; the commit of an attempt that is over says nothing about this one.
    fn sinks_committed(&self, committed: SinksCommitted) -> Option<JobEvent<TaskSnapshot, ObjectRef>> {
        let SinksCommitted { permit, workers, result } = committed;
        match result {
            Ok(()) => {
                self.tell(&workers, || WorkerCommand::Commit { permit, ended: Arc::clone(&self.ended) });
                None
            }
            Err(CommitFailure { task, reason, is_fatal }) => Some(JobEvent::Job(Event::TaskFailed {
                fence: permit.fence(),
                task,
                reason,
                is_fatal,
                is_of_data: false,
                random: rand::random(),
            })),
        }
    }

    fn worker_event(&mut self, worker: WorkerId, event: WorkerEvent) -> Option<JobEvent<TaskSnapshot, ObjectRef>> {
        let is_of_today = |fence: Fence| fence == self.control.coordinator().fence();
        Some(match event {
            WorkerEvent::Prepared { fence, result } => {
                JobEvent::Prepared { worker, fence, result: result.map_err(deploy_failure) }
            }
            WorkerEvent::Adopted { fence, result } => JobEvent::Adopted { worker, fence, result },
            WorkerEvent::Stopped { fence } => JobEvent::Stopped { worker, fence },
            WorkerEvent::Acknowledged { fence, checkpoint, object, snapshots, figures } => {
                if is_of_today(fence) {
                    if let Some(object) = &object
                        && self.job.resource.spec.local_recovery()
                    {
                        self.control.holds(worker, object.path.as_str().to_owned(), object.length);
                    }
                    self.figures.entry(checkpoint).or_default().extend(figures);
                }
                JobEvent::Acknowledged { fence, checkpoint, object, snapshots }
            }
            WorkerEvent::Metrics { fence, subtasks } => {
                if is_of_today(fence) {
                    self.count(&subtasks);
                }
                return None;
            }
            WorkerEvent::AttemptFailed { fence, reason } => {
                JobEvent::Job(Event::AttemptFailed { fence, reason, random: rand::random() })
            }
            WorkerEvent::Task(event) => JobEvent::Job(task_event(event)?),
        })
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
        if !self.control.coordinator().is_rescaling() {
            if parallelism == self.job.parallelism() && self.control.is_deployed() {
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
        if let Some(shortage) = self.control.rollout().shortage(PhysicalPlan::of(&rescaled.graph).slots()) {
            let remedy = "start more workers (`weir worker --coordinator ADDRESS --slots N`), and ask again";
            return refuse(format!("with parallelism {parallelism} {shortage}: {remedy}"));
        }
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.rescales.insert(request, answer);
        let is_leaving = |address: &String| leaving.contains(address);
        let leaving = self.addresses.iter().filter(|(_, address)| is_leaving(address)).map(|(worker, _)| *worker);
        self.control.leave(leaving.collect());
        Some(Event::RescaleRequested { request, parallelism })
    }

    /// The job is at the attempt's parallelism from here on.
    fn locate(&mut self, fence: Fence, parallelism: Option<u32>) {
        let parallelism = parallelism.unwrap_or(self.own_parallelism);
        if parallelism != self.job.parallelism() {
            match self.job.at_parallelism(parallelism) {
                Ok(job) => self.job = Arc::new(job),
                Err(reason) => {
                    let result = Err(DeployError { reason, is_fatal: true });
                    self.events.send(ControlEvent::Located { fence, result }).ok();
                    return;
                }
            }
        }
        let (job, is_rescale) = (Arc::clone(&self.job), self.control.coordinator().is_rescaling());
        self.ask_storage(StorageRequest::Locate { fence, job, is_rescale });
    }

    fn count(&self, subtasks: &[SubtaskMetrics]) {
        let status = self.status.lock();
        for counted in subtasks {
            let node = status.nodes.get(counted.node as usize);
            let Some(metrics) = node.and_then(|node| node.subtasks.get(counted.subtask as usize)) else { continue };
            counted.show(metrics);
        }
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

    /// Shows that workers go on with what the coordinator before this one left running.
    fn show_adoption(&self, from: Fence) {
        let words = format!("what ran as attempt {} of epoch {} was gone on with", from.attempt, from.epoch);
        tracing::warn!("{words}: its coordinator is gone, and all its tasks are there");
        let mut status = self.status.lock();
        status.nodes = self.job.graph.nodes.iter().map(node_status).collect();
        status.job = Some(Arc::clone(&self.job));
        status.slots = self.control.rollout().placement().map_or(vec![], |placement| placement.slots().to_vec());
        status.restored_from = Some(words);
    }

    fn carry_out(&mut self, commands: Vec<JobCommand<TaskSnapshot, ObjectRef>>) {
        for command in commands {
            match command {
                JobCommand::Prepare { fence, placement } => self.prepare(fence, &placement),
                JobCommand::Tell { workers, order } => self.order(&workers, order),
                JobCommand::Locate { fence, parallelism } => self.locate(fence, parallelism),
                JobCommand::Settle { fence } => self.ask_storage(StorageRequest::Settle { fence }),
                JobCommand::Complete { acknowledged, objects, protect_from } => {
                    self.ask_storage(StorageRequest::Complete { acknowledged, objects, protect_from });
                }
                JobCommand::CheckpointFailed { checkpoint, reason } => {
                    tracing::warn!(checkpoint = checkpoint.0, %reason, "checkpoint failed");
                }
                JobCommand::WriteSavepoint { request, checkpoint } => self.write_savepoint(request, checkpoint),
                JobCommand::AnswerSavepoint { request, result } => {
                    if let Some(wish) = self.requests.remove(&request) {
                        wish.answer.send(result).ok();
                    }
                }
                JobCommand::AnswerRescale { request, answer } => {
                    let is_last = answer != RescaleAnswer::Accepted;
                    if let Some(asked) = self.rescales.get(&request) {
                        asked.send(answer).ok();
                    }
                    if is_last {
                        self.rescales.remove(&request);
                    }
                }
                JobCommand::Retain => self.ask_storage(StorageRequest::Retain),
                JobCommand::Close { outcome } => self.ask_storage(StorageRequest::Close { outcome }),
            }
        }
    }

    fn order(&mut self, workers: &[WorkerId], order: WorkerOrder) {
        match order {
            WorkerOrder::Start { .. } => {
                let from = self.start_point.words.as_deref().unwrap_or("nothing");
                tracing::info!(workers = workers.len(), from, "the attempt's tasks run");
            }
            WorkerOrder::Adopt { from, .. } => self.show_adoption(from),
            WorkerOrder::Commit(permit) => {
                failpoint("before-commit");
                if let Some(commits) = &mut self.sink_commits {
                    return commits.commit(permit, workers.to_vec());
                }
            }
            _ => {}
        }
        self.tell(workers, || worker_command(&order, &self.ended));
    }

    fn tell(&self, workers: &[WorkerId], command: impl Fn() -> WorkerCommand) {
        for link in workers.iter().filter_map(|worker| self.links.get(worker)) {
            link(command());
        }
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
}

/// The alignment that a checkpoint mode asks for.
pub(crate) fn alignment_mode(mode: weir_coordinator::CheckpointMode) -> AlignmentMode {
    match mode {
        weir_coordinator::CheckpointMode::ExactlyOnce => AlignmentMode::ExactlyOnce,
        weir_coordinator::CheckpointMode::AtLeastOnce => AlignmentMode::AtLeastOnce,
    }
}
