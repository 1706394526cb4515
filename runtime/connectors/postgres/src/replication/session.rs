//! A connection in replication mode. The client library for all else has none: it lacks the start-up parameter and the
//! state in which both sides send.

use super::Lsn;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use weir_connectors::api::ConnectorError;
use weir_postgres_client::{ConnectionUrl, Tls, TlsMode, address, refusal, while_doing};

/// Longer ones cannot be of a server: a value of PostgreSQL's has 1 GiB at most, a row of them little more.
const MAX_MESSAGE_BYTES: usize = 0x7fff_ffff;
/// How values are written, whatever the server's, the database's and the user's settings are.
pub(crate) const SETTINGS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO"),
    ("timezone", "UTC"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
];

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

pub(super) struct Session {
    stream: Box<dyn Duplex>,
    received: BytesMut,
}

/// What the server sends while it replicates.
pub(super) enum Received {
    /// A message of the output plugin, and where the server's log ended.
    Data { log_end: Lsn, message: Bytes },
    /// All that was committed before `log_end` has been sent.
    KeepAlive { log_end: Lsn, wants_reply: bool },
}

/// Of `CREATE_REPLICATION_SLOT`.
pub(super) struct CreatedSlot {
    /// What was committed before is in the snapshot; what is committed from here on will be sent.
    pub(super) consistent: Lsn,
    pub(super) snapshot: String,
}

