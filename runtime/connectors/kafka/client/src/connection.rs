//! One connection to a broker: requests out, responses in the same order.

use crate::error::{KafkaError, Result, check};
use crate::options::{Options, split_address};
use crate::sasl;
use crate::tls::{self, TlsStream};
use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes};
use rustls::ClientConfig;
use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A response that says it is longer than this is none.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
/// What a listener of TLS begins its complaint with when it is not spoken to in TLS.
const TLS_ALERT: u8 = 21;
const TLS_MAJOR_VERSION: u8 = 3;
/// Of the time that a broker accepts an authentication for: with the rest requests under way come to their end.
const SESSION_SHARE: f64 = 0.8;

pub(crate) struct Connection {
    stream: Stream,
    peer: String,
    client_id: StrBytes,
    versions: HashMap<i16, (i16, i16)>,
    /// The cluster's level of the feature `transaction.version`, where its brokers know that.
    transaction_version: i16,
    correlation: i32,
    /// Correlation id, API and version of the requests that wait for their responses.
    waiting: VecDeque<(i32, i16, i16)>,
    buffer: BytesMut,
    /// When the broker will want to know again who we are, by a new connection.
    session_ends: Option<Instant>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Connection {
    pub fn open(address: &str, options: &Options, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let no_address = || KafkaError::Unusable(format!("`{address}` is not an address; write host:port"));
        let (host, port) = split_address(address).ok_or_else(no_address)?;
        let failed = |error: std::io::Error| KafkaError::Connection(format!("cannot connect to {address}: {error}"));
        let mut last = std::io::Error::other("the name has no address");
        let addresses = (host, port).to_socket_addrs().map_err(failed)?;
        let mut connected = None;
        for socket in addresses {
            match TcpStream::connect_timeout(&socket, options.connect_timeout) {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let stream = connected.ok_or_else(|| failed(last))?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(options.request_timeout)).map_err(failed)?;
        stream.set_write_timeout(Some(options.request_timeout)).map_err(failed)?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(config) => Stream::Tls(Box::new(tls::connect(config, host, stream)?)),
        };
        let mut connection = Connection {
            stream,
            peer: address.to_owned(),
            client_id: StrBytes::from_string(options.client_id.clone()),
            versions: HashMap::new(),
            transaction_version: 0,
            correlation: 0,
            waiting: VecDeque::new(),
            buffer: BytesMut::new(),
            session_ends: None,
        };
        connection.learn_versions()?;
        if let Some(sasl) = &options.security.sasl {
            sasl::authenticate(&mut connection, sasl)?;
        }
        Ok(connection)
    }

    /// The broker has said for how long it believes the authentication.
    pub fn session_begins(&mut self, lifetime: Duration) {
        self.session_ends = Some(Instant::now() + lifetime.mul_f64(SESSION_SHARE));
    }

    /// Whether another connection had better take its place: brokers close one whose session is over.
    pub fn is_outlived(&self) -> bool {
        self.waiting.is_empty() && self.session_ends.is_some_and(|ends| ends <= Instant::now())
    }

    pub fn peer(&self) -> &str {
        &self.peer
    }

    pub fn transaction_version(&self) -> i16 {
        self.transaction_version
    }

    /// The newest version that both sides know.
    pub fn version_of<R: Request>(&self) -> Result<i16> {
        self.version_up_to::<R>(i16::MAX)
    }

    /// The newest version that both sides know, up to one.
    pub fn version_up_to<R: Request>(&self, newest: i16) -> Result<i16> {
        let ours = <R as Message>::VERSIONS;
        let too_old = || {
            let name = std::any::type_name::<R>().rsplit("::").next().unwrap_or_default().trim_end_matches("Request");
            KafkaError::Unusable(format!("the broker {} is too old: it has no usable {name}", self.peer))
        };
        let (min, max) = *self.versions.get(&R::KEY).ok_or_else(too_old)?;
        let version = max.min(ours.max).min(newest);
        if version < min.max(ours.min) { Err(too_old()) } else { Ok(version) }
    }

    pub fn call<R: Request>(&mut self, request: &R) -> Result<R::Response> {
        let version = self.version_of::<R>()?;
        self.call_at(request, version)
    }

    pub fn call_at<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        self.send(request, version)?;
        self.receive::<R>()
    }

