//! Connections that have shown who they are.

use super::certificates::Tls;
use super::identity::JobIdentity;
use super::socket::prepare;
use super::words::{NO_CERTIFICATE, NOT_TLS, PLAIN_HTTP, of_tls};
use rustls::CommonState;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A peer shows its certificate within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a refused peer may still say before the connection is closed, so that it reads why.
const FAREWELL_BYTES: u64 = 64 << 10;
const FAREWELL: Duration = Duration::from_secs(1);
/// To who speaks HTTP where HTTPS is spoken.
const HTTPS_ONLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    this port speaks HTTPS: ask https://\n";
/// The first byte of every TLS connection: the record of a handshake.
const HANDSHAKE_RECORD: u8 = 0x16;

/// How the processes of a job connect to each other.
#[derive(Clone, Debug)]
pub enum Security {
    /// Anybody may connect, and read along: for this machine, or because somebody said so.
    Open,
    Tls(Arc<Tls>),
}

/// Why a connection did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// As a probe does that only looks whether the port is open.
    #[error("it left before it said anything")]
    Left,
    #[error("{0}")]
    Because(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::new(ErrorKind::ConnectionRefused, refusal)
    }
}

/// A connection to a process of the same job.
pub enum Connection {
    Open(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, Option<JobIdentity>),
}

pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

impl Security {
    /// The job whose process this is; none where nobody asks.
    pub fn identity(&self) -> Option<&JobIdentity> {
        match self {
            Security::Open => None,
            Security::Tls(tls) => Some(tls.identity()),
        }
    }

    /// Takes a connection of a process of the same job.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::result::Result<Connection, Refusal> {
        prepare(&stream).map_err(|_| Refusal::Left)?;
        let Security::Tls(tls) = self else { return Ok(Connection::Open(stream)) };
        let connection = handshake(accept_tls(tls.material().server.clone(), stream)).await?;
        same_job(tls, connection)
    }

    /// As `accept`, of any client: one without a certificate, too. `Connection::identity` tells which it is.
    pub(crate) async fn accept_http(&self, stream: TcpStream) -> std::result::Result<Connection, Refusal> {
        prepare(&stream).map_err(|_| Refusal::Left)?;
        let Security::Tls(tls) = self else { return Ok(Connection::Open(stream)) };
        handshake(async {
            if is_plain(&stream).await? {
                tokio::spawn(part(stream, HTTPS_ONLY));
                return Err(Refusal::Because(PLAIN_HTTP.to_owned()));
            }
            accept_tls(tls.material().http_server.clone(), stream).await
        })
        .await
    }

    /// Makes a connection to a process of the same job.
    pub(crate) async fn connect(&self, stream: TcpStream) -> std::result::Result<Connection, Refusal> {
        prepare(&stream).map_err(|error| Refusal::Because(error.to_string()))?;
        let Security::Tls(tls) = self else { return Ok(Connection::Open(stream)) };
        let connector = TlsConnector::from(Arc::clone(&tls.material().client));
        let name = tls.identity().server_name().map_err(Refusal::Because)?;
        let connection = handshake(async {
            let stream = connector.connect(name, stream).await.map_err(|error| refusal(&error))?;
            Connection::of_tls(TlsStream::Client(stream))
        });
        same_job(tls, connection.await?)
    }
}

async fn handshake(
    made: impl Future<Output = std::result::Result<Connection, Refusal>>,
) -> std::result::Result<Connection, Refusal> {
    let late = |_| Refusal::Because(format!("no TLS handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()));
    tokio::time::timeout(HANDSHAKE_TIMEOUT, made).await.map_err(late)?
}

/// Found out here: to TLS it is one broken message among others.
async fn is_plain(stream: &TcpStream) -> std::result::Result<bool, Refusal> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => Err(Refusal::Left),
        Ok(_) => Ok(first[0] != HANDSHAKE_RECORD),
    }
}

async fn accept_tls(config: Arc<rustls::ServerConfig>, stream: TcpStream) -> std::result::Result<Connection, Refusal> {
    if is_plain(&stream).await? {
        return Err(Refusal::Because(NOT_TLS.to_owned()));
    }
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => Connection::of_tls(TlsStream::Server(stream)),
        Err((error, stream)) => {
            tokio::spawn(part(stream, b""));
            Err(refusal(&error))
        }
    }
}

/// Closes in order: a connection that is dropped with something unread is reset, and the peer then never reads the alert
/// that says what was wrong with it.
async fn part(mut stream: TcpStream, last_words: &'static [u8]) {
    let parting = async {
        stream.write_all(last_words).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    tokio::time::timeout(FAREWELL, parting).await.ok();
}

fn refusal(error: &Error) -> Refusal {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Refusal::Because(of_tls(tls)),
        None if error.kind() == ErrorKind::UnexpectedEof => {
            Refusal::Because("it ended the connection during the TLS handshake".to_owned())
        }
        None => Refusal::Because(error.to_string()),
    }
}

fn same_job(tls: &Tls, connection: Connection) -> std::result::Result<Connection, Refusal> {
    match connection.identity() {
        Some(theirs) if theirs == tls.identity() => Ok(connection),
        Some(theirs) => Err(Refusal::Because(format!(
            "its certificate is of job `{theirs}`, and this process of `{}`",
            tls.identity()
        ))),
        None => Err(Refusal::Because(NO_CERTIFICATE.to_owned())),
    }
}

impl Connection {
    fn of_tls(stream: TlsStream<TcpStream>) -> std::result::Result<Self, Refusal> {
        let state: &CommonState = match &stream {
            TlsStream::Client(stream) => stream.get_ref().1,
            TlsStream::Server(stream) => stream.get_ref().1,
        };
        let identity = match state.peer_certificates().and_then(<[_]>::first) {
            None => None,
            Some(certificate) => Some(
                JobIdentity::of_certificate(certificate)
                    .map_err(|reason| Refusal::Because(format!("its certificate is refused: {reason}")))?,
            ),
        };
        Ok(Connection::Tls(Box::new(stream), identity))
    }

    /// The job that the peer's certificate is of; none if it showed none.
    pub fn identity(&self) -> Option<&JobIdentity> {
        match self {
            Connection::Open(_) => None,
            Connection::Tls(_, identity) => identity.as_ref(),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Connection::Open(stream) => stream,
            Connection::Tls(stream, _) => stream.get_ref().0,
        }
    }

    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Connection::Open(stream) => {
                let (reading, writing) = stream.into_split();
                (Box::new(reading), Box::new(writing))
            }
            Connection::Tls(stream, _) => {
                let (reading, writing) = tokio::io::split(*stream);
                (Box::new(reading), Box::new(writing))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Connection::Open(stream) => Pin::new(stream).poll_read(context, buffer),
            Connection::Tls(stream, _) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match self.get_mut() {
            Connection::Open(stream) => Pin::new(stream).poll_write(context, bytes),
            Connection::Tls(stream, _) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Connection::Open(stream) => Pin::new(stream).poll_flush(context),
            Connection::Tls(stream, _) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Connection::Open(stream) => Pin::new(stream).poll_shutdown(context),
            Connection::Tls(stream, _) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        match self.get_mut() {
            Connection::Open(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Connection::Tls(stream, _) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Connection::Open(stream) => stream.is_write_vectored(),
            Connection::Tls(stream, _) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp().connect_info()
    }
}
