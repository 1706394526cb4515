//! From the StreamJob's steps to what the SQL planner is told.

use arrow::datatypes::Schema;
use std::collections::HashMap;
use std::sync::Arc;
use weir_connectors::api::{self, dead_letter_schema};
use weir_crds::streamjob::{self as crd, BadRecords, Pipeline, Sink, Source, StreamJobSpec, Transform};
use weir_sql::{
    CustomTransform, DeadLetterDefinition, PipelineDefinition, SinkDefinition, SourceDefinition, TransformDefinition,
    TransformKind,
};

/// Every source that could be set up, by its name.
type SetUp = HashMap<String, Arc<dyn api::Source>>;

/// The definition of a validated spec.
pub(crate) fn definition(spec: &StreamJobSpec, set_up: &SetUp) -> PipelineDefinition {
    let Pipeline { sources, transforms, sinks } = &spec.pipeline;
    PipelineDefinition {
        max_parallelism: spec.max_parallelism(),
        default_parallelism: spec.parallelism(),
        sources: sources.iter().map(|source| source_definition(source, set_up)).collect(),
        transforms: transforms.iter().filter_map(transform_definition).collect(),
        sinks: sinks.iter().map(sink_definition).collect(),
    }
}

fn source_definition(source: &Source, set_up: &SetUp) -> SourceDefinition {
    let made = set_up.get(&source.name);
    let bad_records = source.format.as_ref().map(|format| format.bad_records());
    SourceDefinition {
        name: source.name.clone(),
        schema: made.map_or_else(|| Arc::new(Schema::empty()), |made| made.schema()),
        watermark_column: source.watermark.as_ref().map(|watermark| watermark.column.clone()),
        updating: made.is_some_and(|made| made.is_updating()),
        dead_letter: match bad_records {
            Some(BadRecords::DeadLetter { sink }) => {
                Some(DeadLetterDefinition { sink: sink.to_owned(), schema: dead_letter_schema() })
            }
            Some(BadRecords::Fail | BadRecords::Skip) | None => None,
        },
        parallelism: source.parallelism,
    }
}

fn transform_definition(transform: &Transform) -> Option<TransformDefinition> {
    let kind = match transform.kind()? {
        crd::TransformKind::Sql(sql) => TransformKind::Sql(sql.to_owned()),
        crd::TransformKind::Operator(operator) => TransformKind::Custom(CustomTransform {
            operator_type: operator.operator_type.clone(),
            inputs: operator.inputs().into_iter().map(str::to_owned).collect(),
            key_by: vec![operator.key_by.clone(); operator.inputs().len()],
            config: operator.config.as_ref().map_or_else(|| "{}".to_owned(), ToString::to_string),
        }),
    };
    Some(TransformDefinition {
        name: transform.name.clone(),
        kind,
        parallelism: transform.parallelism,
        state_ttl_ms: transform.state_ttl().map(|ttl| ttl.as_millis() as u64),
        allowed_lateness_us: transform.allowed_lateness().as_micros() as i64,
    })
}

/// A sink without `from` is a dead-letter sink, which its source names.
fn sink_definition(sink: &Sink) -> SinkDefinition {
    let key_by = sink.postgres.as_ref().map_or_else(Vec::new, |postgres| postgres.key.clone());
    SinkDefinition { name: sink.name.clone(), from: sink.from.clone(), key_by, parallelism: sink.parallelism }
}
