//! Output rows as indices into columns, gathered once per batch.

use crate::operator::{Collector, OperatorError};
use arrow::array::{Array, ArrayRef, Int8Array, UInt32Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use std::sync::Arc;
use weir_model::ChangeKind;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::StreamSchema;

/// In place of an index: all columns of this side are null.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// Collects output rows, each a row of the left columns, a row of the right columns and a change kind.
/// Whoever uses it flushes before the columns change.
pub(crate) struct Gather {
    schema: SchemaRef,
    updating: bool,
    left: Vec<u32>,
    right: Vec<u32>,
    kinds: Vec<i8>,
}

impl Gather {
    pub(crate) fn new(output: &StreamSchema) -> Self {
        Gather {
            schema: output.fields.clone(),
            updating: output.is_updating(),
            left: vec![],
            right: vec![],
            kinds: vec![],
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, left: u32, right: u32, kind: ChangeKind) {
        self.left.push(left);
        self.right.push(right);
        self.kinds.push(kind as i8);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.left.len() >= BATCH_ROWS
    }

    /// Emits what was pushed. An output of the left side alone takes no `right` columns.
    pub(crate) fn flush(
        &mut self,
        left: &[ArrayRef],
        right: &[ArrayRef],
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let rows = self.left.len();
        if rows == 0 {
            return Ok(());
        }
        let mut columns = take_rows(left, std::mem::take(&mut self.left))?;
        columns.extend(take_rows(right, std::mem::take(&mut self.right))?);
        let kinds = std::mem::take(&mut self.kinds);
        if self.updating {
            columns.push(Arc::new(Int8Array::from(kinds)));
        } else {
            debug_assert!(kinds.iter().all(|kind| *kind == ChangeKind::Insert as i8), "an append-only output");
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        out.emit(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    /// Emits once a whole batch has been pushed.
    pub(crate) fn flush_if_full(
        &mut self,
        left: &[ArrayRef],
        right: &[ArrayRef],
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if self.is_full() { self.flush(left, right, out) } else { Ok(()) }
    }
}

/// The rows of these indices; null for `NO_ROW`.
pub(crate) fn take_rows(columns: &[ArrayRef], mut rows: Vec<u32>) -> Result<Vec<ArrayRef>, OperatorError> {
    let missing = rows.iter().filter(|row| **row == NO_ROW).count();
    if missing == rows.len() {
        return Ok(columns.iter().map(|column| new_null_array(column.data_type(), rows.len())).collect());
    }
    let nulls = (missing > 0).then(|| {
        let nulls: NullBuffer = rows.iter().map(|row| *row != NO_ROW).collect();
        rows.iter_mut().filter(|row| **row == NO_ROW).for_each(|row| *row = 0);
        nulls
    });
    let indices = UInt32Array::new(rows.into(), nulls);
    columns.iter().map(|column| Ok(take(column, &indices, None)?)).collect()
}
