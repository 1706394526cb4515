//! The regular join: both sides stay in state, and every change of either changes the result.

use super::candidates::{Bounds, Candidates};
use super::pairs::{Pairs, Residual};
use super::{CANDIDATE_LIMIT, LEFT, PAIR_LIMIT, RIGHT, check_inputs, counts_matches, emits_unmatched, is_left_only};
use crate::keyed::{BatchKeys, Changes, Gather, NO_KEY, NO_ROW, RowShape, Tally, any_null, value_fields};
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use std::ops::Range;
use weir_model::graph::{JoinKind, JoinSpec, StreamSchema};
use weir_model::{ChangeKind, StateKind, StateSchema};
use weir_state::{EncodedRows, KeyBatch, KeyEncoder, KeyedState, OrderedState, OrderedStateId, StateOptions};

/// Emits inserts and deletes alone: a change of one input row may change any number of output rows, so that
/// there are no update pairs to speak of.
pub struct Join {
    kind: JoinKind,
    sides: [Side; 2],
    residual: Residual,
    output: Gather,
    // From batch to batch only their memory is kept.
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
    updating: bool,
    counts_matches: bool,
}

/// Exactly the states that `create` registers.
pub fn state_schemas(spec: &JoinSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
    let inputs = check_inputs(inputs, &spec.left_keys, &spec.right_keys)?;
    let schema = |input: usize| Ok(side_schema(spec, input, &side_shape(spec, input, inputs[input])?));
    [LEFT, RIGHT].into_iter().map(schema).collect()
}

pub fn create(
    spec: &JoinSpec,
    inputs: &[StreamSchema],
    output: &StreamSchema,
    state: &mut KeyedState,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(Box::new(Join::new(spec, inputs, output, state)?))
}

fn side_shape(spec: &JoinSpec, input: usize, stream: &StreamSchema) -> Result<RowShape, OperatorError> {
    let keys = if input == LEFT { &spec.left_keys } else { &spec.right_keys };
    Ok(RowShape::new(&stream.fields, stream.value_columns(), keys, &[])?)
}

