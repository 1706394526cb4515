//! Rust types and the column types they stand for.

mod kind;
mod record;
mod scalar;
mod time;

pub use kind::{Kind, Value};
pub use record::{Record, RecordReader, RecordWriter};
pub use scalar::{ColumnType, Json, ToValue};
pub use time::{Date, Time, Timestamp};
