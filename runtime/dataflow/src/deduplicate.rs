//! Deduplication: the first or the last row of each key, at the cost of one row of state a key.

use crate::keyed::{BatchKeys, take_rows};
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{Array, ArrayRef, AsArray, Int8Array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::graph::{DeduplicateSpec, Keep, StreamSchema, TimeDomain};
use weir_model::{ChangeKind, StateField, StateKind, StateSchema};
use weir_state::{KeyBatch, KeyEncoder, KeyedState, RowState, RowStateId, Slot, StateOptions};

pub struct Deduplicate {
    state: RowStateId,
    keys: Vec<usize>,
    /// The columns in the state's value: all that aren't in the key, or none where only the key's being there counts.
    values: Vec<usize>,
    rule: Rule,
    encoder: KeyEncoder,
    schema: SchemaRef,
    key_batch: KeyBatch,
    batch_keys: BatchKeys,
    slots: Vec<Slot>,
    new: Vec<u32>,
}

/// Which of two rows of a key wins.
#[derive(Clone, Copy)]
enum Rule {
    FirstArrived,
    LastArrived,
    /// Of equals the one that came first.
    Earliest {
        time: usize,
    },
    /// Of equals the one that came last.
    Latest {
        time: usize,
    },
}

impl Rule {
    fn of(spec: &DeduplicateSpec) -> Self {
        match (spec.keep, spec.time) {
            (Keep::First, TimeDomain::ProcessingTime) => Rule::FirstArrived,
            (Keep::Last, TimeDomain::ProcessingTime) => Rule::LastArrived,
            (Keep::First, TimeDomain::EventTime { column }) => Rule::Earliest { time: column },
            (Keep::Last, TimeDomain::EventTime { column }) => Rule::Latest { time: column },
        }
    }

    fn time(self) -> Option<usize> {
        match self {
            Rule::FirstArrived | Rule::LastArrived => None,
            Rule::Earliest { time } | Rule::Latest { time } => Some(time),
        }
    }

    /// Whether a row that comes now replaces one that came before it.
    fn replaces(self, now: i64, before: i64) -> bool {
        match self {
            Rule::FirstArrived => false,
            Rule::LastArrived => true,
            Rule::Earliest { .. } => now < before,
            Rule::Latest { .. } => now >= before,
        }
    }
}

/// Exactly the states that `create` registers.
pub fn state_schemas(spec: &DeduplicateSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
    let input = only_input(inputs)?;
    Ok(vec![state_schema(spec, input)])
}

pub fn create(
    spec: &DeduplicateSpec,
    inputs: &[StreamSchema],
    output: &StreamSchema,
    state: &mut KeyedState,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(Box::new(Deduplicate::new(spec, inputs, output, state)?))
}

fn only_input(inputs: &[StreamSchema]) -> Result<&StreamSchema, OperatorError> {
    match inputs {
        [input] if !input.is_updating() => Ok(input),
        [_] => Err(OperatorError::Failed("deduplication takes an append-only input; use a Top-N for updates".into())),
        _ => Err(OperatorError::Failed(format!("deduplication has one input, not {}", inputs.len()))),
    }
}

/// The columns kept beside the key. The time is kept even if it is in the key: rows are compared by it.
fn value_columns(spec: &DeduplicateSpec, input: &StreamSchema) -> Vec<usize> {
    let rule = Rule::of(spec);
    match rule {
        Rule::FirstArrived => vec![],
        _ => (0..input.value_columns())
            .filter(|column| !spec.keys.contains(column) || rule.time() == Some(*column))
            .collect(),
    }
}

fn state_schema(spec: &DeduplicateSpec, input: &StreamSchema) -> StateSchema {
    let field = |column: &usize| {
        let field = input.fields.field(*column);
        StateField::new(field.name(), field.data_type().clone(), true)
    };
    let semantics = match Rule::of(spec) {
        Rule::FirstArrived => "first by arrival".to_string(),
        Rule::LastArrived => "last by arrival".to_string(),
        Rule::Earliest { time } => format!("first by {}", input.fields.field(time).name()),
        Rule::Latest { time } => format!("last by {}", input.fields.field(time).name()),
    };
    StateSchema {
        name: "row".into(),
        kind: StateKind::Value,
        key: spec.keys.iter().map(field).collect(),
        namespace: vec![],
        value: value_columns(spec, input).iter().map(field).collect(),
        semantics: vec![semantics],
    }
}

impl Deduplicate {
    /// # Errors
    /// An updating input, a time column that isn't a timestamp, an append-only output for a rule that may take
    /// rows back, types that state can't hold.
    pub fn new(
        spec: &DeduplicateSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        let input = only_input(inputs)?;
        let rule = Rule::of(spec);
        if let Some(field) = rule.time().map(|time| input.fields.field(time))
            && !matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _))
        {
            let (name, found) = (field.name(), field.data_type());
            return Err(OperatorError::Failed(format!("the time column `{name}` is {found}, not TIMESTAMP")));
        }
        if output.is_updating() == matches!(rule, Rule::FirstArrived) {
            let must = if output.is_updating() { "append-only" } else { "updating" };
            return Err(OperatorError::Failed(format!("the output of this deduplication must be {must}")));
        }
        let schema = state_schema(spec, input);
        Ok(Deduplicate {
            encoder: KeyEncoder::new(&schema.key),
            state: state.register_rows_with(schema, StateOptions { ttl_ms: spec.state_ttl_ms })?,
            keys: spec.keys.clone(),
            values: value_columns(spec, input),
            rule,
            schema: output.fields.clone(),
            key_batch: KeyBatch::new(),
            batch_keys: BatchKeys::default(),
            slots: vec![],
            new: vec![],
        })
    }

    /// For each key of the batch the row that wins within the batch.
    fn winners(&self, times: Option<&[i64]>) -> Vec<u32> {
        let mut winners = self.batch_keys.first_row.clone();
        let time = |row: u32| times.map_or(0, |times| times[row as usize]);
        for (row, key) in self.batch_keys.of_row.iter().enumerate() {
            let winner = &mut winners[*key as usize];
            if row as u32 != *winner && self.rule.replaces(time(row as u32), time(*winner)) {
                *winner = row as u32;
            }
        }
        winners
    }

    /// Applies the winners of the batch to the stored rows, and emits what that changes.
    fn replace(
        &self,
        batch: &RecordBatch,
        times: Option<&[i64]>,
        state: &mut RowState,
    ) -> Result<RecordBatch, OperatorError> {
        let winners = self.winners(times);
        let mut is_new = vec![false; winners.len()];
        self.new.iter().for_each(|row| is_new[self.batch_keys.of_row[*row as usize] as usize] = true);
        let slot_of = |key: usize| self.slots[self.batch_keys.first_row[key] as usize];
        let slots: Vec<Slot> = (0..winners.len()).map(slot_of).collect();
        let stored_times = match self.rule.time() {
            None => None,
            Some(time) => {
                let field = self.values.iter().position(|column| *column == time).expect("the time is kept");
                Some(state.column(&slots, field)?)
            }
        };
        let stored_times = stored_times.as_ref().map(|times| times.as_primitive::<TimestampMicrosecondType>().values());
        let changed = |key: &usize| {
            let (now, before) = match (times, stored_times) {
                (Some(now), Some(before)) => (now[winners[*key] as usize], before[*key]),
                _ => (0, 0),
            };
            is_new[*key] || self.rule.replaces(now, before)
        };
        let changed: Vec<usize> = (0..winners.len()).filter(changed).collect();

        let rows: Vec<u32> = changed.iter().map(|key| winners[*key]).collect();
        let slots: Vec<Slot> = changed.iter().map(|key| slots[*key]).collect();
        let old_values = state.columns(&slots)?;
        let new_values: Vec<ArrayRef> = self.values.iter().map(|column| batch.column(*column).clone()).collect();
        for (field, column) in take_rows(&new_values, rows.clone())?.iter().enumerate() {
            state.set_column(&slots, field, column)?;
        }

        // Rows of the output: (0, n) is the n-th old row, (1, n) a row of the batch.
        let (mut picks, mut kinds) = (vec![], vec![]);
        for (nth, (key, row)) in changed.iter().zip(&rows).enumerate() {
            if is_new[*key] {
                kinds.push(ChangeKind::Insert as i8);
            } else {
                picks.push((0, nth));
                kinds.extend([ChangeKind::UpdateBefore as i8, ChangeKind::UpdateAfter as i8]);
            }
            picks.push((1, *row as usize));
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (index, column) in batch.columns().iter().enumerate() {
            let old = match self.values.iter().position(|value| *value == index) {
                Some(value) => old_values[value].clone(),
                None => take_rows(std::slice::from_ref(column), rows.clone())?.remove(0),
            };
            columns.push(interleave(&[&old, column], &picks)?);
        }
        columns.push(Arc::new(Int8Array::from(kinds)));
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Operator for Deduplicate {
    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| batch.column(*key).clone()).collect();
        self.encoder.encode(&keys, batch.num_rows(), context.state.max_parallelism(), &mut self.key_batch)?;
        let times = match self.rule.time() {
            None => None,
            Some(time) => {
                let column = batch.column(time);
                if column.null_count() > 0 {
                    let name = batch.schema_ref().field(time).name().clone();
                    return Err(OperatorError::Failed(format!(
                        "{} rows to deduplicate have no time: `{name}` is NULL; filter them out before",
                        column.null_count()
                    )));
                }
                Some(column.as_primitive::<TimestampMicrosecondType>().values().clone())
            }
        };
        let state = context.state.rows(self.state);
        state.upsert(0, &self.key_batch, &mut self.slots, &mut self.new)?;
        let changes = match self.rule {
            Rule::FirstArrived => {
                let columns = take_rows(batch.columns(), self.new.clone())?;
                RecordBatch::try_new(self.schema.clone(), columns)?
            }
            _ => {
                self.batch_keys.assign_slots(self.key_batch.hashes(), &self.slots);
                self.replace(&batch, times.as_deref(), state)?
            }
        };
        if changes.num_rows() > 0 { out.emit(changes) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
