//! Columns that a record's bytes do not hold, such as where it came from, among those that they do.

use crate::api::ConnectorError;
use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

/// Rows of `schema`: `others` at their places, in ascending order, and the decoded columns at the rest.
///
/// # Errors
/// The two together are not the schema's columns.
pub fn beside(
    decoded: &RecordBatch,
    others: impl IntoIterator<Item = (usize, ArrayRef)>,
    schema: &SchemaRef,
) -> Result<RecordBatch, ConnectorError> {
    let mut decoded = decoded.columns().iter().cloned();
    let mut others = others.into_iter().peekable();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for place in 0..schema.fields().len() {
        let other = others.next_if(|(at, _)| *at == place).map(|(_, column)| column);
        columns.extend(other.or_else(|| decoded.next()));
    }
    RecordBatch::try_new(schema.clone(), columns)
        .map_err(|error| ConnectorError::Permanent(format!("a record's columns do not fit the schema: {error}")))
}
