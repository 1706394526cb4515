//! Mistakes in a job's steps, each with its place and its remedy.

use datafusion_common::{DataFusionError, Span};
use datafusion_sql::sqlparser::tokenizer::Span as ParserSpan;
use std::fmt;

/// One mistake in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// Name of the step.
    pub step: String,
    /// From 1, within the step's SQL text; None for what isn't in SQL or has no one place.
    pub line: Option<u64>,
    /// From 1, in characters.
    pub column: Option<u64>,
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}; {}", self.reason, self.remedy)
    }
}

impl std::error::Error for PlanError {}

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub line: u64,
    pub column: u64,
}

/// A mistake within one SQL text; a `PlanError` once the step is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub position: Option<Position>,
    pub reason: String,
    pub remedy: String,
}

pub(crate) type Planned<T> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Problem { position: None, reason: reason.into(), remedy: remedy.into() }
    }

    pub(crate) fn at(mut self, position: Option<Position>) -> Self {
        self.position = self.position.or(position);
        self
    }

    pub(crate) fn at_span(self, span: ParserSpan) -> Self {
        self.at(position(span))
    }

    pub(crate) fn of_step(self, step: &str) -> PlanError {
        PlanError {
            step: step.to_owned(),
            line: self.position.map(|position| position.line),
            column: self.position.map(|position| position.column),
            reason: self.reason,
            remedy: self.remedy,
        }
    }

    /// What one of our own extensions of the planner found.
    pub(crate) fn hidden_in(error: &DataFusionError) -> Option<Problem> {
        hidden_problem(error).cloned().map(|problem| problem.at(Problem::place_in(error)))
    }

    /// Where the planner says that its error is.
    pub(crate) fn place_in(error: &DataFusionError) -> Option<Position> {
        error.diagnostic().and_then(|diagnostic| position_of(diagnostic.span))
    }

    /// Hides the problem in a planner error; `From<DataFusionError>` brings it back.
    pub(crate) fn into_datafusion(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

impl std::error::Error for Problem {}

/// Where an AST node begins; None for nodes that the parser gives no place.
pub(crate) fn position(span: ParserSpan) -> Option<Position> {
    (span.start.line > 0).then_some(Position { line: span.start.line, column: span.start.column })
}

pub(crate) fn position_of(span: Option<Span>) -> Option<Position> {
    span.filter(|span| span.start.line > 0).map(|span| Position { line: span.start.line, column: span.start.column })
}

/// For errors that mean that the planner itself is at fault, or that nothing better is known of.
const REPHRASE: &str = "rephrase the query";

impl From<DataFusionError> for Problem {
    fn from(error: DataFusionError) -> Self {
        let position = error.diagnostic().and_then(|diagnostic| position_of(diagnostic.span));
        if let Some(problem) = hidden_problem(&error) {
            return problem.clone().at(position);
        }
        let message = match error.find_root() {
            DataFusionError::Collection(errors) if !errors.is_empty() => errors[0].message().into_owned(),
            root => root.message().into_owned(),
        };
        Problem::new(crate::locate::in_sql_types(&first_sentence(&message)), REPHRASE).at(position)
    }
}

/// The problem that one of our own extensions of the planner found.
fn hidden_problem(error: &DataFusionError) -> Option<&Problem> {
    match error {
        DataFusionError::External(inner) => inner.downcast_ref::<Problem>(),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => hidden_problem(inner),
        DataFusionError::Shared(inner) => hidden_problem(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(hidden_problem),
        _ => None,
    }
}

/// Messages of the planner go on with backtraces and advice for its own developers.
pub(crate) fn first_sentence(message: &str) -> String {
    let message = message.split("\n\n").next().unwrap_or(message);
    let message = message.split(".\nThis issue was likely caused").next().unwrap_or(message);
    let kinds = ["Arrow error: ", "Cast error: ", "Parser error: ", "Execution error: ", "Error during planning: "];
    let message = kinds.iter().fold(message, |message, kind| message.trim().strip_prefix(kind).unwrap_or(message));
    message.trim().trim_end_matches('.').replace('\n', " ")
}
