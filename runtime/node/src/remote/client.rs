//! A worker process: it registers at the coordinator, and runs what that places on it.

use super::engagement::{Engagement, report};
use super::{HEARTBEAT_TIMEOUT, MESSAGE_BYTES, MESSAGES, convert, message};
use crate::exchange::DataServer;
use crate::http::Health;
use crate::job::{Job, load_text};
use crate::local_copies::{self, Held, LocalCopies};
use crate::registry::Registry;
use crate::tls::{Connection, Security, explain};
use crate::worker::WorkerCommand;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::codegen::Service;
use tonic::transport::Endpoint;
use weir_model::WorkerId;
use weir_wire::PROTOCOL;
use weir_wire::v1::coordination_client::CoordinationClient;
use weir_wire::v1::{self, coordinator_message, worker_message};

const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Tasks that hold on wait for it.
const LAST_RETRY: Duration = Duration::from_secs(1);
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
    /// How long tasks go on meanwhile, for a coordinator that takes them over as they run.
    pub hold: Duration,
    /// Where copies of checkpoints are kept, for a job that wants them; what is there already is offered when the
    /// worker registers. Without it where the job says.
    pub local_dir: Option<PathBuf>,
    /// Of the connections to the coordinator and to other workers.
    pub security: Security,
    /// When a job is over it waits for the next coordinator, rather than to end: for whoever would start it again at once,
    /// and waits longer before each time, as Kubernetes does.
    pub stays: bool,
    /// Where `GET /healthz` is answered, for whoever would restart a process that hangs.
    pub health: Option<SocketAddr>,
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

/// Works until the coordinator says that the job is over, or beyond.
pub fn run_worker(options: &WorkerOptions, registry: &Arc<Registry>) -> Result<(), WorkerError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("io").enable_all().build()?;
    let data = runtime.block_on(DataServer::listen(options.listen, options.security.clone()));
    let data = data.map_err(|source| WorkerError::Listen { address: options.listen, source })?;
    let health = options.health.map(|address| {
        let serve = async { Health::serve(address) };
        runtime.block_on(serve).map_err(|source| WorkerError::Listen { address, source })
    });
    let _health =
        health.transpose()?.inspect(|health| tracing::debug!(address = %health.address(), "health is served"));
    // A disk that refuses costs the copies, not the work.
    let mut copies = options.local_dir.as_deref().and_then(|folder| {
        let opened = LocalCopies::open(folder).map(Arc::new);
        opened.inspect_err(|error| tracing::warn!(%error, "no local copies of checkpoints are kept")).ok()
    });
    let mut engagement = None;
    let (mut last_seen, mut pause) = (Instant::now(), FIRST_RETRY);
    loop {
        match runtime.block_on(stay(options, registry, &data, &mut copies, &mut engagement))? {
            Left::Goodbye if !options.stays => return Ok(()),
            Left::Goodbye => {
                engagement = None;
                // The coordinator that has ended may still be heard for a while.
                (last_seen, pause) = (Instant::now(), LAST_RETRY);
            }
            Left::Lost { reason, was_registered } => {
                if was_registered {
                    tracing::warn!(%reason, "the coordinator is lost; registering anew");
                    (last_seen, pause) = (Instant::now(), FIRST_RETRY);
                }
                if last_seen.elapsed() >= options.hold {
                    // With nobody left to command it, it ends what it runs.
                    engagement = None;
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
    engagement: &mut Option<Engagement>,
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
        running: engagement.as_ref().and_then(Engagement::running).map(convert::running_message),
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
    let text = (registered.job.clone(), registered.folder.clone());
    // Another job than what it runs: that is over.
    let mut engaged = match engagement.take().filter(|engagement| engagement.is_for(&text)) {
        Some(engaged) => engaged,
        None => {
            let job = job(registered, registry)?;
            // Where the job says, if nobody else did: then they are offered with the next registration.
            *copies = local_copies::of_job(&job, copies.take());
            Engagement::begin(text, job, data, copies.clone()).await?
        }
    };
    tracing::info!(worker = %own, job = %engaged.job().name, "registered");
    match work(own, &mut engaged, incoming, outgoing).await {
        None => Ok(Left::Goodbye),
        Some(reason) => {
            *engagement = Some(engaged);
            Ok(Left::Lost { reason, was_registered: true })
        }
    }
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
    engagement: &mut Engagement,
    mut incoming: Streaming<v1::CoordinatorMessage>,
    outgoing: mpsc::Sender<v1::WorkerMessage>,
) -> Option<String> {
    let mut overran = engagement.connect(outgoing.clone());
    let reports = tokio::spawn(report(outgoing, engagement.counted()));
    let ended = loop {
        let message = tokio::select! {
            message = next(&mut incoming) => message,
            _ = overran.changed() => Err("it is too far behind with what this worker reports".to_owned()),
        };
        let message = match message {
            Ok(message) => message,
            Err(reason) => break Some(reason),
        };
        match convert::command(message, own, engagement.job_mut()) {
            Err(malformed) => break Some(malformed.to_string()),
            Ok(None) => {}
            Ok(Some(WorkerCommand::Goodbye)) => break None,
            Ok(Some(command)) => {
                if !engagement.command(own, command) {
                    break Some("the worker's thread has ended".to_owned());
                }
            }
        }
    };
    reports.abort();
    engagement.disconnect();
    ended
}

async fn next(incoming: &mut Streaming<v1::CoordinatorMessage>) -> Result<v1::CoordinatorMessage, String> {
    match tokio::time::timeout(HEARTBEAT_TIMEOUT, incoming.message()).await {
        Err(_) => Err(format!("no heartbeat for {} s", HEARTBEAT_TIMEOUT.as_secs())),
        Ok(Err(status)) => Err(explain(&status)),
        Ok(Ok(None)) => Err("it ended the connection".to_owned()),
        Ok(Ok(Some(message))) => Ok(message),
    }
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
            Ok(TokioIo::new(security.connect(stream).await?))
        })
    }
}
