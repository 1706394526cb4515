//! Runs a job in this process: the coordinator's commands carried out with threads and storage.

use crate::attempt::{Attempt, StateBackends};
use crate::checkpoint_objects::CheckpointObjects;
use crate::control::{ControlEvent, Request};
use crate::job::Job;
use crate::physical::PhysicalPlan;
use crate::savepoint;
use crate::start::{Opened, StartError};
use crate::status::{CheckpointLine, StatusHandle};
use crate::storage_thread::{StorageRequest, StorageThread, now_ms};
use crate::task::{Mail, SnapshotPool, TaskEvent, TaskEventKind, TaskSnapshot};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use weir_coordinator::{AttemptResult, Command, Coordinator, Event, Outcome, Phase, RequestId, Then};
use weir_dataflow::alignment::AlignmentMode;
use weir_model::{Barrier, CheckpointId, SubtaskId};
use weir_snapshot::JobFolder;

/// Threads that write snapshots in the background.
const SNAPSHOT_THREADS: usize = 2;

/// A job that runs, or has ended.
pub struct Runner {
    job: Arc<Job>,
    coordinator: Coordinator<TaskSnapshot>,
    status: StatusHandle,
    folder: JobFolder,
    objects: Arc<CheckpointObjects>,
    runtime: tokio::runtime::Handle,
    events: Sender<ControlEvent>,
    received: Receiver<ControlEvent>,
    storage: Sender<StorageRequest>,
    attempt: Option<Attempt>,
    /// The checkpoint up to which each task knows that its changes are durable.
    confirmed: BTreeMap<SubtaskId, CheckpointId>,
    restored: Option<CheckpointId>,
    requests: BTreeMap<RequestId, SavepointWish>,
    next_request: u64,
    sizes: BTreeMap<CheckpointId, (u64, u64)>,
    shown_attempts: u64,
    is_closed: bool,
    _snapshots: SnapshotPool,
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
    /// Takes the opened job; nothing runs before `run`.
    pub(crate) fn new(
        job: Arc<Job>,
        opened: Opened,
        backends: Arc<dyn StateBackends>,
        runtime: tokio::runtime::Handle,
        status: StatusHandle,
    ) -> Result<Self, StartError> {
        let Opened { log, folder, config, retention, mode } = opened;
        let (events, received) = channel();
        let objects = Arc::new(CheckpointObjects::new(folder.clone(), runtime.clone()));
        let snapshots = SnapshotPool::start(SNAPSHOT_THREADS, Arc::clone(&objects)).map_err(StartError::thread)?;
        let coordinator = Coordinator::new(config, log.epoch(), log.next_checkpoint());
        let manifests = log.history().checkpoints();
        let known_objects = manifests.flat_map(|manifest| &manifest.objects);
        let known_objects = known_objects.map(|object| (object.path.clone(), object.clone())).collect();
        let storage_thread = StorageThread {
            job: Arc::clone(&job),
            plan: PhysicalPlan::of(&job.graph),
            log,
            folder: folder.clone(),
            objects: Arc::clone(&objects),
            snapshots: snapshots.handle(),
            backends,
            retention,
            mode,
            runtime: runtime.clone(),
            events: events.clone(),
            known_objects,
        };
        let (storage, storage_requests) = channel();
        std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || storage_thread.run(storage_requests))
            .map_err(StartError::thread)?;
        Ok(Runner {
            job,
            coordinator,
            status,
            folder,
            objects,
            runtime,
            events,
            received,
            storage,
            attempt: None,
            confirmed: BTreeMap::new(),
            restored: None,
            requests: BTreeMap::new(),
            next_request: 0,
            sizes: BTreeMap::new(),
            shown_attempts: 0,
            is_closed: false,
            _snapshots: snapshots,
        })
    }

    pub fn requests(&self) -> RequestSender {
        RequestSender(self.events.clone())
    }

    /// Runs the job to its end.
    pub fn run(mut self) -> Outcome {
        let commands = self.coordinator.start();
        self.carry_out(commands);
        while !self.is_closed {
            self.show();
            let wait = match self.coordinator.next_wake_ms() {
                Some(wake_ms) => Duration::from_millis(wake_ms.saturating_sub(now_ms())),
                None => Duration::from_secs(1),
            };
            let event = match self.received.recv_timeout(wait) {
                Ok(event) => self.translate(event),
                Err(RecvTimeoutError::Timeout) => Some(Event::Tick),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the runner holds a sender itself"),
            };
            if let Some(event) = event {
                let commands = self.coordinator.on(event, now_ms());
                self.carry_out(commands);
            }
        }
        self.show();
        match self.coordinator.phase() {
            Phase::Closed(outcome) => outcome.clone(),
            other => unreachable!("closed in phase {other:?}"),
        }
    }

    /// What the coordinator is to know of an event; what only the runner needs is done here.
    fn translate(&mut self, event: ControlEvent) -> Option<Event<TaskSnapshot>> {
        Some(match event {
            ControlEvent::Task(event) => return self.task_event(event),
            ControlEvent::Deployed { fence, attempt: Ok(attempt), restored_from } => {
                if fence != self.coordinator.fence() || !matches!(self.coordinator.phase(), Phase::Deploying) {
                    return self.discard(attempt, fence);
                }
                let (tasks, sources) = (attempt.tasks.clone(), attempt.sources.clone());
                let mut status = self.status.lock();
                status.nodes = attempt.nodes.clone();
                status.restored_from = restored_from;
                drop(status);
                self.confirmed.clear();
                self.attempt = Some(attempt);
                Event::Deployed { fence, tasks, sources }
            }
            ControlEvent::Deployed { fence, attempt: Err(error), .. } => {
                if matches!(self.coordinator.phase(), Phase::Stopping(_)) {
                    return Some(Event::Stopped { fence });
                }
                Event::DeployFailed { fence, reason: error.reason, is_fatal: error.is_fatal, random: rand::random() }
            }
            ControlEvent::Appended { checkpoint, new_bytes, full_bytes } => {
                self.sizes.insert(*checkpoint.get(), (new_bytes, full_bytes));
                self.restored = Some(*checkpoint.get()).max(self.restored);
                Event::Appended { checkpoint }
            }
            ControlEvent::AppendFailed { checkpoint, reason } => Event::AppendFailed { checkpoint, reason },
            ControlEvent::Fenced { by } => Event::Fenced { by },
            ControlEvent::SavepointWritten { request, result } => Event::SavepointWritten { request, result },
            ControlEvent::Stopped { fence } => {
                self.objects.give_up_all();
                Event::Stopped { fence }
            }
            ControlEvent::Request(Request::Stop(mode)) => Event::StopRequested { mode },
            ControlEvent::Request(Request::Savepoint { folder, stop, answer }) => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                self.requests.insert(request, SavepointWish { folder, answer });
                Event::SavepointRequested { request, stop }
            }
            ControlEvent::Closed => {
                self.is_closed = true;
                return None;
            }
        })
    }

    /// An attempt that was stopped while it was being started.
    fn discard(&mut self, attempt: Attempt, fence: weir_model::Fence) -> Option<Event<TaskSnapshot>> {
        self.end_in_background(attempt, fence, true);
        None
    }

    fn task_event(&mut self, event: TaskEvent) -> Option<Event<TaskSnapshot>> {
        let TaskEvent { fence, task, kind } = event;
        Some(match kind {
            TaskEventKind::Acknowledged { checkpoint, snapshot } => {
                Event::Acknowledged { fence, checkpoint, task, payload: snapshot }
            }
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
                Event::TaskFailed { fence, task, reason, is_fatal: failure.is_fatal, random: rand::random() }
            }
            // The join of all threads says it for all.
            TaskEventKind::Ended => return None,
        })
    }

    fn carry_out(&mut self, commands: Vec<Command<TaskSnapshot>>) {
        for command in commands {
            match command {
                Command::Deploy { fence } => self.ask_storage(StorageRequest::Deploy { fence }),
                Command::Trigger { fence, checkpoint, kind, sources, hold } => {
                    self.objects.begin(checkpoint, fence);
                    let barrier = Barrier { checkpoint, kind };
                    self.mail(&sources, &Mail::Trigger { barrier, hold });
                }
                Command::CancelCheckpoint { fence: _, checkpoint, reason } => {
                    tracing::warn!(%checkpoint, %reason, "checkpoint failed");
                    self.objects.give_up(checkpoint);
                    let sources = self.attempt.as_ref().map_or(vec![], |attempt| attempt.sources.clone());
                    self.mail(&sources, &Mail::CancelCheckpoint(checkpoint));
                }
                Command::Complete { fence, checkpoint, kind, triggered_ms, acknowledged } => {
                    let protect_from = self.protect_from();
                    self.ask_storage(StorageRequest::Complete {
                        fence,
                        checkpoint,
                        kind,
                        triggered_ms,
                        acknowledged,
                        protect_from,
                    });
                }
                Command::Commit { permit, tasks } => self.mail(&tasks, &Mail::Commit(permit)),
                Command::Resume { fence: _ } => {
                    let sources = self.attempt.as_ref().map_or(vec![], |attempt| attempt.sources.clone());
                    self.mail(&sources, &Mail::Resume);
                }
                Command::WriteSavepoint { request, checkpoint } => self.write_savepoint(request, checkpoint),
                Command::AnswerSavepoint { request, result } => {
                    if let Some(wish) = self.requests.remove(&request) {
                        wish.answer.send(result).ok();
                    }
                }
                Command::Retain => self.ask_storage(StorageRequest::Retain),
                Command::Finish { fence } => {
                    if let Some(attempt) = self.attempt.take() {
                        let tasks = attempt.tasks.clone();
                        attempt.send(&tasks, &Mail::Finish);
                        self.end_in_background(attempt, fence, false);
                    }
                }
                // While it is being deployed, the attempt is discarded as it comes.
                Command::StopTasks { fence } => {
                    if let Some(attempt) = self.attempt.take() {
                        self.end_in_background(attempt, fence, true);
                    }
                }
                Command::Close { outcome } => self.ask_storage(StorageRequest::Close { outcome }),
            }
        }
    }

    fn end_in_background(&self, mut attempt: Attempt, fence: weir_model::Fence, cancel: bool) {
        let events = self.events.clone();
        let join = move || {
            if cancel {
                attempt.cancel();
            }
            attempt.join();
            events.send(ControlEvent::Stopped { fence }).ok();
        };
        std::thread::spawn(join);
    }

    /// The oldest checkpoint whose segments the next cut of some task may name, or a savepoint still reads.
    fn protect_from(&self) -> Option<CheckpointId> {
        let attempt = self.attempt.as_ref()?;
        let known = attempt.tasks.iter().map(|task| self.confirmed.get(task).copied());
        let built_on = known.min().flatten().or(self.restored);
        // A savepoint that is being written still reads its checkpoint.
        self.coordinator.savepoints_being_written().chain(built_on).min()
    }

    fn write_savepoint(&mut self, request: RequestId, checkpoint: CheckpointId) {
        let folder = self.requests.get(&request).and_then(|wish| wish.folder.clone());
        let target = folder.unwrap_or_else(|| savepoint::default_target(&self.job, checkpoint));
        let (source, runtime, events) = (self.folder.clone(), self.runtime.clone(), self.events.clone());
        std::thread::spawn(move || {
            let result = savepoint::write(&source, checkpoint, &target, &runtime);
            events.send(ControlEvent::SavepointWritten { request, result }).ok();
        });
    }

    fn mail(&self, tasks: &[SubtaskId], mail: &Mail) {
        if let Some(attempt) = &self.attempt {
            attempt.send(tasks, mail);
        }
    }

    fn ask_storage(&self, request: StorageRequest) {
        self.storage.send(request).expect("the storage thread ends after the closing request only");
    }

    /// Brings what others see up to date.
    fn show(&mut self) {
        let mut status = self.status.lock();
        status.phase = phase_name(self.coordinator.phase()).to_owned();
        status.epoch = self.coordinator.fence().epoch.0;
        status.attempt = self.coordinator.fence().attempt.0;
        let history = self.coordinator.history();
        status.restarts = history.restart_count;
        status.last_restart = history.restarts().next_back().map(|restart| restart.reason.clone());
        let ended = history.completed + history.failed;
        let fresh = (ended - self.shown_attempts) as usize;
        let all: Vec<_> = history.attempts().collect();
        for attempt in &all[all.len().saturating_sub(fresh)..] {
            let (new_bytes, full_bytes) = self.sizes.remove(&attempt.checkpoint).unwrap_or_default();
            status.checkpoint(CheckpointLine {
                checkpoint: attempt.checkpoint.0,
                kind: format!("{:?}", attempt.kind),
                triggered_ms: attempt.triggered_ms,
                duration_ms: attempt.ended_ms.saturating_sub(attempt.triggered_ms),
                new_bytes,
                full_bytes,
                failure: match &attempt.result {
                    AttemptResult::Completed => None,
                    AttemptResult::Failed { reason } => Some(reason.clone()),
                },
            });
        }
        self.shown_attempts = ended;
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

/// The alignment that a checkpoint mode asks for.
pub(crate) fn alignment_mode(mode: weir_coordinator::CheckpointMode) -> AlignmentMode {
    match mode {
        weir_coordinator::CheckpointMode::ExactlyOnce => AlignmentMode::ExactlyOnce,
        weir_coordinator::CheckpointMode::AtLeastOnce => AlignmentMode::AtLeastOnce,
    }
}