impl Session {
    pub(super) async fn open(url: &ConnectionUrl, purpose: &str) -> Result<Self, ConnectorError> {
        let patience = url.config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(10));
        let opened = match tokio::time::timeout(patience, Self::connect(url, purpose)).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectorError::Transient(format!("no answer within {patience:?}"))),
        };
        opened.map_err(while_doing(format!("cannot connect to {} for replication", address(url))))
    }

    async fn connect(url: &ConnectionUrl, purpose: &str) -> Result<Self, ConnectorError> {
        let (stream, host) = reach(url).await.map_err(broken)?;
        let stream = secured(stream, url, host.as_deref()).await?;
        let mut session = Session { stream, received: BytesMut::new() };
        let config = &url.config;
        let user = config.get_user().ok_or_else(|| ConnectorError::Permanent("the url names no user".to_owned()))?;
        let name: String = purpose.chars().take(60).collect();
        let mut parameters = vec![
            ("user", user),
            ("database", config.get_dbname().unwrap_or(user)),
            ("replication", "database"),
            ("application_name", config.get_application_name().unwrap_or(&name)),
        ];
        parameters.extend(SETTINGS);
        parameters.extend(config.get_options().map(|options| ("options", options)));
        let mut message = BytesMut::new();
        frontend::startup_message(parameters, &mut message).map_err(broken)?;
        session.send(&message).await?;
        session.authenticate(user, config.get_password()).await?;
        session.until_ready().await?;
        Ok(session)
    }

    async fn authenticate(&mut self, user: &str, password: Option<&[u8]>) -> Result<(), ConnectorError> {
        let password = || password.ok_or_else(|| ConnectorError::Permanent("the server wants a password".to_owned()));
        let mut scram: Option<ScramSha256> = None;
        loop {
            let (tag, mut body) = self.message().await?;
            if tag != b'R' {
                return Err(unexpected(tag, "while authenticating"));
            }
            let mut answer = BytesMut::new();
            match body.try_get_i32().map_err(|_| unexpected(tag, "which is too short"))? {
                0 => return Ok(()),
                3 => frontend::password_message(password()?, &mut answer).map_err(broken)?,
                5 => {
                    let salt: [u8; 4] = body.as_ref().try_into().map_err(|_| unexpected(tag, "with another salt"))?;
                    let hash = md5_hash(user.as_bytes(), password()?, salt);
                    frontend::password_message(hash.as_bytes(), &mut answer).map_err(broken)?;
                }
                10 => {
                    let offered = body.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes());
                    if !offered {
                        return Err(ConnectorError::Permanent("the server offers no SCRAM-SHA-256".to_owned()));
                    }
                    let own = scram.insert(ScramSha256::new(password()?, ChannelBinding::unsupported()));
                    frontend::sasl_initial_response(SCRAM_SHA_256, own.message(), &mut answer).map_err(broken)?;
                }
                11 => {
                    let own = scram.as_mut().ok_or_else(|| unexpected(tag, "before it was begun"))?;
                    own.update(&body).map_err(|error| ConnectorError::Permanent(format!("SCRAM: {error}")))?;
                    frontend::sasl_response(own.message(), &mut answer).map_err(broken)?;
                }
                12 => {
                    let own = scram.as_mut().ok_or_else(|| unexpected(tag, "before it was begun"))?;
                    own.finish(&body).map_err(|error| ConnectorError::Permanent(format!("SCRAM: {error}")))?;
                }
                other => {
                    return Err(ConnectorError::Permanent(format!(
                        "the server wants to authenticate in a way ({other}) that is not known; use a password or a \
                         certificate"
                    )));
                }
            }
            if !answer.is_empty() {
                self.send(&answer).await?;
            }
        }
    }

    async fn until_ready(&mut self) -> Result<(), ConnectorError> {
        loop {
            match self.message().await? {
                (b'Z', _) => return Ok(()),
                (b'S' | b'K' | b'N', _) => {}
                (tag, _) => return Err(unexpected(tag, "before it was ready")),
            }
        }
    }

    /// A command of the replication protocol, and the rows of its answer.
    pub(super) async fn query(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, ConnectorError> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(broken)?;
        self.send(&message).await?;
        let mut rows = Vec::new();
        loop {
            match self.message().await {
                Ok((b'D', body)) => rows.push(row(body).ok_or_else(|| unexpected(b'D', "that cannot be read"))?),
                Ok((b'Z', _)) => return Ok(rows),
                Ok((b'T' | b'C' | b'N' | b'S', _)) => {}
                Ok((tag, _)) => return Err(unexpected(tag, "as an answer")),
                Err(error) => {
                    // Behind what was refused the server is ready again; behind a lost connection nothing comes.
                    if matches!(tokio::time::timeout(Duration::from_secs(1), self.until_ready()).await, Ok(Ok(()))) {
                        tracing::debug!(%error, "a replication command was refused");
                    }
                    return Err(error);
                }
            }
        }
    }

    pub(super) async fn create_slot(&mut self, name: &str, temporary: bool) -> Result<CreatedSlot, ConnectorError> {
        let kind = if temporary { " TEMPORARY" } else { "" };
        let name = crate::table::quoted(name);
        let rows =
            self.query(&format!("CREATE_REPLICATION_SLOT {name}{kind} LOGICAL pgoutput EXPORT_SNAPSHOT")).await?;
        let created = rows.into_iter().next().and_then(|row| {
            let mut row = row.into_iter().skip(1).flatten();
            Some(CreatedSlot { consistent: row.next()?.parse().ok()?, snapshot: row.next()? })
        });
        created.ok_or_else(|| ConnectorError::Permanent("the server did not say where the slot begins".to_owned()))
    }

    /// From then on both sides send: `receive` and `tell`.
    pub(super) async fn start(&mut self, slot: &str, from: Lsn, publication: &str) -> Result<(), ConnectorError> {
        // An option's value is a literal, and a list of quoted names in it.
        let names = crate::table::quoted(publication).replace('\'', "''");
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names '{names}')",
            crate::table::quoted(slot)
        );
        let mut message = BytesMut::new();
        frontend::query(&command, &mut message).map_err(broken)?;
        self.send(&message).await?;
        loop {
            match self.message().await? {
                (b'W', _) => return Ok(()),
                (b'N' | b'S', _) => {}
                (tag, _) => return Err(unexpected(tag, "instead of a stream")),
            }
        }
    }

    /// What has come whole; doesn't wait.
    pub(super) fn received(&mut self) -> Result<Option<Received>, ConnectorError> {
        while let Some((tag, mut body)) = self.take()? {
            match tag {
                b'd' => {
                    let short = || unexpected(b'd', "that is too short");
                    match body.try_get_u8().map_err(|_| short())? {
                        b'w' => {
                            let _start = body.try_get_u64().map_err(|_| short())?;
                            let log_end = Lsn(body.try_get_u64().map_err(|_| short())?);
                            let _sent_at = body.try_get_u64().map_err(|_| short())?;
                            return Ok(Some(Received::Data { log_end, message: body }));
                        }
                        b'k' => {
                            let log_end = Lsn(body.try_get_u64().map_err(|_| short())?);
                            let _sent_at = body.try_get_u64().map_err(|_| short())?;
                            let wants_reply = body.try_get_u8().map_err(|_| short())? != 0;
                            return Ok(Some(Received::KeepAlive { log_end, wants_reply }));
                        }
                        _ => {}
                    }
                }
                b'N' | b'S' => {}
                b'c' => return Err(ConnectorError::Transient("the server has ended the stream".to_owned())),
                tag => return Err(unexpected(tag, "in the stream")),
            }
        }
        Ok(None)
    }

    /// Waits for bytes. May be given up at any time.
    pub(super) async fn fill(&mut self) -> Result<(), ConnectorError> {
        self.received.reserve(64 << 10);
        match self.stream.read_buf(&mut self.received).await.map_err(broken)? {
            0 => Err(ConnectorError::Transient("the server has closed the connection".to_owned())),
            _ => Ok(()),
        }
    }

    /// The server may forget what was committed before `flushed`.
    pub(super) async fn tell(&mut self, flushed: Lsn, wants_reply: bool) -> Result<(), ConnectorError> {
        let mut message = BytesMut::new();
        message.put_u8(b'd');
        message.put_u32(4 + 34);
        message.put_u8(b'r');
        for _written_flushed_applied in 0..3 {
            message.put_u64(flushed.0);
        }
        // Our clock, which the server shows to people and uses for nothing.
        message.put_u64(0);
        message.put_u8(wants_reply.into());
        self.send(&message).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectorError> {
        self.stream.write_all(bytes).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)
    }

    async fn message(&mut self) -> Result<(u8, Bytes), ConnectorError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// A message that has come whole; what the server says of an error as one.
    fn take(&mut self) -> Result<Option<(u8, Bytes)>, ConnectorError> {
        let Some(header) = self.received.get(..5) else { return Ok(None) };
        let tag = header[0];
        let length = u32::from_be_bytes(header[1..5].try_into().expect("four bytes")) as usize;
        if !(4..=MAX_MESSAGE_BYTES).contains(&length) {
            return Err(unexpected(tag, &format!("of {length} bytes")));
        }
        if self.received.len() < length + 1 {
            return Ok(None);
        }
        let mut body = self.received.split_to(length + 1).freeze();
        body.advance(5);
        if tag == b'E' { Err(refused(&body)) } else { Ok(Some((tag, body))) }
    }
}

