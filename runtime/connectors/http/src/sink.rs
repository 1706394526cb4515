//! What is sent where.

use crate::batch::Columns;
use crate::client::Client;
use crate::writer::HttpWriter;
use arrow::datatypes::SchemaRef;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::*;
use weir_connectors::formats::{EncoderConfig, encoder};

#[derive(Clone)]
pub struct HttpSinkConfig {
    pub url: String,
    pub method: Method,
    pub headers: BTreeMap<String, String>,
    /// What is shown nowhere.
    pub secret_headers: BTreeMap<String, String>,
    /// Why values of those could not be read here; what stands in their place is not used.
    pub missing_secrets: Vec<String>,
    pub idempotency_header: String,
    pub format: BodyFormat,
    /// The column that takes an updating input's change kind. Without it such an input is refused.
    pub change_kind_column: Option<String>,
    /// Records of a request.
    pub batch_rows: usize,
    /// From the connection to the end of the answer.
    pub timeout: Duration,
    /// After the first try.
    pub max_retries: u32,
    /// Authorities that are believed besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Post,
    Put,
}

/// How records make a body.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyFormat {
    /// One object; of several records an array of them.
    Json { omit_nulls: bool },
    /// A record a line.
    Lines { format: EncoderConfig, content_type: &'static str },
}

impl BodyFormat {
    pub(crate) fn encoder(&self) -> EncoderConfig {
        match self {
            BodyFormat::Json { omit_nulls } => EncoderConfig::Json { omit_nulls: *omit_nulls },
            BodyFormat::Lines { format, .. } => format.clone(),
        }
    }

    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            BodyFormat::Json { .. } => "application/json",
            BodyFormat::Lines { content_type, .. } => content_type,
        }
    }
}

pub struct HttpSink {
    config: Arc<HttpSinkConfig>,
    headers: HeaderMap,
    idempotency_header: HeaderName,
}

impl HttpSink {
    /// # Errors
    /// An address or a header that can't be used.
    pub fn new(config: HttpSinkConfig) -> Result<Self, ConnectorError> {
        let unusable = |reason: String| ConnectorError::Permanent(reason);
        let url = reqwest::Url::parse(&config.url);
        let url = url.map_err(|error| unusable(format!("url `{}` is none: {error}", config.url)))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unusable(format!("url `{}` is neither http:// nor https://", config.url)));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable(
                "url holds a user or a password: write them as secretHeaders.Authorization".to_owned(),
            ));
        }
        if config.batch_rows == 0 {
            return Err(unusable("batchRows is 0: write 1 or more".to_owned()));
        }
        let name = |name: &str| {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable(format!("`{name}` is no name of a header")))
        };
        let idempotency_header = name(&config.idempotency_header)?;
        let mut headers = HeaderMap::new();
        headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static(config.format.content_type()));
        for (header, value) in config.headers.iter().chain(&config.secret_headers) {
            let header = name(header)?;
            if header == idempotency_header
                || matches!(header.as_str(), "content-length" | "host" | "transfer-encoding")
            {
                return Err(unusable(format!("the header `{header}` is set by the sink itself: remove it")));
            }
            // Without the value, which may be secret.
            let value = HeaderValue::from_str(value);
            let mut value =
                value.map_err(|_| unusable(format!("the header `{header}` has a value that none can have")))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        Ok(HttpSink { config: Arc::new(config), headers, idempotency_header })
    }

    fn client(&self) -> Result<Client, ConnectorError> {
        if let Some(missing) = self.config.missing_secrets.first() {
            return Err(ConnectorError::Permanent(missing.clone()));
        }
        Client::new(&self.config, self.headers.clone(), self.idempotency_header.clone())
    }
}

impl Sink for HttpSink {
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError> {
        let columns = Columns::of(input, self.config.change_kind_column.as_deref())?;
        encoder(&self.config.format.encoder(), &columns.schema).map(|_| ())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn writer(
        &self,
        context: SinkContext,
        restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(HttpWriter::new(&self.config, self.client()?, &context, &restored)?))
    }

    fn committer(&self, _context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(None)
    }

    fn probe(&self, _context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let status = self.client()?.ask()?;
        Ok(Probe { found: vec![format!("{} answers (HEAD: {status})", self.config.url)], problems: vec![] })
    }
}
