//! What queries become, feature by feature, and what is said of wrong ones.

mod plans;

use crate::{
    NoCustomOperators, PipelineDefinition, SinkDefinition, SourceDefinition, TransformDefinition, TransformKind,
    explain, plan,
};
use arrow::datatypes::{DataType, Field, Schema};
use std::sync::Arc;
use weir_model::graph::JobGraph;
use weir_model::types::parse_sql_type;

fn source(name: &str, columns: &str, watermark: Option<&str>) -> SourceDefinition {
    let fields = columns.split(", ").map(|column| {
        let (name, data_type) = column.split_once(' ').unwrap();
        Field::new(name, parse_sql_type(data_type).unwrap_or(DataType::Utf8), true)
    });
    SourceDefinition {
        name: name.to_owned(),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        watermark_column: watermark.map(str::to_owned),
        updating: false,
        dead_letter: None,
        parallelism: None,
    }
}

/// Two append-only sources with event times, one without, one of changes; parallelism 2.
fn definition(transforms: &[(&str, &str)]) -> PipelineDefinition {
    let transform = |(name, sql): &(&str, &str)| TransformDefinition {
        name: (*name).to_owned(),
        kind: TransformKind::Sql((*sql).to_owned()),
        parallelism: None,
        state_ttl_ms: None,
        allowed_lateness_us: 0,
    };
    PipelineDefinition {
        max_parallelism: 128,
        default_parallelism: 2,
        sources: vec![
            source("orders", "id BIGINT, customer VARCHAR, amount DOUBLE, ts TIMESTAMP", Some("ts")),
            source("payments", "order_id BIGINT, paid DECIMAL(10,2), ts TIMESTAMP", Some("ts")),
            source(
                "customers",
                "name VARCHAR, country VARCHAR, payload VARCHAR, \"Level\" INT".replace('"', "").as_str(),
                None,
            ),
            SourceDefinition { updating: true, ..source("stock", "item VARCHAR, quantity INT", None) },
        ],
        transforms: transforms.iter().map(transform).collect(),
        sinks: vec![],
    }
}

fn planned(definition: &PipelineDefinition) -> JobGraph {
    plan(definition, &NoCustomOperators)
        .unwrap_or_else(|errors| panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

/// The plan of one step `q`, without the sources.
#[track_caller]
fn check(sql: &str, expected: &str) {
    let text = explain(&planned(&definition(&[("q", sql)])));
    let of_steps: Vec<&str> = text.split("\n\n").filter(|node| node.starts_with("q/")).collect();
    let found = of_steps.join("\n").trim().to_owned();
    let expected = expected.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let expected = textwrap(&expected);
    assert_eq!(found, expected, "\n--- found\n{found}\n---\n");
}

/// Takes the indentation of a test away.
fn textwrap(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let indent = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| &line[indent..]).collect::<Vec<_>>().join("\n")
}

fn sink(name: &str, from: &str) -> SinkDefinition {
    SinkDefinition { name: name.to_owned(), from: Some(from.to_owned()), parallelism: None }
}