fn side_schema(spec: &JoinSpec, input: usize, shape: &RowShape) -> StateSchema {
    let with_matches = counts_matches(spec.kind, input);
    let mut semantics = vec!["count of equal rows".to_string()];
    if with_matches {
        let condition = spec.residual.as_ref().map_or("equal keys", |residual| residual.sql());
        semantics.push(format!("count of matches by {condition}"));
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

impl Join {
    /// # Errors
    /// Inputs whose keys don't fit together, an output that can't say what the join has to, types that
    /// state can't hold.
    pub fn new(
        spec: &JoinSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        let inputs = check_inputs(inputs, &spec.left_keys, &spec.right_keys)?;
        let updating = inputs.iter().any(|input| input.is_updating());
        if !output.is_updating() && (updating || !matches!(spec.kind, JoinKind::Inner | JoinKind::Semi)) {
            return Err(OperatorError::Failed(format!("the output of a {:?} join must be updating", spec.kind)));
        }
        let mut side = |input: usize| -> Result<Side, OperatorError> {
            let shape = side_shape(spec, input, inputs[input])?;
            Ok(Side {
                state: state.register_ordered_with(
                    side_schema(spec, input, &shape),
                    StateOptions { ttl_ms: spec.state_ttl_ms },
                )?,
                encoder: KeyEncoder::for_ordered(&shape.key_fields),
                shape,
                updating: inputs[input].is_updating(),
                counts_matches: counts_matches(spec.kind, input),
            })
        };
        Ok(Join {
            kind: spec.kind,
            sides: [side(LEFT)?, side(RIGHT)?],
            residual: Residual::new(spec.residual.clone(), inputs),
            output: Gather::new(output),
            keys: KeyBatch::new(),
            batch_keys: BatchKeys::default(),
            own_rows: EncodedRows::default(),
            candidates: Candidates::default(),
            pairs: Pairs::default(),
        })
    }

    /// Reads the candidates for rows from `from` on; up to which row there was room for them.
    fn read_candidates(&mut self, from: usize, other: &mut OrderedState) -> Result<usize, OperatorError> {
        let rows = self.batch_keys.of_row.len();
        self.candidates.clear(self.batch_keys.len());
        for row in from..rows {
            let key = self.batch_keys.of_row[row];
            if self.candidates.has_read(key) {
                continue;
            }
            if self.candidates.len() >= CANDIDATE_LIMIT {
                return Ok(row);
            }
            self.candidates.read(key, &self.batch_keys, &self.keys, Bounds::ALL, other)?;
        }
        Ok(rows)
    }

    /// Emits what these rows of `input` change, and notes them in its state.
    fn join_rows(
        &mut self,
        input: usize,
        changes: &Changes,
        key_columns: &[ArrayRef],
        rows: Range<usize>,
        own: &mut OrderedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let other = &self.sides[1 - input];
        let partners = self.candidates.columns(&other.shape, &self.batch_keys, key_columns)?;
        let own_columns: &[ArrayRef] = &changes.columns;
        let columns = if input == LEFT { [own_columns, &partners] } else { [&partners, own_columns] };
        let emitted_right = if is_left_only(self.kind) { &[] } else { columns[1] };
        let mut row = rows.start;
        while row < rows.end {
            let first = row;
            self.pairs.clear();
            while row < rows.end && self.pairs.len() < PAIR_LIMIT {
                self.pairs.push_row(row as u32, self.candidates.of_key(self.batch_keys.of_row[row]));
                row += 1;
            }
            self.residual.filter(columns, input, &mut self.pairs)?;
            for row in first..row {
                let change = RowChange { input, row: row as u32, retracts: changes.is_retraction(row) };
                let mut emission = Emission { output: &mut self.output, columns: [columns[0], emitted_right], out };
                let matched = self.pairs.of(row - first);
                let matches = matched.iter().map(|partner| self.candidates.tally(*partner).count).sum();
                match is_left_only(self.kind) {
                    true => emit_left_only(self.kind, change, matched, matches, &mut self.candidates, &mut emission)?,
                    false => emit_pairs(self.kind, change, matched, matches, &mut self.candidates, &mut emission)?,
                }
                if self.batch_keys.of_row[row] != NO_KEY {
                    let counted = self.sides[input].counts_matches;
                    keep(own, &self.keys, &self.own_rows, change, counted.then_some(matches))?;
                }
            }
        }
        self.output.flush(columns[0], emitted_right, out)
    }
}

impl Operator for Join {
    fn process(
        &mut self,
        input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let side = &mut self.sides[input];
        let changes = Changes::of(&batch, side.updating)?;
        let key_columns = side.shape.key_columns(&changes.columns);
        side.encoder.encode(&key_columns, changes.rows, context.state.max_parallelism(), &mut self.keys)?;
        side.shape.encode(&changes.columns, changes.rows, &mut self.own_rows)?;
        self.batch_keys.assign(&self.keys, any_null(&key_columns).as_ref());
        let [own, other] = [self.sides[input].state, self.sides[1 - input].state];
        let mut from = 0;
        while from < changes.rows {
            let to = self.read_candidates(from, context.state.ordered(other))?;
            self.join_rows(input, &changes, &key_columns, from..to, context.state.ordered(own), out)?;
            self.candidates.write_back(&self.batch_keys, &self.keys, context.state.ordered(other))?;
            from = to;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct RowChange {
    input: usize,
    row: u32,
    retracts: bool,
}

impl RowChange {
    fn kind(self) -> ChangeKind {
        if self.retracts { ChangeKind::Delete } else { ChangeKind::Insert }
    }
}

/// Where output goes, with the columns that its indices refer to.
struct Emission<'a> {
    output: &'a mut Gather,
    columns: [&'a [ArrayRef]; 2],
    out: &'a mut dyn Collector,
}

impl Emission<'_> {
    /// Emits a row `times` times; `own` is a row of `input` and `partner` one of the other side.
    fn emit(
        &mut self,
        input: usize,
        own: u32,
        partner: u32,
        kind: ChangeKind,
        times: i64,
    ) -> Result<(), OperatorError> {
        let (left, right) = if input == LEFT { (own, partner) } else { (partner, own) };
        for _ in 0..times {
            self.output.push(left, right, kind);
            self.output.flush_if_full(self.columns[0], self.columns[1], self.out)?;
        }
        Ok(())
    }
}

/// Inner and outer joins. An outer row that gets its first match takes its null-padded row back before, and one
/// that loses its last match gets it again after.
fn emit_pairs(
    kind: JoinKind,
    change: RowChange,
    matched: &[u32],
    matches: i64,
    candidates: &mut Candidates,
    emission: &mut Emission<'_>,
) -> Result<(), OperatorError> {
    let RowChange { input, row, retracts } = change;
    if matches == 0 && emits_unmatched(kind, input) {
        return emission.emit(input, row, NO_ROW, change.kind(), 1);
    }
    let other_padded = emits_unmatched(kind, 1 - input);
    for partner in matched {
        let tally = candidates.tally(*partner);
        if other_padded && !retracts {
            if tally.matches == 0 {
                emission.emit(input, NO_ROW, *partner, ChangeKind::Delete, tally.count)?;
            }
            candidates.set_matches(*partner, tally.matches + 1);
        }
        emission.emit(input, row, *partner, change.kind(), tally.count)?;
        // A match that was never counted (its row outlived a time-to-live) isn't taken off.
        if other_padded && retracts && tally.matches > 0 {
            if tally.matches == 1 {
                emission.emit(input, NO_ROW, *partner, ChangeKind::Insert, tally.count)?;
            }
            candidates.set_matches(*partner, tally.matches - 1);
        }
    }
    Ok(())
}

/// Semi and anti joins: left rows by whether they have a match.
fn emit_left_only(
    kind: JoinKind,
    change: RowChange,
    matched: &[u32],
    matches: i64,
    candidates: &mut Candidates,
    emission: &mut Emission<'_>,
) -> Result<(), OperatorError> {
    let RowChange { input, row, retracts } = change;
    let semi = kind == JoinKind::Semi;
    if input == LEFT {
        return if (matches > 0) == semi { emission.emit(LEFT, row, NO_ROW, change.kind(), 1) } else { Ok(()) };
    }
    for partner in matched {
        let tally = candidates.tally(*partner);
        let now = if retracts { (tally.matches - 1).max(0) } else { tally.matches + 1 };
        if (tally.matches > 0) != (now > 0) {
            let appears = (now > 0) == semi;
            let kind = if appears { ChangeKind::Insert } else { ChangeKind::Delete };
            emission.emit(LEFT, *partner, NO_ROW, kind, tally.count)?;
        }
        candidates.set_matches(*partner, now);
    }
    Ok(())
}

/// Counts the row in, or out. A retraction of a row that isn't there (any more) changes nothing.
fn keep(
    own: &mut OrderedState,
    keys: &KeyBatch,
    rows: &EncodedRows,
    change: RowChange,
    matches: Option<i64>,
) -> Result<(), OperatorError> {
    let row = change.row as usize;
    let (group, key, namespace) = (keys.key_group(row), keys.key(row), rows.row(row));
    let stored = own.get(group, key, namespace)?.map(Tally::decode).transpose()?;
    let count = stored.unwrap_or_default().count + if change.retracts { -1 } else { 1 };
    if count > 0 {
        let tally = Tally { count, matches: matches.unwrap_or(0) };
        own.put(group, key, namespace, tally.encode(matches.is_some(), &mut [0; 17]))?;
    } else if stored.is_some() {
        own.delete(group, key, namespace)?;
    }
    Ok(())
}
