//! An operator under test: rows and time in, rows out, with the state and the checkpoints of a real job.

#[cfg(test)]
mod samples;

#[cfg(test)]
pub(crate) use samples::{Sample, sample_records};

use crate::drive::Operators;
use crate::operator::{BatchOperator, Operator};
use crate::rows::{BatchRows, ColumnData, Input, Inputs, OutputBuffer, OutputRow, Row, RowSchema};
use crate::types::{Record, Timestamp};
use crate::{Error, Result};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use serde::Serialize;
use std::time::Duration;
use weir_dataflow::{CustomRegistry, OperatorContext, OperatorError, OperatorMetrics};
use weir_model::graph::{CustomSpec, StreamSchema};
use weir_model::hash::hash_rows;
use weir_model::{ChangeKind, CheckpointId, KeyGroup, KeyGroupRange, StateSchema, Watermark};
use weir_state::{KeyedState, KeyedStateHandle, MemorySegments, StateConfig};

/// Describes a [`Harness`]: the step as a job file would, and where it starts from.
pub struct HarnessBuilder {
    operators: Operators,
    config: serde_json::Result<String>,
    inputs: Vec<RowSchema>,
    key_by: Vec<Vec<String>>,
    parallelism: u32,
    max_parallelism: u32,
    processing_time: Timestamp,
    state_ttl: Option<Duration>,
    restored: Option<Snapshot>,
}

/// All subtasks of one step.
///
/// ```
/// # use weir_sdk::testing::Harness;
/// # use weir_sdk::{Column, Context, Inputs, Operator, Output, Result, Row, RowSchema, Setup, ValueState};
/// struct Count(ValueState<i64>);
///
/// impl Operator for Count {
///     type Config = ();
///     fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
///         Ok(RowSchema::new().column::<String>("key").column::<i64>("count"))
///     }
///     fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
///         Ok(Count(setup.value_state("count")?))
///     }
///     fn process(&mut self, row: Row<'_>, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
///         let count = self.0.value(context)?.unwrap_or(0) + 1;
///         self.0.update(context, &count)?;
///         out.emit((row, count))
///     }
/// }
///
/// let mut harness =
///     Harness::of::<Count>().input(RowSchema::new().column::<String>("key")).key_by(["key"]).build()?;
/// harness.push("a")?;
/// harness.push("b")?;
/// harness.push("a")?;
/// assert_eq!(harness.take::<(String, i64)>()?, [("a".into(), 1), ("b".into(), 1), ("a".into(), 2)]);
/// # Ok::<(), weir_sdk::Error>(())
/// ```
pub struct Harness {
    inputs: Vec<StreamSchema>,
    buffers: Vec<OutputBuffer>,
    keys: Vec<Vec<usize>>,
    subtasks: Vec<Subtask>,
    max_parallelism: u32,
    processing_time: Timestamp,
    watermark: Timestamp,
    schemas: Vec<StateSchema>,
    output: StreamSchema,
    emitted: Vec<RecordBatch>,
    segments: MemorySegments,
    checkpoint: CheckpointId,
}

struct Subtask {
    operator: Box<dyn weir_dataflow::Operator>,
    state: KeyedState,
    metrics: OperatorMetrics,
}

/// The state of all subtasks at one moment, as a checkpoint holds it.
#[derive(Clone)]
pub struct Snapshot {
    handles: Vec<KeyedStateHandle>,
    segments: MemorySegments,
    checkpoint: CheckpointId,
}

const TYPE: &str = "operator under test";

impl Harness {
    /// A test of an operator that takes rows.
    pub fn of<O: Operator>() -> HarnessBuilder {
        HarnessBuilder::new(|operators| operators.register::<O>(TYPE))
    }

    /// A test of an operator that takes batches.
    pub fn of_batch<O: BatchOperator>() -> HarnessBuilder {
        HarnessBuilder::new(|operators| operators.register_batch::<O>(TYPE))
    }

    /// Sends a row by the first input, as a batch of its own.
    pub fn push(&mut self, row: impl OutputRow) -> Result<()> {
        self.push_change(0, ChangeKind::Insert, row)
    }

