//! A job run in this process.

use crate::backends::Backends;
use crate::control::{ControlEvent, WorkerLink};
use crate::job::Job;
use crate::run::{RequestSender, Runner};
use crate::start::{self, StartError, StartFrom};
use crate::status::StatusHandle;
use crate::worker::{self, EventSink, Worker};
use std::sync::Arc;
use tokio::runtime::Runtime;
use weir_coordinator::Outcome;
use weir_model::WorkerId;
use weir_snapshot::{JobFolder, Storage};

const OWN_WORKER: WorkerId = WorkerId(0);
/// Threads for storage requests: enough to keep several under way, few beside the tasks'.
const STORAGE_THREADS: usize = 2;

/// A job taken over by this process and ready to run.
pub struct LocalJob {
    runner: Runner,
    status: StatusHandle,
    /// Storage requests run here; dropped last.
    _runtime: Runtime,
}

impl LocalJob {
    /// Takes the job over. Whoever ran it before is fenced.
    ///
    /// # Errors
    /// `AlreadyFinished`: the job's input had come to its end; there is nothing to go on with.
    pub fn start(job: Arc<Job>, from: &StartFrom) -> Result<Self, StartError> {
        let runtime = storage_runtime()?;
        let folder = runtime.block_on(start::own_folder(&job))?;
        Self::start_in(job, from, folder, runtime)
    }

    /// As `start`, with the checkpoints on this storage instead of where the spec says.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_on(job: Arc<Job>, from: &StartFrom, storage: Arc<dyn Storage>) -> Result<Self, StartError> {
        let folder = JobFolder::of_job(storage, &job.uid).map_err(StartError::storage)?;
        Self::start_in(job, from, folder, storage_runtime()?)
    }

    fn start_in(job: Arc<Job>, from: &StartFrom, folder: JobFolder, runtime: Runtime) -> Result<Self, StartError> {
        let opened = start::open(&job, from, folder, runtime.handle())?;
        let status = StatusHandle::default();
        let backends = Arc::new(Backends::of(&job)?);
        status.lock().rocksdb = backends.rocksdb();
        let folder = opened.folder.clone();
        let runner = Runner::new(Arc::clone(&job), opened, 1, runtime.handle().clone(), status.clone())?;
        // One worker, in this process, with a slot for everything.
        let events = runner.events();
        let report = runner.events();
        let worker = worker::start(Worker {
            job,
            folder,
            backends,
            runtime: runtime.handle().clone(),
            events: EventSink::new(move |event| {
                // Nobody listens any more once the job is closed.
                report.send(ControlEvent::Worker { worker: OWN_WORKER, event }).ok();
            }),
        })
        .map_err(StartError::thread)?;
        let lost = runner.events();
        let link: WorkerLink = Box::new(move |command| {
            if worker.send(command).is_err() {
                let reason = "its thread has ended".to_owned();
                lost.send(ControlEvent::WorkerLost { worker: OWN_WORKER, reason }).ok();
            }
        });
        events.send(ControlEvent::WorkerRegistered { worker: OWN_WORKER, slots: runner.slots(), link }).ok();
        Ok(LocalJob { runner, status, _runtime: runtime })
    }

    /// What others may read while the job runs.
    pub fn status(&self) -> StatusHandle {
        self.status.clone()
    }

    /// How others ask it for savepoints, or to stop.
    pub fn requests(&self) -> RequestSender {
        self.runner.requests()
    }

    /// Runs to the end of the input, or until it is stopped.
    pub fn run(self) -> Outcome {
        self.runner.run()
    }
}

fn storage_runtime() -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(STORAGE_THREADS)
        .thread_name("storage-io")
        .enable_all()
        .build()
        .map_err(StartError::thread)
}
