//! A worker: it runs the subtasks that are placed on it, and writes what they keep for a checkpoint into one object.
//! It takes commands and reports events; whether they come and go within this process or over a network is not its
//! affair.

use crate::attempt::{Attempt, DeployError, Prepared, Surroundings, prepare};
use crate::backends::Backends;
use crate::checkpoint_objects::{TaskFigures, TaskSnapshots};
use crate::ended_splits::EndedSplits;
use crate::exchange::DataServer;
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::kept::{Handover, KeptStates};
use crate::local_copies::{LocalCopies, LocalFirst};
use crate::metrics::{HottestKeyGroups, NodeMetrics, TimeTotals};
use crate::physical::PhysicalPlan;
use crate::restore::{FolderSegments, ReadFailure, RestoreState};
use crate::savepoint;
use crate::standing::{Standing, noted};
use crate::start::not_restorable;
use crate::status::NodeStatus;
use crate::task::{Mail, SnapshotPool, TaskEvent};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use weir_connectors::api::SplitLag;
use weir_coordinator::{Adopted, RunningAttempt};
use weir_dataflow::alignment::AlignmentMode;
use weir_model::{Barrier, CheckpointId, CommitPermit, Fence, WorkerId};
use weir_snapshot::{CheckpointManifest, JobFolder, ObjectRef};

/// What a coordinator tells a worker. One command is carried out after the other.
pub(crate) enum WorkerCommand {
    /// Make the tasks that are placed on this worker; nothing flows yet. Answered by `Prepared`.
    Prepare(Box<Deployment>),
    /// Every worker has made its own: let records flow.
    /// `opening`: the log's entry under which sinks were settled.
    Start { fence: Fence, opening: u64 },
    /// Another coordinator has the job, and goes on with the attempt that runs here. Answered by `Adopted`.
    Adopt { from: Fence, fence: Fence, opening: u64 },
    /// There is no coordinator: go on, but let nothing become visible that it hasn't asked for.
    Hold,
    /// Let those of the sources that are here send the barrier.
    Trigger { fence: Fence, barrier: Barrier, is_unaligned: bool, hold: bool },
    /// The barriers of this checkpoint overtake rows from here on.
    TurnUnaligned { fence: Fence, checkpoint: CheckpointId },
    /// The attempt at this checkpoint was given up.
    CancelCheckpoint { fence: Fence, checkpoint: CheckpointId },
    /// The checkpoint stands in the log.
    Commit { permit: CommitPermit, ended: Arc<EndedSplits> },
    /// Sources that hold go on.
    Resume { fence: Fence },
    /// All is done and committed: end in order. Answered by `Stopped`.
    Finish { fence: Fence },
    /// End as you are. Answered by `Stopped`.
    Stop { fence: Fence },
    /// The job is over.
    Goodbye,
}

/// An attempt, as one worker has to know it.
pub(crate) struct Deployment {
    pub(crate) fence: Fence,
    /// With the parallelism of this attempt.
    pub(crate) job: Arc<Job>,
    pub(crate) worker: WorkerId,
    /// The worker of each slot: subtask i of every task is in slot i.
    pub(crate) slots: Vec<WorkerId>,
    /// Where each of them is reached by the others.
    pub(crate) peers: BTreeMap<WorkerId, String>,
    pub(crate) mode: AlignmentMode,
    pub(crate) restore: Option<RestoreFrom>,
    /// Where the tasks count, by node of the graph.
    pub(crate) nodes: Vec<NodeStatus>,
}

/// What an attempt starts from.
#[derive(Clone)]
pub(crate) enum RestoreFrom {
    /// A checkpoint of the job's own log.
    Checkpoint(Arc<CheckpointManifest>),
    /// The address of a savepoint.
    Savepoint(String),
}

/// What a worker tells its coordinator.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    Prepared {
        fence: Fence,
        result: Result<(), DeployError>,
    },
    /// What runs here goes on under this fence; or why it cannot.
    Adopted {
        fence: Fence,
        result: Result<Adopted, String>,
    },
    /// All tasks here have what they keep for the checkpoint in the worker's object, and that is durable.
    Acknowledged {
        fence: Fence,
        checkpoint: CheckpointId,
        /// None: nothing had to be written.
        object: Option<ObjectRef>,
        snapshots: TaskSnapshots,
        figures: TaskFigures,
    },
    Task(TaskEvent),
    /// What several tasks need is gone: a connection to another worker.
    AttemptFailed {
        fence: Fence,
        reason: String,
    },
    /// None of the attempt's threads is left here.
    Stopped {
        fence: Fence,
    },
    /// What another process has counted; in this one, the counters themselves are shared.
    Metrics {
        fence: Fence,
        subtasks: Vec<SubtaskMetrics>,
    },
}

