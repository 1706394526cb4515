use super::{BatchFactory, OperatorFactory, RowFactory};
use crate::Error;
use crate::names;
use crate::operator::{BatchOperator, Operator};
use std::collections::BTreeMap;
use weir_dataflow::{CustomRegistry, OperatorError};
use weir_model::StateSchema;
use weir_model::graph::{CustomSpec, StreamSchema};
use weir_state::KeyedState;

/// Operators by the name that a step's `operator.type` says.
#[derive(Default)]
pub struct Operators {
    factories: BTreeMap<String, Box<dyn OperatorFactory>>,
}

impl Operators {
    pub fn new() -> Self {
        Self::default()
    }

    /// # Errors
    /// A name that is taken.
    pub fn register<O: Operator>(&mut self, name: &str) -> Result<(), Error> {
        self.insert(name, Box::new(RowFactory::<O>::new()))
    }

    /// # Errors
    /// A name that is taken.
    pub fn register_batch<O: BatchOperator>(&mut self, name: &str) -> Result<(), Error> {
        self.insert(name, Box::new(BatchFactory::<O>::new()))
    }

    fn insert(&mut self, name: &str, factory: Box<dyn OperatorFactory>) -> Result<(), Error> {
        match self.factories.insert(name.to_owned(), factory) {
            None => Ok(()),
            Some(_) => Err(Error::new(format!("two operators are registered as `{name}`"))),
        }
    }

    fn factory(&self, spec: &CustomSpec) -> Result<&dyn OperatorFactory, OperatorError> {
        let factory = self.factories.get(&spec.operator_type).map(Box::as_ref);
        factory.ok_or_else(|| {
            let known = names::listed(&spec.operator_type, self.factories.keys().map(String::as_str));
            let reason = format!("this binary has no operator of type `{}`; it has {known}", spec.operator_type);
            OperatorError::Failed(reason)
        })
    }
}

/// Says of which operator a mistake is told.
fn in_type<'s>(spec: &'s CustomSpec) -> impl Fn(Error) -> OperatorError + 's {
    |error| match error.into_operator_error() {
        OperatorError::Failed(reason) | OperatorError::Outside(reason) | OperatorError::Refused(reason) => {
            OperatorError::Failed(format!("{}: {reason}", spec.operator_type))
        }
        other => OperatorError::Failed(format!("{}: {other}", spec.operator_type)),
    }
}

impl CustomRegistry for Operators {
    fn create(
        &self,
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Box<dyn weir_dataflow::Operator>, OperatorError> {
        let (operator, emitted, _) = self.factory(spec)?.create(spec, inputs, state).map_err(in_type(spec))?;
        if emitted.fields != output.fields {
            let reason = "its output schema is another than when the job was planned; it must follow from config and \
                          inputs alone";
            return Err(OperatorError::Failed(format!("{}: {reason}", spec.operator_type)));
        }
        Ok(operator)
    }

    fn output_schema(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<StreamSchema, OperatorError> {
        self.factory(spec)?.output(spec, inputs).map_err(in_type(spec))
    }

    fn state_schemas(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
        self.factory(spec)?.states(spec, inputs).map_err(in_type(spec))
    }

    fn operator_types(&self) -> Vec<String> {
        self.factories.keys().cloned().collect()
    }
}
