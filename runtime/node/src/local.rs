//! A job that this process coordinates: with a worker of its own, or with those that come to it.

use crate::backends::Backends;
use crate::control::{ControlEvent, WorkerLink};
use crate::job::Job;
use crate::local_copies::{self, Held};
use crate::remote::{self, JobText};
use crate::run::{RequestSender, Runner};
use crate::start::{self, Opened, StartError, StartFrom};
use crate::status::StatusHandle;
use crate::tls::{JobIdentity, Security};
use crate::worker::{self, EventSink, Worker};
use std::net::SocketAddr;
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
        let backends = Arc::new(Backends::of(&job)?);
        // What another process left running runs in workers that come to no local job.
        let opened = Opened { left_running: None, ..start::open(&job, from, folder, runtime.handle())? };
        let status = StatusHandle::default();
        status.lock().rocksdb = backends.rocksdb();
        let folder = opened.folder.clone();
        let copies = local_copies::of_job(&job, None);
        let runner = Runner::new(job, opened, 1, runtime.handle().clone(), status.clone())?;
        // One worker, in this process, with a slot for everything, at whatever parallelism.
        let report = runner.events();
        let worker = worker::start(Worker {
            folder,
            backends,
            runtime: runtime.handle().clone(),
            events: EventSink::new(move |event| {
                // Nobody listens any more once the job is closed.
                report.send(ControlEvent::Worker { worker: OWN_WORKER, event }).ok();
            }),
            data: None,
            copies,
            standing: Arc::default(),
        })
        .map_err(StartError::thread)?;
        let lost = runner.events();
        let link: WorkerLink = Box::new(move |command| {
            if worker.send(command).is_err() {
                let reason = "its thread has ended".to_owned();
                lost.send(ControlEvent::WorkerLost { worker: OWN_WORKER, reason }).ok();
            }
        });
        let (slots, held) = (runner.most_slots(), Held::default());
        let registered =
            ControlEvent::WorkerRegistered { worker: OWN_WORKER, slots, data_address: None, held, running: None, link };
        runner.events().send(registered).ok();
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

/// Where workers come to, and how many.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// Port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// How many workers somebody starts, if that is known: worth a short wait for all of them.
    pub workers: usize,
    /// Of the connections of workers.
    pub security: Security,
}

/// A job that this process coordinates, and other processes run.
pub struct DistributedJob {
    job: LocalJob,
    address: SocketAddr,
    slots: u32,
}

impl DistributedJob {
    /// Takes the job over, as `LocalJob::start` does, and lets workers register.
    ///
    /// # Errors
    /// As `LocalJob::start`; and the address may be taken.
    pub fn start(job: Arc<Job>, from: &StartFrom, options: CoordinatorOptions) -> Result<Self, StartError> {
        let CoordinatorOptions { listen, workers, security } = options;
        if let Some(certified) = security.identity().filter(|certified| **certified != JobIdentity::of_job(&job)) {
            let own = JobIdentity::of_job(&job);
            return Err(StartError::Refused(format!(
                "the certificate is of job `{certified}`, and this job is `{own}`: it needs one with the DNS name `{}`",
                own.dns_name()
            )));
        }
        let text = JobText {
            yaml: serde_yaml::to_string(&job.resource)
                .map_err(|error| StartError::Refused(format!("the job cannot be sent to workers: {error}")))?,
            folder: job.folder.display().to_string(),
        };
        let runtime = storage_runtime()?;
        let folder = runtime.block_on(start::own_folder(&job))?;
        let opened = start::open(&job, from, folder, runtime.handle())?;
        let status = StatusHandle::default();
        let runner = Runner::new(job, opened, workers, runtime.handle().clone(), status.clone())?;
        let address = remote::serve(runtime.handle(), listen, security, text, runner.events())
            .map_err(|error| StartError::Refused(format!("cannot listen on {listen}: {error}")))?;
        let slots = runner.slots();
        Ok(DistributedJob { job: LocalJob { runner, status, _runtime: runtime }, address, slots })
    }

    /// Where workers register.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many slots the job needs.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The job, to be watched, asked and run as any other.
    pub fn into_job(self) -> LocalJob {
        self.job
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
