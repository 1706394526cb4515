//! How people and machines watch and steer the job that this process coordinates: the API of `weir-api` over HTTP, on
//! the Unix socket of the job always, and on a port where one was asked for.

mod access;
mod change;
mod health;
mod held_up;
mod listen;
mod metrics;
mod plan;
mod problem;
mod rates;
mod read;
mod removal;
mod rescales;
mod restore_points;
mod routes;
mod savepoints;
mod socket;
mod view;

pub use access::OpenReads;
pub(crate) use health::Health;
pub use socket::socket_path;

use crate::job::Job;
use crate::run::RequestSender;
use crate::start::StartError;
use crate::status::StatusHandle;
use crate::tls::{JobIdentity, Security};
use access::{Entry, Token};
use listen::{Bound, Listener, Routers};
use rates::Rates;
use rescales::Rescales;
use savepoints::Savepoints;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

/// Requests that are answered at once, those that wait for a savepoint among them; beyond, 503.
const REQUESTS: usize = 64;
/// Of those that plan a spec or read storage.
const HEAVY_REQUESTS: usize = 2;
/// How long the end of the process waits until whoever asked for a savepoint has heard of its end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where the API is served beside the job's Unix socket, and to whom.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// None: on no port. Port 0 lets the system choose one.
    pub listen: Option<SocketAddr>,
    /// Go on without a port if the address is taken.
    pub is_optional: bool,
    /// Of the port: HTTPS with the job's certificates, or plain HTTP.
    pub security: Security,
    /// Whoever shows its content may change the job. Read again for each request.
    pub token_file: Option<PathBuf>,
    /// What needs no token, although others than this machine reach the port.
    pub open: OpenReads,
}

/// What every request needs.
pub(crate) struct Shared {
    /// As it was started; what runs now is in `status`.
    job: Arc<Job>,
    status: StatusHandle,
    requests: RequestSender,
    savepoints: Savepoints,
    rescales: Rescales,
    rates: Mutex<Rates>,
    token: Token,
    answering: Semaphore,
    heavy: Semaphore,
}

impl Shared {
    /// What runs now.
    fn running_job(&self) -> Arc<Job> {
        self.status.lock().job.clone().unwrap_or_else(|| Arc::clone(&self.job))
    }
}

/// The API, as long as this lives.
pub struct HttpServer {
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    scheme: &'static str,
    socket: Option<PathBuf>,
    is_over: watch::Sender<bool>,
    listeners: Vec<tokio::task::JoinHandle<()>>,
    runtime: Option<Runtime>,
}

impl HttpServer {
    /// Serves from now on; the job may begin to run afterwards.
    ///
    /// # Errors
    /// The token file cannot be read, the certificate is of another job, or the address is taken and not optional.
    pub fn start(
        job: Arc<Job>,
        status: StatusHandle,
        requests: RequestSender,
        options: &HttpOptions,
    ) -> Result<Self, StartError> {
        let token = Token::of_file(options.token_file.clone()).map_err(StartError::Refused)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(StartError::thread)?;
        let shared = Arc::new(Shared {
            job,
            status,
            requests,
            savepoints: Savepoints::default(),
            rescales: Rescales::default(),
            rates: Mutex::default(),
            token,
            answering: Semaphore::new(REQUESTS),
            heavy: Semaphore::new(HEAVY_REQUESTS),
        });
        let (is_over, over) = watch::channel(false);
        let scheme = match options.security {
            Security::Open => "http",
            Security::Tls(_) => "https",
        };
        let (listeners, runtime) = (vec![], Some(runtime));
        let mut server = HttpServer { shared, address: None, scheme, socket: None, is_over, listeners, runtime };
        server.serve_socket(&over);
        if let Some(address) = options.listen {
            server.serve_port(address, options, &over)?;
        }
        server.spawn(rates::sample(Arc::clone(&server.shared)));
        Ok(server)
    }

    /// Where the port is reached, if there is one.
    pub fn url(&self) -> Option<String> {
        self.address.map(|address| format!("{}://{address}", self.scheme))
    }

    /// The job has ended: lets those who asked for savepoints have their answer, and those who are being answered.
    pub fn finish(mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let (shared, is_over) = (Arc::clone(&self.shared), self.is_over.clone());
        let listeners = std::mem::take(&mut self.listeners);
        runtime.block_on(async move {
            let farewell = async {
                shared.savepoints.all_heard_of().await;
                is_over.send_replace(true);
                for listener in listeners {
                    listener.await.ok();
                }
            };
            tokio::time::timeout(FAREWELL, farewell).await.ok();
        });
        runtime.shutdown_background();
    }

    /// Without a socket the job runs all the same: it is only harder to reach.
    fn serve_socket(&mut self, over: &watch::Receiver<bool>) {
        let bound = socket::bind(&self.shared.job).and_then(|(path, listener)| {
            let _inside = self.enter();
            Ok((path, Listener::unix(listener)?))
        });
        match bound {
            Ok((path, listener)) => {
                self.socket = Some(path);
                self.listen(listener, Entry::Owner, over);
            }
            Err(error) => tracing::warn!(%error, "commands of other shells won't reach this job: no Unix socket"),
        }
    }

    fn serve_port(
        &mut self,
        address: SocketAddr,
        options: &HttpOptions,
        over: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        let own = JobIdentity::of_job(&self.shared.job);
        if let Some(identity) = options.security.identity().filter(|identity| **identity != own) {
            let dns_name = own.dns_name();
            let reason =
                format!("the certificate for HTTPS is of job `{identity}`; this job's has the name {dns_name}");
            return Err(StartError::Refused(reason));
        }
        let bound = {
            let _inside = self.enter();
            Listener::port(address, &options.security)
        };
        match bound {
            Ok(Bound { listener, address }) => {
                if matches!(options.security, Security::Open) && !address.ip().is_loopback() {
                    tracing::warn!(%address, "HTTP without TLS: whoever can read along learns the token");
                }
                self.address = Some(address);
                let entry = Entry::Network {
                    is_loopback: address.ip().is_loopback(),
                    is_secured: matches!(options.security, Security::Tls(_)),
                    open: options.open,
                };
                self.listen(listener, entry, over);
                Ok(())
            }
            Err(error) if options.is_optional => {
                tracing::warn!(%error, "no HTTP on {address}, the default; choose another one with --http");
                Ok(())
            }
            Err(error) => Err(StartError::Refused(format!("--http: cannot listen on {address}: {error}"))),
        }
    }

    fn listen(&mut self, listener: Listener, entry: Entry, over: &watch::Receiver<bool>) {
        let router = |entry| routes::router(Arc::clone(&self.shared), entry);
        let routers = Routers { of_the_job: router(Entry::Owner), of_others: router(entry) };
        let handle = self.spawn(listener.serve(routers, over.clone()));
        self.listeners.push(handle);
    }

    fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.runtime().enter()
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
        self.runtime().spawn(future)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("taken by `finish`, which takes the server too")
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if let Some(path) = &self.socket {
            // Another process may have taken the job over, and the name: it is only removed while it leads nowhere.
            socket::remove_if_dead(path);
        }
    }
}
