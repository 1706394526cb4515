use crate::Error;
use crate::operator::{BatchContext, BatchOperator};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use weir_dataflow::{Collector, OperatorContext, OperatorError};
use weir_model::Watermark;

/// One subtask of a batch operator.
pub(crate) struct BatchDriver<O> {
    pub(crate) operator: O,
    pub(crate) output: SchemaRef,
}

/// Refuses batches that aren't what the operator declared, before another operator reads them by column number.
struct Checked<'a> {
    schema: &'a SchemaRef,
    out: &'a mut dyn Collector,
}

impl Collector for Checked<'_> {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        if batch.schema_ref() != self.schema {
            let reason = "it emitted a batch of another schema than that of `BatchSetup::output`";
            return Err(OperatorError::Failed(format!("{reason}: {}", batch.schema_ref())));
        }
        match batch.num_rows() {
            0 => Ok(()),
            _ => self.out.emit(batch),
        }
    }
}

impl<O: BatchOperator> BatchDriver<O> {
    fn call(
        &mut self,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
        call: impl FnOnce(&mut O, &mut BatchContext<'_>, &mut dyn Collector) -> Result<(), Error>,
    ) -> Result<(), OperatorError> {
        let mut context = BatchContext { state: context.state, processing_time_us: context.processing_time_us };
        let mut out = Checked { schema: &self.output, out };
        call(&mut self.operator, &mut context, &mut out).map_err(Error::into_operator_error)
    }
}

impl<O: BatchOperator> weir_dataflow::Operator for BatchDriver<O> {
    fn process(
        &mut self,
        input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        self.call(context, out, |operator, context, out| operator.process(input, batch, context, out))
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        self.call(context, out, |operator, context, out| operator.on_watermark(watermark, context, out))
    }

    fn on_processing_time(
        &mut self,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        self.call(context, out, |operator, context, out| operator.on_processing_time(context, out))
    }

    fn next_processing_time_us(&self) -> Option<i64> {
        self.operator.next_processing_time_us()
    }

    fn output_watermark(&self, watermark: Watermark) -> Watermark {
        self.operator.output_watermark(watermark)
    }

    fn on_end(&mut self, context: &mut OperatorContext<'_>, out: &mut dyn Collector) -> Result<(), OperatorError> {
        self.call(context, out, |operator, context, out| operator.finish(context, out))
    }
}
