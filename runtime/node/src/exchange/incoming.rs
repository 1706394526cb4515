//! A worker's data port: takes connections from other workers, and makes its own to them.

use super::{Failure, Outgoing};
use crate::task::{Gate, ToWriter};
use crate::tls::{Clients, Connection, Listener, Security};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{AbortHandle, JoinSet};
use weir_model::{Fence, StreamElement, WorkerId};
use weir_wire::data::{
    Decoder, Frame, HEADER_BYTES, Hello, Received, body_buffer, credit, frame_length, limit, split_header,
};

/// A peer says within this time which attempt it belongs to.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries to reach a worker that has said it is ready: it may have been started on a busy machine.
const CONNECT_TRIES: u32 = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// What one write takes together.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// What the attempt on this worker reads from others.
pub(crate) struct Inbound {
    fence: Fence,
    own: WorkerId,
    channels: BTreeMap<u32, (Arc<Gate>, usize)>,
    failure: Arc<Failure>,
}

impl Inbound {
    pub(super) fn new(
        fence: Fence,
        own: WorkerId,
        channels: BTreeMap<u32, (Arc<Gate>, usize)>,
        failure: Arc<Failure>,
    ) -> Self {
        Inbound { fence, own, channels, failure }
    }
}

/// One for a worker process, over all its attempts.
pub(crate) struct DataServer {
    runtime: tokio::runtime::Handle,
    address: SocketAddr,
    security: Security,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inbound: Option<Arc<Inbound>>,
    /// Of the attempt that is open.
    connections: Vec<AbortHandle>,
}

