//! Rows behind the watermark.

use crate::operator::{OperatorContext, OperatorError};
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;

/// The batch without the rows that `is_late` names; they are counted as dropped.
pub(crate) fn drop_late(
    batch: RecordBatch,
    context: &mut OperatorContext<'_>,
    is_late: impl Fn(usize) -> bool,
) -> Result<RecordBatch, OperatorError> {
    let late = (0..batch.num_rows()).filter(|row| is_late(*row)).count();
    if late == 0 {
        return Ok(batch);
    }
    context.metrics.late_records_dropped += late as u64;
    let keep = (0..batch.num_rows()).map(|row| Some(!is_late(row))).collect();
    Ok(filter_record_batch(&batch, &keep)?)
}
