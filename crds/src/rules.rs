//! The CEL rules that several types share, built in one place so that their messages agree.

use kube::core::Rule;

/// At most this many sources in a job. The API server bounds the cost of a rule by the longest list possible.
pub const MAX_SOURCES: u32 = 64;
/// At most this many transforms in a job.
pub const MAX_TRANSFORMS: u32 = 128;
/// At most this many sinks in a job.
pub const MAX_SINKS: u32 = 64;
/// At most this many columns in a declared schema.
pub const MAX_COLUMNS: u32 = 512;
/// At most this many names in a list of inputs, keys, topics or paths.
pub const MAX_NAMES: u32 = 64;
/// The longest DNS-1123 label, which is what a step may be called.
pub const MAX_NAME_LENGTH: u32 = 63;
/// The longest name of a job: pods are called `NAME-coordinator-xxxxx`, within the 63 characters of a host name.
pub const MAX_JOB_NAME_LENGTH: u32 = 45;
/// The longest SQL text of one transform.
pub const MAX_SQL_LENGTH: u32 = 65_536;
/// The longest path, URI, address or other short text.
pub const MAX_TEXT_LENGTH: u32 = 1_024;

/// A DNS-1123 label: what Kubernetes lets a Service, a Pod's host name and a step of a job be called.
pub const DNS_LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A DNS-1123 subdomain: what most Kubernetes objects may be called.
pub const DNS_SUBDOMAIN_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Exactly one of these fields stands.
pub(crate) fn exactly_one(fields: &[&str]) -> Rule {
    Rule::new(format!("{}.filter(x, x).size() == 1", presence(fields)))
        .message(&*format!("exactly one of {} is required", fields.join(", ")))
}

/// At most one of these fields stands.
pub(crate) fn at_most_one(fields: &[&str]) -> Rule {
    Rule::new(format!("{}.filter(x, x).size() <= 1", presence(fields)))
        .message(&*format!("at most one of {} may be set", fields.join(", ")))
}

/// The value may not change once it is there.
pub(crate) fn immutable(what: &str) -> Rule {
    Rule::new("self == oldSelf").message(&*format!("{what} is immutable"))
}

/// What a job may be called: pods and services are called after it.
pub(crate) fn job_name() -> Rule {
    Rule::new(format!(
        "self.metadata.name.size() <= {MAX_JOB_NAME_LENGTH} && self.metadata.name.matches('{DNS_LABEL_PATTERN}')"
    ))
    .message(&*format!(
        "a job's name is lower-case letters, digits and '-', begins and ends with a letter or digit, and has at most \
         {MAX_JOB_NAME_LENGTH} characters"
    ))
}

fn presence(fields: &[&str]) -> String {
    let tests: Vec<String> = fields.iter().map(|field| format!("has(self.{field})")).collect();
    format!("[{}]", tests.join(", "))
}