impl DataServer {
    pub(crate) async fn listen(address: SocketAddr, security: Security) -> Result<Arc<Self>> {
        let listener = Listener::bind(address, security.clone(), Clients::OfTheJob)?;
        let server = Arc::new(DataServer {
            runtime: tokio::runtime::Handle::current(),
            address: listener.address(),
            security,
            state: Mutex::default(),
        });
        tokio::spawn(accept(Arc::clone(&server), listener));
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn open(&self, inbound: Inbound) {
        let mut state = self.lock();
        state.connections.drain(..).for_each(|connection| connection.abort());
        state.inbound = Some(Arc::new(inbound));
    }

    pub(super) fn close(&self, fence: Fence) {
        let mut state = self.lock();
        if state.inbound.as_ref().is_some_and(|inbound| inbound.fence == fence) {
            state.inbound = None;
            state.connections.drain(..).for_each(|connection| connection.abort());
        }
    }

    pub(super) fn connect(self: &Arc<Self>, outgoing: Arc<Outgoing>, hello: Hello, address: String) {
        let Some(queued) = outgoing.queued() else { return };
        let security = self.security.clone();
        let task = self.runtime.spawn(async move {
            let reason = match send(&outgoing, queued, hello, &address, &security).await {
                Ok(()) => "it ended the connection".to_owned(),
                Err(error) => error.to_string(),
            };
            outgoing.lost(format!("the connection to worker {} ({address}) is lost: {reason}", hello.to));
        });
        self.lock().connections.push(task.abort_handle());
    }

    fn inbound(&self, hello: Hello) -> Option<Arc<Inbound>> {
        self.lock().inbound.clone().filter(|inbound| inbound.fence == hello.fence && inbound.own == hello.to)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(server: Arc<DataServer>, mut listener: Listener) {
    while let Some((connection, peer)) = listener.next().await {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            if let Err(error) = welcome(&server, connection).await {
                tracing::debug!(%peer, %error, "a data connection was refused");
            }
        });
    }
}

/// Learns what attempt a connection belongs to; one that isn't open here gets no answer but the end.
async fn welcome(server: &Arc<DataServer>, mut stream: Connection) -> Result<()> {
    let mut bytes = [0; Hello::BYTES];
    tokio::time::timeout(HELLO_TIMEOUT, stream.read_exact(&mut bytes)).await??;
    let hello = Hello::decode(&bytes).map_err(Error::other)?;
    let Some(inbound) = server.inbound(hello) else {
        return Err(Error::new(ErrorKind::ConnectionRefused, "it belongs to an attempt that doesn't run here"));
    };
    let connection = tokio::spawn(async move {
        let reason = match receive(stream, &inbound).await {
            Ok(()) => "it ended the connection".to_owned(),
            Err(error) => error.to_string(),
        };
        inbound.failure.report(format!("the connection from worker {} is lost: {reason}", hello.from));
    });
    let mut state = server.lock();
    if state.inbound.as_ref().is_some_and(|inbound| inbound.fence == hello.fence) {
        state.connections.push(connection.abort_handle());
    } else {
        connection.abort();
    }
    Ok(())
}

async fn receive(stream: Connection, inbound: &Inbound) -> Result<()> {
    let (reading, writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let (returned, credits) = unbounded_channel();
    let mut writer = JoinSet::new();
    writer.spawn(return_credits(writing, credits));
    let mut decoders: BTreeMap<u32, Decoder> = BTreeMap::new();
    while let Some((number, kind, body)) = read_frame(&mut reading).await? {
        let Some((gate, channel)) = inbound.channels.get(&number) else {
            return Err(Error::new(ErrorKind::InvalidData, format!("there is no channel {number} here")));
        };
        let decoder = decoders.entry(number).or_insert_with(|| {
            let returned = returned.clone();
            gate.link_writer(
                *channel,
                Box::new(move |word| {
                    returned.send((number, word)).ok();
                }),
            );
            Decoder::default()
        });
        let bytes = body.len();
        match decoder.decode(kind, body).map_err(Error::other)? {
            // Only batches are charged to a channel's credit.
            Received::Element(element @ StreamElement::Batch(_)) => gate.deliver(*channel, element, bytes),
            Received::Element(element) => gate.deliver(*channel, element, 0),
            Received::Credit(_) | Received::Limit(_) => {
                return Err(Error::new(ErrorKind::InvalidData, "credit for no channel of ours"));
            }
        }
    }
    Ok(())
}

async fn return_credits(writing: impl AsyncWrite + Unpin, mut words: UnboundedReceiver<(u32, ToWriter)>) {
    let mut writing = BufWriter::new(writing);
    while let Some(first) = words.recv().await {
        let mut next = Some(first);
        while let Some((number, word)) = next {
            let frame = match word {
                ToWriter::Credit(bytes) => credit(number, bytes as u32),
                ToWriter::Limit(bytes) => limit(number, bytes as u32),
            };
            if writing.write_all(&frame).await.is_err() {
                return;
            }
            next = words.try_recv().ok();
        }
        if writing.flush().await.is_err() {
            return;
        }
    }
}

/// Sends until the queue is closed, and takes the credit that comes back meanwhile.
async fn send(
    outgoing: &Arc<Outgoing>,
    queued: UnboundedReceiver<Frame>,
    hello: Hello,
    address: &str,
    security: &Security,
) -> Result<()> {
    let mut stream = reach(address, security).await?;
    stream.write_all(&hello.encode()).await?;
    let (reading, writing) = stream.into_split();
    tokio::select! {
        result = write_frames(writing, queued) => result,
        result = take_credits(reading, outgoing) => result,
    }
}

async fn reach(address: &str, security: &Security) -> Result<Connection> {
    let mut pause = FIRST_RETRY;
    let mut last = None;
    for _ in 0..CONNECT_TRIES {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match security.connect(stream).await {
                Ok(connection) => return Ok(connection),
                // It may be just about to read a new certificate, or a new bundle of CAs.
                Err(refusal) => last = Some(refusal.into()),
            },
            Ok(Err(error)) => last = Some(error),
            Err(late) => last = Some(late.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
    Err(last.unwrap_or_else(|| Error::other("it is not reached")))
}

async fn write_frames(writing: impl AsyncWrite + Unpin, mut queued: UnboundedReceiver<Frame>) -> Result<()> {
    let mut writing = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writing);
    while let Some(first) = queued.recv().await {
        let mut next = Some(first);
        while let Some(Frame { head, body }) = next {
            writing.write_all(&head).await?;
            for part in &body {
                writing.write_all(part).await?;
            }
            next = queued.try_recv().ok();
        }
        writing.flush().await?;
    }
    writing.shutdown().await
}

async fn take_credits(reading: impl AsyncRead + Unpin, outgoing: &Outgoing) -> Result<()> {
    let mut reading = BufReader::new(reading);
    while let Some((number, kind, body)) = read_frame(&mut reading).await? {
        match Decoder::default().decode(kind, body).map_err(Error::other)? {
            Received::Credit(bytes) => outgoing.credit(number, bytes),
            Received::Limit(bytes) => outgoing.limit(number, bytes),
            Received::Element(_) => return Err(Error::new(ErrorKind::InvalidData, "elements come the wrong way")),
        }
    }
    Ok(())
}

/// None: the connection ended between two frames.
async fn read_frame(reading: &mut (impl AsyncRead + Unpin)) -> Result<Option<(u32, u8, arrow::buffer::Buffer)>> {
    let mut length = [0; 4];
    match reading.read_exact(&mut length).await {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let length = frame_length(length).map_err(Error::other)?;
    let mut header = [0; HEADER_BYTES];
    reading.read_exact(&mut header).await?;
    let (kind, number) = split_header(header);
    let mut body = body_buffer(length - HEADER_BYTES);
    reading.read_exact(body.as_slice_mut()).await?;
    Ok(Some((number, kind, body.into())))
}
