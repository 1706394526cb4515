//! Connecting and checking before anything is started.

use arrow::datatypes::SchemaRef;

/// Whose connector asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeContext {
    /// The step's name.
    pub name: String,
    /// The job's UID.
    pub job_uid: String,
    /// What a sink takes, or a source gives.
    pub schema: SchemaRef,
}

/// What the other side said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// In words, a line each: how many partitions a topic has, which limits apply.
    pub found: Vec<String>,
    /// Why the job would fail, each with what to do about it. Empty: it would not, as far as can be told.
    pub problems: Vec<String>,
}
