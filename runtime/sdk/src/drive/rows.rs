use crate::Result;
use crate::keys::KeyShape;
use crate::operator::{Context, Operator, Timer};
use crate::rows::{BatchRows, ColumnData, Output, OutputBuffer, Row};
use crate::state::{Due, Scope, TimeDomain};
use crate::types::Timestamp;
use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Int8Type;
use arrow::record_batch::RecordBatch;
use weir_dataflow::{Collector, OperatorContext, OperatorError};
use weir_model::Watermark;
use weir_model::graph::StreamSchema;
use weir_state::{KeyCodec, KeyedState, timer_time};

/// One subtask of a row operator. The loop over a batch's rows is compiled for the operator: what is called per
/// row is called directly.
pub(crate) struct RowDriver<O> {
    operator: O,
    inputs: Vec<InputShape>,
    keys: KeyShape,
    key_codec: Option<KeyCodec>,
    scope: Scope,
    output: OutputBuffer,
    watermark: Timestamp,
    next_processing_time_us: Option<i64>,
}

struct InputShape {
    value_columns: usize,
    is_updating: bool,
    time_column: Option<usize>,
}

impl<O: Operator> RowDriver<O> {
    pub(crate) fn new(
        operator: O,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        keys: KeyShape,
        scope: Scope,
        state: &mut KeyedState,
    ) -> Result<Self> {
        let shape = |stream: &StreamSchema| InputShape {
            value_columns: stream.value_columns(),
            is_updating: stream.is_updating(),
            time_column: stream.time_columns.first().copied(),
        };
        let mut driver = RowDriver {
            operator,
            inputs: inputs.iter().map(shape).collect(),
            key_codec: keys.is_keyed().then(|| KeyCodec::new(keys.fields())).transpose()?,
            keys,
            scope,
            output: OutputBuffer::new(output)?,
            watermark: Timestamp::MIN,
            next_processing_time_us: None,
        };
        driver.look_at_clock_timers(state);
        Ok(driver)
    }

    fn process_rows(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<()> {
        let shape = &self.inputs[input];
        let key_columns = self.keys.take(input, batch);
        self.scope.begin(&key_columns, batch.num_rows(), context.state.max_parallelism())?;
        let key_rows = key_rows(&key_columns);
        let columns = &batch.columns()[..shape.value_columns];
        let rows = BatchRows {
            input,
            columns: columns.iter().map(|column| ColumnData::of(column.as_ref())).collect(),
            kinds: shape.is_updating.then(|| change_kinds(batch)),
            time_column: shape.time_column,
        };
        let mut out = Output::new(&mut self.output, out);
        let mut context = Context {
            state: context.state,
            scope: &mut self.scope,
            key: Row { batch: &key_rows, index: 0 },
            watermark: self.watermark,
            processing_time: Timestamp::from_micros(context.processing_time_us),
        };
        for index in 0..batch.num_rows() {
            context.key.index = index;
            self.operator.process(Row { batch: &rows, index }, &mut context, &mut out)?;
        }
        out.flush()?;
        context.scope.end(context.state);
        Ok(())
    }

    /// Fires timers in the order of their times, also of those that are set meanwhile, until none is due.
    fn fire(
        &mut self,
        domain: TimeDomain,
        upto_us: i64,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<()> {
        loop {
            let due = Due::find(&self.scope.timers, domain, upto_us, context.state)?;
            if due.is_empty() {
                return Ok(());
            }
            self.fire_round(&due, context, out)?;
        }
    }

    fn fire_round(&mut self, due: &Due, context: &mut OperatorContext<'_>, out: &mut dyn Collector) -> Result<()> {
        let codec = self.key_codec.as_ref().expect("timers are registered by keyed operators only");
        let key_columns = codec.decode(due.keys())?;
        self.scope.begin(&key_columns, due.timers().len(), context.state.max_parallelism())?;
        self.scope.timers.iter_mut().for_each(|set| set.begin_round());
        let key_rows = key_rows(&key_columns);
        let mut out = Output::new(&mut self.output, out);
        let mut context = Context {
            state: context.state,
            scope: &mut self.scope,
            key: Row { batch: &key_rows, index: 0 },
            watermark: self.watermark,
            processing_time: Timestamp::from_micros(context.processing_time_us),
        };
        for (index, timer) in due.timers().iter().enumerate() {
            // One that was set meanwhile comes first: the next round finds it.
            let sets = context.scope.timers.iter().enumerate();
            if sets.map(|(number, set)| (set.earliest_registered, number)).any(|set| set < (timer.time_us, timer.set)) {
                break;
            }
            let set = &context.scope.timers[timer.set];
            let timers = context.state.ordered(set.id);
            let key = due.key(*timer);
            if set.has_deleted && timers.get(timer.group, &timer_time(timer.time_us), key)?.is_none() {
                continue;
            }
            timers.delete_timer(timer.group, timer.time_us, key)?;
            context.key.index = index;
            let timer = Timer { set: timer.set, time: Timestamp::from_micros(timer.time_us) };
            self.operator.on_timer(timer, &mut context, &mut out)?;
        }
        out.flush()?;
        context.scope.end(context.state);
        Ok(())
    }

    fn look_at_clock_timers(&mut self, state: &mut KeyedState) {
        let sets = self.scope.timers.iter().filter(|set| set.domain == TimeDomain::Processing);
        self.next_processing_time_us = sets.filter_map(|set| state.ordered(set.id).first_time()).min();
    }
}

/// The current key as a row: the key columns alone.
fn key_rows(key_columns: &[ArrayRef]) -> BatchRows<'_> {
    let columns = key_columns.iter().map(|column| ColumnData::of(column.as_ref())).collect();
    BatchRows { input: 0, columns, kinds: None, time_column: None }
}

/// The change kinds of an updating stream's batch.
pub(crate) fn change_kinds(batch: &RecordBatch) -> &[i8] {
    batch.column(batch.num_columns() - 1).as_primitive::<Int8Type>().values()
}

impl<O: Operator> weir_dataflow::Operator for RowDriver<O> {
    fn process(
        &mut self,
        input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        self.process_rows(input, &batch, context, out).map_err(crate::Error::into_operator_error)?;
        self.look_at_clock_timers(context.state);
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        self.watermark = Timestamp::from_micros(watermark.0);
        self.fire(TimeDomain::Event, watermark.0, context, out).map_err(crate::Error::into_operator_error)?;
        self.look_at_clock_timers(context.state);
        Ok(())
    }

    fn on_processing_time(
        &mut self,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let now_us = context.processing_time_us;
        self.fire(TimeDomain::Processing, now_us, context, out).map_err(crate::Error::into_operator_error)?;
        self.look_at_clock_timers(context.state);
        Ok(())
    }

    fn next_processing_time_us(&self) -> Option<i64> {
        self.next_processing_time_us
    }

    fn on_end(&mut self, _context: &mut OperatorContext<'_>, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let mut out = Output::new(&mut self.output, out);
        let finished = self.operator.finish(&mut out).and_then(|()| out.flush());
        finished.map_err(crate::Error::into_operator_error)
    }
}
