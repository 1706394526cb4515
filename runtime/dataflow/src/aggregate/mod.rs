//! Aggregation: functions over state rows, batch by batch, and GROUP BY without a window.

mod argument;
mod arrivals;
mod block;
mod changelog;
mod function;
mod group;
mod last_entry;
mod selection;
mod session_values;
mod set;
#[cfg(test)]
pub(crate) mod tests;
mod touched;
mod values;

pub use group::{GroupAggregate, state_schemas};

pub(crate) use block::{Place, RowBlock};
pub(crate) use changelog::{Changelog, ChangelogMode, Fate};
pub(crate) use function::{AggregateField, InputMode};
pub(crate) use selection::Selection;
pub(crate) use session_values::SessionKey;
pub(crate) use set::{AggregatePlan, AggregateSet, Batch, ValuesUse};
pub(crate) use touched::Touched;

use weir_model::StateField;
use weir_model::graph::StreamSchema;

/// The key columns of an input as fields of a state's key.
pub(crate) fn key_fields(input: &StreamSchema, keys: &[usize]) -> Vec<StateField> {
    let field = |key: &usize| {
        let field = input.fields.field(*key);
        // Always nullable: whether the planner can prove a column free of nulls must not decide whether a
        // checkpoint can be restored.
        StateField::new(field.name(), field.data_type().clone(), true)
    };
    keys.iter().map(field).collect()
}
