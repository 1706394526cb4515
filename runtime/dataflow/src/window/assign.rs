//! Window assignment as columns: what the TUMBLE and HOP table functions give.

use super::bounds::{Grid, WINDOW_TIME_BEFORE_END_US};
use super::times::event_times;
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{ArrayRef, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{StreamSchema, TimeDomain, WindowAssignSpec, WindowKind};

/// Appends `window_start`, `window_end` and `window_time` to each row, before the change kind of an updating
/// stream; a row of `n` hopping windows becomes `n` rows, earliest window first.
pub struct WindowAssign {
    grid: Grid,
    time: TimeDomain,
    schema: SchemaRef,
    /// Input columns that stand before the window columns.
    value_columns: usize,
    slice_ends: Vec<i64>,
}

impl WindowAssign {
    pub fn new(spec: &WindowAssignSpec, input: &StreamSchema, output: &StreamSchema) -> Result<Self, OperatorError> {
        let grid = match spec.window {
            WindowKind::Tumble { size_us, offset_us } => Grid::new(size_us, size_us, offset_us),
            WindowKind::Hop { size_us, slide_us, offset_us } => Grid::new(size_us, slide_us, offset_us),
            WindowKind::Session { .. } => {
                Err("a session's bounds are known at its end only: aggregate over SESSION directly".to_string())
            }
        };
        Ok(WindowAssign {
            grid: grid.map_err(OperatorError::Failed)?,
            time: spec.time,
            schema: output.fields.clone(),
            value_columns: input.value_columns(),
            slice_ends: vec![],
        })
    }

    /// The rows `indices` of the input (all, if `None`) with the windows that end at `ends`.
    fn assigned(
        &self,
        batch: &RecordBatch,
        indices: Option<UInt32Array>,
        ends: Vec<i64>,
    ) -> Result<RecordBatch, OperatorError> {
        let times = |shift: i64| {
            let times = ends.iter().map(|end| end.saturating_sub(shift)).collect::<Vec<_>>();
            Arc::new(TimestampMicrosecondArray::from(times)) as ArrayRef
        };
        let windows = [times(self.grid.size_us), times(0), times(WINDOW_TIME_BEFORE_END_US)];
        let mut columns = match &indices {
            None => batch.columns().to_vec(),
            Some(indices) => {
                batch.columns().iter().map(|column| take(column, indices, None)).collect::<Result<Vec<_>, _>>()?
            }
        };
        columns.splice(self.value_columns..self.value_columns, windows);
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Operator for WindowAssign {
    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let mut ends = std::mem::take(&mut self.slice_ends);
        match self.time {
            TimeDomain::EventTime { column } => self.grid.slice_ends(event_times(&batch, column)?, &mut ends),
            TimeDomain::ProcessingTime => {
                let now = [context.processing_time_us];
                self.grid.slice_ends(&now, &mut ends);
                ends.resize(batch.num_rows(), ends[0]);
            }
        }
        let windows = self.grid.windows_per_row();
        if windows == 1 {
            return out.emit(self.assigned(&batch, None, ends)?);
        }
        // A row times its windows may be far more than a batch: whole rows at a time, at least one.
        let rows_at_once = (BATCH_ROWS / windows).max(1);
        for first in (0..batch.num_rows()).step_by(rows_at_once) {
            let rows = first..(first + rows_at_once).min(batch.num_rows());
            let indices = rows.clone().flat_map(|row| std::iter::repeat_n(row as u32, windows)).collect::<Vec<_>>();
            let window_ends = rows.flat_map(|row| {
                (0..windows).map(|n| ends[row].saturating_add(n as i64 * self.grid.slide_us)).collect::<Vec<_>>()
            });
            let window_ends = window_ends.collect();
            out.emit(self.assigned(&batch, Some(indices.into()), window_ends)?)?;
        }
        self.slice_ends = ends;
        Ok(())
    }
}
