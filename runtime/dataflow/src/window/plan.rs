//! How an aggregate over windows is laid out in state: decided from its spec alone, so that the states can be
//! named before the operator runs.

use super::bounds::Grid;
use super::progress::Progress;
use crate::aggregate::{AggregatePlan, InputMode, key_fields};
use crate::operator::OperatorError;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{StreamSchema, TimeDomain, WindowAggregateSpec, WindowKind};
use weir_model::types::TIMESTAMP;
use weir_model::{StateField, StateKind, StateSchema};

/// Where a row's window comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The window's end is in this column.
    Assigned {
        end: usize,
    },
    EventTime {
        column: usize,
    },
    ProcessingTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A state row per window; an input row is in `copies` windows (one, if it's already assigned).
    Windows { copies: usize },
    /// A state row per slice of `slide_us`; a hopping window is put together of its slices when it fires, so
    /// that an input row costs one update, however many windows it is in.
    Slices,
}

/// Tumbling and hopping windows.
#[derive(Debug)]
pub struct WindowPlan {
    pub grid: Grid,
    pub placement: Placement,
    pub layout: Layout,
    pub aggregates: AggregatePlan,
    pub row_schema: StateSchema,
}

impl WindowPlan {
    pub fn new(spec: &WindowAggregateSpec, input: &StreamSchema) -> Result<Self, OperatorError> {
        let grid = match spec.window {
            WindowKind::Tumble { size_us, offset_us } => Grid::new(size_us, size_us, offset_us),
            WindowKind::Hop { size_us, slide_us, offset_us } => Grid::new(size_us, slide_us, offset_us),
            WindowKind::Session { .. } => unreachable!("sessions have an operator of their own"),
        };
        let grid = grid.map_err(OperatorError::Failed)?;
        check_append_only(input)?;
        check_lateness(spec)?;
        let placement = match (spec.assigned, spec.time) {
            (Some(columns), _) => Placement::Assigned { end: columns.end },
            (None, TimeDomain::EventTime { column }) => Placement::EventTime { column },
            (None, TimeDomain::ProcessingTime) => Placement::ProcessingTime,
        };
        let aggregates = AggregatePlan::new(&spec.aggregates, input, InputMode::AppendOnly, vec![])?;
        let layout = match grid.windows_per_row() {
            _ if spec.assigned.is_some() => Layout::Windows { copies: 1 },
            1 => Layout::Windows { copies: 1 },
            _ if aggregates.is_mergeable() && spec.allowed_lateness_us == 0 => Layout::Slices,
            copies if copies <= BATCH_ROWS => Layout::Windows { copies },
            copies => {
                return Err(OperatorError::Failed(format!(
                    "each row would be in {copies} hopping windows, at most {BATCH_ROWS} are possible with DISTINCT, \
                     FIRST_VALUE, LAST_VALUE or an allowed lateness: choose a longer slide"
                )));
            }
        };
        let (name, end) = match layout {
            Layout::Windows { .. } => ("windows", "window_end"),
            Layout::Slices => ("slices", "slice_end"),
        };
        let row_schema = StateSchema {
            name: name.into(),
            kind: StateKind::Value,
            key: key_fields(input, &spec.keys),
            namespace: vec![StateField::new(end, TIMESTAMP, false)],
            value: aggregates.value_fields(),
            semantics: aggregates.semantics(),
        };
        Ok(WindowPlan { grid, placement, layout, aggregates, row_schema })
    }

    pub fn state_schemas(&self) -> Vec<StateSchema> {
        let mut schemas = vec![self.row_schema.clone(), Progress::schema()];
        schemas.extend(self.aggregates.side_states(&self.row_schema.key, &self.row_schema.namespace));
        schemas
    }
}

pub fn check_append_only(input: &StreamSchema) -> Result<(), OperatorError> {
    match input.is_updating() {
        false => Ok(()),
        true => Err(OperatorError::Failed(
            "a window takes an append-only input, and this one takes rows back: aggregate it without a window".into(),
        )),
    }
}

pub fn check_lateness(spec: &WindowAggregateSpec) -> Result<(), OperatorError> {
    match spec.allowed_lateness_us {
        0.. => Ok(()),
        negative => {
            Err(OperatorError::Failed(format!("the allowed lateness is {negative} us, it must not be negative")))
        }
    }
}
