//! What is planned: the steps of a job, as plain data.

use arrow::datatypes::SchemaRef;
use weir_model::graph::{CustomSpec, StreamSchema};

/// The steps of a job. A name is the operator UID of its step and its table name in SQL, unique among all steps.
#[derive(Clone, Debug)]
pub struct PipelineDefinition {
    /// The number of key groups.
    pub max_parallelism: u32,
    /// Of every step that has none of its own.
    pub default_parallelism: u32,
    pub sources: Vec<SourceDefinition>,
    /// In any order: a step may stand before those that it reads.
    pub transforms: Vec<TransformDefinition>,
    pub sinks: Vec<SinkDefinition>,
}

#[derive(Clone, Debug)]
pub struct SourceDefinition {
    pub name: String,
    /// Its columns, without a change kind.
    pub schema: SchemaRef,
    /// The column that the source's watermarks speak of.
    pub watermark_column: Option<String>,
    /// Its rows carry a change kind after the columns of `schema` (change data capture).
    pub updating: bool,
    pub dead_letter: Option<DeadLetterDefinition>,
    pub parallelism: Option<u32>,
}

/// Where records go that a source cannot read.
#[derive(Clone, Debug)]
pub struct DeadLetterDefinition {
    /// Name of a sink without a `from`.
    pub sink: String,
    /// The columns of such a record.
    pub schema: SchemaRef,
}

#[derive(Clone, Debug)]
pub struct TransformDefinition {
    pub name: String,
    pub kind: TransformKind,
    pub parallelism: Option<u32>,
    /// State that is not touched for this long may go. None: it is kept for ever.
    pub state_ttl_ms: Option<u64>,
    /// For windows: how far behind the watermark a row still corrects a result.
    pub allowed_lateness_us: i64,
}

#[derive(Clone, Debug)]
pub enum TransformKind {
    Sql(String),
    Custom(CustomTransform),
}

/// A step that an operator of the user's own computes.
#[derive(Clone, Debug)]
pub struct CustomTransform {
    pub operator_type: String,
    /// The steps it reads, in its order.
    pub inputs: Vec<String>,
    /// Key columns of each input; empty: not keyed.
    pub key_by: Vec<Vec<String>>,
    /// JSON text.
    pub config: String,
}

#[derive(Clone, Debug)]
pub struct SinkDefinition {
    pub name: String,
    /// The step it reads; None for a source's dead-letter sink.
    pub from: Option<String>,
    /// The columns by which rows replace each other: rows equal in them reach one subtask, in their order.
    pub key_by: Vec<String>,
    pub parallelism: Option<u32>,
}

/// The operators of the user's own that this binary was built with.
pub trait CustomOperators: Sync {
    /// The names under which operators are registered, for messages.
    fn types(&self) -> Vec<String>;

    /// What an operator of this type emits, given what it reads. `config` is JSON text.
    ///
    /// # Errors
    /// Text for the user: what is wrong with the config or the inputs, and what to do.
    fn output(&self, operator_type: &str, config: &str, inputs: &[StreamSchema]) -> Result<StreamSchema, String>;

    /// Whether the operator can run as the step says: with these inputs and keys. What it emits is known by then.
    ///
    /// # Errors
    /// As `output`: a column or a key that it needs and the step has not.
    fn check(&self, _spec: &CustomSpec, _inputs: &[StreamSchema]) -> Result<(), String> {
        Ok(())
    }
}

/// For jobs without operators of their own.
pub struct NoCustomOperators;

impl CustomOperators for NoCustomOperators {
    fn types(&self) -> Vec<String> {
        vec![]
    }

    fn output(&self, operator_type: &str, _config: &str, _inputs: &[StreamSchema]) -> Result<StreamSchema, String> {
        Err(format!("no operator of type `{operator_type}` is registered"))
    }
}
