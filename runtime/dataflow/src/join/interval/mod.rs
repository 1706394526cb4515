//! The interval join: rows of equal keys whose event times are near each other.
//!
//! A row leaves the state as soon as the watermark says that no partner can come for it any more, and outer rows
//! without a match are emitted then.

mod span;

use super::candidates::{Bounds, Candidates};
use super::pairs::{Pairs, Residual};
use super::{
    CANDIDATE_LIMIT, LEFT, PAIR_LIMIT, RIGHT, check_inputs, check_time, counts_matches, emit_unmatched,
    emits_unmatched, is_left_only,
};
use crate::keyed::{
    BatchKeys, Due, Gather, NO_KEY, NO_ROW, RowShape, Tally, TimePrefix, Timers, any_null, drop_late, take_rows,
    value_fields,
};
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use span::{Interval, within};
use std::ops::{ControlFlow, Range};
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{IntervalJoinSpec, JoinKind, StreamSchema};
use weir_model::{ChangeKind, StateKind, StateSchema, Watermark};
use weir_state::{EncodedRows, KeyBatch, KeyEncoder, KeyedState, OrderedState, OrderedStateId};

pub struct IntervalJoin {
    kind: JoinKind,
    sides: [Side; 2],
    interval: Interval,
    timers: Timers,
    residual: Residual,
    output: Gather,
    /// How far the times in the output may be behind the watermark.
    held_back_us: i64,
    watermark: i64,
    keys: KeyBatch,
    batch_keys: BatchKeys,
    own_rows: EncodedRows,
    candidates: Candidates,
    pairs: Pairs,
}

struct Side {
    state: OrderedStateId,
    shape: RowShape,
    encoder: KeyEncoder,
    time: usize,
    counts_matches: bool,
}

/// Exactly the states that `create` registers.
pub fn state_schemas(spec: &IntervalJoinSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
    let inputs = check_inputs(inputs, &spec.left_keys, &spec.right_keys)?;
    let left = side_shape(spec, LEFT, inputs[LEFT])?;
    let right = side_shape(spec, RIGHT, inputs[RIGHT])?;
    let timers = Timers::schema("timers", &left.key_fields);
    Ok(vec![side_schema(spec, LEFT, &left), side_schema(spec, RIGHT, &right), timers])
}

pub fn create(
    spec: &IntervalJoinSpec,
    inputs: &[StreamSchema],
    output: &StreamSchema,
    state: &mut KeyedState,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(Box::new(IntervalJoin::new(spec, inputs, output, state)?))
}

fn side_of(spec: &IntervalJoinSpec, input: usize) -> (&[usize], usize) {
    if input == LEFT { (&spec.left_keys, spec.left_time) } else { (&spec.right_keys, spec.right_time) }
}

fn side_shape(spec: &IntervalJoinSpec, input: usize, stream: &StreamSchema) -> Result<RowShape, OperatorError> {
    let (keys, time) = side_of(spec, input);
    check_time(stream, time)?;
    Ok(RowShape::new(&stream.fields, stream.value_columns(), keys, &[time])?)
}

fn side_schema(spec: &IntervalJoinSpec, input: usize, shape: &RowShape) -> StateSchema {
    let with_matches = counts_matches(spec.kind, input);
    let mut semantics = vec!["count of equal rows".to_string()];
    if with_matches {
        let condition = spec.residual.as_ref().map_or("equal keys", |residual| residual.sql());
        let (lower_us, upper_us) = (spec.lower_us, spec.upper_us);
        semantics.push(format!("whether matched by {condition} within [{lower_us}, {upper_us}] us"));
    }
    StateSchema {
        name: if input == LEFT { "left" } else { "right" }.into(),
        kind: StateKind::Map,
        key: shape.key_fields.clone(),
        namespace: shape.rest_fields.clone(),
        value: value_fields(with_matches),
        semantics,
    }
}

impl IntervalJoin {
    /// Rows and timers in state.
    #[cfg(test)]
    pub(super) fn entries(&self, state: &mut KeyedState) -> usize {
        let rows: usize = self.sides.iter().map(|side| state.ordered(side.state).len()).sum();
        rows + self.timers.len(state)
    }

