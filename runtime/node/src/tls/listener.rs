//! A port whose connections have shown who they are before anything of theirs is read.

use super::connection::{Connection, Refusal, Security};
use std::io::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Handshakes under way at once, and connections that nobody has taken yet; whoever comes then waits in the system's queue.
const HANDSHAKES: usize = 64;
/// Connections that are ready and wait for the server behind the port.
const READY: usize = 16;
/// After an accept that failed: no file handle is left, perhaps, and trying at once would fail again.
const PAUSE: Duration = Duration::from_millis(20);

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Processes of the same job.
    OfTheJob,
    /// Anybody who believes our certificate: what they may do is decided by who serves them (see
    /// [`Connection::identity`]). Speaks HTTP/2 and HTTP/1.1.
    Anybody,
}

/// A listening port. A slow or silent client holds up no other.
pub struct Listener {
    address: SocketAddr,
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
}

impl Listener {
    /// Port 0 lets the system choose one. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address may be taken, or not of this machine.
    pub fn bind(address: SocketAddr, security: Security, clients: Clients) -> Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let (ready, received) = mpsc::channel(READY);
        tokio::spawn(accept(listener, security, clients, ready));
        Ok(Listener { address, ready: received })
    }

    /// In which the port may have been chosen by the system.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection; none is the end of the runtime.
    pub async fn next(&mut self) -> Option<(Connection, SocketAddr)> {
        self.ready.recv().await
    }

    /// For a server that takes a stream of connections.
    pub(crate) fn into_incoming(self) -> impl tokio_stream::Stream<Item = Result<Connection>> {
        use tokio_stream::StreamExt;
        ReceiverStream::new(self.ready).map(|(connection, _)| Ok(connection))
    }
}

async fn accept(
    listener: TcpListener,
    security: Security,
    clients: Clients,
    ready: mpsc::Sender<(Connection, SocketAddr)>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (security, ready) = (security.clone(), ready.clone());
        tokio::spawn(async move {
            let accepted = match clients {
                Clients::OfTheJob => security.accept(stream).await,
                Clients::Anybody => security.accept_http(stream).await,
            };
            match accepted {
                Ok(connection) => {
                    ready.send((connection, peer)).await.ok();
                }
                Err(reason @ Refusal::Left) => tracing::debug!(%peer, %reason, "no connection"),
                Err(reason) => tracing::warn!(%peer, %reason, "a connection was refused"),
            }
            // Only now: a server that takes no more connections leaves who comes in the system's queue.
            drop(permit);
        });
    }
}
