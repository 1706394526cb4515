//! What is wrong with a job, as far as that can be said without planning its SQL. The command line and the operator
//! share it; the CustomResourceDefinition says as much of it in CEL as CEL can.

mod checkpoint;
mod formats;
mod generator;
mod graph;
mod names;
mod operations;
mod sinks;
mod sources;

use crate::{HumanDuration, StreamJob};

/// Whether a job may run with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The job is refused.
    Error,
    /// The job runs, but perhaps not as meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing wrong with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub severity: Severity,
    /// `spec.pipeline.sinks[0].from`; a field that is missing has the path that it would have.
    pub field_path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do instead.
    pub remedy: String,
}

/// Everything wrong with a job, section by section.
pub fn validate(job: &StreamJob) -> Vec<Violation> {
    let mut findings = Findings::default();
    names::check(job, &mut findings);
    sources::check(&job.spec, &mut findings);
    graph::check(&job.spec.pipeline, &mut findings);
    sinks::check(&job.spec, &mut findings);
    checkpoint::check(&job.spec, &mut findings);
    operations::check(&job.spec, &mut findings);
    findings.violations
}

/// What the checks have found so far.
#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
}

impl Findings {
    fn error(&mut self, field_path: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Error, field_path.into(), reason.into(), remedy.into());
    }

    fn warning(&mut self, field_path: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Warning, field_path.into(), reason.into(), remedy.into());
    }

    fn push(&mut self, severity: Severity, field_path: String, reason: String, remedy: String) {
        self.violations.push(Violation { severity, field_path, reason, remedy });
    }

    /// Of several fields of which exactly one should stand, complains if none or more do.
    fn exactly_one(&mut self, field_path: &str, what: &str, named: &[&str], all: &[&str]) {
        match named {
            [_] => {}
            [] => {
                self.error(field_path, format!("no {what} is named"), format!("name exactly one of {}", all.join(", ")))
            }
            [_, second, ..] => self.error(
                format!("{field_path}.{second}"),
                format!("more than one {what} is named: {}", named.join(", ")),
                "keep one of them",
            ),
        }
    }
}

/// Of optional fields, the names of those that stand.
fn standing<'a>(fields: &[(&'a str, bool)]) -> Vec<&'a str> {
    fields.iter().filter(|(_, stands)| *stands).map(|(name, _)| *name).collect()
}

/// A duration for a message.
fn human(duration: std::time::Duration) -> HumanDuration {
    duration.into()
}
