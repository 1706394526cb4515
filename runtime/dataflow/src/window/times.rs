//! Event times of a batch.

use crate::operator::OperatorError;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

/// The times in `column`, in microseconds.
///
/// # Errors
/// If the column is no TIMESTAMP or has a null: a row without a time belongs to no window.
pub fn event_times(batch: &RecordBatch, column: usize) -> Result<&[i64], OperatorError> {
    let array = batch.column(column);
    let schema = batch.schema_ref();
    let name = schema.field(column).name();
    if !matches!(array.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
        return Err(OperatorError::Failed(format!(
            "event time `{name}` is {}, it must be TIMESTAMP: cast it",
            array.data_type()
        )));
    }
    if array.null_count() > 0 {
        return Err(OperatorError::Failed(format!(
            "event time `{name}` is null in {} of {} rows: filter such rows out before the window (WHERE {name} IS NOT NULL)",
            array.null_count(),
            array.len()
        )));
    }
    Ok(array.as_primitive::<TimestampMicrosecondType>().values())
}
