//! A job run in this process.

use crate::attempt::check_fit;
use crate::backends::Backends;
use crate::job::Job;
use crate::run::{RequestSender, Runner};
use crate::savepoint;
use crate::start::{self, StartError, StartFrom};
use crate::status::StatusHandle;
use std::sync::Arc;
use weir_coordinator::Outcome;

/// Threads for storage requests: enough to keep several under way, few beside the tasks'.
const STORAGE_THREADS: usize = 2;

/// A job taken over by this process and ready to run.
pub struct LocalJob {
    runner: Runner,
    status: StatusHandle,
    /// Storage requests run here; dropped last.
    _runtime: tokio::runtime::Runtime,
}

impl LocalJob {
    /// Takes the job over. Whoever ran it before is fenced.
    ///
    /// # Errors
    /// `AlreadyFinished`: the job's input had come to its end; there is nothing to go on with.
    pub fn start(job: Arc<Job>, from: &StartFrom) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(STORAGE_THREADS)
            .thread_name("storage-io")
            .enable_all()
            .build()
            .map_err(StartError::thread)?;
        if let StartFrom::Savepoint(uri) = from {
            // Before the log says that the job starts from there: a later start goes by what the log says.
            let (restore, _) = savepoint::open(uri, runtime.handle()).map_err(StartError::Refused)?;
            check_fit(&job, &restore).map_err(|error| StartError::Refused(error.reason))?;
        }
        let opened = runtime.block_on(start::open(&job, from))?;
        let status = StatusHandle::default();
        let backends = Arc::new(Backends::of(&job)?);
        let runner = Runner::new(job, opened, backends, runtime.handle().clone(), status.clone())?;
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