    /// # Errors
    /// Updating inputs, keys that don't fit together, times that aren't timestamps, an empty interval.
    pub fn new(
        spec: &IntervalJoinSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        let inputs = check_inputs(inputs, &spec.left_keys, &spec.right_keys)?;
        if inputs.iter().any(|input| input.is_updating()) {
            return Err(OperatorError::Failed("an interval join takes append-only inputs alone".into()));
        }
        if spec.lower_us > spec.upper_us {
            return Err(OperatorError::Failed(format!(
                "no time is between the bounds of the interval join, {} us and {} us",
                spec.lower_us, spec.upper_us
            )));
        }
        let interval = Interval::new(spec.lower_us, spec.upper_us);
        let mut side = |input: usize| -> Result<Side, OperatorError> {
            let shape = side_shape(spec, input, inputs[input])?;
            Ok(Side {
                state: state.register_ordered(side_schema(spec, input, &shape))?,
                encoder: KeyEncoder::for_ordered(&shape.key_fields),
                shape,
                time: side_of(spec, input).1,
                counts_matches: counts_matches(spec.kind, input),
            })
        };
        let sides = [side(LEFT)?, side(RIGHT)?];
        let timers = Timers::register("timers", &sides[LEFT].shape.key_fields, state)?;
        let times = [spec.left_time, inputs[LEFT].value_columns() + spec.right_time];
        let held_back = [LEFT, RIGHT].into_iter().filter(|input| output.time_columns.contains(&times[*input]));
        Ok(IntervalJoin {
            kind: spec.kind,
            held_back_us: held_back.map(|input| interval.held_back_us(input)).max().unwrap_or(0),
            sides,
            interval,
            timers,
            residual: Residual::new(spec.residual.clone(), inputs),
            output: Gather::new(output),
            watermark: i64::MIN,
            keys: KeyBatch::new(),
            batch_keys: BatchKeys::default(),
            own_rows: EncodedRows::default(),
            candidates: Candidates::default(),
            pairs: Pairs::default(),
        })
    }

    /// Reads the candidates for rows from `from` on; up to which row there was room for them.
    fn read_candidates(
        &mut self,
        input: usize,
        from: usize,
        times: &ScalarBuffer<i64>,
        other: &mut OrderedState,
    ) -> Result<usize, OperatorError> {
        let of_row = &self.batch_keys.of_row;
        // One read per key has to serve all its rows in the batch.
        let mut spans = vec![(i64::MAX, i64::MIN); self.batch_keys.len()];
        for (row, key) in of_row.iter().enumerate().skip(from).filter(|(_, key)| **key != NO_KEY) {
            let (first, last) = self.interval.partners(input, times[row]);
            let span = &mut spans[*key as usize];
            *span = (span.0.min(first), span.1.max(last));
        }
        self.candidates.clear(self.batch_keys.len());
        for (row, key) in of_row.iter().enumerate().skip(from) {
            if self.candidates.has_read(*key) {
                continue;
            }
            if self.candidates.len() >= CANDIDATE_LIMIT {
                return Ok(row);
            }
            let (first, last) = spans[*key as usize];
            let (first, beyond) = (TimePrefix::of(first), last.checked_add(1).map(TimePrefix::of));
            let bounds = Bounds { from: first.bytes(), to: beyond.as_ref().map(TimePrefix::bytes) };
            self.candidates.read(*key, &self.batch_keys, &self.keys, bounds, other)?;
        }
        Ok(of_row.len())
    }

    fn join_rows(
        &mut self,
        input: usize,
        own_columns: &[ArrayRef],
        rows: Range<usize>,
        state: &mut KeyedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let [own, other] = [&self.sides[input], &self.sides[1 - input]];
        let own_keys = own.shape.key_columns(own_columns);
        let times = own_columns[own.time].as_primitive::<TimestampMicrosecondType>().values().clone();
        let partners = self.candidates.columns(&other.shape, &self.batch_keys, &own_keys)?;
        let partner_times = partners[other.time].as_primitive::<TimestampMicrosecondType>().values().clone();
        let columns = if input == LEFT { [own_columns, &partners] } else { [&partners, own_columns] };
        let emitted_right = if is_left_only(self.kind) { &[] } else { columns[1] };
        let mut row = rows.start;
        while row < rows.end {
            let first = row;
            self.pairs.clear();
            while row < rows.end && self.pairs.len() < PAIR_LIMIT {
                let key = self.batch_keys.of_row[row];
                let near =
                    within(&partner_times, self.candidates.of_key(key), self.interval.partners(input, times[row]));
                self.pairs.push_row(row as u32, near);
                row += 1;
            }
            self.residual.filter(columns, input, &mut self.pairs)?;
            for row in first..row {
                for partner in self.pairs.of(row - first) {
                    let tally = self.candidates.tally(*partner);
                    let first_match = self.sides[1 - input].counts_matches && tally.matches == 0;
                    let (left, right) = if input == LEFT { (row as u32, *partner) } else { (*partner, row as u32) };
                    // Of a semi join's left row only the first match is news, and of an anti join's none.
                    let (right, times) = match self.kind {
                        JoinKind::Anti => (NO_ROW, 0),
                        JoinKind::Semi if input == LEFT => (NO_ROW, 0),
                        JoinKind::Semi => (NO_ROW, if first_match { tally.count } else { 0 }),
                        _ => (right, tally.count),
                    };
                    for _ in 0..times {
                        self.output.push(left, right, ChangeKind::Insert);
                        self.output.flush_if_full(columns[0], emitted_right, out)?;
                    }
                    if first_match {
                        self.candidates.set_matches(*partner, 1);
                    }
                }
                let matched = !self.pairs.of(row - first).is_empty();
                if matched && self.kind == JoinKind::Semi && input == LEFT {
                    self.output.push(row as u32, NO_ROW, ChangeKind::Insert);
                }
                let stays =
                    self.batch_keys.of_row[row] != NO_KEY && self.interval.expiry(input, times[row]) > self.watermark;
                if stays {
                    self.keep(input, row, times[row], matched, state)?;
                } else if !matched && emits_unmatched(self.kind, input) {
                    let (left, right) = if input == LEFT { (row as u32, NO_ROW) } else { (NO_ROW, row as u32) };
                    self.output.push(left, right, ChangeKind::Insert);
                }
                self.output.flush_if_full(columns[0], emitted_right, out)?;
            }
        }
        self.output.flush(columns[0], emitted_right, out)
    }

