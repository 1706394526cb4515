//! Settings, by the names that Kafka's clients have for them.

use crate::issuer::{self, Issuer, TokenEndpoint};
use crate::{Compression, Isolation};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` each.
    pub bootstrap: Vec<String>,
    pub client_id: String,
    pub security: Security,
    pub request_timeout: Duration,
    pub connect_timeout: Duration,
    /// How long what is known about topics and leaders is used without asking again.
    pub metadata_max_age: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct Security {
    pub tls: Option<TlsOptions>,
    pub sasl: Option<Sasl>,
}

#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Certificates of authorities; those of the system if nothing is said.
    pub ca_pem: Option<Vec<u8>>,
    /// The client's own certificate and key, for mutual TLS.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone)]
pub enum Sasl {
    Plain { username: String, password: String },
    ScramSha256 { username: String, password: String },
    ScramSha512 { username: String, password: String },
    OauthBearer { token: TokenOrigin, extensions: Vec<(String, String)> },
}

#[derive(Clone)]
pub enum TokenOrigin {
    Value(String),
    /// Read again for each connection: somebody renews the token there.
    File(std::path::PathBuf),
    /// Asked for one.
    Issuer(Arc<Issuer>),
}

impl std::fmt::Debug for Sasl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sasl::Plain { .. } => "PLAIN",
            Sasl::ScramSha256 { .. } => "SCRAM-SHA-256",
            Sasl::ScramSha512 { .. } => "SCRAM-SHA-512",
            Sasl::OauthBearer { .. } => "OAUTHBEARER",
        })
    }
}

#[derive(Clone, Debug)]
pub struct ProducerOptions {
    pub compression: Compression,
    /// Of one partition's records, before compression.
    pub batch_size_bytes: usize,
    /// How long to go on trying to hand over a batch.
    pub delivery_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    pub isolation: Isolation,
    pub fetch_max_bytes: i32,
    pub max_partition_fetch_bytes: i32,
    pub fetch_max_wait: Duration,
    pub fetch_min_bytes: i32,
    pub check_crcs: bool,
}

/// A setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    pub name: String,
    pub reason: String,
    pub remedy: String,
}

impl SettingError {
    fn new(name: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        SettingError { name: name.into(), reason: reason.into(), remedy: remedy.into() }
    }
}

const EXTENSIONS: &str = "sasl.oauthbearer.extensions";
const COMMON: [&str; 26] = [
    "client.id",
    "security.protocol",
    "sasl.mechanism",
    "sasl.username",
    "sasl.password",
    "sasl.oauthbearer.token",
    "sasl.oauthbearer.token.file",
    issuer::URL,
    issuer::ID,
    issuer::SECRET,
    issuer::SCOPE,
    issuer::ENCODE,
    issuer::CA_FILE,
    issuer::CA,
    EXTENSIONS,
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.endpoint.identification.algorithm",
    "request.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "metadata.max.age.ms",
    "bootstrap.servers",
];
const PRODUCER: [&str; 3] = ["compression.type", "batch.size", "delivery.timeout.ms"];
const CONSUMER: [&str; 6] = [
    "isolation.level",
    "fetch.max.bytes",
    "max.partition.fetch.bytes",
    "fetch.max.wait.ms",
    "fetch.min.bytes",
    "check.crcs",
];

/// What stands here for a setting that only clients in Java have.
fn instead_of(java: &str) -> Option<&'static str> {
    Some(match java {
        "sasl.jaas.config" => {
            "write sasl.username, and sasl.password to secretProperties; with OAUTHBEARER sasl.oauthbearer.token.endpoint.url and \
             sasl.oauthbearer.client.credentials.client.id and .secret"
        }
        "sasl.login.callback.handler.class" | "sasl.client.callback.handler.class" => {
            "remove it; sasl.mechanism is enough"
        }
        _ if java.starts_with("ssl.truststore.") => {
            "write the authorities' certificates as PEM to ssl.ca.location or ssl.ca.pem (keytool -exportcert -rfc)"
        }
        _ if java.starts_with("ssl.keystore.") || java == "ssl.key.password" => {
            "write certificate and key as PEM to ssl.certificate.location and ssl.key.location, or .pem"
        }
        _ => return None,
    })
}

/// Settings that are taken out one by one; what nobody took is unknown.
struct Settings<'a>(&'a BTreeMap<String, String>);

impl Settings<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
        &self,
        name: &str,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<T, SettingError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        text.trim().parse().ok().filter(|value| range.contains(value)).ok_or_else(|| {
            let remedy = format!("write a whole number from {} to {}", range.start(), range.end());
            SettingError::new(name, format!("`{text}` cannot be used"), remedy)
        })
    }

    fn duration(&self, name: &str, default_ms: u64) -> Result<Duration, SettingError> {
        self.number(name, default_ms, 1..=86_400_000).map(Duration::from_millis)
    }

    /// The bytes of a file, or those written in another setting.
    fn pem(&self, location: &str, inline: &str) -> Result<Option<Vec<u8>>, SettingError> {
        if let Some(path) = self.text(location) {
            let read = std::fs::read(path);
            let unreadable = |error| {
                SettingError::new(location, format!("cannot read `{path}`: {error}"), "name a PEM file that is there")
            };
            return read.map(Some).map_err(unreadable);
        }
        Ok(self.text(inline).map(|text| text.as_bytes().to_vec()))
    }

    fn refuse_unknown(&self, known: &[&str]) -> Result<(), SettingError> {
        let is_known = |name: &str| known.contains(&name) || COMMON.contains(&name);
        let Some(name) = self.0.keys().find(|name| !is_known(name)) else { return Ok(()) };
        let mut names: Vec<&str> = COMMON.iter().chain(known).copied().collect();
        names.sort_unstable();
        let remedy = format!("remove it, or use one of {}", names.join(", "));
        Err(SettingError::new(name, format!("there is no setting `{name}`"), remedy))
    }
}

impl Options {
    /// # Errors
    /// Names the setting that can't be used.
    pub fn new(bootstrap_servers: &str, properties: &BTreeMap<String, String>) -> Result<Self, SettingError> {
        let settings = Settings(properties);
        if settings.text("bootstrap.servers").is_some() {
            return Err(SettingError::new("bootstrap.servers", "it has a field of its own", "use bootstrapServers"));
        }
        if let Some((name, remedy)) = properties.keys().find_map(|name| Some((name, instead_of(name)?))) {
            return Err(SettingError::new(name, "it is one of Kafka's Java clients alone", remedy));
        }
        let bootstrap: Vec<String> = bootstrap_servers.split(',').map(|server| server.trim().to_owned()).collect();
        if let Some(wrong) = bootstrap.iter().find(|server| split_address(server).is_none()) {
            let reason = format!("`{wrong}` is not an address");
            return Err(SettingError::new("bootstrap.servers", reason, "write host:port, several with commas between"));
        }
        Ok(Options {
            bootstrap,
            client_id: settings.text("client.id").unwrap_or("weir").to_owned(),
            security: security(&settings)?,
            request_timeout: settings.duration("request.timeout.ms", 30_000)?,
            connect_timeout: settings.duration("socket.connection.setup.timeout.ms", 10_000)?,
            metadata_max_age: settings.duration("metadata.max.age.ms", 300_000)?,
        })
    }
}

impl ProducerOptions {
    /// # Errors
    /// As `Options::new`; also for settings that only a consumer has.
    pub fn new(properties: &BTreeMap<String, String>) -> Result<Self, SettingError> {
        let settings = Settings(properties);
        settings.refuse_unknown(&PRODUCER)?;
        let compression = settings.text("compression.type").unwrap_or("none");
        Ok(ProducerOptions {
            compression: Compression::named(compression).ok_or_else(|| {
                let reason = format!("`{compression}` cannot be used");
                SettingError::new("compression.type", reason, "write none, gzip, snappy, lz4 or zstd")
            })?,
            // What brokers take by default is 1 MiB, with the batch's header and what a record adds.
            batch_size_bytes: settings.number("batch.size", 256 << 10, 1..=64 << 20)?,
            delivery_timeout: settings.duration("delivery.timeout.ms", 120_000)?,
        })
    }
}

impl ConsumerOptions {
    /// # Errors
    /// As `Options::new`; also for settings that only a producer has.
    pub fn new(properties: &BTreeMap<String, String>) -> Result<Self, SettingError> {
        let settings = Settings(properties);
        settings.refuse_unknown(&CONSUMER)?;
        let isolation = settings.text("isolation.level").unwrap_or("read_committed");
        Ok(ConsumerOptions {
            isolation: match isolation {
                "read_committed" => Isolation::ReadCommitted,
                "read_uncommitted" => Isolation::ReadUncommitted,
                other => {
                    let reason = format!("`{other}` cannot be used");
                    return Err(SettingError::new(
                        "isolation.level",
                        reason,
                        "write read_committed or read_uncommitted",
                    ));
                }
            },
            fetch_max_bytes: settings.number("fetch.max.bytes", 16 << 20, 1..=i32::MAX)?,
            max_partition_fetch_bytes: settings.number("max.partition.fetch.bytes", 2 << 20, 1..=i32::MAX)?,
            fetch_max_wait: settings.duration("fetch.max.wait.ms", 250)?,
            fetch_min_bytes: settings.number("fetch.min.bytes", 1, 1..=i32::MAX)?,
            check_crcs: settings.text("check.crcs") != Some("false"),
        })
    }
}

fn security(settings: &Settings<'_>) -> Result<Security, SettingError> {
    let protocol = settings.text("security.protocol").unwrap_or("PLAINTEXT").to_ascii_uppercase();
    let (tls, sasl) = match protocol.as_str() {
        "PLAINTEXT" => (false, false),
        "SSL" => (true, false),
        "SASL_PLAINTEXT" => (false, true),
        "SASL_SSL" => (true, true),
        other => {
            let reason = format!("`{other}` cannot be used");
            let remedy = "write PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL";
            return Err(SettingError::new("security.protocol", reason, remedy));
        }
    };
    let misplaced = |prefix: &str| settings.0.keys().find(|name| name.starts_with(prefix)).cloned();
    if let Some(name) = misplaced("sasl.").filter(|_| !sasl) {
        let reason = format!("it has no effect with security.protocol {protocol}");
        return Err(SettingError::new(&name, reason, "set security.protocol to SASL_SSL or SASL_PLAINTEXT"));
    }
    if let Some(name) = misplaced("ssl.").filter(|_| !tls) {
        let reason = format!("it has no effect with security.protocol {protocol}");
        return Err(SettingError::new(&name, reason, "set security.protocol to SSL or SASL_SSL"));
    }
    Ok(Security {
        tls: tls.then(|| self::tls(settings)).transpose()?,
        sasl: sasl.then(|| self::sasl(settings)).transpose()?,
    })
}

fn tls(settings: &Settings<'_>) -> Result<TlsOptions, SettingError> {
    let verifies = "ssl.endpoint.identification.algorithm";
    if settings.text(verifies).is_some_and(|algorithm| algorithm != "https") {
        return Err(SettingError::new(verifies, "a broker's name is always verified", "remove it"));
    }
    let certificate = settings.pem("ssl.certificate.location", "ssl.certificate.pem")?;
    let key = settings.pem("ssl.key.location", "ssl.key.pem")?;
    let identity_pem = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(SettingError::new("ssl.key.location", "the certificate's key is missing", "add it"));
        }
        (None, Some(_)) => {
            return Err(SettingError::new("ssl.certificate.location", "the key's certificate is missing", "add it"));
        }
    };
    Ok(TlsOptions { ca_pem: settings.pem("ssl.ca.location", "ssl.ca.pem")?, identity_pem })
}

fn sasl(settings: &Settings<'_>) -> Result<Sasl, SettingError> {
    let required = |name: &str| {
        let missing =
            || SettingError::new(name, "the SASL mechanism needs it", "add it, to secretProperties if it is secret");
        settings.text(name).map(str::to_owned).ok_or_else(missing)
    };
    let mechanism = required("sasl.mechanism")?;
    let login = || Ok::<_, SettingError>((required("sasl.username")?, required("sasl.password")?));
    Ok(match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => login().map(|(username, password)| Sasl::Plain { username, password })?,
        "SCRAM-SHA-256" => login().map(|(username, password)| Sasl::ScramSha256 { username, password })?,
        "SCRAM-SHA-512" => login().map(|(username, password)| Sasl::ScramSha512 { username, password })?,
        "OAUTHBEARER" => Sasl::OauthBearer { token: token(settings)?, extensions: extensions(settings)? },
        _ => {
            let reason = format!("`{mechanism}` cannot be used");
            let remedy = "write PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER";
            return Err(SettingError::new("sasl.mechanism", reason, remedy));
        }
    })
}

fn token(settings: &Settings<'_>) -> Result<TokenOrigin, SettingError> {
    const TOKEN: &str = "sasl.oauthbearer.token";
    const FILE: &str = "sasl.oauthbearer.token.file";
    let given: Vec<&str> =
        [issuer::URL, FILE, TOKEN].into_iter().filter(|name| settings.text(name).is_some()).collect();
    if let [_, other, ..] = given[..] {
        let reason = format!("{} says already where tokens come from", given[0]);
        return Err(SettingError::new(other, reason, "keep one of them"));
    }
    let of_issuer = [issuer::ID, issuer::SECRET, issuer::SCOPE, issuer::ENCODE, issuer::CA_FILE, issuer::CA];
    let misplaced = of_issuer.into_iter().find(|name| settings.text(name).is_some());
    match (settings.text(issuer::URL), settings.text(FILE), settings.text(TOKEN)) {
        (Some(url), ..) => endpoint(settings, url).map(|endpoint| TokenOrigin::Issuer(Issuer::of(endpoint))),
        _ if misplaced.is_some() => {
            let reason = format!("it is missing, and {} has no effect without it", misplaced.unwrap_or_default());
            Err(SettingError::new(issuer::URL, reason, "add the identity provider's token endpoint"))
        }
        (None, Some(file), _) => Ok(TokenOrigin::File(file.into())),
        (None, None, Some(token)) => Ok(TokenOrigin::Value(token.to_owned())),
        (None, None, None) => {
            let remedy = format!("add {}, {FILE} or {TOKEN}", issuer::URL);
            Err(SettingError::new("sasl.mechanism", "OAUTHBEARER needs tokens", remedy))
        }
    }
}

fn endpoint(settings: &Settings<'_>, url: &str) -> Result<TokenEndpoint, SettingError> {
    if !url.starts_with("https://") && !url.starts_with("http://") {
        let reason = format!("`{url}` is not an address");
        return Err(SettingError::new(issuer::URL, reason, "write https://host/path"));
    }
    let required = |name: &str| {
        let remedy = "add it, to secretProperties if it is secret";
        settings.text(name).map(str::to_owned).ok_or_else(|| SettingError::new(name, "the endpoint needs it", remedy))
    };
    Ok(TokenEndpoint {
        url: url.to_owned(),
        client_id: required(issuer::ID)?,
        client_secret: required(issuer::SECRET)?,
        scope: settings.text(issuer::SCOPE).map(str::to_owned),
        encodes_credentials: match settings.text(issuer::ENCODE) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                let reason = format!("`{other}` cannot be used");
                return Err(SettingError::new(issuer::ENCODE, reason, "write true or false"));
            }
        },
        ca_pem: settings.pem(issuer::CA_FILE, issuer::CA)?,
    })
}

/// What a broker is told beside the token (KIP-342).
fn extensions(settings: &Settings<'_>) -> Result<Vec<(String, String)>, SettingError> {
    let text = settings.text(EXTENSIONS).unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let pair = part.split_once('=').filter(|(name, value)| {
                // RFC 7628, 3.1; `auth` is the token.
                let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphabetic());
                is_name && *name != "auth" && !value.chars().any(char::is_control)
            });
            let wrong =
                || SettingError::new(EXTENSIONS, format!("`{part}` cannot be used"), "write name=value,name=value");
            pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(wrong)
        })
        .collect()
}

/// Host and port; an IPv6 address stands in brackets.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings, which of them is refused, and what the remedy says.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

    fn refusal(settings: &[(&str, &str)]) -> SettingError {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = Options::new("broker:9092", &settings);
        options.map(|_| ()).and_then(|()| ConsumerOptions::new(&settings).map(|_| ())).unwrap_err()
    }

    #[test]
    fn settings_that_are_refused() {
        let oauth = [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "OAUTHBEARER")];
        let endpoint = (issuer::URL, "https://idp/token");
        let (id, secret) = ((issuer::ID, "me"), (issuer::SECRET, "mine"));
        let cases: &[Case] = &[
            (&[("ssl.truststore.location", "a.jks")], "ssl.truststore.location", "as PEM to ssl.ca.location"),
            (&[("ssl.keystore.password", "x")], "ssl.keystore.password", "ssl.certificate.location"),
            (&[("security.protocols", "SSL")], "security.protocols", "use one of bootstrap.servers, check.crcs"),
            (&[("batch.size", "5")], "batch.size", "remove it"),
        ];
        for (settings, name, remedy) in cases {
            let error = refusal(settings);
            assert!(error.name == *name && error.remedy.contains(remedy), "{error:?}");
        }
        let cases: &[Case] = &[
            (&[], "sasl.mechanism", "add sasl.oauthbearer.token.endpoint.url, sasl.oauthbearer.token.file or"),
            (&[("sasl.jaas.config", "...")], "sasl.jaas.config", "sasl.username"),
            (&[endpoint, id, secret, ("sasl.oauthbearer.token", "x")], "sasl.oauthbearer.token", "keep one of them"),
            (&[endpoint, id], issuer::SECRET, "secretProperties"),
            (&[id, secret, ("sasl.oauthbearer.token", "x")], issuer::URL, "add the identity provider's token endpoint"),
            (&[(issuer::URL, "idp/token"), id, secret], issuer::URL, "write https://host/path"),
            (&[endpoint, id, secret, (issuer::ENCODE, "yes")], issuer::ENCODE, "write true or false"),
            (&[endpoint, id, secret, (EXTENSIONS, "auth=x")], EXTENSIONS, "write name=value,name=value"),
            (&[endpoint, id, secret, (EXTENSIONS, "a=b,c")], EXTENSIONS, "write name=value,name=value"),
        ];
        for (settings, name, remedy) in cases {
            let error = refusal(&[&oauth, *settings].concat());
            assert!(error.name == *name && error.remedy.contains(remedy), "{error:?}");
        }
    }
}
