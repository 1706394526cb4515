//! The coordinator's port: workers register, take commands and report.

use super::{HEARTBEAT, HEARTBEAT_TIMEOUT, MESSAGE_BYTES, MESSAGES, convert};
use crate::control::{ControlEvent, WorkerLink};
use crate::local_copies::Held;
use crate::tls::{Clients, Listener, Security};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use weir_model::WorkerId;
use weir_wire::check_version;
use weir_wire::v1::coordination_server::{Coordination, CoordinationServer};
use weir_wire::v1::{self, coordinator_message, worker_message};

/// What a worker needs to know of the job.
pub(crate) struct JobText {
    pub(crate) yaml: String,
    pub(crate) folder: String,
}

/// Listens until the process ends. Returns the address, in which the port may have been chosen by the system.
pub(crate) fn serve(
    runtime: &tokio::runtime::Handle,
    address: SocketAddr,
    security: Security,
    job: JobText,
    events: Sender<ControlEvent>,
) -> std::io::Result<SocketAddr> {
    let _inside = runtime.enter();
    let listener = Listener::bind(address, security, Clients::OfTheJob)?;
    let address = listener.address();
    let service = Port { job, events, next_worker: AtomicU32::new(1) };
    let service = CoordinationServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    runtime.spawn(async move {
        if let Err(error) = Server::builder().add_service(service).serve_with_incoming(listener.into_incoming()).await {
            tracing::error!(%error, "the coordinator's port is closed: no worker can register");
        }
    });
    Ok(address)
}

struct Port {
    job: JobText,
    events: Sender<ControlEvent>,
    next_worker: AtomicU32,
}

type Answer = Result<v1::CoordinatorMessage, Status>;

#[tonic::async_trait]
impl Coordination for Port {
    type AttachStream = ReceiverStream<Answer>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.remote_addr();
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HEARTBEAT_TIMEOUT, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no registration came"))??;
        let Some(worker_message::Message::Register(register)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message registers"));
        };
        let (sender, receiver) = mpsc::channel(MESSAGES);
        if let Err(reason) = check_version(register.protocol.unwrap_or_default()) {
            tracing::warn!(?peer, %reason, "a worker was refused");
            let refused = coordinator_message::Message::Refused(v1::Refused { reason });
            sender.try_send(message(refused)).ok();
            return Ok(Response::new(ReceiverStream::new(receiver)));
        }
        let worker = WorkerId(self.next_worker.fetch_add(1, Ordering::SeqCst));
        let registered =
            v1::Registered { worker: worker.0, job: self.job.yaml.clone(), folder: self.job.folder.clone() };
        sender.try_send(message(coordinator_message::Message::Registered(registered))).ok();
        tracing::info!(%worker, ?peer, slots = register.slots, program = %register.program, "a worker registered");