/// The first of the url's hosts that answers, and its name.
async fn reach(url: &ConnectionUrl) -> io::Result<(Box<dyn Duplex>, Option<String>)> {
    let config = &url.config;
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the url names no host");
    for index in 0..hosts.len().max(addresses.len()) {
        let reached = match (addresses.get(index), hosts.get(index)) {
            #[cfg(unix)]
            (None, Some(Host::Unix(folder))) => {
                let path = folder.join(format!(".s.PGSQL.{}", port(index)));
                tokio::net::UnixStream::connect(path).await.map(|stream| (Box::new(stream) as Box<dyn Duplex>, None))
            }
            (Some(address), host) => {
                let name = match host {
                    Some(Host::Tcp(name)) => Some(name.clone()),
                    _ => Some(address.to_string()),
                };
                tcp(url, IpAddr::to_string(address), port(index)).await.map(|stream| (stream, name))
            }
            (None, Some(Host::Tcp(name))) => {
                tcp(url, name.clone(), port(index)).await.map(|stream| (stream, Some(name.clone())))
            }
            (None, None) => continue,
        };
        match reached {
            Ok(reached) => return Ok(reached),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn tcp(url: &ConnectionUrl, host: String, port: u16) -> io::Result<Box<dyn Duplex>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    if url.config.get_keepalives() {
        let keepalive = socket2::TcpKeepalive::new().with_time(url.config.get_keepalives_idle());
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    }
    Ok(Box::new(stream))
}

async fn secured(
    mut stream: Box<dyn Duplex>,
    url: &ConnectionUrl,
    host: Option<&str>,
) -> Result<Box<dyn Duplex>, ConnectorError> {
    let Some(host) = host.filter(|_| url.tls != TlsMode::Disable) else { return Ok(stream) };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(broken)?;
    match stream.read_u8().await.map_err(broken)? {
        b'S' => {
            let mut tls = Tls::of(url)?;
            let handshake = MakeTlsConnect::<Box<dyn Duplex>>::make_tls_connect(&mut tls, host);
            let handshake = handshake.map_err(|error| ConnectorError::Permanent(format!("`{host}`: {error}")))?;
            let stream = handshake.connect(stream).await.map_err(|error| {
                let is_ours = error.get_ref().is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some());
                let reason = format!("TLS: {error}");
                if is_ours { ConnectorError::Permanent(reason) } else { ConnectorError::Transient(reason) }
            })?;
            Ok(Box::new(stream))
        }
        _ if url.tls == TlsMode::Prefer => Ok(stream),
        _ => Err(ConnectorError::Permanent("the server does not speak TLS, and sslmode wants it".to_owned())),
    }
}

fn row(mut body: Bytes) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut values = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        values.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length <= body.len() => Some(String::from_utf8(body.split_to(length).to_vec()).ok()?),
            Ok(_) => return None,
        });
    }
    Some(values)
}

/// What the server says of an error.
fn refused(body: &[u8]) -> ConnectorError {
    let (mut code, mut message, mut more) = (String::new(), String::new(), vec![]);
    for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
        let text = String::from_utf8_lossy(&field[1..]).into_owned();
        match field[0] {
            b'C' => code = text,
            b'M' => message = text,
            b'D' => more.push(("detail", text)),
            b'H' => more.push(("hint", text)),
            b'W' => more.push(("where", text)),
            _ => {}
        }
    }
    let more: Vec<(&str, Option<&str>)> = more.iter().map(|(word, text)| (*word, Some(text.as_str()))).collect();
    refusal(&code, &message, &more)
}

fn broken(error: io::Error) -> ConnectorError {
    ConnectorError::Transient(error.to_string())
}

fn unexpected(tag: u8, what: &str) -> ConnectorError {
    ConnectorError::Transient(format!("the server sent a message `{}` {what}", char::from(tag)))
}
