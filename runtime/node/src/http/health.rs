//! What tells whoever supervises a worker that its process still turns.

use super::listen::{Bound, Listener, Routers};
use super::read;
use crate::tls::Security;
use axum::Router;
use axum::routing::get;
use std::net::SocketAddr;
use tokio::sync::watch;

/// `GET /healthz`, as long as this lives.
pub(crate) struct Health {
    address: SocketAddr,
    _is_over: watch::Sender<bool>,
}

impl Health {
    /// To be called inside a runtime. A process that is stopped, or whose threads are all stuck, accepts connections as
    /// before, for the kernel does that: only an answer shows that somebody is there.
    pub(crate) fn serve(address: SocketAddr) -> std::io::Result<Self> {
        let Bound { listener, address } = Listener::port(address, &Security::Open)?;
        let (is_over, over) = watch::channel(false);
        let router = Router::new().route("/healthz", get(read::healthy));
        tokio::spawn(listener.serve(Routers { of_the_job: router.clone(), of_others: router }, over));
        Ok(Health { address, _is_over: is_over })
    }

    /// With the port that the system chose.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
