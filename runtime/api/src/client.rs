//! Asks a job: over TCP, with TLS or without, or over the Unix socket of one that runs on this machine. One connection per request; it is
//! people, the operator and scripts that ask.

use crate::view::*;
use crate::{Operation, Problem, SavepointId, Trust};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest answer: the history of checkpoints of a wide job.
const ANSWER_BYTES: usize = 64 << 20;
/// Until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until an answer is there, beyond what was asked to be waited.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a job is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// host:port
    Tcp(String),
    /// host:port, with HTTPS
    Tls(String),
    Unix(PathBuf),
}

impl Address {
    /// Of `http://host:port`, `https://host:port`, or `host:port`, which is without TLS.
    pub fn of_url(url: &str) -> Result<Self, ClientError> {
        let refused = |reason: &str| Err(ClientError::Address { url: url.to_owned(), reason: reason.to_owned() });
        let (is_secured, authority) = match url.split_once("://") {
            None => (false, url),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return refused("it begins with something else than http:// or https://"),
        };
        let authority = authority.trim_end_matches('/');
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !authority.contains('/') && port.parse::<u16>().is_ok() => {
                let authority = authority.to_owned();
                Ok(if is_secured { Address::Tls(authority) } else { Address::Tcp(authority) })
            }
            _ => refused("write http://HOST:PORT or https://HOST:PORT"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(authority) => write!(f, "http://{authority}"),
            Address::Tls(authority) => write!(f, "https://{authority}"),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{url}` is no address of a job: {reason}")]
    Address { url: String, reason: String },
    /// Nobody listens there.
    #[error("{address} is not reached: {source}")]
    NotReached { address: Address, source: std::io::Error },
    /// What it would be believed by cannot be used, or it cannot be believed.
    #[error("{address} is not asked: {reason}")]
    NotTrusted { address: Address, reason: String },
    #[error("{address} broke off: {reason}")]
    Broken { address: Address, reason: String },
    /// The job answered that it won't, and why.
    #[error("{}", .0.detail)]
    Refused(Problem),
    #[error("{address} answered something else than this version of the API: {reason}")]
    Answer { address: Address, reason: String },
}

/// Asks one job.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    token: Option<String>,
    trust: Option<Trust>,
}

impl Client {
    pub fn new(address: Address) -> Self {
        Client { address, token: None, trust: None }
    }

    /// With what it takes to change the job.
    pub fn with_token(self, token: impl Into<String>) -> Self {
        Client { token: Some(token.into()), ..self }
    }

    /// By what HTTPS is believed: without it nothing is asked over HTTPS.
    pub fn with_trust(self, trust: Trust) -> Self {
        Client { trust: Some(trust), ..self }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub async fn job(&self) -> Result<JobView, ClientError> {
        self.get(Operation::Job.path()).await
    }

    pub async fn graph(&self) -> Result<GraphView, ClientError> {
        self.get(Operation::Graph.path()).await
    }

    pub async fn subtasks(&self) -> Result<SubtasksView, ClientError> {
        self.get(Operation::Subtasks.path()).await
    }

    pub async fn checkpoints(&self) -> Result<CheckpointsView, ClientError> {
        self.get(Operation::Checkpoints.path()).await
    }

    pub async fn checkpoint(&self, id: u64) -> Result<CheckpointDetail, ClientError> {
        self.get(&Operation::Checkpoint.path().replace("{id}", &id.to_string())).await
    }

    pub async fn restore_points(&self) -> Result<RestorePointsView, ClientError> {
        self.get(Operation::RestorePoints.path()).await
    }

    pub async fn savepoints(&self) -> Result<SavepointsView, ClientError> {
        self.get(Operation::Savepoints.path()).await
    }

    /// Waits at most `wait` for its end.
    pub async fn savepoint(&self, id: &SavepointId, wait: Duration) -> Result<SavepointView, ClientError> {
        let path = Operation::Savepoint.path().replace("{id}", id.as_str());
        let path = format!("{path}?waitMs={}", wait.as_millis());
        self.ask(Method::GET, &path, None, wait).await
    }

    pub async fn trigger_savepoint(&self, request: &SavepointRequest) -> Result<SavepointView, ClientError> {
        self.post(Operation::TriggerSavepoint.path(), request).await
    }

    pub async fn remove_savepoint(&self, address: &str) -> Result<RemovedSavepoint, ClientError> {
        let request = RemoveSavepointRequest { address: address.to_owned() };
        self.post(Operation::RemoveSavepoint.path(), &request).await
    }

    pub async fn pin_checkpoint(&self, request: &PinRequest) -> Result<PinView, ClientError> {
        self.post(Operation::PinCheckpoint.path(), request).await
    }

    /// Returns once it is accepted.
    pub async fn rescale(&self, request: &RescaleRequest) -> Result<RescaleView, ClientError> {
        self.post(Operation::Rescale.path(), request).await
    }

    /// Waits at most `wait` for its end.
    pub async fn rescale_state(&self, id: u64, wait: Duration) -> Result<RescaleView, ClientError> {
        let path = Operation::RescaleState.path().replace("{id}", &id.to_string());
        self.ask(Method::GET, &format!("{path}?waitMs={}", wait.as_millis()), None, wait).await
    }

    pub async fn stop(&self, request: &StopRequest) -> Result<Accepted, ClientError> {
        self.post(Operation::Stop.path(), request).await
    }

    pub async fn cancel(&self) -> Result<Accepted, ClientError> {
        self.ask(Method::POST, Operation::Cancel.path(), None, Duration::ZERO).await
    }

    /// `spec`: a StreamJob as YAML or JSON.
    pub async fn plan(&self, spec: &str) -> Result<PlanView, ClientError> {
        let body = Body { media_type: "application/yaml", bytes: Bytes::from(spec.to_owned()) };
        self.ask(Method::POST, Operation::Plan.path(), Some(body), Duration::ZERO).await
    }

    /// Text of any path: metrics, health.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let bytes = self.bytes(Method::GET, path, None, Duration::ZERO).await?;
        String::from_utf8(bytes.into()).map_err(|error| self.unexpected(error))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None, Duration::ZERO).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(|error| self.unexpected(error))?;
        let body = Body { media_type: "application/json", bytes: Bytes::from(bytes) };
        self.ask(Method::POST, path, Some(body), Duration::ZERO).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        wait: Duration,
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(method, path, body, wait).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.unexpected(error))
    }

    async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        wait: Duration,
    ) -> Result<Bytes, ClientError> {
        let request = self.request(method, path, body)?;
        let answered = async {
            match &self.address {
                Address::Tcp(authority) => {
                    let stream = self.connected(TcpStream::connect(authority)).await?;
                    self.exchange(stream, request).await
                }
                Address::Tls(authority) => {
                    let stream = self.connected(TcpStream::connect(authority)).await?;
                    self.exchange(self.secured(authority, stream).await?, request).await
                }
                Address::Unix(path) => {
                    let stream = self.connected(tokio::net::UnixStream::connect(path)).await?;
                    self.exchange(stream, request).await
                }
            }
        };
        let limit = ANSWER_TIMEOUT + wait;
        let timeout = |_| self.broken(format!("no answer for {} s", limit.as_secs()));
        let (status, bytes) = tokio::time::timeout(limit, answered).await.map_err(timeout)??;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(match serde_json::from_slice(&bytes) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) => self.unexpected(format!("status {status}")),
        })
    }

    fn request(&self, method: Method, path: &str, body: Option<Body>) -> Result<Request<Full<Bytes>>, ClientError> {
        let host = match &self.address {
            Address::Tcp(authority) | Address::Tls(authority) => authority,
            Address::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host).header(ACCEPT, "*/*");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            None => Bytes::new(),
            Some(Body { media_type, bytes }) => {
                request = request.header(CONTENT_TYPE, media_type);
                bytes
            }
        };
        request.body(Full::new(bytes)).map_err(|error| self.broken(error))
    }

    async fn connected<S>(&self, connecting: impl Future<Output = std::io::Result<S>>) -> Result<S, ClientError> {
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        };
        connected.map_err(|source| ClientError::NotReached { address: self.address.clone(), source })
    }

    async fn secured(&self, authority: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, ClientError> {
        let untrusted = |reason: String| ClientError::NotTrusted { address: self.address.clone(), reason };
        let Some(trust) = &self.trust else {
            return Err(untrusted("nothing says which CA its certificate has to be of".to_owned()));
        };
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let (config, name) = trust.config(host).map_err(untrusted)?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(untrusted(error.to_string())),
            Err(_) => Err(untrusted(format!("no TLS handshake within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| self.broken(error))?.to_bytes()))
        };
        tokio::pin!(answered, connection);
        tokio::select! {
            answer = &mut answered => answer,
            // It may be closed once all has been sent, which the answer then has.
            _ = &mut connection => answered.await,
        }
    }

    fn broken(&self, reason: impl ToString) -> ClientError {
        ClientError::Broken { address: self.address.clone(), reason: reason.to_string() }
    }

    fn unexpected(&self, reason: impl ToString) -> ClientError {
        ClientError::Answer { address: self.address.clone(), reason: reason.to_string() }
    }
}

struct Body {
    media_type: &'static str,
    bytes: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |authority: &str| Some(Address::Tcp(authority.to_owned()));
        assert_eq!(Address::of_url("http://localhost:8081").ok(), tcp("localhost:8081"));
        assert_eq!(Address::of_url("http://localhost:8081/").ok(), tcp("localhost:8081"));
        assert_eq!(Address::of_url("[::1]:80").ok(), tcp("[::1]:80"));
        assert_eq!(Address::of_url("https://a:8081").ok(), Some(Address::Tls("a:8081".to_owned())));
        for wrong in ["", "localhost", "ftp://a:1", "http://a:b", "http://a:1/api", ":80", "a:70000"] {
            assert!(Address::of_url(wrong).is_err(), "{wrong}");
        }
    }
}
