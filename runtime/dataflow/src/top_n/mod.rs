//! Top-N: the rows whose `ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..)` is within bounds.
//!
//! Rows stay sorted in state, by sort key and then by their content, so that ties are broken the same way
//! whatever the order of arrival. A batch is applied as a whole, and what is emitted for a partition is the
//! difference between its first rows before and after. Of an append-only input only the rows that can still
//! come out are kept: at most `last_rank` for each partition.

mod order;
mod output;
mod ranking;
#[cfg(test)]
mod tests;

use crate::keyed::{BatchKeys, Changes, Due, RowShape, Tally, TimePrefix, Timers, drop_late, value_fields};
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use order::SortOrder;
use output::RankOutput;
use ranking::{FirstRows, Partition, Ranking};
use std::ops::RangeInclusive;
use std::sync::Arc;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{StreamSchema, TopNSpec, WindowColumns};
use weir_model::{ChangeKind, StateKind, StateSchema, Watermark};
use weir_state::{EncodedRows, KeyBatch, KeyEncoder, KeyedState, OrderedState, OrderedStateId, StateOptions};

pub struct TopN {
    state: OrderedStateId,
    shape: RowShape,
    order: SortOrder,
    encoder: KeyEncoder,
    input_updating: bool,
    ranks: RangeInclusive<u64>,
    emit_rank: bool,
    window: Option<Windowed>,
    output: RankOutput,
    keys: KeyBatch,
    batch_keys: BatchKeys,
    rows: EncodedRows,
    ranking: Ranking,
    before: FirstRows,
    after: FirstRows,
}

/// What a Top-N within windows has besides.
struct Windowed {
    columns: WindowColumns,
    timers: Timers,
    watermark: i64,
}

/// Exactly the states that `create` registers.
pub fn state_schemas(spec: &TopNSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
    let plan = Plan::new(spec, inputs)?;
    let timers = spec.window.map(|_| Timers::schema("timers", &plan.shape.key_fields));
    Ok(std::iter::once(plan.state_schema(spec)).chain(timers).collect())
}

pub fn create(
    spec: &TopNSpec,
    inputs: &[StreamSchema],
    output: &StreamSchema,
    state: &mut KeyedState,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(Box::new(TopN::new(spec, inputs, output, state)?))
}

struct Plan<'a> {
    input: &'a StreamSchema,
    order: SortOrder,
    shape: RowShape,
}

impl<'a> Plan<'a> {
    fn new(spec: &TopNSpec, inputs: &'a [StreamSchema]) -> Result<Self, OperatorError> {
        let [input] = inputs else {
            return Err(OperatorError::Failed(format!("a Top-N has one input, not {}", inputs.len())));
        };
        if spec.first_rank == 0 || spec.first_rank > spec.last_rank || spec.last_rank > i64::MAX as u64 {
            let (first, last) = (spec.first_rank, spec.last_rank);
            return Err(OperatorError::Failed(format!("no row has a rank from {first} to {last}: ranks begin at 1")));
        }
        let columns = input.value_columns();
        let mut fields: Vec<Field> = input.fields.fields().iter().take(columns).map(|f| f.as_ref().clone()).collect();
        fields.push(Field::new("sort_key", DataType::Binary, false));
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let mut sorted_by = vec![];
        if let Some(window) = spec.window {
            for column in [window.end, window.start] {
                let field = schema.field(column);
                if !matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
                    let (name, found) = (field.name(), field.data_type());
                    return Err(OperatorError::Failed(format!("the window column `{name}` is {found}, not TIMESTAMP")));
                }
                sorted_by.push(column);
            }
        }
        sorted_by.push(columns);
        let shape = RowShape::new(&schema, columns + 1, &spec.partition, &sorted_by)?;
        Ok(Plan { input, order: SortOrder::new(&spec.order, &input.fields)?, shape })
    }

    fn state_schema(&self, spec: &TopNSpec) -> StateSchema {
        let order = self.order.describe(&self.input.fields);
        let kept = match self.input.is_updating() {
            true => format!("count of equal rows by {order}"),
            // A greater rank needs rows that were not kept.
            false => format!("count of equal rows by {order}, the first {}", spec.last_rank),
        };
        StateSchema {
            name: "rows".into(),
            kind: StateKind::Map,
            key: self.shape.key_fields.clone(),
            namespace: self.shape.rest_fields.clone(),
            value: value_fields(false),
            semantics: vec![kept],
        }
    }
}

