//! Expressions as operators see them: a batch in, a column out.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use std::fmt::Debug;

/// An expression failed on this batch (a cast that cannot be, an overflow, a division by zero).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{expression}: {reason}")]
pub struct EvalError {
    /// The expression as SQL text.
    pub expression: String,
    pub reason: String,
}

/// A deterministic, side-effect-free function of a batch's columns; planned from SQL by `weir-sql`.
pub trait Expression: Debug + Send + Sync {
    /// One value per row of `batch`, of type `data_type()`.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, EvalError>;

    fn data_type(&self) -> &DataType;

    /// The expression as SQL, for plans and error messages.
    fn sql(&self) -> &str;

    /// `Some(i)` when the expression is input column `i` unchanged, so that nothing needs to be evaluated.
    fn as_column(&self) -> Option<usize> {
        None
    }
}
