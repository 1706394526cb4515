//! Operators and what surrounds them, as pure cores: batches in, batches out. A node drives them.

pub mod aggregate;
pub mod alignment;
pub mod calc;
pub mod channels;
pub mod custom;
pub mod deduplicate;
pub mod factory;
pub mod in_flight;
pub mod join;
mod keyed;
pub mod operator;
mod pending_commits;
pub mod top_n;
pub mod union;
pub mod watermark;
pub mod window;

pub use custom::{CustomRegistry, NoCustomOperators};
pub use operator::{Collector, Operator, OperatorContext, OperatorError, OperatorMetrics};
pub use pending_commits::PendingCommits;