    /// Sends a row by input number `input`, as a batch of its own.
    ///
    /// # Errors
    /// A row that doesn't fit the input; what the operator says.
    pub fn push_change(&mut self, input: usize, kind: ChangeKind, row: impl OutputRow) -> Result<()> {
        self.push_changes(input, [(kind, row)])
    }

    /// Sends rows by the first input, as one batch.
    pub fn push_all<R: OutputRow>(&mut self, rows: impl IntoIterator<Item = R>) -> Result<()> {
        self.push_changes(0, rows.into_iter().map(|row| (ChangeKind::Insert, row)))
    }

    /// Sends changes by input number `input`, as one batch.
    ///
    /// # Errors
    /// As `push_change`.
    pub fn push_changes<R: OutputRow>(
        &mut self,
        input: usize,
        rows: impl IntoIterator<Item = (ChangeKind, R)>,
    ) -> Result<()> {
        let buffer = self.buffers.get_mut(input).ok_or_else(|| no_input(input))?;
        rows.into_iter().try_for_each(|(kind, row)| buffer.append(kind, &row))?;
        match buffer.finish()? {
            Some(batch) => self.push_batch(input, &batch),
            None => Ok(()),
        }
    }

    /// Sends a batch by input number `input`: to the subtasks that own its keys, as an exchange does.
    pub fn push_batch(&mut self, input: usize, batch: &RecordBatch) -> Result<()> {
        let stream = self.inputs.get(input).ok_or_else(|| no_input(input))?;
        if batch.schema_ref() != &stream.fields {
            return Err(Error::new(format!("the batch isn't of the schema of input {}", input + 1)));
        }
        let parallelism = self.subtasks.len();
        let mut rows: Vec<Vec<u32>> = vec![vec![]; parallelism];
        let key_columns: Vec<ArrayRef> = self.keys[input].iter().map(|column| batch.column(*column).clone()).collect();
        let mut hashes = vec![];
        hash_rows(&key_columns, batch.num_rows(), &mut hashes)?;
        for (row, hash) in hashes.into_iter().enumerate() {
            let group = KeyGroup::of_hash(hash, self.max_parallelism);
            rows[group.subtask(parallelism as u32, self.max_parallelism) as usize].push(row as u32);
        }
        for (subtask, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let part = take_record_batch(batch, &UInt32Array::from(rows))?;
            self.call(subtask, |operator, context, out| operator.process(input, part, context, out))?;
        }
        Ok(())
    }

    /// Lets event time come to `watermark` on all inputs; event-time timers fire.
    pub fn watermark(&mut self, watermark: Timestamp) -> Result<()> {
        if watermark < self.watermark {
            return Err(Error::new(format!("the watermark {watermark} is behind {}", self.watermark)));
        }
        self.watermark = watermark;
        let watermark = Watermark(watermark.as_micros());
        self.call_all(|operator, context, out| operator.on_watermark(watermark, context, out))
    }

    /// Lets the clock come to `time`; processing-time timers fire.
    pub fn processing_time(&mut self, time: Timestamp) -> Result<()> {
        if time < self.processing_time {
            return Err(Error::new(format!("the clock doesn't go back from {} to {time}", self.processing_time)));
        }
        self.processing_time = time;
        for subtask in 0..self.subtasks.len() {
            let due = self.subtasks[subtask].operator.next_processing_time_us();
            if due.is_some_and(|due_us| due_us <= time.as_micros()) {
                self.call(subtask, |operator, context, out| operator.on_processing_time(context, out))?;
            }
        }
        Ok(())
    }

    /// Ends the input: the last watermark comes, then `finish` is called.
    pub fn end(&mut self) -> Result<()> {
        self.watermark(Timestamp::MAX)?;
        self.call_all(|operator, context, out| operator.on_end(context, out))
    }

    /// What was emitted since the last call, column by column in the order of the output schema.
    ///
    /// # Errors
    /// Columns that can't be read as a `T`.
    pub fn take<T: Record>(&mut self) -> Result<Vec<T>> {
        Ok(self.take_changes()?.into_iter().map(|(_, row)| row).collect())
    }

