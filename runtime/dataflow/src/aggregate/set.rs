//! The aggregates of one operator together: planned once, then driven batch by batch.

use super::argument::{self, Argument};
use super::arrivals::Arrivals;
use super::block::{BlockLayout, Place, RowBlock};
use super::function::{Aggregate, AggregateField, InputMode, fields};
use super::selection::Selection;
use super::touched::Touched;
use super::values::ValueCounts;
use crate::operator::OperatorError;
use arrow::array::{ArrayRef, AsArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use std::sync::Arc;
use weir_model::graph::{AggregateCall, AggregateFunction, StreamSchema};
use weir_model::{StateField, StateSchema};
use weir_state::{KeyBatch, KeyedState};

/// What the state row and the states beside it hold for a list of aggregate calls.
#[derive(Clone, Debug)]
pub struct AggregatePlan {
    pub fields: Vec<AggregateField>,
    mode: InputMode,
    calls: Vec<PlannedCall>,
}

#[derive(Clone, Debug)]
struct PlannedCall {
    call: AggregateCall,
    argument_type: Option<DataType>,
    first_field: usize,
    beside: Option<Beside>,
}

/// What is kept beside the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// How often each value is there: DISTINCT, and MIN and MAX over what may be taken back.
    Values,
    /// The values in order of arrival: FIRST_VALUE and LAST_VALUE over what may be taken back.
    Arrivals,
}

impl AggregatePlan {
    /// `leading` are fields of the operator's own before those of the aggregates.
    ///
    /// # Errors
    /// If a function doesn't take its argument.
    pub fn new(
        calls: &[AggregateCall],
        input: &StreamSchema,
        mode: InputMode,
        leading: Vec<AggregateField>,
    ) -> Result<Self, OperatorError> {
        let mut all_fields = leading;
        let mut planned = Vec::with_capacity(calls.len());
        for call in calls {
            let argument_type = call.argument.map(|column| input.fields.field(column).data_type().clone());
            let first_field = all_fields.len();
            all_fields.extend(fields(call, argument_type.as_ref(), mode)?);
            planned.push(PlannedCall { call: call.clone(), argument_type, first_field, beside: beside(call, mode) });
        }
        Ok(AggregatePlan { fields: all_fields, mode, calls: planned })
    }

    pub fn value_fields(&self) -> Vec<StateField> {
        self.fields.iter().map(|field| field.field.clone()).collect()
    }

    pub fn semantics(&self) -> Vec<String> {
        self.fields.iter().map(|field| field.semantics.clone()).collect()
    }

    /// Whether partial results of these aggregates can be added up.
    pub fn is_mergeable(&self) -> bool {
        !self.depends_on_arrival() && self.calls.iter().all(|call| call.beside.is_none())
    }

    pub fn depends_on_arrival(&self) -> bool {
        use AggregateFunction::{FirstValue, LastValue};
        self.calls.iter().any(|call| matches!(call.call.function, FirstValue | LastValue))
    }

    /// The states beside the row, for a state of this key and (for windows) namespace.
    pub fn side_states(&self, key: &[StateField], namespace: &[StateField]) -> Vec<StateSchema> {
        let of_call = |planned: &PlannedCall| {
            let name = planned.call.output.name();
            let data_type = planned.argument_type.as_ref()?;
            Some(match planned.beside? {
                Beside::Values => vec![ValueCounts::schema(name, data_type, self.mode, key, namespace)],
                Beside::Arrivals => Arrivals::schemas(name, data_type, key).to_vec(),
            })
        };
        self.calls.iter().filter_map(of_call).flatten().collect()
    }
}

fn beside(call: &AggregateCall, mode: InputMode) -> Option<Beside> {
    use AggregateFunction::*;
    let updating = mode == InputMode::Updating;
    match call.function {
        Min | Max => updating.then_some(Beside::Values),
        FirstValue | LastValue => updating.then_some(Beside::Arrivals),
        // A value more or less changes nothing here.
        BoolAnd | BoolOr => None,
        Count | Sum | Avg | StddevPop | StddevSamp | VarPop | VarSamp => call.distinct.then_some(Beside::Values),
    }
}

