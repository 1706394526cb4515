//! Filter and projection: stateless, vectorised, and free of work for columns that pass unchanged.

use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{FilterBuilder, FilterPredicate, prep_null_mask_filter};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use weir_model::graph::{CalcSpec, StreamSchema};

/// Keeps the rows whose filter is true (null is not), then evaluates the projection on them.
///
/// The change kind of an updating stream is the last column of the projection, so it needs no case of its own.
pub struct Calc {
    spec: CalcSpec,
    schema: SchemaRef,
    /// Input column of each projection, when all of them are plain columns.
    columns: Option<Vec<usize>>,
}

impl Calc {
    pub fn new(spec: &CalcSpec, output: &StreamSchema) -> Result<Self, OperatorError> {
        if let Some(filter) = &spec.filter
            && filter.data_type() != &DataType::Boolean
        {
            let (sql, found) = (filter.sql(), filter.data_type());
            return Err(OperatorError::Failed(format!("the filter `{sql}` is {found}, it must be BOOLEAN")));
        }
        if spec.projection.len() != output.fields.fields().len() {
            return Err(OperatorError::Failed(format!(
                "the projection has {} columns and its output {}",
                spec.projection.len(),
                output.fields.fields().len()
            )));
        }
        let columns = spec.projection.iter().map(|expression| expression.as_column()).collect();
        Ok(Calc { spec: spec.clone(), schema: output.fields.clone(), columns })
    }

    /// The rows to keep: `None` when all are.
    fn selection(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>, OperatorError> {
        let Some(filter) = &self.spec.filter else { return Ok(None) };
        let kept = filter.evaluate(batch)?;
        let kept = kept.as_boolean();
        let kept = if kept.null_count() > 0 { prep_null_mask_filter(kept) } else { kept.clone() };
        Ok((kept.true_count() < batch.num_rows()).then_some(kept))
    }

    fn project(&self, batch: RecordBatch, selection: Option<&FilterPredicate>) -> Result<RecordBatch, OperatorError> {
        let rows = selection.map_or(batch.num_rows(), FilterPredicate::count);
        let columns: Vec<ArrayRef> = match (&self.columns, selection) {
            (Some(columns), None) => columns.iter().map(|column| batch.column(*column).clone()).collect(),
            // Columns that nobody asked for are not filtered.
            (Some(columns), Some(kept)) => {
                columns.iter().map(|column| kept.filter(batch.column(*column))).collect::<Result<_, _>>()?
            }
            (None, kept) => {
                let batch = match kept {
                    Some(kept) => kept.filter_record_batch(&batch)?,
                    None => batch,
                };
                let evaluate = |expression: &weir_model::graph::Expr| match expression.as_column() {
                    Some(column) => Ok(batch.column(column).clone()),
                    None => expression.evaluate(&batch),
                };
                self.spec.projection.iter().map(evaluate).collect::<Result<_, _>>()?
            }
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

impl Operator for Calc {
    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        _context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let Some(kept) = self.selection(&batch)? else { return out.emit(self.project(batch, None)?) };
        if kept.true_count() == 0 {
            return Ok(());
        }
        // `optimize` pays when one predicate is applied to several columns.
        let predicate = FilterBuilder::new(&kept).optimize().build();
        out.emit(self.project(batch, Some(&predicate))?)
    }
}
