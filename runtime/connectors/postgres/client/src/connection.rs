//! One connection, for callers that wait.

use crate::patience::{Patience, connect, connect_limit};
use crate::tls::Tls;
use crate::url::ConnectionUrl;
use bytes::Bytes;
use futures::SinkExt;
use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};
use weir_connectors::api::{ConnectorError, Probe};

/// Of one message of a COPY.
const COPY_PART_BYTES: usize = 256 << 10;

/// A connection with a runtime of its own, driven while somebody waits for an answer.
pub struct Connection {
    runtime: Runtime,
    client: Client,
    patience: Patience,
    /// An answer did not come: what state it is in isn't known.
    given_up: Cell<bool>,
}

impl Connection {
    /// `purpose`: how the server's administrators see it (`application_name`), unless the URL says something else.
    ///
    /// Answers are waited for as long as the server works. After one that did not come the connection is of no use, and what
    /// was asked for may yet happen.
    pub fn open(url: &ConnectionUrl, purpose: &str) -> Result<Self, ConnectorError> {
        Self::connect(url, purpose, None)
    }

    /// As `open`, to a server whose answers are not waited for longer than this.
    pub fn open_within(patience: Duration, url: &ConnectionUrl, purpose: &str) -> Result<Self, ConnectorError> {
        Self::connect(url, purpose, Some(patience))
    }

    fn connect(url: &ConnectionUrl, purpose: &str, patience: Option<Duration>) -> Result<Self, ConnectorError> {
        let tls = Tls::of(url)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ConnectorError::Transient(format!("cannot start a runtime: {error}")))?;
        let mut config = url.config.clone();
        if config.get_application_name().is_none() {
            // The server cuts it off at 63 bytes, and warns.
            config.application_name(purpose.chars().take(60).collect::<String>());
        }
        let limit = patience.unwrap_or_else(|| connect_limit(url));
        let connected = match runtime.block_on(connect(&config, &tls, limit)) {
            Some(connected) => connected.map_err(|error| failure(&error)),
            None => Err(ConnectorError::Transient(format!("no answer within {limit:?}"))),
        };
        let (client, connection) =
            connected.map_err(|error| error.during(format!("cannot connect to {}", address(url))))?;
        runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL has ended");
            }
        });
        let patience = patience.map_or_else(|| Patience::while_it_works(url, tls), Patience::Limited);
        Ok(Connection { runtime, client, patience, given_up: Cell::new(false) })
    }

    /// Whether it is of no use any more.
    pub fn is_closed(&self) -> bool {
        self.given_up.get() || self.client.is_closed()
    }

    /// Statements without parameters and results, several of them if need be.
    pub fn execute(&self, sql: &str) -> Result<(), ConnectorError> {
        self.wait(self.client.batch_execute(sql))
    }

    pub fn query(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, ConnectorError> {
        self.wait(self.client.query_typed(sql, parameters))
    }

    pub fn query_one(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Row, ConnectorError> {
        let mut rows = self.query(sql, parameters)?;
        rows.pop().ok_or_else(|| ConnectorError::Permanent(format!("the server gave no row for `{sql}`")))
    }

    /// Sends what a `COPY ... FROM STDIN` takes; the number of rows.
    pub fn copy_in(&self, sql: &str, bytes: Bytes) -> Result<u64, ConnectorError> {
        self.wait(async {
            let sink = self.client.copy_in::<_, Bytes>(sql).await?;
            futures::pin_mut!(sink);
            let mut rest = bytes;
            while !rest.is_empty() {
                sink.send(rest.split_to(rest.len().min(COPY_PART_BYTES))).await?;
            }
            sink.finish().await
        })
    }

    /// Statements in one transaction; `body` may use the connection. Rolled back when it fails.
    pub fn transaction<T>(
        &self,
        body: impl FnOnce(&Connection) -> Result<T, ConnectorError>,
    ) -> Result<T, ConnectorError> {
        self.execute("BEGIN")?;
        match body(self) {
            Ok(value) => self.execute("COMMIT").map(|()| value),
            Err(error) => {
                if !self.is_closed() {
                    // What failed is what the caller hears of.
                    self.execute("ROLLBACK").ok();
                }
                Err(error)
            }
        }
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, ConnectorError> {
        self.runtime.block_on(self.patience.wait(answer)).unwrap_or_else(|| {
            self.given_up.set(true);
            Err(self.patience.give_up())
        })
    }
}

/// A connection that is made when it is first needed, and again when it was lost.
pub struct Lazy {
    url: Arc<ConnectionUrl>,
    purpose: String,
    connection: Option<Connection>,
}

impl Lazy {
    pub fn new(url: Arc<ConnectionUrl>, purpose: String) -> Self {
        Lazy { url, purpose, connection: None }
    }

    pub fn get(&mut self) -> Result<&Connection, ConnectorError> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.connection = None;
            self.connection = Some(Connection::open(&self.url, &self.purpose)?);
        }
        Ok(self.connection.as_ref().expect("opened above"))
    }

    /// It, if it is there.
    pub fn opened(&self) -> Option<&Connection> {
        self.connection.as_ref().filter(|connection| !connection.is_closed())
    }

    /// Lets go of it: what state it is in isn't known.
    pub fn close(&mut self) {
        self.connection = None;
    }
}