impl TopN {
    /// Rows and timers in state.
    #[cfg(test)]
    fn entries(&self, state: &mut KeyedState) -> usize {
        let timers = self.window.as_ref().map_or(0, |window| window.timers.len(state));
        state.ordered(self.state).len() + timers
    }

    /// # Errors
    /// Ranks that no row has, windows that aren't timestamps, an append-only output without windows, types that
    /// state can't hold.
    pub fn new(
        spec: &TopNSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        let plan = Plan::new(spec, inputs)?;
        if output.is_updating() == spec.window.is_some() {
            let must = if spec.window.is_some() { "append-only" } else { "updating" };
            return Err(OperatorError::Failed(format!("the output of this Top-N must be {must}")));
        }
        let options = StateOptions { ttl_ms: spec.state_ttl_ms.filter(|_| spec.window.is_none()) };
        let id = state.register_ordered_with(plan.state_schema(spec), options)?;
        let window = match spec.window {
            None => None,
            Some(columns) => {
                let timers = Timers::register("timers", &plan.shape.key_fields, state)?;
                Some(Windowed { columns, timers, watermark: i64::MIN })
            }
        };
        Ok(TopN {
            state: id,
            encoder: KeyEncoder::for_ordered(&plan.shape.key_fields),
            shape: plan.shape,
            order: plan.order,
            input_updating: plan.input.is_updating(),
            ranks: spec.first_rank..=spec.last_rank,
            emit_rank: spec.emit_rank,
            window,
            output: RankOutput::new(output, spec.emit_rank),
            keys: KeyBatch::new(),
            batch_keys: BatchKeys::default(),
            rows: EncodedRows::default(),
            ranking: Ranking::default(),
            before: FirstRows::default(),
            after: FirstRows::default(),
        })
    }

    /// Bytes of a namespace that name the window.
    fn scope_bytes(&self) -> usize {
        if self.window.is_some() { 2 * TimePrefix::BYTES } else { 0 }
    }

    /// Puts an append-only batch into the state, a partition at a time.
    fn append(
        &mut self,
        key_columns: &[ArrayRef],
        state: &mut OrderedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let scope_bytes = self.scope_bytes();
        let (rows, of_row) = (&self.rows, &self.batch_keys.of_row);
        let mut sorted: Vec<u32> = (0..of_row.len() as u32).collect();
        sorted.sort_unstable_by_key(|row| (of_row[*row as usize], rows.row(*row as usize)));
        let scope = |row: u32| &rows.row(row as usize)[..scope_bytes];
        let same = |a: &u32, b: &u32| of_row[*a as usize] == of_row[*b as usize] && scope(*a) == scope(*b);
        let mut new: Vec<&[u8]> = vec![];
        for partition_rows in sorted.chunk_by(same) {
            let first = partition_rows[0];
            let (group, key) = (self.keys.key_group(first as usize), self.keys.key(first as usize));
            let partition = Partition { group, key, scope: scope(first) };
            new.clear();
            new.extend(partition_rows.iter().map(|row| rows.row(*row as usize)));
            self.ranking.append(partition, &new, *self.ranks.end(), &mut self.before, state)?;
            if self.window.is_none() {
                self.ranking.emit(first, &self.ranks, self.emit_rank, &mut self.output);
                if self.output.is_full() {
                    self.output.flush(&self.shape, key_columns, out)?;
                }
            }
        }
        self.output.flush(&self.shape, key_columns, out)
    }

    /// Applies an updating batch to the state, a partition at a time.
    fn update(
        &mut self,
        changes: &Changes,
        key_columns: &[ArrayRef],
        state: &mut OrderedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let of_row = &self.batch_keys.of_row;
        let mut by_key: Vec<u32> = (0..of_row.len() as u32).collect();
        by_key.sort_by_key(|row| of_row[*row as usize]);
        for partition_rows in by_key.chunk_by(|a, b| of_row[*a as usize] == of_row[*b as usize]) {
            let first = partition_rows[0];
            let (group, key) = (self.keys.key_group(first as usize), self.keys.key(first as usize));
            let partition = Partition { group, key, scope: &[] };
            let emits = self.window.is_none();
            if emits {
                self.before.read(partition, *self.ranks.end(), state)?;
            }
            for row in partition_rows.iter().map(|row| *row as usize) {
                count_row(state, partition, self.rows.row(row), changes.is_retraction(row))?;
            }
            if emits {
                self.after.read(partition, *self.ranks.end(), state)?;
                self.ranking.compare(&self.before, &self.after);
                self.ranking.emit(first, &self.ranks, self.emit_rank, &mut self.output);
                if self.output.is_full() {
                    self.output.flush(&self.shape, key_columns, out)?;
                }
            }
        }
        self.output.flush(&self.shape, key_columns, out)
    }

