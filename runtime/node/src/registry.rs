//! What this binary was built with: operators and connectors of the user's own, and the storages it can reach.

use std::collections::BTreeMap;
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Sink, Source};
use weir_connectors::files::MultipartStore;
use weir_dataflow::custom::{CustomRegistry, NoCustomOperators};
use weir_dataflow::operator::{Operator, OperatorError};
use weir_model::StateSchema;
use weir_model::graph::{CustomSpec, StreamSchema};
use weir_snapshot::storage::{StorageOptions, StorageProviders};
use weir_sql::CustomOperators;
use weir_state::KeyedState;

/// Makes a source of one's own from its step's name and config.
pub type SourceFactory = dyn Fn(&str, &serde_json::Value) -> Result<Arc<dyn Source>, ConnectorError> + Send + Sync;
/// Makes a sink of one's own from its step's name and config.
pub type SinkFactory = dyn Fn(&str, &serde_json::Value) -> Result<Arc<dyn Sink>, ConnectorError> + Send + Sync;

/// Connects to a store for files that a sink writes.
pub type ObjectStoreFactory = dyn Fn(&StorageOptions) -> Result<Arc<dyn MultipartStore>, ConnectorError> + Send + Sync;

/// Without operators and connectors for the plain `weir` binary.
pub struct Registry {
    pub operators: Arc<dyn CustomRegistry>,
    pub sources: BTreeMap<String, Arc<SourceFactory>>,
    pub sinks: BTreeMap<String, Arc<SinkFactory>>,
    pub storages: StorageProviders,
    /// By the scheme of its addresses.
    pub object_stores: BTreeMap<String, Arc<ObjectStoreFactory>>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            operators: Arc::new(NoCustomOperators),
            sources: BTreeMap::new(),
            sinks: BTreeMap::new(),
            storages: StorageProviders::default(),
            object_stores: BTreeMap::new(),
        }
    }
}

impl CustomRegistry for Registry {
    fn create(
        &self,
        spec: &CustomSpec,
        inputs: &[StreamSchema],
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Box<dyn Operator>, OperatorError> {
        self.operators.create(spec, inputs, output, state)
    }

    fn output_schema(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<StreamSchema, OperatorError> {
        self.operators.output_schema(spec, inputs)
    }

    fn state_schemas(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<Vec<StateSchema>, OperatorError> {
        self.operators.state_schemas(spec, inputs)
    }

    fn operator_types(&self) -> Vec<String> {
        self.operators.operator_types()
    }
}

impl CustomOperators for Registry {
    fn types(&self) -> Vec<String> {
        self.operators.operator_types()
    }

    fn output(&self, operator_type: &str, config: &str, inputs: &[StreamSchema]) -> Result<StreamSchema, String> {
        // What an operator emits depends on its type, its config and its inputs' columns; not on how they are keyed.
        let spec = CustomSpec {
            operator_type: operator_type.to_owned(),
            config: config.to_owned(),
            keys: vec![vec![]; inputs.len()],
            key_types: vec![],
            state_ttl_ms: None,
        };
        self.operators.output_schema(&spec, inputs).map_err(|error| error.to_string())
    }

    fn check(&self, spec: &CustomSpec, inputs: &[StreamSchema]) -> Result<(), String> {
        self.operators.state_schemas(spec, inputs).map(|_| ()).map_err(|error| error.to_string())
    }
}
