//! A catalog that speaks Iceberg's REST protocol.

use super::{Append, CommitOutcome, LoadedTable, TableName};
use crate::files::block_on;
use crate::format::metadata::Metadata;
use crate::permanent;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use weir_connectors::api::ConnectorError;
use weir_model::error_chain;

/// Of one request. A commit lets the catalog write a file first.
const TIMEOUT: Duration = Duration::from_secs(60);
/// As much of an answer as a message has.
const SHOWN_CHARS: usize = 300;
const DEFAULT_SCOPE: &str = "catalog";
/// What stands between the levels of a namespace in an address, unless the catalog says otherwise.
const LEVEL_SEPARATOR: &str = "%1F";

#[derive(Clone)]
pub struct RestConfig {
    pub uri: String,
    /// Which of the catalog's warehouses.
    pub warehouse: Option<String>,
    /// A bearer token.
    pub token: Option<String>,
    /// `client-id:client-secret`, for which a token is fetched.
    pub credential: Option<String>,
    /// Where; of the catalog itself if nothing is said.
    pub oauth2_server_uri: Option<String>,
    pub scope: Option<String>,
    /// Why values of those could not be read here.
    pub missing_secrets: Vec<String>,
    /// Authorities that are believed besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for RestConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestConfig").field("uri", &self.uri).field("warehouse", &self.warehouse).finish_non_exhaustive()
    }
}

pub(crate) struct RestCatalog {
    config: RestConfig,
    client: reqwest::Client,
    /// What the catalog itself says: asked once, with the first request.
    settings: Option<Settings>,
    /// Fetched for the credential.
    token: Option<String>,
}

#[derive(Clone)]
struct Settings {
    /// With `/v1` and the prefix, without a slash at the end.
    base: String,
    /// Between the levels of a namespace, as it stands in an address.
    separator: String,
    properties: BTreeMap<String, String>,
}

struct Answer {
    status: u16,
    body: Value,
    text: String,
}

impl RestCatalog {
    /// Sends nothing yet.
    pub(crate) fn open(config: &RestConfig) -> Result<Self, ConnectorError> {
        if let Some(missing) = config.missing_secrets.first() {
            return permanent(missing.clone());
        }
        let unusable = |error: &dyn std::fmt::Display| ConnectorError::Permanent(format!("{}: {error}", config.uri));
        let tls = weir_connectors_http::tls(config.ca_file.as_deref())?;
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(TIMEOUT);
        let client = client.build().map_err(|error| unusable(&error))?;
        Ok(RestCatalog { config: config.clone(), client, settings: None, token: None })
    }

    pub(crate) fn load(&mut self, table: &TableName) -> Result<Option<LoadedTable>, ConnectorError> {
        let path = self.table_path(table)?;
        let answer = self.ask(Method::GET, &path, None)?;
        match answer.status {
            200..=299 => self.loaded(answer).map(Some),
            404 => Ok(None),
            _ => Err(self.failed(&answer)),
        }
    }

    pub(crate) fn create(&mut self, table: &TableName, schema: &Value, spec: &Value) -> Result<(), ConnectorError> {
        let namespace = json!({"namespace": table.namespace, "properties": {}});
        let made = self.ask(Method::POST, "namespaces", Some(&namespace))?;
        // There already; or none may be made, and then the table says whether that matters.
        if !matches!(made.status, 200..=299 | 409 | 403 | 404 | 406) {
            return Err(self.failed(&made));
        }
        let path = format!("namespaces/{}/tables", level_path(table, &self.settings()?.separator));
        let wanted = json!({
            "name": table.name, "schema": schema, "partition-spec": spec,
            "properties": {"format-version": "2"},
        });
        let answer = self.ask(Method::POST, &path, Some(&wanted))?;
        match answer.status {
            200..=299 | 409 => Ok(()),
            _ => Err(self.failed(&answer)),
        }
    }

