//! UNION ALL: batches of every input, as they come.

use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use weir_model::graph::StreamSchema;

/// Passes batches on under the output's column names.
pub struct Union {
    schema: SchemaRef,
}

impl Union {
    pub fn new(inputs: &[StreamSchema], output: &StreamSchema) -> Result<Self, OperatorError> {
        for (number, input) in inputs.iter().enumerate() {
            let types = |stream: &StreamSchema| {
                stream.fields.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>()
            };
            if types(input) != types(output) {
                return Err(OperatorError::Failed(format!(
                    "input {number} of the union has other column types than its output: {:?} and {:?}",
                    types(input),
                    types(output)
                )));
            }
        }
        Ok(Union { schema: output.fields.clone() })
    }
}

impl Operator for Union {
    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        _context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if batch.schema_ref() == &self.schema {
            return out.emit(batch);
        }
        out.emit(RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?)
    }
}
