use super::{BatchDriver, RowDriver};
use crate::keys::KeyShape;
use crate::operator::{BatchOperator, BatchSetup, OpenContext, Operator, Setup};
use crate::rows::{Inputs, OutputBuffer, RowSchema};
use crate::state::Scope;
use crate::{Error, Result, config};
use std::marker::PhantomData;
use weir_model::graph::{CustomSpec, StreamSchema};
use weir_model::{KeyGroupRange, StateSchema};
use weir_state::KeyedState;

/// Makes subtasks of one operator type.
pub(crate) trait OperatorFactory: Send + Sync {
    /// A new subtask, and its states as they were registered.
    fn create(
        &self,
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        state: &mut KeyedState,
    ) -> Result<(Box<dyn weir_dataflow::Operator>, StreamSchema, Vec<StateSchema>)>;

    /// What it emits: follows from config and inputs, whatever the step is keyed by.
    fn output(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<StreamSchema>;

    /// Which states it has. Finds every mistake that `create` would.
    fn states(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>>;
}

pub(crate) struct RowFactory<O>(PhantomData<fn() -> O>);

impl<O> RowFactory<O> {
    pub(crate) fn new() -> Self {
        RowFactory(PhantomData)
    }
}

impl<O: Operator> RowFactory<O> {
    #[allow(clippy::type_complexity)]
    fn set_up(
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        state: &mut KeyedState,
    ) -> Result<(O, StreamSchema, KeyShape, Scope, Vec<StateSchema>)> {
        refuse_updates(O::TAKES_UPDATES, inputs)?;
        let config: O::Config = config::parse(&spec.config)?;
        let output = emitted(O::output_schema(&config, Inputs::new(inputs)))?;
        let keys = KeyShape::of(spec, inputs)?;
        let (mut scope, mut schemas) = (Scope::new(keys.fields().to_vec()), vec![]);
        let ttl_ms = spec.state_ttl_ms;
        let mut setup = Setup::new(Inputs::new(inputs), &keys, ttl_ms, state, &mut scope, &mut schemas);
        let operator = O::new(config, &mut setup)?;
        Ok((operator, output, keys, scope, schemas))
    }
}

impl<O: Operator> OperatorFactory for RowFactory<O> {
    fn create(
        &self,
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        state: &mut KeyedState,
    ) -> Result<(Box<dyn weir_dataflow::Operator>, StreamSchema, Vec<StateSchema>)> {
        let (mut operator, output, keys, scope, schemas) = Self::set_up(spec, inputs, state)?;
        operator.open(&OpenContext { key_groups: state.key_groups(), max_parallelism: state.max_parallelism() })?;
        let driver = RowDriver::new(operator, inputs, &output, keys, scope, state)?;
        Ok((Box::new(driver), output, schemas))
    }

    fn output(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<StreamSchema> {
        refuse_updates(O::TAKES_UPDATES, inputs)?;
        emitted(O::output_schema(&config::parse(&spec.config)?, Inputs::new(inputs)))
    }

    fn states(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>> {
        let (.., schemas) = Self::set_up(spec, inputs, &mut state_for_planning())?;
        Ok(schemas)
    }
}

pub(crate) struct BatchFactory<O>(PhantomData<fn() -> O>);

impl<O> BatchFactory<O> {
    pub(crate) fn new() -> Self {
        BatchFactory(PhantomData)
    }
}

impl<O: BatchOperator> BatchFactory<O> {
    fn set_up(
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        state: &mut KeyedState,
    ) -> Result<(O, StreamSchema, Vec<StateSchema>)> {
        refuse_updates(O::TAKES_UPDATES, inputs)?;
        let config: O::Config = config::parse(&spec.config)?;
        let output = emitted(O::output_schema(&config, Inputs::new(inputs)))?;
        let keys = KeyShape::of(spec, inputs)?;
        let mut schemas = vec![];
        let mut setup = BatchSetup {
            inputs: Inputs::new(inputs),
            output: &output,
            keys: &keys,
            state_ttl_ms: spec.state_ttl_ms,
            state,
            schemas: &mut schemas,
        };
        let operator = O::new(config, &mut setup)?;
        Ok((operator, output, schemas))
    }
}

impl<O: BatchOperator> OperatorFactory for BatchFactory<O> {
    fn create(
        &self,
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        state: &mut KeyedState,
    ) -> Result<(Box<dyn weir_dataflow::Operator>, StreamSchema, Vec<StateSchema>)> {
        let (operator, output, schemas) = Self::set_up(spec, inputs, state)?;
        let driver = BatchDriver { operator, output: output.fields.clone() };
        Ok((Box::new(driver), output, schemas))
    }

    fn output(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<StreamSchema> {
        refuse_updates(O::TAKES_UPDATES, inputs)?;
        emitted(O::output_schema(&config::parse(&spec.config)?, Inputs::new(inputs)))
    }

    fn states(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>> {
        let (.., schemas) = Self::set_up(spec, inputs, &mut state_for_planning())?;
        Ok(schemas)
    }
}

/// The declared output, if rows of it can be built.
fn emitted(declared: Result<RowSchema>) -> Result<StreamSchema> {
    let stream = declared?.into_stream()?;
    OutputBuffer::new(&stream)?;
    Ok(stream)
}

/// States are registered here to see which there are.
fn state_for_planning() -> KeyedState {
    KeyedState::new(KeyGroupRange::of_subtask(0, 1, 1), 1)
}

fn refuse_updates(takes_updates: bool, inputs: &[StreamSchema]) -> Result<()> {
    match inputs.iter().position(StreamSchema::is_updating) {
        Some(input) if !takes_updates => Err(Error::new(format!(
            "input {} is updating: its rows also change and delete earlier ones, which this operator does not take; \
             give it a windowed result, or let it declare `TAKES_UPDATES`",
            input + 1
        ))),
        _ => Ok(()),
    }
}
