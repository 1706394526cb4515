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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::keyed_state;
    use crate::aggregate::tests::oracle::call;
    use crate::aggregate::tests::rows::{KEY, TIME, stream};
    use crate::custom::NoCustomOperators;
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;
    use weir_model::CheckpointId;
    use weir_model::graph::*;
    use weir_model::types::TIMESTAMP;
    use weir_state::MemorySegments;

    fn calls(functions: &[AggregateFunction]) -> Vec<AggregateCall> {
        let named = |function: &AggregateFunction| call(&format!("{function:?}"), *function, Some(2), DataType::Int64);
        let mut calls: Vec<AggregateCall> = functions.iter().map(named).collect();
        calls[0].distinct = true;
        calls
    }

    fn output(keys: &[usize], calls: &[AggregateCall], windowed: bool, updating: bool) -> StreamSchema {
        let mut fields: Vec<_> = keys.iter().map(|key| stream(false).fields.fields()[*key].clone()).collect();
        if windowed {
            fields.extend(["window_start", "window_end"].map(|name| Arc::new(Field::new(name, TIMESTAMP, false))));
        }
        fields.extend(calls.iter().map(|call| call.output.clone()));
        if updating {
            fields.push(Arc::new(weir_model::change::change_kind_field()));
        }
        StreamSchema::append_only(Arc::new(Schema::new(fields)))
    }

    /// What a plan is checked by is what a checkpoint then holds.
    #[test]
    fn states_are_those_that_are_announced() {
        use AggregateFunction::*;
        let mut specs = vec![];
        for updating in [false, true] {
            let calls = calls(&[Count, Max, FirstValue]);
            let output = output(&[KEY], &calls, false, true);
            let spec = GroupAggregateSpec {
                keys: vec![KEY],
                aggregates: calls,
                state_ttl_ms: Some(60_000),
                update_before: true,
            };
            specs.push((OperatorSpec::GroupAggregate(spec), updating, output));
        }
        for window in [
            WindowKind::Tumble { size_us: 10, offset_us: 0 },
            WindowKind::Hop { size_us: 10, slide_us: 5, offset_us: 0 },
            WindowKind::Session { gap_us: 10 },
        ] {
            for calls in [calls(&[Count, Max]), vec![call("n", Count, None, DataType::Int64)]] {
                let output = output(&[], &calls, true, false);
                let spec = WindowAggregateSpec {
                    keys: vec![],
                    window,
                    time: TimeDomain::EventTime { column: TIME },
                    assigned: None,
                    aggregates: calls,
                    allowed_lateness_us: 0,
                };
                specs.push((OperatorSpec::WindowAggregate(spec), false, output));
            }
        }
        for (spec, updating, output) in specs {
            let inputs = [stream(updating)];
            let mut announced = state_schemas(&spec, &inputs, &NoCustomOperators).unwrap();
            let mut state = keyed_state();
            create(&spec, &inputs, &output, &mut state, &NoCustomOperators).unwrap();
            let handle = state.cut(CheckpointId(1)).unwrap().write(&mut MemorySegments::default()).unwrap();
            let mut registered: Vec<StateSchema> = handle.states.into_iter().map(|state| state.schema).collect();
            announced.sort_by(|a, b| a.name.cmp(&b.name));
            registered.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(announced, registered, "{spec:?}");
        }
    }

    #[test]
    fn custom_operators_need_a_registry() {
        let spec = CustomSpec {
            operator_type: "fraud".into(),
            config: "{}".into(),
            keys: vec![vec![0]],
            key_types: vec![DataType::Int64],
            state_ttl_ms: None,
        };
        let spec = OperatorSpec::Custom(spec);
        let error = create(&spec, &[stream(false)], &stream(false), &mut keyed_state(), &NoCustomOperators);
        let error = error.err().expect("there are no custom operators").to_string();
        assert!(error.starts_with("there is no operator of type `fraud`"), "{error}");
    }
}
