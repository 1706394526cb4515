//! From the text of a job file to a job: every mistake at once, each with its line and column.
//!
//! [`check_streamjob`] reads a file and tells all that is wrong with it, as far as that can be said without planning
//! its SQL. [`Parsed::map_text_position`] lets the planner say the rest in the file's own lines and columns, and
//! [`render`] prints all of it as a compiler would.
//!
//! The file is parsed once, into a tree that knows positions, and the job is read from that tree: there is no second
//! parser that could understand it differently.

mod check;
mod document;
mod render;
mod scalar;
mod source_map;
mod tree;
mod value;

pub use crate::validate::Severity;
use crate::{StreamJob, validate::validate};
pub use document::streamjob_schema;
pub use render::render;
pub use source_map::{Located, SourceMap};

/// A place in a text. Lines and columns count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One mistake, or one thing to think about, with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub position: Position,
    /// How many characters from the position on it is about.
    pub length: usize,
    /// `spec.pipeline.sources[0].name`; empty where the YAML itself is wrong.
    pub field_path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do instead.
    pub remedy: String,
}

/// A job read from a file, with the way back to the file.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub job: StreamJob,
    pub source_map: SourceMap,
    /// What is allowed but may not be meant.
    pub warnings: Vec<Diagnostic>,
}

/// What a file holds, even where not all of it is right.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The job, where enough is right to make one: the planner may then look at its SQL and add to the diagnostics.
    pub parsed: Option<Parsed>,
    /// Every error and warning, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Reads the only StreamJob of a YAML text; documents of other kinds are passed over.
///
/// # Errors
/// Every mistake of the file, in its order, warnings among them.
pub fn parse_streamjob(yaml: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let checked = check_streamjob(yaml);
    let has_errors = checked.has_errors();
    match checked.parsed {
        Some(parsed) if !has_errors => Ok(parsed),
        Some(_) | None => Err(checked.diagnostics),
    }
}

/// Reads the only StreamJob of a YAML text, and tells every mistake; the job comes with them where it can.
pub fn check_streamjob(yaml: &str) -> Checked {
    let mut all = check_streamjobs(yaml);
    match all.len() {
        1 => all.swap_remove(0),
        0 => Checked { parsed: None, diagnostics: Vec::new() },
        _ => document::several_jobs(all),
    }
}

/// Reads every StreamJob of a YAML text. There is at least one result: with the reason, where there is no StreamJob.
pub fn check_streamjobs(yaml: &str) -> Vec<Checked> {
    let (documents, syntax) = tree::parse(yaml);
    let (jobs, mut others) = document::streamjobs(&documents, !syntax.is_empty());
    others.extend(syntax);
    let mut all: Vec<Checked> = jobs.into_iter().map(|job| check_document(job, yaml)).collect();
    match all.first_mut() {
        Some(first) => first.diagnostics.extend(others),
        None => all.push(Checked { parsed: None, diagnostics: others }),
    }
    for checked in &mut all {
        checked.diagnostics.sort_by_key(|diagnostic| diagnostic.position);
        checked.diagnostics.dedup();
    }
    all
}

fn check_document(document: &tree::Node, yaml: &str) -> Checked {
    let source_map = SourceMap::new(document.clone(), yaml);
    let walked = check::check(document, streamjob_schema(), "");
    let mut diagnostics = walked.diagnostics;
    // A misspelt field was left out; what cannot be without it makes no job.
    let job = serde_json::from_value::<StreamJob>(walked.value);
    let parsed = match job {
        Ok(job) => {
            let violations =
                validate(&job).into_iter().filter(|violation| !walked.tainted.covers(&violation.field_path));
            diagnostics.extend(violations.map(|violation| source_map.diagnostic(violation)));
            let warnings = diagnostics.iter().filter(|found| found.severity == Severity::Warning).cloned().collect();
            Some(Parsed { job, source_map, warnings })
        }
        Err(error) => {
            if diagnostics.iter().all(|found| found.severity != Severity::Error) {
                diagnostics.push(Diagnostic {
                    severity: Severity::Error,
                    position: document.start,
                    length: 1,
                    field_path: String::new(),
                    reason: format!("not a StreamJob: {error}"),
                    remedy: "compare with the StreamJob reference".to_owned(),
                });
            }
            None
        }
    };
    Checked { parsed, diagnostics }
}

impl Parsed {
    /// Where a field stands; where it is absent, where it would: at the nearest field around it.
    pub fn position_of(&self, field_path: &str) -> Option<Position> {
        self.source_map.locate(field_path).map(|located| located.position)
    }

    /// The place in the file of a line and column (both from 1) of the text in a field, such as
    /// `spec.pipeline.transforms[0].sql`. A place beyond the text is the text's end.
    pub fn map_text_position(&self, field_path: &str, line: usize, column: usize) -> Option<Position> {
        self.source_map.map_text_position(field_path, Position { line, column })
    }

    /// A diagnostic about a place inside the text of a field.
    pub fn diagnostic_in_text(&self, field_path: &str, place: Position, reason: String, remedy: String) -> Diagnostic {
        let position = self.source_map.map_text_position(field_path, place);
        Diagnostic {
            severity: Severity::Error,
            position: position.or_else(|| self.position_of(field_path)).unwrap_or(Position::START),
            length: 1,
            field_path: field_path.to_owned(),
            reason,
            remedy,
        }
    }
}
