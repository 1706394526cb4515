//! The window join: rows of equal keys and equal windows, joined when the window is complete.

use super::pairs::{Pairs, Residual};
use super::{LEFT, PAIR_LIMIT, RIGHT, check_inputs, check_time, emit_unmatched, emits_unmatched, is_left_only};
use crate::keyed::{
    Changes, Due, Gather, NO_ROW, RowShape, Tally, TimePrefix, Timers, any_null, drop_late, take_rows, value_fields,
};
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use std::ops::{ControlFlow, Range};
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{JoinKind, StreamSchema, WindowColumns, WindowJoinSpec};
use weir_model::{ChangeKind, StateKind, StateSchema, Watermark};
use weir_state::{EncodedRows, KeyBatch, KeyEncoder, KeyedState, OrderedStateId};

/// Rows of complete windows that are joined at a time; more only if a single window has more.
const ROWS_LIMIT: usize = if cfg!(test) { 4 } else { 1 << 16 };

pub struct WindowJoin {
    kind: JoinKind,
    sides: [Side; 2],
    timers: Timers,
    residual: Residual,
    output: Gather,
    watermark: i64,
    keys: KeyBatch,
    own_rows: EncodedRows,
    pairs: Pairs,
}

struct Side {
    state: OrderedStateId,
    shape: RowShape,
    encoder: KeyEncoder,
    window: WindowColumns,
    updating: bool,
}

/// Exactly the states that `create` registers.
pub fn state_schemas(spec: &WindowJoinSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
    let inputs = check_inputs(inputs, &spec.left_keys, &spec.right_keys)?;
    let left = side_shape(spec, LEFT, inputs[LEFT])?;
    let right = side_shape(spec, RIGHT, inputs[RIGHT])?;
    let timers = Timers::schema("timers", &left.key_fields);
    Ok(vec![side_schema(LEFT, &left), side_schema(RIGHT, &right), timers])
}

pub fn create(
    spec: &WindowJoinSpec,
    inputs: &[StreamSchema],
    output: &StreamSchema,
    state: &mut KeyedState,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(Box::new(WindowJoin::new(spec, inputs, output, state)?))
}

fn side_of(spec: &WindowJoinSpec, input: usize) -> (&[usize], WindowColumns) {
    if input == LEFT { (&spec.left_keys, spec.left_window) } else { (&spec.right_keys, spec.right_window) }
}

fn side_shape(spec: &WindowJoinSpec, input: usize, stream: &StreamSchema) -> Result<RowShape, OperatorError> {
    let (keys, window) = side_of(spec, input);
    check_time(stream, window.start)?;
    check_time(stream, window.end)?;
    Ok(RowShape::new(&stream.fields, stream.value_columns(), keys, &[window.end, window.start])?)
}

fn side_schema(input: usize, shape: &RowShape) -> StateSchema {
    StateSchema {
        name: if input == LEFT { "left" } else { "right" }.into(),
        kind: StateKind::Map,
        key: shape.key_fields.clone(),
        namespace: shape.rest_fields.clone(),
        value: value_fields(false),
        semantics: vec!["count of equal rows".to_string()],
    }
}

impl WindowJoin {
    /// Rows and timers in state.
    #[cfg(test)]
    pub(super) fn entries(&self, state: &mut KeyedState) -> usize {
        let rows: usize = self.sides.iter().map(|side| state.ordered(side.state).len()).sum();
        rows + self.timers.len(state)
    }

    /// # Errors
    /// Keys that don't fit together, windows that aren't timestamps, an updating output (a window join emits
    /// each window once).
    pub fn new(
        spec: &WindowJoinSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        let inputs = check_inputs(inputs, &spec.left_keys, &spec.right_keys)?;
        let mut side = |input: usize| -> Result<Side, OperatorError> {
            let shape = side_shape(spec, input, inputs[input])?;
            Ok(Side {
                state: state.register_ordered(side_schema(input, &shape))?,
                encoder: KeyEncoder::for_ordered(&shape.key_fields),
                shape,
                window: side_of(spec, input).1,
                updating: inputs[input].is_updating(),
            })
        };
        let sides = [side(LEFT)?, side(RIGHT)?];
        Ok(WindowJoin {
            kind: spec.kind,
            timers: Timers::register("timers", &sides[LEFT].shape.key_fields, state)?,
            sides,
            residual: Residual::new(spec.residual.clone(), inputs),
            output: Gather::new(output),
            watermark: i64::MIN,
            keys: KeyBatch::new(),
            own_rows: EncodedRows::default(),
            pairs: Pairs::default(),
        })
    }

