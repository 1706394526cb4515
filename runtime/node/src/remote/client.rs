//! A worker process: it registers at the coordinator, and runs what that places on it.

use super::{HEARTBEAT, HEARTBEAT_TIMEOUT, MESSAGE_BYTES, MESSAGES, convert};
use crate::backends::Backends;
use crate::exchange::DataServer;
use crate::job::{Job, load_text};
use crate::local_copies::{self, Held, LocalCopies};
use crate::registry::Registry;
use crate::start::job_folder;
use crate::status::NodeStatus;
use crate::tls::{Connection, Security, explain};
use crate::worker::{self, EventSink, SubtaskMetrics, Worker, WorkerCommand, WorkerEvent};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::codegen::Service;
use tonic::transport::Endpoint;
use weir_model::{Fence, WorkerId};
use weir_wire::PROTOCOL;
use weir_wire::v1::coordination_client::CoordinationClient;
use weir_wire::v1::{self, coordinator_message, worker_message};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub struct WorkerOptions {
    /// host:port of the coordinator.
    pub coordinator: String,
    /// How many subtasks of one task it takes.
    pub slots: u32,
    /// Where other workers connect to; port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// What other workers are told instead of the address it listens on.
    pub advertise: Option<String>,
    /// How long a coordinator that isn't reached is waited for.
    pub patience: Duration,
    /// Where copies of checkpoints are kept, for a job that wants them; what is there already is offered when the
    /// worker registers. Without it where the job says.
    pub local_dir: Option<PathBuf>,
    /// Of the connections to the coordinator and to other workers.
    pub security: Security,
}

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    #[error("the coordinator at {address} is not reached since {} s: {reason}", .since.as_secs())]
    NotReached { address: String, since: Duration, reason: String },
    #[error("the coordinator refused this worker: {0}")]
    Refused(String),
    #[error("the coordinator's job cannot be loaded here: {0}")]
    Job(String),
}

/// How a stay with a coordinator ended.
enum Left {
    /// The job is over.
    Goodbye,
    /// The stream broke, or never came to be; `was_registered`: after the worker had been taken.
    Lost { reason: String, was_registered: bool },
}

