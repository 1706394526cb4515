//! One request after the other, tried again where that may help.

use crate::sink::{HttpSinkConfig, Method};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use weir_connectors::api::ConnectorError;
use weir_model::error_chain;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A receiver that asks for more is asked again after this much.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// As much of an answer as a message has.
const SHOWN_CHARS: usize = 200;
/// As much of an answer as is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

pub(crate) struct Client {
    url: String,
    method: reqwest::Method,
    idempotency_header: HeaderName,
    max_retries: u32,
    client: reqwest::Client,
    runtime: Runtime,
}

/// What came of one try.
#[derive(Debug, PartialEq)]
enum Answer {
    Taken,
    /// May be taken the next time.
    Later {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// Never will be.
    Refused(String),
}

impl Client {
    /// Opens no connection yet.
    pub(crate) fn new(
        config: &HttpSinkConfig,
        headers: HeaderMap,
        idempotency_header: HeaderName,
    ) -> Result<Self, ConnectorError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ConnectorError::Transient(format!("cannot start a runtime: {error}")))?;
        let unusable = |error: &dyn std::fmt::Display| ConnectorError::Permanent(format!("{}: {error}", config.url));
        let tls = tls(config.ca_file.as_deref())?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(config.timeout)
            .default_headers(headers)
            // A POST that is redirected would go on as a GET, without its body.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| unusable(&error))?;
        let method = match config.method {
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
        };
        let (url, max_retries) = (config.url.clone(), config.max_retries);
        Ok(Client { url, method, idempotency_header, max_retries, client, runtime })
    }

    /// Sends a body until it is taken.
    pub(crate) fn send(&self, key: &str, body: Vec<u8>) -> Result<(), ConnectorError> {
        // Shared by all tries.
        let body = Bytes::from(body);
        let mut pause = FIRST_PAUSE;
        let mut retries = 0;
        loop {
            let (reason, retry_after) = match self.try_send(key, &body) {
                Answer::Taken => return Ok(()),
                Answer::Refused(reason) => return Err(ConnectorError::Permanent(format!("{}: {reason}", self.url))),
                Answer::Later { reason, retry_after } => (reason, retry_after),
            };
            if retries == self.max_retries {
                let tries = retries + 1;
                return Err(ConnectorError::Transient(format!("{}: {reason} (tried {tries} times)", self.url)));
            }
            tracing::debug!(url = self.url, key, reason, "a request is tried again");
            std::thread::sleep(retry_after.unwrap_or(pause));
            (retries, pause) = (retries + 1, (pause * 2).min(MAX_PAUSE));
        }
    }

    /// Asks without sending anything: the status of the answer.
    pub(crate) fn ask(&self) -> Result<u16, ConnectorError> {
        let answered = self.runtime.block_on(async { self.client.head(&self.url).send().await });
        answered.map(|answer| answer.status().as_u16()).map_err(|error| {
            ConnectorError::Transient(format!("{} does not answer: {}", self.url, error_chain(&error)))
        })
    }

    fn try_send(&self, key: &str, body: &Bytes) -> Answer {
        let request = self.client.request(self.method.clone(), &self.url).header(&self.idempotency_header, key);
        let answered = self.runtime.block_on(async {
            let mut answer = request.body(body.clone()).send().await?;
            let mut text = vec![];
            // To the end, so that the connection can be used again; what breaks off there has been answered.
            while let Ok(Some(chunk)) = answer.chunk().await {
                text.extend_from_slice(&chunk);
                if text.len() > MAX_ANSWER_BYTES {
                    break;
                }
            }
            Ok::<_, reqwest::Error>((answer, text))
        });
        match answered {
            Ok((answer, text)) => {
                let retry_after = answer.headers().get(RETRY_AFTER);
                judge(answer.status().as_u16(), retry_after, &String::from_utf8_lossy(&text), chrono::Utc::now())
            }
            Err(error) => Answer::Later { reason: error_chain(&error), retry_after: None },
        }
    }
}

fn judge(status: u16, retry_after: Option<&HeaderValue>, text: &str, now: chrono::DateTime<chrono::Utc>) -> Answer {
    let shown: String = text.chars().take(SHOWN_CHARS).collect();
    let reason = if shown.is_empty() { format!("status {status}") } else { format!("status {status}: {shown}") };
    match status {
        200..=299 => Answer::Taken,
        408 | 425 | 429 | 500..=599 => {
            let retry_after = retry_after.and_then(|value| wanted_pause(value, now));
            Answer::Later { reason, retry_after: retry_after.map(|pause| pause.min(MAX_RETRY_AFTER)) }
        }
        300..=399 => Answer::Refused(format!(
            "{reason}; it redirects, which a request with a body can't follow: write the address that it means"
        )),
        401 | 403 => Answer::Refused(format!("{reason}; correct headers or secretHeaders")),
        _ => Answer::Refused(reason),
    }
}

/// `Retry-After`: seconds, or a date.
fn wanted_pause(value: &HeaderValue, now: chrono::DateTime<chrono::Utc>) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(until.signed_duration_since(now).to_std().unwrap_or_default())
}

/// TLS for a client: the system's authorities are believed, and those of a file in PEM.
///
/// # Errors
/// The file can't be used.
pub fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, ConnectorError> {
    let unusable = |error: rustls::Error| ConnectorError::Permanent(format!("TLS can't be set up: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
    Ok(builder.with_root_certificates(roots(ca_file)?).with_no_client_auth())
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, ConnectorError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(file) = ca_file else { return Ok(roots) };
    let unusable = |reason: String| ConnectorError::Permanent(format!("caFile {}: {reason}", file.display()));
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))?;
    let mut count = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(unusable("it holds no certificate in PEM".to_owned())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let now = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").expect("a time").to_utc();
        let judge = |status, header: Option<&'static str>| {
            judge(status, header.map(HeaderValue::from_static).as_ref(), "", now)
        };
        let later = |pause: Option<u64>| Some(pause.map(Duration::from_secs));
        let pause_of = |answer| match answer {
            Answer::Later { retry_after, .. } => Some(retry_after),
            Answer::Taken | Answer::Refused(_) => None,
        };
        assert_eq!(judge(204, None), Answer::Taken);
        assert_eq!(pause_of(judge(503, None)), later(None));
        assert_eq!(pause_of(judge(429, Some("7"))), later(Some(7)));
        assert_eq!(pause_of(judge(429, Some("100000"))), later(Some(60)), "bounded");
        assert_eq!(pause_of(judge(503, Some("Thu, 01 Jan 2026 00:00:09 GMT"))), later(Some(9)));
        assert_eq!(pause_of(judge(503, Some("Wed, 31 Dec 2025 00:00:00 GMT"))), later(Some(0)), "in the past");
        assert_eq!(pause_of(judge(503, Some("soon"))), later(None));
        for status in [301, 400, 401, 404, 409, 422] {
            assert!(matches!(judge(status, None), Answer::Refused(_)), "{status}");
        }
    }
}
