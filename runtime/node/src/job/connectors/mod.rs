//! From the connectors that a spec names to sources and sinks.

mod iceberg;
mod kafka;
mod kinesis;
mod sinks;
mod sources;

use super::{Problem, secrets};
use crate::registry::Registry;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Sink, Source};
use weir_crds::streamjob::{SecretValue, StreamJobSpec};
use weir_postgres_client::ConnectionUrl;

/// What could be set up, and why the rest could not.
pub(super) struct Connectors {
    pub(super) sources: HashMap<String, Arc<dyn Source>>,
    pub(super) sinks: HashMap<String, Arc<dyn Sink>>,
    pub(super) problems: Vec<Problem>,
}

pub(super) fn set_up(spec: &StreamJobSpec, registry: &Registry) -> Connectors {
    let mut connectors = Connectors { sources: HashMap::new(), sinks: HashMap::new(), problems: vec![] };
    for (index, source) in spec.pipeline.sources.iter().enumerate() {
        match sources::set_up(source, registry) {
            Ok(made) => {
                connectors.sources.insert(source.name.clone(), made);
            }
            Err(fault) => connectors.problems.push(fault.in_step(&format!("spec.pipeline.sources[{index}]"))),
        }
    }
    for (index, sink) in spec.pipeline.sinks.iter().enumerate() {
        match sinks::set_up(sink, spec, registry) {
            Ok(made) => {
                connectors.sinks.insert(sink.name.clone(), made);
            }
            Err(fault) => connectors.problems.push(fault.in_step(&format!("spec.pipeline.sinks[{index}]"))),
        }
    }
    connectors
}

/// Why a connector can't be set up; `field` is below its step.
struct Fault {
    field: &'static str,
    reason: String,
    remedy: String,
}

impl Fault {
    fn new(field: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Fault { field, reason: reason.into(), remedy: remedy.into() }
    }

    fn of_connector(field: &'static str, error: &ConnectorError) -> Self {
        Fault::new(field, error.to_string(), "change these settings")
    }

    fn in_step(self, step: &str) -> Problem {
        Problem { field_path: format!("{step}.{}", self.field), reason: self.reason, remedy: self.remedy }
    }
}

/// The connection of a PostgreSQL source or sink.
fn postgres_url(url: &SecretValue) -> Result<ConnectionUrl, Fault> {
    let url = secrets::value(url).map_err(|reason| {
        Fault::new("postgres.url", reason, "write one of `value`, `env` and `secretKeyRef` that is there")
    })?;
    ConnectionUrl::parse(&url).map_err(|error| Fault::of_connector("postgres.url", &error))
}

/// Relative paths are relative to where `weir` was started, as in any command.
fn resolve(path: &str) -> PathBuf {
    PathBuf::from(path.strip_prefix("file://").unwrap_or(path))
}

/// The names that a registry has, for messages.
fn known<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "this binary has none".to_owned() } else { format!("there are {}", names.join(", ")) }
}
