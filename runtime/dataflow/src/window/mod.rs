//! Windows: assignment as columns, and aggregation per window.

mod aggregate;
mod assign;
pub mod bounds;
mod fire;
mod plan;
mod progress;
#[cfg(test)]
mod tests;
mod times;

pub use aggregate::WindowAggregate;
pub use assign::WindowAssign;

use crate::operator::{Operator, OperatorError};
use weir_model::StateSchema;
use weir_model::graph::{StreamSchema, WindowAggregateSpec};
use weir_state::KeyedState;

/// A subtask of an aggregate over windows of any kind.
pub fn create_aggregate(
    spec: &WindowAggregateSpec,
    input: &StreamSchema,
    output: &StreamSchema,
    state: &mut KeyedState,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(Box::new(WindowAggregate::new(spec, input, output, state)?))
}

/// Exactly the states that `create_aggregate` registers.
pub fn state_schemas(spec: &WindowAggregateSpec, input: &StreamSchema) -> Result<Vec<StateSchema>, OperatorError> {
    Ok(plan::WindowPlan::new(spec, input)?.state_schemas())
}