    /// Sends without waiting for the response, which `receive` takes in the order of the requests.
    pub fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(self.client_id.clone()));
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        header.encode(&mut self.buffer, R::header_version(version)).map_err(|error| self.cannot_encode(&error))?;
        request.encode(&mut self.buffer, version).map_err(|error| self.cannot_encode(&error))?;
        let length = (self.buffer.len() - 4) as u32;
        self.buffer[..4].copy_from_slice(&length.to_be_bytes());
        let written = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(&self.buffer),
            Stream::Tls(stream) => stream.write_all(&self.buffer).and_then(|()| stream.flush()),
        };
        written.map_err(|error| self.broken(&error))?;
        self.waiting.push_back((self.correlation, R::KEY, version));
        Ok(())
    }

    /// The response of the oldest request that waits for one.
    ///
    /// # Panics
    /// If none waits, or it is of another kind.
    pub fn receive<R: Request>(&mut self) -> Result<R::Response> {
        let (correlation, key, version) = self.waiting.pop_front().expect("a request was sent");
        assert_eq!(key, R::KEY, "responses come in the order of their requests");
        let mut frame = self.frame()?;
        // The answer to which versions there are is readable for those who don't know them yet.
        let header_version = if key == ApiVersionsRequest::KEY { 0 } else { R::Response::header_version(version) };
        let nonsense = |what: &dyn std::fmt::Display, peer: &str| {
            KafkaError::Connection(format!("a response from {peer} makes no sense: {what}"))
        };
        let header =
            ResponseHeader::decode(&mut frame, header_version).map_err(|error| nonsense(&error, &self.peer))?;
        if header.correlation_id != correlation {
            return Err(nonsense(&"it answers another request", &self.peer));
        }
        R::Response::decode(&mut frame, version).map_err(|error| nonsense(&error, &self.peer))
    }

    fn frame(&mut self) -> Result<Bytes> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        if let ([TLS_ALERT, TLS_MAJOR_VERSION, ..], Stream::Plain(_)) = (length, &self.stream) {
            let what = format!("{} answers with TLS; set security.protocol to SSL or SASL_SSL", self.peer);
            return Err(KafkaError::Unusable(what));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_RESPONSE_BYTES {
            let what = format!("a response from {} would have {length} bytes: is it a Kafka listener?", self.peer);
            return Err(KafkaError::Connection(what));
        }
        let mut frame = vec![0; length];
        self.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    fn read_exact(&mut self, into: &mut [u8]) -> Result<()> {
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read_exact(into),
            Stream::Tls(stream) => stream.read_exact(into),
        };
        read.map_err(|error| self.broken(&error))
    }

    fn learn_versions(&mut self) -> Result<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("weir"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer = self.call_at(&request, 3)?;
        if ResponseError::try_from_code(answer.error_code) == Some(ResponseError::UnsupportedVersion) {
            answer = self.call_at(&ApiVersionsRequest::default(), 0)?;
        }
        let ApiVersionsResponse { error_code, api_keys, finalized_features, .. } = answer;
        check(error_code, || format!("which versions {} speaks", self.peer))?;
        self.versions = api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        let of_transactions = finalized_features.iter().find(|feature| feature.name.as_str() == "transaction.version");
        self.transaction_version = of_transactions.map_or(0, |feature| feature.max_version_level);
        Ok(())
    }

    fn cannot_encode(&self, error: &dyn std::fmt::Display) -> KafkaError {
        KafkaError::Unusable(format!("a request to {} cannot be written: {error}", self.peer))
    }

    fn broken(&self, error: &std::io::Error) -> KafkaError {
        if let Some(of_tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return tls::broken(&self.peer, of_tls);
        }
        let reason = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                "it closed the connection (is the listener one for this security.protocol?)".into()
            }
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "it does not answer in time".into(),
            _ => error.to_string(),
        };
        KafkaError::Connection(format!("{}: {reason}", self.peer))
    }
}
