//! SQL on streams: from the steps of a job to the job graph that the runtime runs.
//!
//! [`plan`] parses and types each SQL step with DataFusion's planner, brings the query into a few shapes, and lowers
//! those to operators of its own; DataFusion's execution plans are not used. Expressions run as DataFusion physical
//! expressions behind [`weir_model::Expression`].
//!
//! The plan is a pure function of the definition: no clock, no randomness, no IO. What would make a replay differ
//! (`now()`, `random()`, `uuid()`) is refused; processing time exists in windows and in the order of deduplication only.
//!
//! Names: unquoted ones are taken in lower case; a column or step with capitals or a hyphen stands in double quotes.

mod catalog;
mod check;
mod definition;
mod error;
mod explain;
mod expression;
mod functions;
mod graph;
mod locate;
mod logical;
mod lower;
mod names;
mod parse;
mod plan;
mod references;
mod relation;
mod retractions;
mod spelling;
mod time_liveness;
mod window_tvf;

pub use definition::*;
pub use error::PlanError;
pub use explain::explain;
pub use plan::plan;
pub use retractions::leave_out_unread_retractions;

#[cfg(test)]
mod tests;
