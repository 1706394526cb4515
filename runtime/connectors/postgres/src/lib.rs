//! PostgreSQL: a sink in three ways (at least once, by key, exactly once), a source of a table's rows, and one of its
//! changes.

mod changes;
mod copy;
mod replication;
mod sink;
mod source;
mod table;
mod types;

pub use changes::{PostgresChanges, PostgresChangesConfig};
pub use sink::{CommitBy, ExactlyOnce, PostgresSink, PostgresSinkConfig};
pub use source::{PostgresSource, PostgresSourceConfig};
