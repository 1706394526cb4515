//! Windows: assignment as columns, and aggregation per window.

mod aggregate;
mod assign;
pub mod bounds;
mod fire;
mod plan;
mod progress;
mod session;
mod session_state;
#[cfg(test)]
mod tests;
mod times;

pub use aggregate::WindowAggregate;
pub use assign::WindowAssign;
pub use session::SessionAggregate;

use crate::operator::{Operator, OperatorError};
use weir_model::StateSchema;
use weir_model::graph::{StreamSchema, WindowAggregateSpec, WindowKind};
use weir_state::KeyedState;

/// A subtask of an aggregate over windows of any kind.
pub fn create_aggregate(
    spec: &WindowAggregateSpec,
    input: &StreamSchema,
    output: &StreamSchema,
    state: &mut KeyedState,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(match spec.window {
        WindowKind::Session { gap_us } => Box::new(SessionAggregate::new(spec, gap_us, input, output, state)?),
        WindowKind::Tumble { .. } | WindowKind::Hop { .. } => {
            Box::new(WindowAggregate::new(spec, input, output, state)?)
        }
    })
}

/// Exactly the states that `create_aggregate` registers.
pub fn state_schemas(spec: &WindowAggregateSpec, input: &StreamSchema) -> Result<Vec<StateSchema>, OperatorError> {
    match spec.window {
        WindowKind::Session { .. } => session::state_schemas(spec, input),
        WindowKind::Tumble { .. } | WindowKind::Hop { .. } => Ok(plan::WindowPlan::new(spec, input)?.state_schemas()),
    }
}
