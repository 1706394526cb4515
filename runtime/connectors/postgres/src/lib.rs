//! PostgreSQL: a sink in three ways (at least once, by key, exactly once), and what it shares with a source.

mod connection;
mod copy;
mod sink;
mod source;
mod table;
mod tls;
mod types;
mod url;

pub use sink::{CommitBy, ExactlyOnce, PostgresSink, PostgresSinkConfig};
pub use source::{PostgresSource, PostgresSourceConfig};
pub use url::{ConnectionUrl, TlsMode};
