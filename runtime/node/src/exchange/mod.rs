//! Channels that lead to another worker: one connection for each pair of workers and attempt, shared by all channels
//! in that direction.
//!
//! A channel's writer may have as much on the way as its reader says, and gets that back as the reader takes it. So the
//! reading side never waits for a full channel, and a slow channel holds up no other.

mod incoming;
mod outgoing;

pub(crate) use incoming::{DataServer, Inbound};
pub(crate) use outgoing::{Outgoing, RemoteChannel};

use crate::task::Gate;
use crate::worker::{EventSink, WorkerEvent};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use weir_model::{Fence, WorkerId};

/// One worker's part of an attempt's connections.
pub(crate) struct AttemptExchange {
    fence: Fence,
    own: WorkerId,
    /// None in a process that runs a job by itself.
    server: Option<Arc<DataServer>>,
    peers: BTreeMap<WorkerId, String>,
    outgoing: BTreeMap<WorkerId, Arc<Outgoing>>,
    inbound: BTreeMap<u32, (Arc<Gate>, usize)>,
    failure: Arc<Failure>,
}

impl AttemptExchange {
    pub(crate) fn new(
        fence: Fence,
        own: WorkerId,
        server: Option<Arc<DataServer>>,
        peers: BTreeMap<WorkerId, String>,
        events: EventSink,
    ) -> Self {
        let failure = Arc::new(Failure { fence, events, is_over: AtomicBool::new(false) });
        AttemptExchange { fence, own, server, peers, outgoing: BTreeMap::new(), inbound: BTreeMap::new(), failure }
    }

    /// The connection to a worker, for its channels.
    pub(crate) fn to(&mut self, worker: WorkerId) -> Arc<Outgoing> {
        let outgoing =
            self.outgoing.entry(worker).or_insert_with(|| Arc::new(Outgoing::new(Arc::clone(&self.failure))));
        Arc::clone(outgoing)
    }

    /// The channel of a gate that elements with this number are for.
    pub(crate) fn listen(&mut self, number: u32, gate: Arc<Gate>, channel: usize) {
        self.inbound.insert(number, (gate, channel));
    }

    /// Other workers may connect from here on.
    pub(crate) fn open(&mut self) {
        if let Some(server) = &self.server {
            let inbound = std::mem::take(&mut self.inbound);
            server.open(Inbound::new(self.fence, self.own, inbound, Arc::clone(&self.failure)));
        }
    }

    /// All workers are open: connect to those that this one sends to.
    pub(crate) fn connect(&self) {
        for (worker, outgoing) in &self.outgoing {
            let Some((server, address)) = self.server.as_ref().zip(self.peers.get(worker)) else {
                self.failure.report(format!("nobody said where worker {worker} is reached"));
                continue;
            };
            let hello = weir_wire::data::Hello { fence: self.fence, from: self.own, to: *worker };
            server.connect(Arc::clone(outgoing), hello, address.clone());
        }
    }

    /// The attempt ends: writers that wait are let go, connections end.
    pub(crate) fn close(&self) {
        self.failure.is_over.store(true, Ordering::SeqCst);
        self.outgoing.values().for_each(|outgoing| outgoing.close());
        if let Some(server) = &self.server {
            server.close(self.fence);
        }
    }
}

impl Drop for AttemptExchange {
    fn drop(&mut self) {
        self.close();
    }
}

/// How a lost connection ends its attempt.
pub(crate) struct Failure {
    fence: Fence,
    events: EventSink,
    /// The attempt is over, or has failed already: connections end now.
    is_over: AtomicBool,
}

impl Failure {
    fn report(&self, reason: String) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            self.events.send(WorkerEvent::AttemptFailed { fence: self.fence, reason });
        }
    }
}
