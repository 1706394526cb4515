//! A sink that appends to Apache Iceberg tables, exactly once.
//!
//! Subtasks write Parquet files; one committer for the whole sink adds those of a checkpoint to the table in one snapshot,
//! which says in its summary what it holds. See docs/adr/0023.

mod catalog;
mod files;
mod format;
mod sink;

pub use catalog::{CatalogConfig, RestConfig, SqlConfig};
pub use sink::{CreateTable, IcebergSink, IcebergSinkConfig, StorageSettings};

use std::time::{SystemTime, UNIX_EPOCH};
use weir_connectors::api::ConnectorError;

/// Said of what will be so the next time, too.
fn permanent<T>(reason: impl Into<String>) -> Result<T, ConnectorError> {
    Err(ConnectorError::Permanent(reason.into()))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
