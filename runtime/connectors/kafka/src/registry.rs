//! A schema registry as Confluent's: schemas by their numbers, over HTTP.

use rustls::{ClientConfig, RootCertStore};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use weir_connectors::api::ConnectorError;

/// Of one question.
const TIMEOUT: Duration = Duration::from_secs(5);
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// Numbers that the registry does not know, remembered so that bad messages don't ask for theirs each.
const MAX_UNKNOWN: usize = 1024;

/// Where it is.
#[derive(Clone)]
pub struct Registry {
    pub url: String,
    /// `user:password`.
    pub basic_auth: Option<String>,
    /// Why that could not be read here; what stands in its place is not used.
    pub missing_secret: Option<String>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Asks it, and waits for the answers.
pub(crate) struct RegistryClient {
    registry: Registry,
    runtime: Runtime,
    client: reqwest::Client,
    unknown: HashSet<u32>,
}

impl RegistryClient {
    /// Opens no connection yet.
    pub(crate) fn new(registry: &Registry) -> Result<Self, ConnectorError> {
        if let Some(missing) = &registry.missing_secret {
            return Err(ConnectorError::Permanent(format!("the schema registry's basicAuth: {missing}")));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ConnectorError::Transient(format!("cannot start a runtime: {error}")))?;
        let unusable = |error: &dyn std::fmt::Display| {
            ConnectorError::Permanent(format!("the schema registry {} cannot be asked: {error}", registry.url))
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(TIMEOUT).build();
        let client = client.map_err(|error| unusable(&error))?;
        Ok(RegistryClient { registry: registry.clone(), runtime, client, unknown: HashSet::new() })
    }

    /// Whether it is there and lets us ask.
    pub(crate) fn check(&mut self) -> Result<(), ConnectorError> {
        self.get("subjects").map(|_| ())
    }

    /// The text of a schema. None: the registry has none with this number.
    pub(crate) fn schema(&mut self, number: u32) -> Result<Option<String>, ConnectorError> {
        if self.unknown.contains(&number) {
            return Ok(None);
        }
        let Some(body) = self.get(&format!("schemas/ids/{number}"))? else {
            if self.unknown.len() < MAX_UNKNOWN {
                self.unknown.insert(number);
            }
            return Ok(None);
        };
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        match answer.get("schema").and_then(serde_json::Value::as_str) {
            Some(schema) => Ok(Some(schema.to_owned())),
            None => Err(self.refused(&format!("its answer has no `schema`: {}", shown(&body)))),
        }
    }

    /// The body of an answer. None: not found.
    fn get(&mut self, path: &str) -> Result<Option<String>, ConnectorError> {
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            match self.try_get(path) {
                Err(ConnectorError::Transient(reason)) => last = Some(reason),
                done => return done,
            }
        }
        Err(ConnectorError::Transient(last.expect("it was tried")))
    }

    fn try_get(&mut self, path: &str) -> Result<Option<String>, ConnectorError> {
        let url = format!("{}/{path}", self.registry.url.trim_end_matches('/'));
        let mut request = self.client.get(&url);
        if let Some(login) = &self.registry.basic_auth {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            request = request.basic_auth(user, Some(password));
        }
        let answered = self.runtime.block_on(async {
            let answer = request.send().await?;
            let status = answer.status();
            answer.text().await.map(|body| (status, body))
        });
        let (status, body) = answered.map_err(|error| {
            ConnectorError::Transient(format!("the schema registry {} does not answer: {error}", self.registry.url))
        })?;
        match status.as_u16() {
            200..=299 => Ok(Some(body)),
            404 => Ok(None),
            401 | 403 => Err(self.refused(&format!("{status}; correct format.avro.registry.basicAuth"))),
            status if status < 500 && status != 429 => Err(self.refused(&format!("status {status}: {}", shown(&body)))),
            _ => Err(ConnectorError::Transient(format!("the schema registry {}: {status}", self.registry.url))),
        }
    }

    fn refused(&self, reason: &str) -> ConnectorError {
        ConnectorError::Permanent(format!("the schema registry {}: {reason}", self.registry.url))
    }
}

/// As much of an answer as a message can have.
fn shown(body: &str) -> String {
    body.chars().take(200).collect()
}
