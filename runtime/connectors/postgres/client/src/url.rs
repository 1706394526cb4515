//! `postgres://user:password@host:port/database?sslmode=verify-full`: libpq's words, of which the client library knows some.

use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use weir_connectors::api::ConnectorError;

/// A server that doesn't answer within this is taken for absent, unless the URL says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer that has vanished goes unnoticed: after this much silence the system asks whether it is there.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
/// What the client library's own parser doesn't know.
const TLS_OPTIONS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// Where the server is, who we are, and how the connection is secured. Its `Debug` shows no password.
#[derive(Clone)]
pub struct ConnectionUrl {
    pub config: Config,
    pub tls: TlsMode,
    pub files: TlsFiles,
}

/// How a connection is secured, as libpq's `sslmode` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    /// Encrypted if the server can; its certificate isn't looked at.
    Prefer,
    /// Encrypted; the server's certificate isn't looked at.
    Require,
    /// Encrypted, and the certificate is of an authority that is trusted.
    VerifyCa,
    /// And it is for this host.
    VerifyFull,
}

#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities that are trusted; the system's without it.
    pub root: Option<PathBuf>,
    /// Our own certificate and its key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl ConnectionUrl {
    /// Parses it. The messages of its errors don't hold the password.
    pub fn parse(text: &str) -> Result<Self, ConnectorError> {
        let text = text.trim();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(refused("it does not begin with postgres://"));
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut tls, mut files, mut others) = (TlsMode::Prefer, TlsFiles::default(), Vec::new());
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| refused(&format!("`{option}` has no value")))?;
            match name {
                "sslmode" => tls = mode(value)?,
                "sslrootcert" => files.root = Some(path(value)),
                "sslcert" => files.certificate = Some(path(value)),
                "sslkey" => files.key = Some(path(value)),
                _ => others.push(option),
            }
        }
        if files.certificate.is_some() != files.key.is_some() {
            return Err(refused("sslcert and sslkey belong together"));
        }
        let rest = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
        let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            refused(&reason)
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(refused("it names no host"));
        }
        config.ssl_mode(match tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if !query.contains("keepalives_idle") {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        Ok(ConnectionUrl { config, tls, files })
    }
}

impl std::fmt::Debug for ConnectionUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.config;
        f.debug_struct("ConnectionUrl")
            .field("hosts", &config.get_hosts())
            .field("ports", &config.get_ports())
            .field("database", &config.get_dbname())
            .field("user", &config.get_user())
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

fn mode(value: &str) -> Result<TlsMode, ConnectorError> {
    Ok(match value {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => {
            return Err(refused(&format!(
                "sslmode is `{value}`; it can be disable, prefer, require, verify-ca or verify-full"
            )));
        }
    })
}

/// A path in a query, percent-decoded as far as paths need it.
fn path(value: &str) -> PathBuf {
    PathBuf::from(value.replace("%20", " ").replace("%2F", "/").replace("%2f", "/").replace("%25", "%"))
}

fn refused(reason: &str) -> ConnectorError {
    let options = TLS_OPTIONS.join(", ");
    ConnectorError::Permanent(format!(
        "the connection's url is not one: {reason}. Write postgres://USER:PASSWORD@HOST:PORT/DATABASE, with characters \
         such as `@` and `/` of the password percent-encoded; behind a `?` may stand {options}, application_name and \
         others of libpq's"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_libpq_reads() {
        let url = ConnectionUrl::parse("postgres://me:s%40cret@db:5433/shop?sslmode=verify-full&sslrootcert=/ca.pem")
            .unwrap();
        assert_eq!(url.tls, TlsMode::VerifyFull);
        assert_eq!(url.files.root, Some(PathBuf::from("/ca.pem")));
        assert_eq!(url.config.get_password(), Some("s@cret".as_bytes()));
        assert_eq!((url.config.get_ports(), url.config.get_dbname()), (&[5433][..], Some("shop")));
        assert!(!format!("{url:?}").contains("cret"), "{url:?}");
        assert_eq!(ConnectionUrl::parse("postgresql://me@db/shop").unwrap().tls, TlsMode::Prefer);
    }

    #[test]
    fn refuses_without_telling_the_password() {
        for (text, said) in [
            ("mysql://me:hush@db/shop", "does not begin with postgres://"),
            ("postgres://me:hush@db/shop?sslmode=yes", "sslmode is `yes`"),
            ("postgres://me:hush@db/shop?sslcert=/a", "belong together"),
            ("postgres://me:hush@db/shop?color=red", "color"),
            ("postgres://me:hush@db:port/shop", "port"),
        ] {
            let error = ConnectionUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