    pub(crate) fn commit(
        &mut self,
        table: &TableName,
        base: &LoadedTable,
        append: &Append,
    ) -> Result<CommitOutcome, ConnectorError> {
        let body = commit_request(table, base.metadata.uuid()?, append);
        let path = self.table_path(table)?;
        let answer = match self.try_ask(Method::POST, &path, Some(&body))? {
            Ok(answer) => answer,
            Err(reason) => return Ok(CommitOutcome::Unknown(reason)),
        };
        Ok(match answer.status {
            200..=299 => CommitOutcome::Committed,
            409 => CommitOutcome::Conflict(shown(&answer)),
            // It was told to wait, before it did anything.
            429 => return Err(ConnectorError::Transient(self.words(&answer))),
            500..=599 => CommitOutcome::Unknown(self.words(&answer)),
            _ => return Err(self.failed(&answer)),
        })
    }

    fn table_path(&mut self, table: &TableName) -> Result<String, ConnectorError> {
        Ok(table_path(table, &self.settings()?.separator))
    }

    fn loaded(&self, answer: Answer) -> Result<LoadedTable, ConnectorError> {
        let Answer { mut body, .. } = answer;
        let mut config = self.settings.as_ref().map(|settings| settings.properties.clone()).unwrap_or_default();
        config.extend(texts(body.get("config")));
        match body.get_mut("metadata") {
            Some(metadata) => Ok(LoadedTable { metadata: Metadata::parse(metadata.take())?, config, address: None }),
            None => permanent(format!("{}: an answer holds no metadata of the table", self.config.uri)),
        }
    }

    /// An answer; none is a failure that may pass.
    fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ConnectorError> {
        self.try_ask(method, path, body)?.map_err(ConnectorError::Transient)
    }

    /// The inner error: there was no answer, and what the request did is not known.
    fn try_ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<Answer, String>, ConnectorError> {
        let base = self.settings()?.base;
        let url = format!("{base}/{path}");
        for is_first in [true, false] {
            let request = self.client.request(method.clone(), &url);
            let request = match body {
                Some(body) => request.header("Content-Type", "application/json").body(body.to_string()),
                None => request,
            };
            let request = self.authorized(request)?.header("X-Iceberg-Access-Delegation", "vended-credentials");
            let answer = match self.send(request)? {
                Ok(answer) => answer,
                Err(reason) => return Ok(Err(reason)),
            };
            // A token has its time, and is fetched again once.
            let is_stale = matches!(answer.status, 401 | 419) && self.token.take().is_some();
            if !(is_stale && is_first) {
                return Ok(Ok(answer));
            }
        }
        unreachable!("the second answer is returned")
    }

    /// What the catalog asks of its clients, and where its tables are.
    fn settings(&mut self) -> Result<Settings, ConnectorError> {
        if let Some(settings) = &self.settings {
            return Ok(settings.clone());
        }
        let base = self.config.uri.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let query = self.config.warehouse.as_ref().map_or(String::new(), |name| format!("?warehouse={}", escape(name)));
        let request = self.client.get(format!("{base}/v1/config{query}"));
        let request = self.authorized(request)?;
        let answer = self.send(request)?.map_err(ConnectorError::Transient)?;
        if !matches!(answer.status, 200..=299) {
            return Err(self.failed(&answer));
        }
        let mut properties = texts(answer.body.get("defaults"));
        properties.extend(texts(answer.body.get("overrides")));
        let base = properties.get("uri").map_or(base, |uri| uri.trim_end_matches('/').to_owned());
        let base = match properties.get("prefix") {
            Some(prefix) => format!("{base}/v1/{}", prefix.trim_matches('/')),
            None => format!("{base}/v1"),
        };
        let separator = properties.get("namespace-separator").map_or(LEVEL_SEPARATOR, String::as_str).to_owned();
        let settings = Settings { base, separator, properties };
        self.settings = Some(settings.clone());
        Ok(settings)
    }

    fn authorized(&mut self, request: RequestBuilder) -> Result<RequestBuilder, ConnectorError> {
        if let Some(token) = &self.config.token {
            return Ok(request.bearer_auth(token));
        }
        let Some(credential) = self.config.credential.clone() else { return Ok(request) };
        if self.token.is_none() {
            self.token = Some(self.fetch_token(&credential)?);
        }
        Ok(request.bearer_auth(self.token.as_deref().unwrap_or_default()))
    }

