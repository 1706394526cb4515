use crate::{Error, Result};
use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use weir_model::StateField;
use weir_model::graph::{CustomSpec, StreamSchema};

/// The key of a step: its columns in each input. Without any if the step isn't keyed.
#[derive(Clone, Debug)]
pub(crate) struct KeyShape {
    /// For each input.
    columns: Vec<Vec<usize>>,
    /// Named as in the first input; nullable if the column is in any input.
    fields: Vec<StateField>,
}

impl KeyShape {
    /// # Errors
    /// Keys that differ between inputs. The planner checks the same; other callers may not.
    pub(crate) fn of(spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<Self> {
        if spec.keys.iter().all(Vec::is_empty) {
            return Ok(KeyShape { columns: vec![vec![]; inputs.len()], fields: vec![] });
        }
        if spec.keys.len() != inputs.len() {
            return Err(Error::new("it has `keyBy` for another number of inputs than it reads"));
        }
        let field_of = |input: &StreamSchema, column: usize| {
            let field = input.fields.fields().get(column);
            let field = field.ok_or_else(|| Error::new(format!("its input has no column {column} to be keyed by")))?;
            Ok::<_, Error>(StateField::new(field.name(), field.data_type().clone(), field.is_nullable()))
        };
        let mut fields: Vec<StateField> = vec![];
        for (input, columns) in inputs.iter().zip(&spec.keys) {
            let these = columns.iter().map(|column| field_of(input, *column)).collect::<Result<Vec<_>>>()?;
            if fields.is_empty() {
                fields = these;
                continue;
            }
            let is_same = |(first, other): (&StateField, &StateField)| first.data_type == other.data_type;
            if fields.len() != these.len() || !fields.iter().zip(&these).all(is_same) {
                return Err(Error::new("the key columns of its inputs differ in type; CAST them in the steps before"));
            }
            fields.iter_mut().zip(&these).for_each(|(field, other)| field.nullable |= other.nullable);
        }
        Ok(KeyShape { columns: spec.keys.clone(), fields })
    }

    pub(crate) fn is_keyed(&self) -> bool {
        !self.fields.is_empty()
    }

    pub(crate) fn fields(&self) -> &[StateField] {
        &self.fields
    }

    /// The columns of one input.
    pub(crate) fn columns_of(&self, input: usize) -> &[usize] {
        &self.columns[input]
    }

    /// The key columns of a batch.
    pub(crate) fn take(&self, input: usize, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.columns[input].iter().map(|column| batch.column(*column).clone()).collect()
    }
}