    /// As `take`, with the change kinds.
    pub fn take_changes<T: Record>(&mut self) -> Result<Vec<(ChangeKind, T)>> {
        let columns = Inputs::new(std::slice::from_ref(&self.output)).get(0)?.positions::<T>()?;
        let mut rows = vec![];
        for batch in std::mem::take(&mut self.emitted) {
            let values = self.output.value_columns();
            let batch_rows = BatchRows {
                input: 0,
                columns: batch.columns()[..values].iter().map(|column| ColumnData::of(column.as_ref())).collect(),
                kinds: self.output.is_updating().then(|| crate::drive::change_kinds(&batch)),
                time_column: None,
            };
            for index in 0..batch.num_rows() {
                let row = Row { batch: &batch_rows, index };
                rows.push((row.kind(), row.read(&columns)?));
            }
        }
        Ok(rows)
    }

    /// The batches emitted since the last call.
    pub fn take_batches(&mut self) -> Vec<RecordBatch> {
        std::mem::take(&mut self.emitted)
    }

    /// What the operator declared to emit; of an updating stream the last column is the change kind.
    pub fn output_schema(&self) -> arrow::datatypes::SchemaRef {
        self.output.fields.clone()
    }

    /// The states that the operator registered.
    pub fn state_schemas(&self) -> &[StateSchema] {
        &self.schemas
    }

    /// Takes a checkpoint of all subtasks and lets it complete.
    ///
    /// # Errors
    /// State that is too large to write.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        self.checkpoint = self.checkpoint.next();
        let mut handles = vec![];
        for (number, subtask) in self.subtasks.iter_mut().enumerate() {
            self.segments.begin(format!("checkpoint {} of subtask {number}", self.checkpoint));
            handles.push(subtask.state.cut(self.checkpoint)?.write(&mut self.segments)?);
            subtask.state.confirm(self.checkpoint);
        }
        Ok(Snapshot { handles, segments: self.segments.clone(), checkpoint: self.checkpoint })
    }

    fn call_all(
        &mut self,
        mut call: impl FnMut(
            &mut dyn weir_dataflow::Operator,
            &mut OperatorContext<'_>,
            &mut Vec<RecordBatch>,
        ) -> Result<(), OperatorError>,
    ) -> Result<()> {
        (0..self.subtasks.len()).try_for_each(|subtask| self.call(subtask, &mut call))
    }

    /// Calls one subtask as a node does.
    fn call(
        &mut self,
        subtask: usize,
        call: impl FnOnce(
            &mut dyn weir_dataflow::Operator,
            &mut OperatorContext<'_>,
            &mut Vec<RecordBatch>,
        ) -> Result<(), OperatorError>,
    ) -> Result<()> {
        let Subtask { operator, state, metrics } = &mut self.subtasks[subtask];
        let processing_time_us = self.processing_time.as_micros();
        state.between_batches(processing_time_us)?;
        let mut context = OperatorContext { state, processing_time_us, metrics };
        Ok(call(operator.as_mut(), &mut context, &mut self.emitted)?)
    }
}

impl HarnessBuilder {
    fn new(register: impl FnOnce(&mut Operators) -> Result<()>) -> Self {
        let mut operators = Operators::new();
        register(&mut operators).expect("the first operator finds its name free");
        HarnessBuilder {
            operators,
            config: Ok("null".to_owned()),
            inputs: vec![],
            key_by: vec![],
            parallelism: 1,
            max_parallelism: 128,
            processing_time: Timestamp::from_micros(0),
            state_ttl: None,
            restored: None,
        }
    }

    /// The step's `config`: `serde_json::json!({"threshold": 30})`, for instance.
    pub fn config(mut self, config: impl Serialize) -> Self {
        self.config = serde_json::to_string(&config);
        self
    }

    /// Adds an input.
    pub fn input(mut self, schema: RowSchema) -> Self {
        self.inputs.push(schema);
        self
    }