    fn keep(
        &mut self,
        input: usize,
        row: usize,
        time: i64,
        matched: bool,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        let Side { state: id, counts_matches, .. } = self.sides[input];
        let (group, key, namespace) = (self.keys.key_group(row), self.keys.key(row), self.own_rows.row(row));
        let own = state.ordered(id);
        let stored = own.get(group, key, namespace)?.map(Tally::decode).transpose()?;
        let count = stored.unwrap_or_default().count + 1;
        let tally = Tally { count, matches: matched as i64 };
        own.put(group, key, namespace, tally.encode(counts_matches, &mut [0; 17]))?;
        if stored.is_none() {
            let timer = self.interval.timer(self.interval.expiry(input, time));
            self.timers.set(state, group, key, timer)?;
        }
        Ok(())
    }

    /// Removes the expired rows of these keys, and emits those that had no match.
    fn expire(&mut self, due: &Due, state: &mut KeyedState, out: &mut dyn Collector) -> Result<(), OperatorError> {
        for input in [LEFT, RIGHT] {
            let Side { state: id, ref shape, .. } = self.sides[input];
            let below = self.interval.expired_below(input, self.watermark).map(TimePrefix::of);
            let unmatched_go_out = emits_unmatched(self.kind, input);
            let side = state.ordered(id);
            let key_columns = due.key_columns(&shape.key_fields)?;
            let mut nth = 0;
            while nth < due.len() {
                let (mut gone, mut counts, mut of_key) = (EncodedRows::default(), vec![], vec![]);
                while nth < due.len() && gone.len() < BATCH_ROWS {
                    let (already, mut result) = (gone.len(), Ok(()));
                    side.scan_prefix(due.group(nth), due.key(nth), |namespace, value| {
                        if below.as_ref().is_some_and(|below| namespace >= below.bytes()) {
                            return ControlFlow::Break(());
                        }
                        match Tally::decode(value) {
                            Ok(tally) => counts.push(if tally.matches == 0 { tally.count } else { 0 }),
                            Err(error) => {
                                result = Err(error);
                                return ControlFlow::Break(());
                            }
                        }
                        gone.push(namespace);
                        of_key.push(nth as u32);
                        ControlFlow::Continue(())
                    })?;
                    result?;
                    // At once: the next timer may be of the same key.
                    for row in already..gone.len() {
                        side.delete(due.group(nth), due.key(nth), gone.row(row))?;
                    }
                    nth += 1;
                }
                if unmatched_go_out && counts.iter().any(|count| *count > 0) {
                    let rows = shape.decode(&take_rows(&key_columns, of_key)?, &gone)?;
                    emit_unmatched(
                        input,
                        self.kind,
                        &rows,
                        &self.sides[1 - input].shape,
                        &counts,
                        &mut self.output,
                        out,
                    )?;
                }
            }
        }
        Ok(())
    }
}

impl Operator for IntervalJoin {
    fn process(
        &mut self,
        input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let (side, watermark) = (&mut self.sides[input], self.watermark);
        let times = batch.column(side.time).as_primitive::<TimestampMicrosecondType>().clone();
        let batch = drop_late(batch, context, |row| times.is_valid(row) && times.value(row) < watermark)?;
        let (columns, rows) = (batch.columns(), batch.num_rows());
        let key_columns = side.shape.key_columns(columns);
        side.encoder.encode(&key_columns, rows, context.state.max_parallelism(), &mut self.keys)?;
        side.shape.encode(columns, rows, &mut self.own_rows)?;
        let times = columns[side.time].as_primitive::<TimestampMicrosecondType>();
        // A row without a time is within no interval, as one without a key equals none.
        let nulls = NullBuffer::union(any_null(&key_columns).as_ref(), times.nulls());
        self.batch_keys.assign(&self.keys, nulls.as_ref());
        let other = self.sides[1 - input].state;
        let mut from = 0;
        while from < rows {
            let to = self.read_candidates(input, from, times.values(), context.state.ordered(other))?;
            self.join_rows(input, columns, from..to, context.state, out)?;
            self.candidates.write_back(&self.batch_keys, &self.keys, context.state.ordered(other))?;
            from = to;
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
            self.expire(&due, context.state, out)?;
        }
    }

    fn output_watermark(&self, watermark: Watermark) -> Watermark {
        match watermark {
            Watermark::MAX => watermark,
            Watermark(time) => Watermark(time.saturating_sub(self.held_back_us)),
        }
    }
}