    fn fetch_token(&self, credential: &str) -> Result<String, ConnectorError> {
        let base = self.config.uri.trim_end_matches('/').trim_end_matches("/v1");
        let url = self.config.oauth2_server_uri.clone().unwrap_or_else(|| format!("{base}/v1/oauth/tokens"));
        let (id, secret) = credential.split_once(':').unwrap_or(("", credential));
        let scope = self.config.scope.as_deref().unwrap_or(DEFAULT_SCOPE);
        let fields =
            [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret), ("scope", scope)];
        let form: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        let request = self.client.post(&url).header("Content-Type", "application/x-www-form-urlencoded");
        let answer = self.send(request.body(form.join("&")))?.map_err(ConnectorError::Transient)?;
        if !matches!(answer.status, 200..=299) {
            return Err(self.failed(&answer));
        }
        match answer.body.get("access_token").and_then(Value::as_str) {
            Some(token) => Ok(token.to_owned()),
            None => permanent(format!("{url} gave no token for the credential")),
        }
    }

    /// The inner error: why there was no answer.
    fn send(&self, request: RequestBuilder) -> Result<Result<Answer, String>, ConnectorError> {
        let answered = block_on(async {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            answer.text().await.map(|text| (status, text))
        })?;
        Ok(match answered {
            Ok((status, text)) => {
                let body = serde_json::from_str(&text).unwrap_or_default();
                Ok(Answer { status, body, text })
            }
            Err(error) => Err(format!("{}: {}", self.config.uri, error_chain(&error))),
        })
    }

    fn failed(&self, answer: &Answer) -> ConnectorError {
        let words = self.words(answer);
        match answer.status {
            401 | 403 => {
                ConnectorError::Permanent(format!("{words}; correct catalog.rest.credential or token, or its rights"))
            }
            408 | 419 | 425 | 429 | 500..=599 => ConnectorError::Transient(words),
            _ => ConnectorError::Permanent(words),
        }
    }

    fn words(&self, answer: &Answer) -> String {
        format!("the catalog {} says {}: {}", self.config.uri, answer.status, shown(answer))
    }
}

fn commit_request(table: &TableName, uuid: &str, append: &Append) -> Value {
    let id = append.snapshot.get("snapshot-id").cloned().unwrap_or_default();
    let mut updates = vec![
        json!({"action": "add-snapshot", "snapshot": append.snapshot}),
        json!({"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": id}),
    ];
    if !append.properties.is_empty() {
        updates.push(json!({"action": "set-properties", "updates": append.properties}));
    }
    json!({
        "identifier": {"namespace": table.namespace, "name": table.name},
        "requirements": [
            {"type": "assert-table-uuid", "uuid": uuid},
            {"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": append.parent},
        ],
        "updates": updates,
    })
}

fn table_path(table: &TableName, separator: &str) -> String {
    format!("namespaces/{}/tables/{}", level_path(table, separator), escape(&table.name))
}

fn level_path(table: &TableName, separator: &str) -> String {
    table.namespace.iter().map(|level| escape(level)).collect::<Vec<_>>().join(separator)
}

/// A segment of an address.
fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte as char),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
        escaped
    })
}

fn texts(object: Option<&Value>) -> BTreeMap<String, String> {
    let entries = object.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn shown(answer: &Answer) -> String {
    let message = answer.body.get("error").and_then(|error| error.get("message")).and_then(Value::as_str);
    message.unwrap_or(&answer.text).chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let table = TableName::parse("a b.c.ü").unwrap();
        assert_eq!(table_path(&table, LEVEL_SEPARATOR), "namespaces/a%20b%1Fc/tables/%C3%BC");
        assert_eq!(table_path(&table, "%2E"), "namespaces/a%20b%2Ec/tables/%C3%BC");
    }

    #[test]
    fn a_commit_goes_on_from_the_snapshot_it_was_made_for() {
        let table = TableName::parse("n.t").unwrap();
        let append = Append { snapshot: json!({"snapshot-id": 5}), parent: None, properties: BTreeMap::new() };
        let request = commit_request(&table, "u", &append);
        assert_eq!(
            request["requirements"][1],
            json!({"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": null})
        );
        assert_eq!(request["updates"].as_array().map(Vec::len), Some(2));
        assert_eq!(request["updates"][1]["snapshot-id"], 5);
    }
}