    /// Joins and emits windows that are complete.
    fn join_windows(
        &mut self,
        due: &Due,
        state: &mut KeyedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let key_columns = due.key_columns(&self.sides[LEFT].shape.key_fields)?;
        let null_keys = any_null(&key_columns);
        let mut next = 0;
        while next < due.len() {
            let first = next;
            let mut taken = [Taken::default(), Taken::default()];
            while next < due.len() && taken[LEFT].counts.len() + taken[RIGHT].counts.len() < ROWS_LIMIT {
                for (side, taken) in self.sides.iter().zip(&mut taken) {
                    taken.take_window(side.state, due, next, state)?;
                }
                next += 1;
            }
            let [left, right] = taken;
            let left = left.decode(&self.sides[LEFT], &key_columns)?;
            let right = right.decode(&self.sides[RIGHT], &key_columns)?;
            let joinable: Vec<bool> =
                (first..next).map(|window| null_keys.as_ref().is_none_or(|nulls| nulls.is_valid(window))).collect();
            self.join_rows(&left, &right, &joinable, out)?;
        }
        Ok(())
    }

    fn join_rows(
        &mut self,
        left: &WindowRows,
        right: &WindowRows,
        joinable: &[bool],
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let columns: [&[ArrayRef]; 2] = [&left.columns, &right.columns];
        let emitted_right = if is_left_only(self.kind) { &[] } else { columns[1] };
        let mut left_unmatched = left.counts.clone();
        let mut right_unmatched = right.counts.clone();
        let (mut row, rows, mut window) = (0, left.counts.len(), 0);
        while row < rows {
            let first = row;
            self.pairs.clear();
            while row < rows && self.pairs.len() < PAIR_LIMIT {
                while left.ends[window] as usize <= row {
                    window += 1;
                }
                let partners = if joinable[window] { right.with_start(window, left.starts[row]) } else { 0..0 };
                self.pairs.push_row(row as u32, partners);
                row += 1;
            }
            self.residual.filter(columns, LEFT, &mut self.pairs)?;
            for (nth, unmatched) in left_unmatched[first..row].iter_mut().enumerate() {
                let (row, matched) = (first + nth, self.pairs.of(nth));
                if matched.is_empty() {
                    continue;
                }
                let times = std::mem::replace(unmatched, 0);
                if self.kind == JoinKind::Semi {
                    for _ in 0..times {
                        self.output.push(row as u32, NO_ROW, ChangeKind::Insert);
                        self.output.flush_if_full(columns[0], emitted_right, out)?;
                    }
                }
                if is_left_only(self.kind) {
                    continue;
                }
                for partner in matched {
                    right_unmatched[*partner as usize] = 0;
                    for _ in 0..times * right.counts[*partner as usize] {
                        self.output.push(row as u32, *partner, ChangeKind::Insert);
                        self.output.flush_if_full(columns[0], emitted_right, out)?;
                    }
                }
            }
        }
        self.output.flush(columns[0], emitted_right, out)?;
        for (input, rows, counts) in [(LEFT, left, left_unmatched), (RIGHT, right, right_unmatched)] {
            if emits_unmatched(self.kind, input) {
                let other = &self.sides[1 - input].shape;
                emit_unmatched(input, self.kind, &rows.columns, other, &counts, &mut self.output, out)?;
            }
        }
        Ok(())
    }
}

/// When the window of each row ends.
fn window_ends(batch: &RecordBatch, window: WindowColumns) -> Result<ScalarBuffer<i64>, OperatorError> {
    let (starts, ends) = (batch.column(window.start), batch.column(window.end));
    if starts.null_count() + ends.null_count() > 0 {
        return Err(OperatorError::Failed("a row without a window has reached a window join".into()));
    }
    Ok(ends.as_primitive::<TimestampMicrosecondType>().values().clone())
}

