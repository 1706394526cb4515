//! The seam for operators of the user's own.

use crate::operator::{Operator, OperatorError};
use weir_model::StateSchema;
use weir_model::graph::{CustomSpec, StreamSchema};
use weir_state::KeyedState;

/// Finds a user's operators by the type name in their spec; the SDK's registry implements it.
pub trait CustomRegistry: Send + Sync {
    /// A new subtask of the operator, its states registered in `state`.
    ///
    /// # Errors
    /// If there is no such type, or its config isn't what it takes.
    fn create(
        &self,
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Box<dyn Operator>, OperatorError>;

    /// What the operator emits for these inputs.
    fn output_schema(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<StreamSchema, OperatorError>;

    /// Exactly the states that `create` registers.
    fn state_schemas(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError>;

    /// The type names there are, sorted, for messages.
    fn operator_types(&self) -> Vec<String>;
}

/// For jobs without operators of their own.
pub struct NoCustomOperators;

impl NoCustomOperators {
    fn unknown(spec: &CustomSpec) -> OperatorError {
        OperatorError::Failed(format!(
            "there is no operator of type `{}`: this binary has no custom operators; run the image that contains it",
            spec.operator_type
        ))
    }
}

impl CustomRegistry for NoCustomOperators {
    fn create(
        &self,
        spec: &CustomSpec,
        _inputs: &[StreamSchema],
        _output: &StreamSchema,
        _state: &mut KeyedState,
    ) -> Result<Box<dyn Operator>, OperatorError> {
        Err(Self::unknown(spec))
    }

    fn output_schema(&self, spec: &CustomSpec, _inputs: &[StreamSchema]) -> Result<StreamSchema, OperatorError> {
        Err(Self::unknown(spec))
    }

    fn state_schemas(&self, spec: &CustomSpec, _inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
        Err(Self::unknown(spec))
    }

    fn operator_types(&self) -> Vec<String> {
        vec![]
    }
}
