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

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// Of why a schema does not fit.
const MAX_MESSAGES: usize = 5;

/// What was said.
enum Answer {
    Body(String),
    NotFound,
    /// A schema that can't follow those of its subject.
    Conflict(String),
}

/// Why a schema is not written, and what to do.
pub(crate) fn incompatible(subject: &str, reason: &str) -> String {
    format!(
        "the schema of the rows cannot follow the latest one of `{subject}` in the schema registry: {reason}. Change the query so \
         that its columns fit, lower the subject's compatibility in the registry, or write to another topic"
    )
}

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

    /// Why a schema can't follow the latest of its subject. Empty: it can, or there is none yet.
    pub(crate) fn incompatibilities(&mut self, subject: &str, schema: &str) -> Result<Vec<String>, ConnectorError> {
        let path = format!("compatibility/subjects/{subject}/versions/latest?verbose=true");
        let Answer::Body(body) = self.ask(&path, Some(schema))? else { return Ok(vec![]) };
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        match answer.get("is_compatible").and_then(serde_json::Value::as_bool) {
            Some(true) => Ok(vec![]),
            Some(false) => {
                let messages = answer.get("messages").and_then(serde_json::Value::as_array);
                let messages = messages.into_iter().flatten().filter_map(serde_json::Value::as_str).map(shown);
                let messages: Vec<String> = messages.take(MAX_MESSAGES).collect();
                Ok(if messages.is_empty() { vec!["the registry does not say why".into()] } else { messages })
            }
            None => Err(self.refused(&format!("its answer has no `is_compatible`: {}", shown(&body)))),
        }
    }

    /// The number of a schema, which is put under its subject if it isn't there.
    pub(crate) fn register(&mut self, subject: &str, schema: &str) -> Result<u32, ConnectorError> {
        let body = match self.ask(&format!("subjects/{subject}/versions"), Some(schema))? {
            Answer::Body(body) => body,
            Answer::NotFound => return Err(self.refused("it takes no schemas: correct format.avro.registry.url")),
            Answer::Conflict(reason) => return Err(ConnectorError::Permanent(incompatible(subject, &reason))),
        };
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let number = answer.get("id").and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok());
        number.ok_or_else(|| self.refused(&format!("its answer has no `id`: {}", shown(&body))))
    }

    /// The body of an answer. None: not found.
    fn get(&mut self, path: &str) -> Result<Option<String>, ConnectorError> {
        Ok(match self.ask(path, None)? {
            Answer::Body(body) => Some(body),
            Answer::NotFound => None,
            Answer::Conflict(reason) => return Err(self.refused(&reason)),
        })
    }

    /// With a schema it is posted.
    fn ask(&mut self, path: &str, schema: Option<&str>) -> Result<Answer, ConnectorError> {
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            match self.try_ask(path, schema) {
                Err(ConnectorError::Transient(reason)) => last = Some(reason),
                done => return done,
            }
        }
        Err(ConnectorError::Transient(last.expect("it was tried")))
    }

    fn try_ask(&mut self, path: &str, schema: Option<&str>) -> Result<Answer, ConnectorError> {
        let url = format!("{}/{path}", self.registry.url.trim_end_matches('/'));
        let mut request = match schema {
            None => self.client.get(&url),
            Some(schema) => {
                let body = serde_json::json!({"schema": schema, "schemaType": "AVRO"}).to_string();
                self.client.post(&url).header("Content-Type", MEDIA_TYPE).body(body)
            }
        };
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
            200..=299 => Ok(Answer::Body(body)),
            404 => Ok(Answer::NotFound),
            409 => Ok(Answer::Conflict(shown(&body))),
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