        let link = link(worker, sender.clone(), self.events.clone());
        let data_address = Some(register.data_address);
        let objects = register.held.into_iter().map(|held| (held.object, held.bytes)).collect();
        let held = Held { job_uid: register.held_job_uid, objects };
        let running = register.running.map(convert::running).transpose();
        let running = running.map_err(|malformed| Status::invalid_argument(malformed.to_string()))?;
        let slots = register.slots;
        self.tell(ControlEvent::WorkerRegistered { worker, slots, data_address, held, running, link })?;
        let heartbeats = tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                let heartbeat = coordinator_message::Message::Heartbeat(v1::Heartbeat {});
                if sender.send(message(heartbeat)).await.is_err() {
                    return;
                }
            }
        });
        let events = self.events.clone();
        tokio::spawn(async move {
            let reason = listen(worker, incoming, &events).await;
            heartbeats.abort();
            tracing::warn!(%worker, %reason, "a worker is gone");
            // The runner lets go of the link, which ends the stream.
            events.send(ControlEvent::WorkerLost { worker, reason }).ok();
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Port {
    fn tell(&self, event: ControlEvent) -> Result<(), Status> {
        self.events.send(event).map_err(|_| Status::unavailable("the job has ended"))
    }
}

fn message(message: coordinator_message::Message) -> Answer {
    Ok(v1::CoordinatorMessage { message: Some(message) })
}

fn link(worker: WorkerId, sender: mpsc::Sender<Answer>, events: Sender<ControlEvent>) -> WorkerLink {
    Box::new(move |command| {
        if sender.try_send(Ok(convert::command_message(command))).is_err() {
            let reason = "it takes no commands any more".to_owned();
            events.send(ControlEvent::WorkerLost { worker, reason }).ok();
        }
    })
}

/// Passes on what the worker says until it says nothing more; returns why.
async fn listen(worker: WorkerId, mut incoming: Streaming<v1::WorkerMessage>, events: &Sender<ControlEvent>) -> String {
    loop {
        let message = match tokio::time::timeout(HEARTBEAT_TIMEOUT, incoming.message()).await {
            Err(_) => return format!("no heartbeat for {} s", HEARTBEAT_TIMEOUT.as_secs()),
            Ok(Err(status)) => return format!("its connection broke: {}", status.message()),
            Ok(Ok(None)) => return "it left".to_owned(),
            Ok(Ok(Some(message))) => message,
        };
        match convert::event(message) {
            Err(malformed) => return malformed.to_string(),
            Ok(None) => {}
            Ok(Some(event)) => {
                if events.send(ControlEvent::Worker { worker, event }).is_err() {
                    return "the job has ended".to_owned();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use weir_wire::PROTOCOL;
    use weir_wire::v1::ProtocolVersion;
    use weir_wire::v1::coordination_client::CoordinationClient;

    struct Served {
        runtime: tokio::runtime::Runtime,
        address: SocketAddr,
        events: Receiver<ControlEvent>,
    }

    fn served() -> Served {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (events, received) = channel();
        let job = JobText { yaml: "the job".to_owned(), folder: "/".to_owned() };
        let any = "127.0.0.1:0".parse().unwrap();
        let address = serve(runtime.handle(), any, Security::Open, job, events).unwrap();
        Served { runtime, address, events: received }
    }

    impl Served {
        /// What the coordinator answers to a worker of that version.
        fn register(&self, protocol: ProtocolVersion) -> coordinator_message::Message {
            self.runtime.block_on(async {
                let mut client = CoordinationClient::connect(format!("http://{}", self.address)).await.unwrap();
                let register = v1::Register {
                    protocol: Some(protocol),
                    slots: 2,
                    data_address: "d:1".into(),
                    ..Default::default()
                };
                let first = v1::WorkerMessage { message: Some(worker_message::Message::Register(register)) };
                // The worker leaves once its sender is gone.
                let (sender, messages) = mpsc::channel(1);
                sender.send(first).await.unwrap();
                let messages = ReceiverStream::new(messages);
                let mut answers = client.attach(messages).await.unwrap().into_inner();
                answers.message().await.unwrap().unwrap().message.unwrap()
            })
        }
    }

    #[test]
    fn neighbouring_versions_are_taken() {
        let served = served();
        let ProtocolVersion { major, minor } = PROTOCOL;
        for minor in [minor.saturating_sub(1), minor, minor + 1] {
            let answer = served.register(ProtocolVersion { major, minor });
            assert!(matches!(answer, coordinator_message::Message::Registered(_)), "{minor}: {answer:?}");
            let registered = served.events.recv().unwrap();
            assert!(matches!(registered, ControlEvent::WorkerRegistered { slots: 2, .. }));
            // Its stream is gone again.
            assert!(matches!(served.events.recv().unwrap(), ControlEvent::WorkerLost { .. }));
        }
    }

    #[test]
    fn other_versions_are_refused_with_the_reason() {
        let served = served();
        let ProtocolVersion { major, minor } = PROTOCOL;
        for (major, minor) in [(major, minor + 2), (major + 1, minor), (0, 0)] {
            let coordinator_message::Message::Refused(refused) = served.register(ProtocolVersion { major, minor })
            else {
                panic!("version {major}.{minor} was not refused");
            };
            assert!(refused.reason.contains(&format!("version {major}.{minor} of the protocol")), "{}", refused.reason);
        }
        assert!(served.events.try_recv().is_err(), "the job heard of a worker that was refused");
    }
}