    /// Emits and removes the windows that are complete.
    fn emit_windows(
        &mut self,
        due: &Due,
        state: &mut KeyedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let key_columns = due.key_columns(&self.shape.key_fields)?;
        let scope_bytes = self.scope_bytes();
        let state = state.ordered(self.state);
        for nth in 0..due.len() {
            let end = TimePrefix::of(due.time_us(nth));
            // All windows of this end and key; they differ in where they begin.
            let ending = Partition { group: due.group(nth), key: due.key(nth), scope: end.bytes() };
            self.before.read(ending, u64::MAX, state)?;
            let (mut rank, mut window): (u64, &[u8]) = (0, &[]);
            for row in 0..self.before.len() {
                let bytes = self.before.row(row);
                if window != &bytes[..scope_bytes] {
                    (rank, window) = (0, &bytes[..scope_bytes]);
                }
                for _ in 0..self.before.count(row) {
                    rank += 1;
                    if self.ranks.contains(&rank) {
                        self.output.push(nth as u32, bytes, rank, ChangeKind::Insert);
                    }
                }
                state.delete(ending.group, ending.key, bytes)?;
            }
            if self.output.is_full() {
                self.output.flush(&self.shape, &key_columns, out)?;
            }
        }
        self.output.flush(&self.shape, &key_columns, out)
    }
}

/// Counts a row in, or out. A retraction of a row that isn't there (any more) changes nothing.
fn count_row(
    state: &mut OrderedState,
    partition: Partition<'_>,
    row: &[u8],
    retracts: bool,
) -> Result<(), OperatorError> {
    let Partition { group, key, .. } = partition;
    let stored = state.get(group, key, row)?.map(Tally::decode).transpose()?;
    let count = stored.unwrap_or_default().count + if retracts { -1 } else { 1 };
    if count > 0 {
        state.put(group, key, row, Tally { count, matches: 0 }.encode(false, &mut [0; 17]))?;
    } else if stored.is_some() {
        state.delete(group, key, row)?;
    }
    Ok(())
}

fn window_ends(batch: &RecordBatch, window: WindowColumns) -> Result<ScalarBuffer<i64>, OperatorError> {
    let (starts, ends) = (batch.column(window.start), batch.column(window.end));
    if starts.null_count() + ends.null_count() > 0 {
        return Err(OperatorError::Failed("a row without a window has reached a Top-N within windows".into()));
    }
    Ok(ends.as_primitive::<TimestampMicrosecondType>().values().clone())
}

impl Operator for TopN {
    fn process(
        &mut self,
        _input: usize,
        mut batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if let Some(Windowed { columns, watermark, .. }) = &self.window {
            let ends = window_ends(&batch, *columns)?;
            batch = drop_late(batch, context, |row| ends[row] <= *watermark)?;
        }
        let changes = Changes::of(&batch, self.input_updating)?;
        let key_columns = self.shape.key_columns(&changes.columns);
        self.encoder.encode(&key_columns, changes.rows, context.state.max_parallelism(), &mut self.keys)?;
        // NULLs are one partition.
        self.batch_keys.assign(&self.keys, None);
        let mut columns = changes.columns.clone();
        columns.push(self.order.encode(&changes.columns, changes.rows)?);
        self.shape.encode(&columns, changes.rows, &mut self.rows)?;
        if let Some(Windowed { columns, timers, .. }) = &self.window {
            let ends = window_ends(&batch, *columns)?;
            let mut last = None;
            for (row, end) in ends.iter().enumerate() {
                if last.replace((self.batch_keys.of_row[row], *end)) != Some((self.batch_keys.of_row[row], *end)) {
                    timers.set(context.state, self.keys.key_group(row), self.keys.key(row), *end)?;
                }
            }
        }
        let state = context.state.ordered(self.state);
        match self.input_updating {
            false => self.append(&key_columns, state, out),
            true => self.update(&changes, &key_columns, state, out),
        }
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let Some(window) = &mut self.window else { return Ok(()) };
        window.watermark = window.watermark.max(watermark.0);
        let watermark = window.watermark;
        while let Some(window) = &self.window {
            let due = window.timers.take_due(context.state, watermark, BATCH_ROWS)?;
            if due.is_empty() {
                break;
            }
            self.emit_windows(&due, context.state, out)?;
        }
        Ok(())
    }
}
