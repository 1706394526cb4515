//! What queries become, feature by feature, and what is said of wrong ones: `cases/*.txt`, each case a query and
//! its plan or its errors, reviewed line by line when it changes. `WEIR_BLESS=1 cargo test -p weir-sql` rewrites them.

mod evaluate;
mod pipelines;

use crate::{
    NoCustomOperators, PipelineDefinition, SinkDefinition, SourceDefinition, TransformDefinition, TransformKind,
    explain, plan,
};
use arrow::datatypes::{DataType, Field, Schema};
use std::path::PathBuf;
use std::sync::Arc;
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

fn transform(name: &str, sql: &str) -> TransformDefinition {
    TransformDefinition {
        name: name.to_owned(),
        kind: TransformKind::Sql(sql.to_owned()),
        parallelism: None,
        state_ttl_ms: None,
        allowed_lateness_us: 0,
    }
}

fn sink(name: &str, from: &str) -> SinkDefinition {
    SinkDefinition { name: name.to_owned(), from: Some(from.to_owned()), key_by: vec![], parallelism: None }
}

/// Two append-only sources with event times, one without, one of changes; parallelism 2.
fn definition(transforms: Vec<TransformDefinition>) -> PipelineDefinition {
    PipelineDefinition {
        max_parallelism: 128,
        default_parallelism: 2,
        sources: vec![
            source("orders", "id BIGINT, customer VARCHAR, amount DOUBLE, ts TIMESTAMP", Some("ts")),
            source("payments", "order_id BIGINT, paid DECIMAL(10,2), ts TIMESTAMP", Some("ts")),
            source("customers", "name VARCHAR, country VARCHAR, payload VARCHAR, Level INT", None),
            SourceDefinition { updating: true, ..source("stock", "item VARCHAR, quantity INT", None) },
        ],
        transforms,
        sinks: vec![],
    }
}

/// The nodes of the steps in `definition` (without sources), or its errors.
fn planned(definition: &PipelineDefinition) -> String {
    match plan(definition, &NoCustomOperators) {
        Ok(graph) => {
            let text = explain(&graph);
            let nodes = text.split("\n\n").filter(|node| !node.lines().next().unwrap_or("").ends_with("Source"));
            nodes.map(str::trim_end).collect::<Vec<_>>().join("\n")
        }
        Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

/// Each case is a query, a line of dashes, and what it becomes; cases are parted by `====`.
fn check_cases(name: &str) {
    let path = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("src/tests/cases")
        .join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut found = vec![];
    for case in text.trim_end().split("\n====\n") {
        let sql = case.split("\n----\n").next().unwrap().trim_end();
        let plan = planned(&definition(vec![transform("q", sql)]));
        found.push(format!("{sql}\n----\n{plan}"));
    }
    let found = found.join("\n====\n") + "\n";
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
        return;
    }
    for (expected, found) in text.split("\n====\n").zip(found.split("\n====\n")) {
        assert_eq!(found.trim_end(), expected.trim_end(), "\n--- found\n{found}\n");
    }
    assert_eq!(found, text);
}

macro_rules! cases {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check_cases(stringify!($name));
        })*
    };
}

cases!(calc aggregate window join rank union errors);
