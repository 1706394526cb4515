//! A batch as value columns and change kinds.

use crate::operator::OperatorError;
use arrow::array::{Array, ArrayRef, AsArray, Int8Array};
use arrow::datatypes::Int8Type;
use arrow::record_batch::RecordBatch;
use weir_model::ChangeKind;

pub(crate) struct Changes {
    /// Without the change kind.
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) rows: usize,
    /// `None` for an append-only stream.
    kinds: Option<Int8Array>,
}

impl Changes {
    pub(crate) fn of(batch: &RecordBatch, updating: bool) -> Result<Self, OperatorError> {
        let mut columns = batch.columns().to_vec();
        let kinds = match updating {
            true => columns.pop().and_then(|column| column.as_primitive_opt::<Int8Type>().cloned()),
            false => None,
        };
        if let Some(kinds) = &kinds {
            let known = |kind: &i8| ChangeKind::from_byte(*kind).is_some();
            if kinds.null_count() > 0 || !kinds.values().iter().all(known) {
                return Err(OperatorError::Failed("a row's change kind is none of +I, -U, +U, -D (0 to 3)".into()));
            }
        } else if updating {
            return Err(OperatorError::Failed("the change kinds of an updating stream are missing".into()));
        }
        Ok(Changes { columns, rows: batch.num_rows(), kinds })
    }

    #[inline]
    pub(crate) fn is_retraction(&self, row: usize) -> bool {
        self.kinds.as_ref().is_some_and(|kinds| {
            let kind = kinds.values()[row];
            kind == ChangeKind::UpdateBefore as i8 || kind == ChangeKind::Delete as i8
        })
    }
}
