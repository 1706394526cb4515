//! Rows of the output, held as state bytes until there are enough for a batch.

use crate::keyed::{RowShape, take_rows};
use crate::operator::{Collector, OperatorError};
use arrow::array::{ArrayRef, Int8Array, Int64Array};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::ChangeKind;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::StreamSchema;
use weir_state::EncodedRows;

pub(crate) struct RankOutput {
    schema: SchemaRef,
    updating: bool,
    emit_rank: bool,
    rows: EncodedRows,
    key_rows: Vec<u32>,
    ranks: Vec<i64>,
    kinds: Vec<i8>,
}

impl RankOutput {
    pub(crate) fn new(output: &StreamSchema, emit_rank: bool) -> Self {
        RankOutput {
            schema: output.fields.clone(),
            updating: output.is_updating(),
            emit_rank,
            rows: EncodedRows::default(),
            key_rows: vec![],
            ranks: vec![],
            kinds: vec![],
        }
    }

    /// `key_row`: the row of the key columns (given to `flush`) that has the key of `row`.
    pub(crate) fn push(&mut self, key_row: u32, row: &[u8], rank: u64, kind: ChangeKind) {
        self.rows.push(row);
        self.key_rows.push(key_row);
        self.ranks.push(rank as i64);
        self.kinds.push(kind as i8);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.kinds.len() >= BATCH_ROWS
    }

    /// Emits what was pushed. The shape's last column is the sort key, which stays inside.
    pub(crate) fn flush(
        &mut self,
        shape: &RowShape,
        key_columns: &[ArrayRef],
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if self.kinds.is_empty() {
            return Ok(());
        }
        let keys = take_rows(key_columns, std::mem::take(&mut self.key_rows))?;
        let mut columns = shape.decode(&keys, &self.rows)?;
        columns.pop();
        self.rows.clear();
        let (ranks, kinds) = (std::mem::take(&mut self.ranks), std::mem::take(&mut self.kinds));
        if self.emit_rank {
            columns.push(Arc::new(Int64Array::from(ranks)));
        }
        if self.updating {
            columns.push(Arc::new(Int8Array::from(kinds)));
        }
        out.emit(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}
