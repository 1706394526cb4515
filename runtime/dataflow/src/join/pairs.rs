//! Pairs of rows, and the condition on them.

use crate::keyed::take_rows;
use crate::operator::OperatorError;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use std::sync::Arc;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{Expr, StreamSchema};

/// Rows, each with its partners.
#[derive(Default)]
pub(crate) struct Pairs {
    rows: Vec<u32>,
    partners: Vec<u32>,
    /// For each row that was ended, where its pairs end.
    ends: Vec<usize>,
}

impl Pairs {
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.partners.clear();
        self.ends.clear();
    }

    /// Ends one row with all its partners.
    pub(crate) fn push_row(&mut self, row: u32, partners: impl Iterator<Item = u32>) {
        self.partners.extend(partners);
        self.rows.resize(self.partners.len(), row);
        self.ends.push(self.partners.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.partners.len()
    }

    /// The partners of the n-th row since `clear`.
    pub(crate) fn of(&self, nth: usize) -> &[u32] {
        let start = if nth == 0 { 0 } else { self.ends[nth - 1] };
        &self.partners[start..self.ends[nth]]
    }
}

/// The condition of a join beyond equal keys.
pub(crate) struct Residual {
    condition: Option<Expr>,
    schema: SchemaRef,
}

impl Residual {
    pub(crate) fn new(condition: Option<Expr>, inputs: [&StreamSchema; 2]) -> Self {
        let fields = inputs.iter().flat_map(|input| input.fields.fields().iter().take(input.value_columns()));
        let fields: Vec<Field> = fields.map(|field| field.as_ref().clone().with_nullable(true)).collect();
        Residual { condition, schema: Arc::new(Schema::new(fields)) }
    }

    /// Drops the pairs for which the condition isn't true. `columns` are those of the left and the right side;
    /// the pairs' rows are of side `rows_of`.
    pub(crate) fn filter(
        &self,
        columns: [&[ArrayRef]; 2],
        rows_of: usize,
        pairs: &mut Pairs,
    ) -> Result<(), OperatorError> {
        let Some(condition) = &self.condition else { return Ok(()) };
        let mut keep = Vec::with_capacity(pairs.len());
        for start in (0..pairs.len()).step_by(BATCH_ROWS) {
            let end = (start + BATCH_ROWS).min(pairs.len());
            let (mut left, mut right) = (&pairs.rows[start..end], &pairs.partners[start..end]);
            if rows_of == super::RIGHT {
                std::mem::swap(&mut left, &mut right);
            }
            let mut both = take_rows(columns[0], left.to_vec())?;
            both.extend(take_rows(columns[1], right.to_vec())?);
            let options = RecordBatchOptions::new().with_row_count(Some(end - start));
            let batch = RecordBatch::try_new_with_options(self.schema.clone(), both, &options)?;
            let result = condition.evaluate(&batch)?;
            let truth = result.as_boolean_opt().ok_or_else(|| {
                OperatorError::Failed(format!("the join condition {} is not a BOOLEAN", condition.sql()))
            })?;
            keep.extend((0..truth.len()).map(|row| truth.is_valid(row) && truth.value(row)));
        }
        let (mut kept, mut start) = (0, 0);
        for end in &mut pairs.ends {
            for pair in (start..*end).filter(|pair| keep[*pair]) {
                pairs.rows[kept] = pairs.rows[pair];
                pairs.partners[kept] = pairs.partners[pair];
                kept += 1;
            }
            start = std::mem::replace(end, kept);
        }
        pairs.rows.truncate(kept);
        pairs.partners.truncate(kept);
        Ok(())
    }
}
