//! DISTINCT over sessions: a session's values are kept under its start, move when sessions merge, and are
//! aggregated only when a result is due, since distinct results can't be put together of parts.

use super::argument::Argument;
use super::block::RowBlock;
use super::selection::Selection;
use super::set::{AggregateSet, Batch, Bound, Side};
use crate::operator::OperatorError;
use arrow::array::ArrayRef;
use weir_model::KeyGroup;
use weir_state::KeyedState;

/// A session as its values are filed: key group, key bytes, encoded start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionKey<'a> {
    pub(crate) group: KeyGroup,
    pub(crate) key: &'a [u8],
    pub(crate) start: &'a [u8],
}

impl AggregateSet {
    /// Files the values of the selected rows under their sessions: `batch.namespace` has the session's start for
    /// each row, as it is after all merging.
    pub(crate) fn file_values(
        &mut self,
        batch: &Batch<'_>,
        selection: &Selection<'_>,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        for bound in &mut self.aggregates {
            let argument = bound.argument(batch)?;
            let rows = bound.rows(batch, selection, &argument);
            if let (Some(Side::Values(values)), Some(column)) = (&mut bound.side, bound.aggregate.call.argument) {
                values.apply(state.ordered(values.state()), &batch.columns[column], batch, &rows)?;
            }
        }
        Ok(())
    }

    /// Moves the values of a session whose start has changed.
    pub(crate) fn move_values(
        &mut self,
        from: SessionKey<'_>,
        to_start: &[u8],
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        self.filed_values().try_for_each(|(_, values)| values.move_under(state, from, to_start))
    }

    pub(crate) fn forget_session(
        &mut self,
        session: SessionKey<'_>,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        self.filed_values().try_for_each(|(_, values)| values.delete_under(state, session))
    }

    /// Aggregates the filed values of sessions into their rows of the block.
    pub(crate) fn aggregate_values<'a>(
        &mut self,
        block: &mut RowBlock,
        sessions: impl Iterator<Item = (u32, SessionKey<'a>)> + Clone,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        for (aggregate, values) in self.filed_values() {
            let (column, rows): (ArrayRef, Vec<u32>) = values.read(state, sessions.clone())?;
            let all: Vec<(u32, i8)> = (0..rows.len() as u32).map(|row| (row, 1)).collect();
            let argument = Argument::new(&column, &aggregate.argument_shape())?;
            aggregate.update(block, &rows, &argument, &Selection::Listed(&all))?;
        }
        Ok(())
    }

    pub(crate) fn has_filed_values(&self) -> bool {
        self.aggregates.iter().any(|bound| matches!(bound.side, Some(Side::Values(_))))
    }

    fn filed_values(&mut self) -> impl Iterator<Item = (&super::function::Aggregate, &mut super::values::ValueCounts)> {
        self.aggregates.iter_mut().filter_map(|Bound { aggregate, side }| match side {
            Some(Side::Values(values)) => Some((&*aggregate, values)),
            _ => None,
        })
    }
}