/// Rows of one side as they come out of its state.
#[derive(Default)]
struct Taken {
    rows: EncodedRows,
    counts: Vec<i64>,
    of_window: Vec<u32>,
    /// Where the rows of each window end.
    ends: Vec<u32>,
}

impl Taken {
    /// Reads and removes the rows of one complete window.
    fn take_window(
        &mut self,
        id: OrderedStateId,
        due: &Due,
        window: usize,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        let (group, key) = (due.group(window), due.key(window));
        let prefix = TimePrefix::of(due.time_us(window));
        let place = [key, prefix.bytes()].concat();
        let first = self.counts.len();
        let mut result = Ok(());
        let mut namespace = prefix.bytes().to_vec();
        let side = state.ordered(id);
        side.scan_prefix(group, &place, |rest, value| {
            match Tally::decode(value) {
                Ok(tally) => self.counts.push(tally.count),
                Err(error) => {
                    result = Err(error);
                    return ControlFlow::Break(());
                }
            }
            namespace.truncate(TimePrefix::BYTES);
            namespace.extend_from_slice(rest);
            self.rows.push(&namespace);
            self.of_window.push(window as u32);
            ControlFlow::Continue(())
        })?;
        result?;
        (first..self.counts.len()).try_for_each(|row| side.delete(group, key, self.rows.row(row)))?;
        self.ends.push(self.counts.len() as u32);
        Ok(())
    }

    fn decode(self, side: &Side, key_columns: &[ArrayRef]) -> Result<WindowRows, OperatorError> {
        let columns = side.shape.decode(&take_rows(key_columns, self.of_window)?, &self.rows)?;
        let starts = columns[side.window.start].as_primitive::<TimestampMicrosecondType>().values().to_vec();
        Ok(WindowRows { columns, counts: self.counts, starts, ends: self.ends })
    }
}

/// Rows of one side in several complete windows (of several keys).
struct WindowRows {
    columns: Vec<ArrayRef>,
    counts: Vec<i64>,
    starts: Vec<i64>,
    /// Where the rows of each window end.
    ends: Vec<u32>,
}

impl WindowRows {
    /// Rows of a window (known by its end) that begins at `start`.
    fn with_start(&self, window: usize, start: i64) -> Range<u32> {
        let first = if window == 0 { 0 } else { self.ends[window - 1] };
        let starts = &self.starts[first as usize..self.ends[window] as usize];
        let from = starts.partition_point(|other| *other < start) as u32;
        let to = starts.partition_point(|other| *other <= start) as u32;
        first + from..first + to
    }
}

impl Operator for WindowJoin {
    fn process(
        &mut self,
        input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        _out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let (side, watermark) = (&mut self.sides[input], self.watermark);
        let ends = window_ends(&batch, side.window)?;
        let batch = drop_late(batch, context, |row| ends[row] <= watermark)?;
        let ends = window_ends(&batch, side.window)?;
        let changes = Changes::of(&batch, side.updating)?;
        let key_columns = side.shape.key_columns(&changes.columns);
        side.encoder.encode(&key_columns, changes.rows, context.state.max_parallelism(), &mut self.keys)?;
        side.shape.encode(&changes.columns, changes.rows, &mut self.own_rows)?;
        let nulls = any_null(&key_columns);
        for row in 0..changes.rows {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) && !emits_unmatched(self.kind, input) {
                continue;
            }
            let (group, key, namespace) = (self.keys.key_group(row), self.keys.key(row), self.own_rows.row(row));
            let own = context.state.ordered(side.state);
            let stored = own.get(group, key, namespace)?.map(Tally::decode).transpose()?;
            let count = stored.unwrap_or_default().count + if changes.is_retraction(row) { -1 } else { 1 };
            if count > 0 {
                own.put(group, key, namespace, Tally { count, matches: 0 }.encode(false, &mut [0; 17]))?;
                if stored.is_none() {
                    self.timers.set(context.state, group, key, ends[row])?;
                }
            } else if stored.is_some() {
                own.delete(group, key, namespace)?;
            }
        }
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        self.watermark = self.watermark.max(watermark.0);
        loop {
            let due = self.timers.take_due(context.state, self.watermark, BATCH_ROWS)?;
            if due.is_empty() {
                return Ok(());
            }
            self.join_windows(&due, context.state, out)?;
        }
    }
}