/// What a later try may cure: everything but what the server says of our statements, data and rights.
fn is_transient(error: &Error) -> bool {
    match error.code() {
        None => !is_of_tls(error),
        Some(code) => is_transient_code(code),
    }
}

fn is_transient_code(code: &SqlState) -> bool {
    let despite_class =
        [SqlState::UNDEFINED_FILE, SqlState::QUERY_CANCELED, SqlState::READ_ONLY_SQL_TRANSACTION].contains(code);
    let class = code.code().get(..2).unwrap_or_default();
    despite_class || !["0A", "21", "22", "23", "28", "3D", "3F", "42", "44"].contains(&class)
}

/// A certificate that one side does not believe.
fn is_of_tls(error: &Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    let tls = io.and_then(std::io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)))
}

pub(crate) fn failure(error: &Error) -> ConnectorError {
    let message = match error.as_db_error() {
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
        Some(said) => {
            let more = [("detail", said.detail()), ("hint", said.hint()), ("where", said.where_())];
            return refusal(said.code().code(), said.message(), &more);
        }
    };
    match is_transient(error) {
        true => ConnectorError::Transient(message),
        false => ConnectorError::Permanent(message),
    }
}

/// What the server said of an error.
pub fn refusal(code: &str, message: &str, more: &[(&str, Option<&str>)]) -> ConnectorError {
    let mut message = format!("{message} (SQLSTATE {code})");
    for (word, more) in more {
        if let Some(more) = more {
            message.push_str(&format!("; {word}: {more}"));
        }
    }
    match is_transient_code(&SqlState::from_code(code)) {
        true => ConnectorError::Transient(message),
        false => ConnectorError::Permanent(message),
    }
}

/// For `map_err`.
pub fn while_doing(what: impl std::fmt::Display) -> impl FnOnce(ConnectorError) -> ConnectorError {
    move |error| error.during(what)
}

pub fn address(url: &ConnectionUrl) -> String {
    let config = &url.config;
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
        None => config.get_hostaddrs().first().map_or_else(String::new, ToString::to_string),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("PostgreSQL at {host}:{port}, database `{}`", config.get_dbname().unwrap_or("of the user's name"))
}

/// What `weir plan` hears: a mistake of the user's is a problem that was found, all else a question without an answer.
pub fn probed(tried: Result<(), ConnectorError>, found: impl FnOnce() -> String) -> Result<Probe, ConnectorError> {
    match tried {
        Ok(()) => Ok(Probe { found: vec![found()], problems: vec![] }),
        Err(ConnectorError::Permanent(problem)) => Ok(Probe { found: vec![], problems: vec![problem] }),
        Err(error) => Err(error),
    }
}

/// In words.
pub fn server(connection: &Connection) -> String {
    let version = connection.query_one("SELECT pg_catalog.current_setting('server_version')", &[]);
    version.map_or_else(|_| "the server".to_owned(), |row| format!("PostgreSQL {}", row.get::<_, String>(0)))
}
