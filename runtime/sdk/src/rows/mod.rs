//! Rows as operators see them: what they read, and what they emit.

mod columns;
mod input;
mod output;
mod row;
mod schema;

pub(crate) use columns::ColumnData;
pub use input::{Column, Input, Inputs, RecordColumns};
pub(crate) use output::OutputBuffer;
pub use output::{Output, OutputRow, OutputWriter};
pub(crate) use row::BatchRows;
pub use row::Row;
pub use schema::RowSchema;
