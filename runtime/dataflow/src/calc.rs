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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::OperatorMetrics;
    use arrow::array::{Int64Array, StringArray};
    use arrow::compute::kernels::{cmp::gt, numeric::add};
    use arrow::datatypes::{Field, Int64Type, Schema};
    use std::sync::Arc;
    use weir_model::graph::Expr;
    use weir_model::{EvalError, Expression, KeyGroupRange};
    use weir_state::KeyedState;

    #[derive(Debug)]
    enum Sample {
        Column(usize, DataType),
        /// Column 0 plus one.
        Next,
        /// Column 0 greater than two: null where it is.
        Large,
        Failing,
    }

    impl Expression for Sample {
        fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, EvalError> {
            let number = batch.column(0);
            Ok(match self {
                Sample::Column(column, _) => batch.column(*column).clone(),
                Sample::Next => add(number, &Int64Array::new_scalar(1)).unwrap(),
                Sample::Large => Arc::new(gt(number, &Int64Array::new_scalar(2)).unwrap()),
                Sample::Failing => {
                    return Err(EvalError { expression: self.sql().into(), reason: "division by zero".into() });
                }
            })
        }

        fn data_type(&self) -> &DataType {
            match self {
                Sample::Column(_, data_type) => data_type,
                Sample::Large => &DataType::Boolean,
                Sample::Next | Sample::Failing => &DataType::Int64,
            }
        }

        fn sql(&self) -> &str {
            match self {
                Sample::Column(..) => "column",
                Sample::Next => "n + 1",
                Sample::Large => "n > 2",
                Sample::Failing => "1 / 0",
            }
        }

        fn as_column(&self) -> Option<usize> {
            match self {
                Sample::Column(column, _) => Some(*column),
                _ => None,
            }
        }
    }

    fn run(filter: Option<Sample>, projection: Vec<Sample>) -> Result<Vec<RecordBatch>, OperatorError> {
        let fields = projection.iter().map(|sample| Field::new(sample.sql(), sample.data_type().clone(), true));
        let output = StreamSchema::append_only(Arc::new(Schema::new(fields.collect::<Vec<_>>())));
        let projection = projection.into_iter().map(|sample| Arc::new(sample) as Expr).collect();
        let spec = CalcSpec { filter: filter.map(|sample| Arc::new(sample) as Expr), projection };
        let mut calc = Calc::new(&spec, &output)?;
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(5), None, Some(3)]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
        let batch = RecordBatch::try_from_iter([("n", numbers), ("s", names)]).unwrap();
        let mut state = KeyedState::new(KeyGroupRange { first: 0, last: 0 }, 1);
        let (mut metrics, mut out) = (OperatorMetrics::default(), vec![]);
        let mut context = OperatorContext { state: &mut state, processing_time_us: 0, metrics: &mut metrics };
        calc.process(0, batch, &mut context, &mut out)?;
        Ok(out)
    }

    fn numbers(batches: &[RecordBatch]) -> Vec<Option<i64>> {
        batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn only_rows_whose_filter_is_true() {
        let name = || Sample::Column(1, DataType::Utf8);
        let out = run(Some(Sample::Large), vec![Sample::Next, name()]).unwrap();
        assert_eq!(numbers(&out), [Some(6), Some(4)]);
        let out = run(Some(Sample::Large), vec![Sample::Column(0, DataType::Int64)]).unwrap();
        assert_eq!(numbers(&out), [Some(5), Some(3)]);
        let out = run(None, vec![Sample::Next]).unwrap();
        assert_eq!(numbers(&out), [Some(2), Some(6), None, Some(4)]);
    }

    #[test]
    fn no_columns_at_all_still_count_rows() {
        let out = run(Some(Sample::Large), vec![]).unwrap();
        assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    }

    #[test]
    fn failures_name_the_expression() {
        assert_eq!(run(None, vec![Sample::Failing]).unwrap_err().to_string(), "1 / 0: division by zero");
        let error = run(Some(Sample::Next), vec![Sample::Next]).unwrap_err().to_string();
        assert_eq!(error, "the filter `n + 1` is Int64, it must be BOOLEAN");
    }
}
