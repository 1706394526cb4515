use crate::keys::KeyShape;
use crate::rows::{Inputs, RowSchema};
use crate::{Error, Result};
use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use serde::de::DeserializeOwned;
use weir_dataflow::Collector;
use weir_model::graph::StreamSchema;
use weir_model::{StateField, StateKind, StateSchema, Watermark};
use weir_state::{KeyedState, OrderedStateId, RowStateId, StateOptions};

/// An operator that takes its input batch by batch, as Arrow columns, and uses state by whole batches of keys:
/// what Weir's own operators are. For where a loop over columns is worth more than a row at a time.
pub trait BatchOperator: Send + Sized + 'static {
    /// As `Operator::Config`.
    type Config: DeserializeOwned;

    /// As `Operator::TAKES_UPDATES`; the change kind is the last column of a batch then.
    const TAKES_UPDATES: bool = false;

    /// As `Operator::output_schema`.
    fn output_schema(config: &Self::Config, inputs: Inputs<'_>) -> Result<RowSchema>;

    /// As `Operator::new`.
    fn new(config: Self::Config, setup: &mut BatchSetup<'_>) -> Result<Self>;

    /// Takes a batch of input number `input`: at least one row, at most a few times 8192.
    ///
    /// Emitted batches have the schema of `BatchSetup::output`.
    fn process(
        &mut self,
        input: usize,
        batch: RecordBatch,
        context: &mut BatchContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<()>;

    /// Event time has come to `watermark`. What is emitted here is still in time for the next operator.
    fn on_watermark(
        &mut self,
        _watermark: Watermark,
        _context: &mut BatchContext<'_>,
        _out: &mut dyn Collector,
    ) -> Result<()> {
        Ok(())
    }

    /// The clock has come to what `next_processing_time_us` asked for.
    fn on_processing_time(&mut self, _context: &mut BatchContext<'_>, _out: &mut dyn Collector) -> Result<()> {
        Ok(())
    }

    /// When `on_processing_time` is to be called next, in microseconds since the Unix epoch.
    fn next_processing_time_us(&self) -> Option<i64> {
        None
    }

    /// The watermark to send on: lower for an operator that holds rows back.
    fn output_watermark(&self, watermark: Watermark) -> Watermark {
        watermark
    }

    /// No input follows; `on_watermark(Watermark::MAX)` has been called.
    fn finish(&mut self, _context: &mut BatchContext<'_>, _out: &mut dyn Collector) -> Result<()> {
        Ok(())
    }
}

/// What a batch operator may use while it is called.
pub struct BatchContext<'a> {
    pub state: &'a mut KeyedState,
    /// The clock, in microseconds since the Unix epoch.
    pub processing_time_us: i64,
}

/// Where a new subtask learns its inputs and keys and registers its states.
pub struct BatchSetup<'a> {
    pub(crate) inputs: Inputs<'a>,
    pub(crate) output: &'a StreamSchema,
    pub(crate) keys: &'a KeyShape,
    /// The step's `stateTtl`.
    pub(crate) state_ttl_ms: Option<u64>,
    pub(crate) state: &'a mut KeyedState,
    pub(crate) schemas: &'a mut Vec<StateSchema>,
}

impl<'a> BatchSetup<'a> {
    pub fn inputs(&self) -> Inputs<'a> {
        self.inputs
    }

    /// The schema that emitted batches must have; of an updating output the last column is the change kind.
    pub fn output(&self) -> &'a StreamSchema {
        self.output
    }

    /// The key columns of an input; none if the step has no `keyBy`.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn key_columns(&self, input: usize) -> &'a [usize] {
        self.keys.columns_of(input)
    }

    /// The key as states have it: for `weir_state::KeyEncoder` and the `key` of a `StateSchema`.
    pub fn key_fields(&self) -> &'a [StateField] {
        self.keys.fields()
    }

    /// The key columns of a batch, for `weir_state::KeyEncoder::encode`.
    pub fn keys_of(&self, input: usize, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.keys.take(input, batch)
    }

    pub fn max_parallelism(&self) -> u32 {
        self.state.max_parallelism()
    }

    /// Registers a state of kind `Value`. Without a TTL in `options` it has that of the step (`stateTtl`).
    ///
    /// # Errors
    /// A step without `keyBy`, or a schema whose key isn't the step's; what `weir_state` says of the schema.
    pub fn register_rows(&mut self, schema: StateSchema, options: StateOptions) -> Result<RowStateId> {
        self.check(&schema)?;
        let options = self.with_ttl_of_step(options);
        Ok(self.state.register_rows_with(schema, options)?)
    }

    /// Registers a state of kind `List`, `Map` or `Timer`. Timers have no TTL.
    ///
    /// # Errors
    /// As `register_rows`.
    pub fn register_ordered(&mut self, schema: StateSchema, options: StateOptions) -> Result<OrderedStateId> {
        self.check(&schema)?;
        let options = if schema.kind == StateKind::Timer { options } else { self.with_ttl_of_step(options) };
        Ok(self.state.register_ordered_with(schema, options)?)
    }

    fn with_ttl_of_step(&self, options: StateOptions) -> StateOptions {
        StateOptions { ttl_ms: options.ttl_ms.or(self.state_ttl_ms) }
    }

    fn check(&mut self, schema: &StateSchema) -> Result<()> {
        let name = &schema.name;
        if !self.keys.is_keyed() {
            return Err(Error::new(format!("its state `{name}` is kept by key, and the step has no `keyBy`")));
        }
        if schema.key != self.keys.fields() {
            return Err(Error::new(format!("the key of its state `{name}` isn't that of the step (`key_fields`)")));
        }
        self.schemas.push(schema.clone());
        Ok(())
    }
}