    /// The step's `keyBy`, the same for every input.
    pub fn key_by<'k>(mut self, columns: impl IntoIterator<Item = &'k str>) -> Self {
        self.key_by = vec![columns.into_iter().map(str::to_owned).collect()];
        self
    }

    pub fn parallelism(mut self, parallelism: u32) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// 128 if nothing is said. A snapshot is restored with that of the harness it comes from.
    pub fn max_parallelism(mut self, max_parallelism: u32) -> Self {
        self.max_parallelism = max_parallelism;
        self
    }

    /// The clock at the start; the Unix epoch if nothing is said.
    pub fn processing_time(mut self, time: Timestamp) -> Self {
        self.processing_time = time;
        self
    }

    /// The step's `stateTtl`; none if nothing is said.
    pub fn state_ttl(mut self, ttl: Duration) -> Self {
        self.state_ttl = Some(ttl);
        self
    }

    /// Starts from a snapshot, at whatever parallelism. As in a job, event time starts before everything.
    pub fn restore(mut self, snapshot: &Snapshot) -> Self {
        self.restored = Some(snapshot.clone());
        self
    }

    /// # Errors
    /// Whatever `weir validate` would say of the step: its config, its columns, its key; a snapshot that doesn't fit.
    pub fn build(self) -> Result<Harness> {
        let HarnessBuilder { operators, config, inputs, key_by, parallelism, .. } = self;
        if parallelism == 0 || parallelism > self.max_parallelism {
            return Err(Error::new(format!("parallelism {parallelism} isn't in 1 to {}", self.max_parallelism)));
        }
        let inputs = inputs.into_iter().map(RowSchema::into_stream).collect::<Result<Vec<_>>>()?;
        let key_by = key_by.first().map_or(&[][..], Vec::as_slice);
        let keys_of = |input: Input<'_>| key_by.iter().map(|name| input.find(name)).collect::<Result<Vec<_>>>();
        let keys = Inputs::new(&inputs).iter().map(keys_of).collect::<Result<Vec<_>>>()?;
        let key_types = keys.first().map_or(vec![], |columns| {
            columns.iter().map(|column| inputs[0].fields.field(*column).data_type().clone()).collect()
        });
        let spec = CustomSpec {
            operator_type: TYPE.to_owned(),
            config: config?,
            keys: keys.clone(),
            key_types,
            state_ttl_ms: self.state_ttl.map(|ttl| ttl.as_millis() as u64),
        };
        let output = operators.output_schema(&spec, &inputs)?;
        let schemas = operators.state_schemas(&spec, &inputs)?;
        let (handles, segments, checkpoint) = match self.restored {
            Some(Snapshot { handles, segments, checkpoint }) => (handles, segments, checkpoint),
            None => (vec![], MemorySegments::default(), CheckpointId(0)),
        };
        let mut subtasks = vec![];
        for subtask in 0..parallelism {
            let key_groups = KeyGroupRange::of_subtask(subtask, parallelism, self.max_parallelism);
            let handles: Vec<KeyedStateHandle> =
                (handles.iter()).filter(|handle| handle.key_groups.intersect(&key_groups).is_some()).cloned().collect();
            let config = StateConfig { key_groups, max_parallelism: self.max_parallelism };
            let mut state = KeyedState::open(config, &handles, &segments)?;
            let operator = operators.create(&spec, &inputs, &output, &mut state)?;
            if let Some(unmatched) = state.unmatched().next() {
                let reason = format!("the snapshot holds state `{}`, which the operator has not", unmatched.name);
                return Err(Error::new(reason));
            }
            subtasks.push(Subtask { operator, state, metrics: OperatorMetrics::default() });
        }
        Ok(Harness {
            buffers: inputs.iter().map(OutputBuffer::new).collect::<Result<_>>()?,
            inputs,
            keys,
            subtasks,
            max_parallelism: self.max_parallelism,
            processing_time: self.processing_time,
            watermark: Timestamp::MIN,
            schemas,
            output,
            emitted: vec![],
            segments,
            checkpoint,
        })
    }
}

fn no_input(input: usize) -> Error {
    Error::new(format!("there is no input {}", input + 1))
}