/// The counters of one subtask of one node of the graph.
#[derive(Debug)]
pub(crate) struct SubtaskMetrics {
    pub(crate) node: u32,
    pub(crate) subtask: u32,
    pub(crate) records_in: u64,
    pub(crate) records_out: u64,
    pub(crate) late_records: u64,
    pub(crate) bad_records: u64,
    pub(crate) pending_records: i64,
    pub(crate) pending_bytes: i64,
    pub(crate) split_lags: Vec<SplitLag>,
    pub(crate) watermark_us: i64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) time: TimeTotals,
    pub(crate) hot_key_groups: Vec<HottestKeyGroups>,
    pub(crate) barrier_seen: u64,
    pub(crate) barrier_cut: u64,
    pub(crate) barrier_written: u64,
}

impl SubtaskMetrics {
    pub(crate) fn of(node: u32, subtask: u32, metrics: &NodeMetrics) -> Self {
        SubtaskMetrics {
            node,
            subtask,
            records_in: metrics.records_in.get(),
            records_out: metrics.records_out.get(),
            late_records: metrics.late_records.get(),
            bad_records: metrics.bad_records.get(),
            pending_records: metrics.pending_records.get(),
            pending_bytes: metrics.pending_bytes.get(),
            split_lags: metrics.split_lags.get(),
            watermark_us: metrics.watermark_us.get(),
            bytes_in: metrics.task.bytes_in.get(),
            bytes_out: metrics.task.bytes_out.get(),
            time: metrics.task.clock.totals(),
            hot_key_groups: metrics.task.hot_key_groups.hottest(),
            barrier_seen: metrics.task.barrier_seen.get(),
            barrier_cut: metrics.task.barrier_cut.get(),
            barrier_written: metrics.task.barrier_written.get(),
        }
    }

    /// Where the coordinator shows what another process has counted.
    pub(crate) fn show(&self, metrics: &NodeMetrics) {
        metrics.records_in.set(self.records_in);
        metrics.records_out.set(self.records_out);
        metrics.late_records.set(self.late_records);
        metrics.bad_records.set(self.bad_records);
        metrics.pending_records.set(self.pending_records);
        metrics.pending_bytes.set(self.pending_bytes);
        metrics.split_lags.set(self.split_lags.clone());
        metrics.watermark_us.set(self.watermark_us);
        metrics.task.bytes_in.set(self.bytes_in);
        metrics.task.bytes_out.set(self.bytes_out);
        metrics.task.clock.set(self.time);
        metrics.task.hot_key_groups.tell(&self.hot_key_groups);
        metrics.task.barrier_seen.set(self.barrier_seen);
        metrics.task.barrier_cut.set(self.barrier_cut);
        metrics.task.barrier_written.set(self.barrier_written);
    }
}

/// Where a worker's events go.
#[derive(Clone)]
pub(crate) struct EventSink(Arc<dyn Fn(WorkerEvent) + Send + Sync>);

impl EventSink {
    pub(crate) fn new(send: impl Fn(WorkerEvent) + Send + Sync + 'static) -> Self {
        EventSink(Arc::new(send))
    }

    pub(crate) fn send(&self, event: WorkerEvent) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}

pub(crate) struct Worker {
    pub(crate) folder: JobFolder,
    pub(crate) backends: Arc<Backends>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) events: EventSink,
    /// None: it is the only one.
    pub(crate) data: Option<Arc<DataServer>>,
    /// Where it keeps copies of what it writes to storage, if the job wants that.
    pub(crate) copies: Option<Arc<LocalCopies>>,
    pub(crate) standing: Arc<Standing>,
}

/// The way to a worker of this process.
pub(crate) fn start(mut worker: Worker) -> std::io::Result<Sender<WorkerCommand>> {
    let (commands, received) = channel();
    let snapshots = SnapshotPool::start(worker.backends.snapshot_threads())?;
    let coordinator = worker.events.clone();
    worker.events = noted(&worker.standing, coordinator.clone());
    let running =
        Running { worker, coordinator, snapshots, attempt: None, last_prepared: None, handover: None, ending: vec![] };
    std::thread::Builder::new().name("worker".to_owned()).spawn(move || running.run(received))?;
    Ok(commands)
}

