//! Operators and their states from the specs of a job graph.

use crate::calc::Calc;
use crate::custom::CustomRegistry;
use crate::operator::{Operator, OperatorError};
use crate::union::Union;
use crate::window::WindowAssign;
use crate::{aggregate, deduplicate, join, top_n, window};
use weir_model::StateSchema;
use weir_model::graph::{OperatorSpec, StreamSchema};
use weir_state::KeyedState;

/// A new subtask of the operator. Its states are registered in `state`, which gives them what a checkpoint holds.
///
/// # Errors
/// A spec that doesn't fit its inputs, or state that doesn't fit the spec.
pub fn create(
    spec: &OperatorSpec,
    inputs: &[StreamSchema],
    output: &StreamSchema,
    state: &mut KeyedState,
    custom: &dyn CustomRegistry,
) -> Result<Box<dyn Operator>, OperatorError> {
    Ok(match spec {
        OperatorSpec::Calc(spec) => Box::new(Calc::new(spec, output)?),
        OperatorSpec::Union => Box::new(Union::new(inputs, output)?),
        OperatorSpec::WindowAssign(spec) => Box::new(WindowAssign::new(spec, only(inputs)?, output)?),
        OperatorSpec::GroupAggregate(spec) => {
            Box::new(aggregate::GroupAggregate::new(spec, only(inputs)?, output, state)?)
        }
        OperatorSpec::WindowAggregate(spec) => window::create_aggregate(spec, only(inputs)?, output, state)?,
        OperatorSpec::Join(spec) => join::regular::create(spec, inputs, output, state)?,
        OperatorSpec::IntervalJoin(spec) => join::interval::create(spec, inputs, output, state)?,
        OperatorSpec::WindowJoin(spec) => join::window::create(spec, inputs, output, state)?,
        OperatorSpec::TopN(spec) => top_n::create(spec, inputs, output, state)?,
        OperatorSpec::Deduplicate(spec) => deduplicate::create(spec, inputs, output, state)?,
        OperatorSpec::Custom(spec) => custom.create(spec, inputs, output, state)?,
    })
}

/// Exactly the states that `create` registers for this spec: what a plan is compared with a checkpoint by.
///
/// # Errors
/// As `create`, as far as they don't depend on state.
pub fn state_schemas(
    spec: &OperatorSpec,
    inputs: &[StreamSchema],
    custom: &dyn CustomRegistry,
) -> Result<Vec<StateSchema>, OperatorError> {
    match spec {
        OperatorSpec::Calc(_) | OperatorSpec::Union | OperatorSpec::WindowAssign(_) => Ok(vec![]),
        OperatorSpec::GroupAggregate(spec) => aggregate::state_schemas(spec, only(inputs)?),
        OperatorSpec::WindowAggregate(spec) => window::state_schemas(spec, only(inputs)?),
        OperatorSpec::Join(spec) => join::regular::state_schemas(spec, inputs),
        OperatorSpec::IntervalJoin(spec) => join::interval::state_schemas(spec, inputs),
        OperatorSpec::WindowJoin(spec) => join::window::state_schemas(spec, inputs),
        OperatorSpec::TopN(spec) => top_n::state_schemas(spec, inputs),
        OperatorSpec::Deduplicate(spec) => deduplicate::state_schemas(spec, inputs),
        OperatorSpec::Custom(spec) => custom.state_schemas(spec, inputs),
    }
}

fn only(inputs: &[StreamSchema]) -> Result<&StreamSchema, OperatorError> {
    match inputs {
        [input] => Ok(input),
        _ => Err(OperatorError::Failed(format!("the operator takes one input, not {}", inputs.len()))),
    }
}
