//! What a worker process runs for a job, from one coordinator of it to the next.

use super::client::WorkerError;
use super::{HEARTBEAT, convert, message};
use crate::backends::Backends;
use crate::exchange::DataServer;
use crate::job::Job;
use crate::local_copies::LocalCopies;
use crate::standing::Standing;
use crate::start::job_folder;
use crate::status::NodeStatus;
use crate::worker::{self, EventSink, SubtaskMetrics, Worker, WorkerCommand, WorkerEvent};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use weir_coordinator::RunningAttempt;
use weir_model::{Fence, WorkerId};
use weir_wire::v1::{self, worker_message};

/// Ends what it runs when it is dropped.
pub(super) struct Engagement {
    /// The job as it was sent, and the folder that relative paths start from.
    text: (String, String),
    job: Arc<Job>,
    /// What the job file says.
    own_parallelism: u32,
    worker: Sender<WorkerCommand>,
    standing: Arc<Standing>,
    line: Arc<Line>,
    counted: Arc<Mutex<Option<Counted>>>,
}

/// The way of events to the coordinator there is, if there is one: what stands for good is told to the next.
struct Line {
    outgoing: Mutex<Option<mpsc::Sender<v1::WorkerMessage>>>,
    overrun: watch::Sender<()>,
}

impl Engagement {
    pub(super) async fn begin(
        text: (String, String),
        job: Arc<Job>,
        data: &Arc<DataServer>,
        copies: Option<Arc<LocalCopies>>,
    ) -> Result<Self, WorkerError> {
        let not_here = |error: String| WorkerError::Job(error);
        let folder = job_folder(&job).await.map_err(|error| not_here(error.to_string()))?;
        let backends = Backends::of(&job).map_err(|error| not_here(error.to_string()))?;
        let line = Arc::new(Line { outgoing: Mutex::new(None), overrun: watch::channel(()).0 });
        let (counted, standing): (Arc<Mutex<Option<Counted>>>, Arc<Standing>) = Default::default();
        let (events, last_counted) = (Arc::clone(&line), Arc::clone(&counted));
        let worker = worker::start(Worker {
            folder,
            backends: Arc::new(backends),
            runtime: tokio::runtime::Handle::current(),
            events: EventSink::new(move |event| {
                let counters = matches!(event, WorkerEvent::Stopped { .. }).then(|| metrics(&last_counted)).flatten();
                counters.into_iter().chain([event]).for_each(|event| events.send(event));
            }),
            data: Some(Arc::clone(data)),
            copies,
            standing: Arc::clone(&standing),
        })?;
        let own_parallelism = job.parallelism();
        Ok(Engagement { text, job, own_parallelism, worker, standing, line, counted })
    }

    pub(super) fn is_for(&self, text: &(String, String)) -> bool {
        self.text == *text
    }

    pub(super) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// With the parallelism of the last attempt.
    pub(super) fn job_mut(&mut self) -> &mut Arc<Job> {
        &mut self.job
    }

    /// What runs here, if a coordinator could go on with it: not when it was rescaled, as a coordinator that takes over
    /// goes by the job file. Its tasks would be others, though they may need as many slots.
    pub(super) fn running(&self) -> Option<RunningAttempt> {
        self.standing.running().filter(|_| self.job.parallelism() == self.own_parallelism)
    }

    pub(super) fn counted(&self) -> Arc<Mutex<Option<Counted>>> {
        Arc::clone(&self.counted)
    }

    /// Events go there from here on. What is returned changes when one could not be sent.
    pub(super) fn connect(&self, outgoing: mpsc::Sender<v1::WorkerMessage>) -> watch::Receiver<()> {
        let overran = self.line.overrun.subscribe();
        *self.line.lock() = Some(outgoing);
        overran
    }

    /// The coordinator is gone: tasks go on, and let nothing become visible by themselves.
    pub(super) fn disconnect(&self) {
        *self.line.lock() = None;
        self.worker.send(WorkerCommand::Hold).ok();
    }

    /// False: the worker's thread has ended.
    pub(super) fn command(&self, own: WorkerId, command: WorkerCommand) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match (&command, &mut *counted) {
            (WorkerCommand::Prepare(deployment), counted) => {
                *counted = Some(Counted {
                    fence: deployment.fence,
                    nodes: deployment.nodes.clone(),
                    own: deployment.slots.iter().map(|worker| *worker == own).collect(),
                });
            }
            (WorkerCommand::Adopt { fence, .. }, Some(counted)) => counted.fence = *fence,
            _ => {}
        }
        drop(counted);
        self.worker.send(command).is_ok()
    }
}

impl Line {
    fn send(&self, event: WorkerEvent) {
        if let Some(outgoing) = &*self.lock()
            && outgoing.try_send(convert::event_message(event)).is_err()
        {
            self.overrun.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<v1::WorkerMessage>>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counters of the attempt that runs here.
pub(super) struct Counted {
    fence: Fence,
    nodes: Vec<NodeStatus>,
    /// By slot: whether it is this worker's.
    own: Vec<bool>,
}

/// Lets the coordinator know, every second, that this worker is there, and what it has counted.
pub(super) async fn report(outgoing: mpsc::Sender<v1::WorkerMessage>, counted: Arc<Mutex<Option<Counted>>>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let message = match metrics(&counted) {
            Some(event) => convert::event_message(event),
            None => message(worker_message::Message::Heartbeat(v1::Heartbeat {})),
        };
        if outgoing.send(message).await.is_err() {
            return;
        }
    }
}

fn metrics(counted: &Mutex<Option<Counted>>) -> Option<WorkerEvent> {
    counted.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Counted::metrics)
}

impl Counted {
    fn metrics(&self) -> WorkerEvent {
        let own = |subtask: usize| self.own.get(subtask).copied().unwrap_or(false);
        let subtasks = self.nodes.iter().enumerate().flat_map(|(node, status)| {
            let here = status.subtasks.iter().enumerate().filter(|(subtask, _)| own(*subtask));
            here.map(move |(subtask, metrics)| SubtaskMetrics::of(node as u32, subtask as u32, metrics))
        });
        WorkerEvent::Metrics { fence: self.fence, subtasks: subtasks.collect() }
    }
}