/// The aggregates at work.
pub struct AggregateSet {
    pub(super) aggregates: Vec<Bound>,
    layout: Arc<BlockLayout>,
    state_types: Vec<DataType>,
    values: ValuesUse,
}

/// When the values kept for DISTINCT go into the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValuesUse {
    /// Each as it comes for the first time.
    AtOnce,
    /// All of them when a result is due (see `session_values`).
    WhenDue,
}

pub(super) struct Bound {
    pub(super) aggregate: Aggregate,
    pub(super) side: Option<Side>,
}

pub(super) enum Side {
    Values(ValueCounts),
    Arrivals(Arrivals),
}

/// What of a batch an update needs.
pub struct Batch<'a> {
    pub columns: &'a [ArrayRef],
    pub rows: usize,
    pub touched: &'a Touched,
    /// With key bytes, if `AggregateSet::needs_key_bytes`.
    pub keys: &'a KeyBatch,
    /// What distinguishes windows in state, for each row: the window's end, or the session's start.
    pub namespace: Option<&'a ArrayRef>,
}

impl Bound {
    pub(super) fn argument(&self, batch: &Batch<'_>) -> Result<Argument, OperatorError> {
        match self.aggregate.call.argument {
            None => Ok(Argument::None),
            Some(column) => Argument::new(&batch.columns[column], &self.aggregate.argument_shape()),
        }
    }

    /// The selected rows that pass the filter and have an argument.
    pub(super) fn rows<'a>(
        &self,
        batch: &Batch<'_>,
        selection: &'a Selection<'_>,
        argument: &Argument,
    ) -> Selection<'a> {
        let filter = self.aggregate.call.filter.map(|column| batch.columns[column].as_boolean());
        selection.narrowed(filter, argument.nulls())
    }
}

impl AggregateSet {
    /// Registers the states beside the row: those that `plan.side_states` gives for the same arguments.
    pub fn open(
        plan: &AggregatePlan,
        key: &[StateField],
        namespace: &[StateField],
        state: &mut KeyedState,
        ttl_ms: Option<u64>,
        values: ValuesUse,
    ) -> Result<Self, OperatorError> {
        let is_counter: Vec<bool> = plan.fields.iter().map(|field| field.is_counter).collect();
        let layout = Arc::new(BlockLayout::of(&plan.value_fields(), &is_counter));
        let mut aggregates = Vec::with_capacity(plan.calls.len());
        for planned in &plan.calls {
            let argument_type = planned.argument_type.as_ref();
            let name = planned.call.output.name();
            let side = match (planned.beside, argument_type) {
                (Some(Beside::Values), Some(data_type)) => {
                    Some(Side::Values(ValueCounts::open(name, data_type, plan.mode, key, namespace, state, ttl_ms)?))
                }
                (Some(Beside::Arrivals), Some(data_type)) => {
                    let counter = layout.places[planned.first_field + 1];
                    Some(Side::Arrivals(Arrivals::open(name, data_type, key, counter, state, ttl_ms)?))
                }
                _ => None,
            };
            let aggregate = Aggregate::new(&planned.call, plan.mode, planned.first_field, &layout);
            aggregates.push(Bound { aggregate: aggregate.with_scale(argument_type), side });
        }
        let state_types = plan.fields.iter().map(|field| field.field.data_type.clone()).collect();
        Ok(AggregateSet { aggregates, layout, state_types, values })
    }

    /// The place of a leading field.
    pub fn place(&self, field: usize) -> Place {
        self.layout.places[field]
    }

    pub fn new_block(&self) -> RowBlock {
        RowBlock::new(self.layout.clone())
    }

    /// Whether states beside the row are there, which take key bytes from `KeyEncoder::for_ordered`.
    pub fn needs_key_bytes(&self) -> bool {
        self.aggregates.iter().any(|bound| bound.side.is_some())
    }

