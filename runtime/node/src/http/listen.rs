//! Connections: accepted, bounded, and ended in order.

use crate::tls::{self, Clients, JobIdentity, Security};
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Open connections of one listener; who comes then waits until one is closed.
const CONNECTIONS: usize = 128;
/// From a connection, or the answer before, to the whole head of a request. Idle connections are closed by it, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failure to accept, which may be a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) enum Listener {
    /// With the job that this process is of, if its connections are secured.
    Port(tls::Listener, Option<JobIdentity>),
    Unix(UnixListener),
}

pub(super) struct Bound {
    pub(super) listener: Listener,
    /// With the port that the system chose.
    pub(super) address: SocketAddr,
}

/// What a connection is answered by: who comes over it decides.
pub(super) struct Routers {
    /// Of this job: over its socket, or with a certificate of its own.
    pub(super) of_the_job: Router,
    pub(super) of_others: Router,
}

impl Listener {
    /// To be called inside a runtime.
    pub(super) fn port(address: SocketAddr, security: &Security) -> std::io::Result<Bound> {
        let port = tls::Listener::bind(address, security.clone(), Clients::Anybody)?;
        let address = port.address();
        Ok(Bound { listener: Listener::Port(port, security.identity().cloned()), address })
    }

    /// To be called inside a runtime.
    pub(super) fn unix(listener: std::os::unix::net::UnixListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(UnixListener::from_std(listener)?))
    }

    /// Until `over` says so; then what is being answered is answered.
    pub(super) async fn serve(mut self, routers: Routers, over: watch::Receiver<bool>) {
        let mut end = over.clone();
        let mut open = JoinSet::new();
        loop {
            let is_full = open.len() >= CONNECTIONS;
            tokio::select! {
                accepted = self.accept(), if !is_full => match accepted {
                    Ok((stream, is_of_the_job)) => {
                        let router = if is_of_the_job { &routers.of_the_job } else { &routers.of_others };
                        open.spawn(answer(stream, router.clone(), over.clone()));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = open.join_next() => {}
                () = ended(&mut end) => break,
            }
        }
        while open.join_next().await.is_some() {}
    }

    /// With whether who connects has shown to be of this job.
    async fn accept(&mut self) -> std::io::Result<(Box<dyn Stream>, bool)> {
        Ok(match self {
            Listener::Port(port, own) => match port.next().await {
                Some((connection, _)) => {
                    let is_of_the_job = own.is_some() && connection.identity() == own.as_ref();
                    (Box::new(connection), is_of_the_job)
                }
                // The runtime is being shut down, and this with it.
                None => std::future::pending().await,
            },
            Listener::Unix(listener) => (Box::new(listener.accept().await?.0), true),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn answer(stream: Box<dyn Stream>, router: Router, mut over: watch::Receiver<bool>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        // How it ended is the other side's affair.
        _ = connection.as_mut() => return,
        () = ended(&mut over) => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

/// Until it is said, or nobody is left to say it.
async fn ended(over: &mut watch::Receiver<bool>) {
    over.wait_for(|over| *over).await.ok();
}