/// Works until the coordinator says that the job is over.
pub fn run_worker(options: &WorkerOptions, registry: &Arc<Registry>) -> Result<(), WorkerError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("io").enable_all().build()?;
    let data = runtime.block_on(DataServer::listen(options.listen, options.security.clone()));
    let data = data.map_err(|source| WorkerError::Listen { address: options.listen, source })?;
    // A disk that refuses costs the copies, not the work.
    let mut copies = options.local_dir.as_deref().and_then(|folder| {
        let opened = LocalCopies::open(folder).map(Arc::new);
        opened.inspect_err(|error| tracing::warn!(%error, "no local copies of checkpoints are kept")).ok()
    });
    let (mut last_seen, mut pause) = (Instant::now(), FIRST_RETRY);
    loop {
        match runtime.block_on(stay(options, registry, &data, &mut copies))? {
            Left::Goodbye => return Ok(()),
            Left::Lost { reason, was_registered } => {
                if was_registered {
                    tracing::warn!(%reason, "the coordinator is lost; registering anew");
                    (last_seen, pause) = (Instant::now(), FIRST_RETRY);
                }
                if last_seen.elapsed() >= options.patience {
                    let (address, since) = (options.coordinator.clone(), last_seen.elapsed());
                    return Err(WorkerError::NotReached { address, since, reason });
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_RETRY);
    }
}

async fn stay(
    options: &WorkerOptions,
    registry: &Arc<Registry>,
    data: &Arc<DataServer>,
    copies: &mut Option<Arc<LocalCopies>>,
) -> Result<Left, WorkerError> {
    let not_yet = |reason: String| Ok(Left::Lost { reason, was_registered: false });
    let reach = Reach { address: options.coordinator.clone(), security: options.security.clone() };
    let endpoint = match Endpoint::from_shared(format!("http://{}", options.coordinator)) {
        Ok(endpoint) => endpoint,
        Err(error) => return Err(WorkerError::Refused(format!("`{}` is no address: {error}", options.coordinator))),
    };
    let channel = match endpoint.connect_with_connector(reach).await {
        Ok(channel) => channel,
        Err(error) => return not_yet(explain(&error)),
    };
    let mut client = CoordinationClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let (outgoing, messages) = mpsc::channel(MESSAGES);
    let Held { job_uid: held_job_uid, objects } = copies.as_ref().map(|copies| copies.held()).unwrap_or_default();
    let held = objects.into_iter().map(|(object, bytes)| v1::HeldObject { object, bytes });
    let register = v1::Register {
        protocol: Some(PROTOCOL),
        program: format!("weir {}", env!("CARGO_PKG_VERSION")),
        slots: options.slots,
        data_address: options.advertise.clone().unwrap_or_else(|| data.address().to_string()),
        held_job_uid,
        held: held.collect(),
    };
    outgoing.try_send(message(worker_message::Message::Register(register))).ok();
    let mut incoming = match client.attach(ReceiverStream::new(messages)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return not_yet(words(&status, &options.security)),
    };
    let registered = match next(&mut incoming).await.map(|message| message.message) {
        Ok(Some(coordinator_message::Message::Registered(registered))) => registered,
        Ok(Some(coordinator_message::Message::Refused(v1::Refused { reason }))) => {
            return Err(WorkerError::Refused(reason));
        }
        Ok(_) => return Err(WorkerError::Refused("it answered with something else than a registration".to_owned())),
        Err(reason) => return not_yet(reason),
    };
    let own = WorkerId(registered.worker);
    let mut job = job(registered, registry)?;
    tracing::info!(worker = %own, job = %job.name, "registered");
    // Where the job says, if nobody else did: then they are offered with the next registration.
    let of_job = local_copies::of_job(&job, copies.take());
    *copies = of_job.clone();
    let reason = work(own, &mut job, data, of_job, incoming, outgoing).await?;
    Ok(reason.map_or(Left::Goodbye, |reason| Left::Lost { reason, was_registered: true }))
}

fn job(registered: v1::Registered, registry: &Arc<Registry>) -> Result<Arc<Job>, WorkerError> {
    let loaded = load_text(registered.job, PathBuf::from(registered.folder), Arc::clone(registry), |_| Ok(()));
    let problems = || {
        loaded
            .diagnostics
            .iter()
            .map(|found| format!("{}: {}", found.field_path, found.reason))
            .collect::<Vec<_>>()
            .join("; ")
    };
    match loaded.job {
        Some(job) => Ok(Arc::new(job)),
        None => Err(WorkerError::Job(problems())),
    }
}

/// Carries out commands until the stream ends; returns why, or none when the job is over.
async fn work(
    own: WorkerId,
    job: &mut Arc<Job>,
    data: &Arc<DataServer>,
    copies: Option<Arc<LocalCopies>>,
    mut incoming: Streaming<v1::CoordinatorMessage>,
    outgoing: mpsc::Sender<v1::WorkerMessage>,
) -> Result<Option<String>, WorkerError> {
    let not_here = |error: String| WorkerError::Job(error);
    let folder = job_folder(job).await.map_err(|error| not_here(error.to_string()))?;
    let backends = Backends::of(job).map_err(|error| not_here(error.to_string()))?;
    let counted: Arc<Mutex<Option<Counted>>> = Arc::default();
    let (overrun, mut overran) = watch::channel(false);
    let (events, last_counted) = (outgoing.clone(), Arc::clone(&counted));
    let worker = worker::start(Worker {
        folder,
        backends: Arc::new(backends),
        runtime: tokio::runtime::Handle::current(),
        events: EventSink::new(move |event| {
            let counters = matches!(event, WorkerEvent::Stopped { .. }).then(|| metrics(&last_counted)).flatten();
            for event in counters.into_iter().chain([event]) {
                if events.try_send(convert::event_message(event)).is_err() {
                    overrun.send_replace(true);
                }
            }
        }),
        data: Some(Arc::clone(data)),
        copies,
    })?;
    let reports = tokio::spawn(report(outgoing, Arc::clone(&counted)));
    let ended = loop {
        let message = tokio::select! {
            message = next(&mut incoming) => message,
            _ = overran.changed() => Err("it is too far behind with what this worker reports".to_owned()),
        };
        let message = match message {
            Ok(message) => message,
            Err(reason) => break Some(reason),
        };
        match convert::command(message, own, job) {
            Err(malformed) => break Some(malformed.to_string()),
            Ok(None) => {}
            Ok(Some(WorkerCommand::Goodbye)) => break None,
            Ok(Some(command)) => {
                if let WorkerCommand::Prepare(deployment) = &command {
                    *counted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Counted {
                        fence: deployment.fence,
                        nodes: deployment.nodes.clone(),
                        own: deployment.slots.iter().map(|worker| *worker == own).collect(),
                    });
                }
                if worker.send(command).is_err() {
                    break Some("the worker's thread has ended".to_owned());
                }
            }
        }
    };
    reports.abort();
    // With nobody left to command it, the worker ends what it runs.
    drop(worker);
    Ok(ended)
}

/// The counters of the attempt that runs here.
struct Counted {
    fence: Fence,
    nodes: Vec<NodeStatus>,
    /// By slot: whether it is this worker's.
    own: Vec<bool>,
}

/// Lets the coordinator know, every second, that this worker is there, and what it has counted.
async fn report(outgoing: mpsc::Sender<v1::WorkerMessage>, counted: Arc<Mutex<Option<Counted>>>) {
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

async fn next(incoming: &mut Streaming<v1::CoordinatorMessage>) -> Result<v1::CoordinatorMessage, String> {
    match tokio::time::timeout(HEARTBEAT_TIMEOUT, incoming.message()).await {
        Err(_) => Err(format!("no heartbeat for {} s", HEARTBEAT_TIMEOUT.as_secs())),
        Ok(Err(status)) => Err(explain(&status)),
        Ok(Ok(None)) => Err("it ended the connection".to_owned()),
        Ok(Ok(Some(message))) => Ok(message),
    }
}

fn message(message: worker_message::Message) -> v1::WorkerMessage {
    v1::WorkerMessage { message: Some(message) }
}

/// Why the coordinator did not answer, and what it may be where this side says nothing of TLS.
fn words(status: &tonic::Status, security: &Security) -> String {
    match security {
        Security::Tls(_) => explain(status),
        Security::Open => format!("{} (if the coordinator has --tls-dir, this worker needs it too)", explain(status)),
    }
}

/// How tonic reaches the coordinator.
#[derive(Clone)]
struct Reach {
    address: String,
    security: Security,
}

impl Service<tonic::codegen::http::Uri> for Reach {
    type Response = TokioIo<Connection>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<Connection>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::codegen::http::Uri) -> Self::Future {
        let Reach { address, security } = self.clone();
        Box::pin(async move {
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await??;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(security.connect(stream).await?))
        })
    }
}