    /// Adds the selected rows of the batch to the block, whose rows are those of `batch.touched`.
    pub fn update(
        &mut self,
        block: &mut RowBlock,
        batch: &Batch<'_>,
        selection: &Selection<'_>,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        let groups = &batch.touched.of_row;
        for bound in &mut self.aggregates {
            let argument = bound.argument(batch)?;
            let rows = bound.rows(batch, selection, &argument);
            let Bound { aggregate, side } = bound;
            match (side, aggregate.call.argument) {
                (Some(Side::Values(_)), _) if self.values == ValuesUse::WhenDue => {}
                (Some(Side::Values(values)), Some(column)) => {
                    let ordered = state.ordered(values.state());
                    let transitions = values.apply(ordered, &batch.columns[column], batch, &rows)?;
                    match aggregate.pick() {
                        None => aggregate.update(block, groups, &argument, &Selection::Listed(transitions))?,
                        Some((place, pick)) => {
                            values.pick_again(ordered, block, groups, &argument, batch, place, pick)?
                        }
                    }
                }
                (Some(Side::Arrivals(arrivals)), Some(column)) => {
                    let (place, pick) = aggregate.pick().expect("first and last values are picked");
                    arrivals.apply(state, block, &batch.columns[column], batch, &rows, place, pick)?;
                }
                _ => aggregate.update(block, groups, &argument, &rows)?,
            }
        }
        Ok(())
    }

    /// Whether a row more is always another result: some aggregate counts all rows.
    pub fn always_change(&self) -> bool {
        self.aggregates.iter().any(|bound| bound.aggregate.counts_all_rows())
    }

    /// Forgets what is kept beside the row of a group, by a batch row of that group.
    pub fn forget(&mut self, batch_row: usize, keys: &KeyBatch, state: &mut KeyedState) -> Result<(), OperatorError> {
        for bound in &mut self.aggregates {
            match &mut bound.side {
                Some(Side::Values(values)) => values.forget(batch_row, keys, state)?,
                Some(Side::Arrivals(arrivals)) => arrivals.forget(batch_row, keys, state)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Forgets the values kept for a window that is over, for these keys.
    pub fn forget_window(
        &mut self,
        window_end: &ArrayRef,
        keys: &KeyBatch,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        for bound in &mut self.aggregates {
            if let Some(Side::Values(values)) = &mut bound.side {
                values.forget_window(window_end, keys, state)?;
            }
        }
        Ok(())
    }

    /// Adds rows of one block to rows of another.
    pub fn merge(
        &self,
        into: &mut RowBlock,
        into_rows: &[u32],
        from: &RowBlock,
        from_rows: &[u32],
    ) -> Result<(), OperatorError> {
        self.aggregates.iter().try_for_each(|bound| bound.aggregate.merge(into, into_rows, from, from_rows))
    }

    /// The fields of these rows of a block as columns of the state's types, for `ValueCodec`.
    pub fn state_columns(&self, block: &RowBlock, rows: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let indices = UInt32Array::from(rows.to_vec());
        let fields = self.layout.places.iter().zip(&self.state_types);
        fields
            .map(|(place, data_type)| Ok(take(&argument::column(block, *place, data_type)?, &indices, None)?))
            .collect()
    }

    /// Puts rows that `state_columns` gave behind those of the block.
    pub fn append_state_columns(
        &self,
        block: &mut RowBlock,
        columns: &[ArrayRef],
        rows: usize,
    ) -> Result<(), OperatorError> {
        let first = block.rows();
        block.grow(rows);
        let fields = self.layout.places.iter().zip(columns);
        fields.into_iter().try_for_each(|(place, column)| block.set_column(first, *place, column))
    }

    /// A result column for each aggregate, with a value for each row of the block.
    pub fn results(&self, block: &RowBlock) -> Result<Vec<ArrayRef>, OperatorError> {
        self.aggregates.iter().map(|bound| bound.aggregate.results(block)).collect()
    }
}