struct Running {
    worker: Worker,
    /// Where events go, past the standing.
    coordinator: EventSink,
    snapshots: SnapshotPool,
    attempt: Option<(Fence, Stage)>,
    /// The highest; an attempt is made once.
    last_prepared: Option<Fence>,
    /// What the last attempt that ran here leaves.
    handover: Option<Arc<Handover>>,
    /// Threads that wait for attempts to end.
    ending: Vec<JoinHandle<()>>,
}

enum Stage {
    Prepared { prepared: Prepared, own: WorkerId, slots: Vec<WorkerId>, parallelism: u32 },
    Started(Attempt),
}

impl Running {
    /// Ends when nobody is left to send commands; then nothing of it runs any more.
    fn run(mut self, commands: Receiver<WorkerCommand>) {
        for command in commands {
            self.carry_out(command);
        }
        self.end_what_runs();
    }

    /// When this returns, nothing of any attempt runs here.
    fn end_what_runs(&mut self) {
        self.worker.standing.end();
        if let Some((_, Stage::Started(mut attempt))) = self.attempt.take() {
            attempt.cancel();
            attempt.join();
        }
        for ending in self.ending.drain(..) {
            // A panic there would be one of the join alone.
            ending.join().ok();
        }
    }

    fn carry_out(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::Prepare(deployment) => self.prepare(*deployment),
            WorkerCommand::Start { fence, opening } => self.start(fence, opening),
            WorkerCommand::Adopt { from, fence, opening } => self.adopt(from, fence, opening),
            WorkerCommand::Hold => {
                if let Some((_, Stage::Started(attempt))) = &self.attempt {
                    attempt.leash.hold();
                }
            }
            WorkerCommand::Trigger { fence, barrier, is_unaligned, hold } => {
                if self.started(fence).is_some() {
                    self.worker.standing.triggered(barrier.checkpoint);
                }
                self.mail_sources(fence, &Mail::Trigger { barrier, is_unaligned, hold });
            }
            WorkerCommand::TurnUnaligned { fence, checkpoint } => {
                if let Some(attempt) = self.started(fence) {
                    attempt.send_all(&Mail::TurnUnaligned(checkpoint));
                }
            }
            WorkerCommand::CancelCheckpoint { fence, checkpoint } => {
                if let Some(attempt) = self.started(fence) {
                    attempt.objects.give_up(checkpoint);
                    attempt.send_all(&Mail::CancelCheckpoint(checkpoint));
                    self.worker.standing.given_up(checkpoint);
                }
            }
            WorkerCommand::Commit { permit, ended } => {
                if let Some(attempt) = self.started(permit.fence()) {
                    attempt.send_all(&Mail::Commit { permit, ended });
                    self.worker.standing.confirmed(permit.checkpoint());
                    if let Some(copies) = &self.worker.copies {
                        copies.confirmed(permit.checkpoint());
                    }
                }
            }
            WorkerCommand::Resume { fence } => self.mail_sources(fence, &Mail::Resume),
            WorkerCommand::Finish { fence } => self.end(fence, true),
            WorkerCommand::Stop { fence } => self.end(fence, false),
            // Nothing of an attempt is left; the thread ends with its channel.
            WorkerCommand::Goodbye => {}
        }
    }

    fn prepare(&mut self, deployment: Deployment) {
        let fence = deployment.fence;
        // Said twice, or overtaken: what runs is not made again, and what has ended does not come back.
        if self.last_prepared.is_some_and(|last| fence <= last) {
            return;
        }
        self.last_prepared = Some(fence);
        let (job, worker) = (&deployment.job.name, deployment.worker.0);
        let Fence { epoch, attempt } = fence;
        let span = tracing::error_span!("worker", %job, epoch = epoch.0, attempt = attempt.0, worker);
        let _around = span.entered();
        // Nothing of an older attempt may run beside the new one.
        self.end_what_runs();
        let (own, slots, parallelism) = (deployment.worker, deployment.slots.clone(), deployment.job.parallelism());
        let prepared = self.try_prepare(deployment);
        failpoint("before-restore-done");
        let result = prepared.map(|prepared| {
            self.attempt = Some((fence, Stage::Prepared { prepared, own, slots, parallelism }));
        });
        self.worker.events.send(WorkerEvent::Prepared { fence, result });
    }

    fn try_prepare(&mut self, deployment: Deployment) -> Result<Prepared, DeployError> {
        let handover = self.handover.take();
        let kept = match (&deployment.restore, handover) {
            (Some(RestoreFrom::Checkpoint(manifest)), Some(handover)) => handover.take(manifest),
            _ => KeptStates::default(),
        };
        let Worker { folder, backends, runtime, events, data, copies, standing: _ } = &self.worker;
        let job = &deployment.job;
        let fatal = |reason: String| DeployError { reason, is_fatal: true };
        let own = || FolderSegments::new(folder.clone(), runtime.clone());
        let (restore, segments) = match &deployment.restore {
            None => (None, own()),
            Some(RestoreFrom::Checkpoint(manifest)) => (Some(RestoreState::of(manifest).map_err(fatal)?), own()),
            Some(RestoreFrom::Savepoint(uri)) => {
                let (_, restore, segments) =
                    savepoint::open(job, uri, runtime).map_err(|error| fatal(error.to_string()))?;
                (Some(restore), segments)
            }
        };
        if let Some(copies) = copies {
            let objects = match &deployment.restore {
                Some(RestoreFrom::Checkpoint(manifest)) => &manifest.objects[..],
                Some(RestoreFrom::Savepoint(_)) | None => &[],
            };
            copies.restored(objects.iter().map(|object| object.path.as_str()));
        }
        let source = LocalFirst::new(copies.as_deref(), &segments);
        let around = Surroundings {
            job,
            plan: &PhysicalPlan::of(&job.graph),
            deployment: &deployment,
            folder,
            runtime,
            events: events.clone(),
            snapshots: &self.snapshots,
            data: data.as_ref(),
            segments: &source,
            backends,
            copies: copies.as_ref(),
            kept: &kept,
        };
        let prepared = prepare(&around, restore.as_ref());
        if copies.is_some() && restore.is_some() {
            let (local_bytes, fetched_bytes) = source.read_bytes();
            tracing::info!(local_bytes, fetched_bytes, "state was read from this worker's disk, and from storage");
        }
        prepared.map_err(|error| match (segments.failure(), &deployment.restore) {
            (Some(ReadFailure::Transient), _) => DeployError { is_fatal: false, ..error },
            (Some(ReadFailure::Damage), Some(RestoreFrom::Checkpoint(manifest))) => {
                fatal(not_restorable(manifest.checkpoint, &error.reason))
            }
            _ => error,
        })
    }

    fn start(&mut self, fence: Fence, opening: u64) {
        let Some((own, Stage::Prepared { .. })) = &self.attempt else { return };
        if *own != fence {
            return;
        }
        let Some((_, Stage::Prepared { prepared, own, slots, parallelism })) = self.attempt.take() else { return };
        self.worker.standing.begin(RunningAttempt { fence, opening, slots, own, parallelism });
        // Threads that are missing are told as a task's failure, which ends the attempt as any other does.
        let attempt = prepared.start();
        self.handover = Some(Arc::clone(&attempt.handover));
        self.attempt = Some((fence, Stage::Started(attempt)));
    }

    fn adopt(&mut self, from: Fence, fence: Fence, opening: u64) {
        failpoint("before-adopted");
        if let Some((own, Stage::Started(attempt))) = &mut self.attempt
            && *own == from
        {
            *own = fence;
            attempt.objects.adopt(fence);
            attempt.leash.release();
        }
        self.worker.standing.adopt(from, fence, opening, &self.coordinator);
    }

    fn end(&mut self, fence: Fence, in_order: bool) {
        if self.attempt.as_ref().is_some_and(|(own, _)| *own == fence)
            && let Some((_, Stage::Started(mut attempt))) = self.attempt.take()
        {
            self.worker.standing.end();
            self.ending.retain(|ending| !ending.is_finished());
            let events = self.worker.events.clone();
            if in_order {
                attempt.send_all(&Mail::Finish);
            } else {
                attempt.cancel();
            }
            self.ending.push(std::thread::spawn(move || {
                attempt.join();
                events.send(WorkerEvent::Stopped { fence });
            }));
            return;
        }
        // It was prepared and never ran, or it has ended already.
        self.worker.events.send(WorkerEvent::Stopped { fence });
    }

    fn started(&self, fence: Fence) -> Option<&Attempt> {
        match &self.attempt {
            Some((own, Stage::Started(attempt))) if *own == fence => Some(attempt),
            _ => None,
        }
    }

    fn mail_sources(&self, fence: Fence, mail: &Mail) {
        if let Some(attempt) = self.started(fence) {
            attempt.send_sources(mail);
        }
    }
}
