//! Sources whose row n is a function of n: made in any order, from any row on, at any parallelism.
//!
//! Rows are dealt out in blocks over a fixed number of splits (block b belongs to split b modulo their number), so
//! that the rows of all splits together are the same whatever the parallelism. A subtask makes the rows of its
//! splits in ascending order: time columns that ascend with n stay in order.

mod mix;
mod rate;

pub(crate) use mix::{Permutation, mix, uniform};

use crate::api::{ConnectorError, Poll, SourceContext, SourceReader, SplitState};
use arrow::record_batch::RecordBatch;
use rate::RateLimit;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Splits where the configuration doesn't say: no more subtasks than this have rows to make.
pub const DEFAULT_SPLITS: u32 = 64;
/// Rows of one block. Part of what positions mean, so it must stay as it is.
const BLOCK_ROWS: u64 = 8192;

/// Makes rows by their numbers.
pub(crate) trait RowMaker: Send {
    /// The rows `first .. first + count`; fewer where a number has no row.
    fn make(&mut self, first: u64, count: usize) -> Result<RecordBatch, ConnectorError>;
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbering {
    /// Rows 0 up to this one; without end if `None`.
    pub count: Option<u64>,
    pub splits: u32,
    /// Over all subtasks.
    pub rows_per_second: Option<u64>,
}

pub(crate) struct NumberedReader<M> {
    maker: M,
    end: u64,
    splits: u32,
    /// Next row of each split that this reader owns and that has rows left, the lowest first.
    next: BinaryHeap<Reverse<u64>>,
    /// Position of each owned split that has none left.
    finished: Vec<u64>,
    rate: Option<RateLimit>,
}

/// A split's position.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    next_row: u64,
    /// The number of splits that rows are dealt out over.
    splits: u32,
}

impl<M: RowMaker> NumberedReader<M> {
    pub fn open(
        maker: M,
        numbering: Numbering,
        context: &SourceContext,
        restored: &[SplitState],
    ) -> Result<Self, ConnectorError> {
        let (splits, positions) = positions(numbering, context, restored)?;
        let end = numbering.count.unwrap_or(u64::MAX);
        let (mut next, mut finished) = (BinaryHeap::new(), Vec::new());
        for (split, row) in positions {
            if split % context.parallelism == context.subtask {
                if row < end { next.push(Reverse(row)) } else { finished.push(row) }
            }
        }
        let share = (next.len() + finished.len()) as f64 / f64::from(splits);
        let rate = numbering.rows_per_second.map(|rate| RateLimit::new(rate as f64 * share, Instant::now()));
        Ok(NumberedReader { maker, end, splits, next, finished, rate })
    }
}

impl<M: RowMaker> SourceReader for NumberedReader<M> {
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        let Some(&Reverse(first)) = self.next.peek() else { return Ok(Poll::End) };
        let mut rows = (BLOCK_ROWS - first % BLOCK_ROWS).min(self.end - first).min(max_rows.max(1) as u64);
        if let Some(rate) = &mut self.rate {
            match rate.take(rows, Instant::now()) {
                Ok(allowed) => rows = allowed,
                Err(retry_after) => return Ok(Poll::Pending { retry_after }),
            }
        }
        let batch = self.maker.make(first, rows as usize)?;
        self.next.pop();
        let mut next = first + rows;
        if next.is_multiple_of(BLOCK_ROWS) {
            next = next.saturating_add(u64::from(self.splits - 1) * BLOCK_ROWS);
        }
        if next < self.end {
            self.next.push(Reverse(next))
        } else {
            self.finished.push(next)
        }
        if batch.num_rows() == 0 {
            return Ok(Poll::Pending { retry_after: Duration::ZERO });
        }
        Ok(Poll::Batch { batch, split: 0, rejected: None })
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        let rows = self.next.iter().map(|Reverse(row)| *row).chain(self.finished.iter().copied());
        let mut states: Vec<_> = rows.map(|row| (split_of(row, self.splits), row)).collect();
        states.sort_unstable();
        let state = |(split, next_row): (u32, u64)| SplitState {
            split: split.to_string(),
            position: serde_json::json!({ "next_row": next_row, "splits": self.splits }),
        };
        Ok(states.into_iter().map(state).collect())
    }
}

fn split_of(row: u64, splits: u32) -> u32 {
    (row / BLOCK_ROWS % u64::from(splits)) as u32
}

/// The number of splits, and the next row of each: as restored, or from the first row on.
fn positions(
    numbering: Numbering,
    context: &SourceContext,
    restored: &[SplitState],
) -> Result<(u32, Vec<(u32, u64)>), ConnectorError> {
    if restored.is_empty() {
        let splits = numbering.splits.max(1);
        return Ok((splits, (0..splits).map(|split| (split, u64::from(split) * BLOCK_ROWS)).collect()));
    }
    let unreadable = |state: &SplitState, reason: String| {
        ConnectorError::Permanent(format!(
            "source `{}`: the checkpoint's position of split {} can't be read: {reason}",
            context.name, state.split
        ))
    };
    let mut splits = None;
    let mut positions = Vec::with_capacity(restored.len());
    for state in restored {
        let position: Position =
            serde_json::from_value(state.position.clone()).map_err(|error| unreadable(state, error.to_string()))?;
        let Position { next_row, splits: of } = position;
        if of == 0 || *splits.get_or_insert(of) != of || split_of(next_row, of).to_string() != state.split {
            return Err(unreadable(state, format!("row {next_row} of {of} splits doesn't fit the others")));
        }
        positions.push((split_of(next_row, of), next_row));
    }
    Ok((splits.unwrap_or(1), positions))
}
