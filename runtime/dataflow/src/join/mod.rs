//! Joins of two inputs by equal keys: regular (both sides kept), by time interval, and by window.
//!
//! All three go the same way: the rows of the other side that may match (candidates) are read from state once per
//! key and batch, pairs of rows are formed as indices, the residual condition is evaluated over the pairs as
//! one batch, and the output is gathered by index. A key with a null in it equals no key.

mod candidates;
pub mod interval;
mod pairs;
pub mod regular;
pub mod window;

#[cfg(test)]
mod tests;

pub use interval::IntervalJoin;
pub use regular::Join;
pub use window::WindowJoin;

use crate::keyed::{Gather, NO_ROW, RowShape};
use crate::operator::{Collector, OperatorError};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use weir_model::ChangeKind;
use weir_model::graph::{JoinKind, StreamSchema};

/// Candidates that are read before rows are joined; more only if a single key has more.
const CANDIDATE_LIMIT: usize = if cfg!(test) { 5 } else { 1 << 16 };
/// Pairs that are formed before the residual is evaluated; more only if a single row has more.
const PAIR_LIMIT: usize = if cfg!(test) { 3 } else { 1 << 15 };

pub(crate) const LEFT: usize = 0;
pub(crate) const RIGHT: usize = 1;

/// Whether a row of this input without a match is emitted, padded with nulls (or alone, for Anti).
fn emits_unmatched(kind: JoinKind, input: usize) -> bool {
    match kind {
        JoinKind::Inner | JoinKind::Semi => false,
        JoinKind::Left | JoinKind::Anti => input == LEFT,
        JoinKind::Right => input == RIGHT,
        JoinKind::Full => true,
    }
}

/// Whether what is emitted for a row of this input depends on its having any match.
fn counts_matches(kind: JoinKind, input: usize) -> bool {
    emits_unmatched(kind, input) || (kind == JoinKind::Semi && input == LEFT)
}

/// Whether the output has the left columns alone.
fn is_left_only(kind: JoinKind) -> bool {
    matches!(kind, JoinKind::Semi | JoinKind::Anti)
}

/// Refuses inputs that the planner should not have joined this way.
fn check_inputs<'a>(
    inputs: &'a [StreamSchema],
    left_keys: &[usize],
    right_keys: &[usize],
) -> Result<[&'a StreamSchema; 2], OperatorError> {
    let [left, right] = inputs else {
        return Err(OperatorError::Failed(format!("a join has two inputs, not {}", inputs.len())));
    };
    if left_keys.len() != right_keys.len() {
        let (lefts, rights) = (left_keys.len(), right_keys.len());
        return Err(OperatorError::Failed(format!("{lefts} key columns on the left of a join, {rights} on the right")));
    }
    for (left_key, right_key) in left_keys.iter().zip(right_keys) {
        let (left, right) = (left.fields.field(*left_key), right.fields.field(*right_key));
        if left.data_type() != right.data_type() {
            return Err(OperatorError::Failed(format!(
                "the join compares `{}` ({}) with `{}` ({}): cast one to the type of the other",
                left.name(),
                left.data_type(),
                right.name(),
                right.data_type()
            )));
        }
    }
    Ok([left, right])
}

/// Event times of joins are microseconds.
fn check_time(stream: &StreamSchema, column: usize) -> Result<(), OperatorError> {
    let field = stream.fields.field(column);
    match field.data_type() {
        DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _) => Ok(()),
        other => Err(OperatorError::Failed(format!("the time column `{}` is {other}, not TIMESTAMP", field.name()))),
    }
}

/// Emits rows of `input` that have no match, each as often as `counts` says.
fn emit_unmatched(
    input: usize,
    kind: JoinKind,
    rows: &[ArrayRef],
    other: &RowShape,
    counts: &[i64],
    output: &mut Gather,
    out: &mut dyn Collector,
) -> Result<(), OperatorError> {
    let nothing = other.no_rows();
    let columns: [&[ArrayRef]; 2] = match (input, is_left_only(kind)) {
        (_, true) => [rows, &[]],
        (LEFT, _) => [rows, &nothing],
        _ => [&nothing, rows],
    };
    for (row, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            let (left, right) = if input == LEFT { (row as u32, NO_ROW) } else { (NO_ROW, row as u32) };
            output.push(left, right, ChangeKind::Insert);
            output.flush_if_full(columns[0], columns[1], out)?;
        }
    }
    output.flush(columns[0], columns[1], out)
}
