//! Each feature of SQL on streams against an independent engine: a case in `oracle/cases` runs at parallelism 1, 3
//! and 8, and its materialised result must be DuckDB's on the same files.
//!
//! `WEIR_ORACLE_SEED` makes other data; the seed stands in every failure.

mod support;

use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use support::{Check, Mode, Oracle, Rows, Run, Scratch, Table, Weir, tables};

const PARALLELISMS: [u32; 3] = [1, 3, 8];
const CHANGE_COLUMN: &str = "op";
const DEFAULT_SEED: u64 = 1;

/// One file of `oracle/cases`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    about: String,
    /// Names in `sources.yaml`.
    sources: Vec<String>,
    /// Of the one transform, `out`; or there are `transforms`.
    sql: Option<String>,
    transforms: Option<Vec<Value>>,
    /// What is expected of `out`; or there are `results`.
    oracle: Option<String>,
    #[serde(default)]
    updating: bool,
    results: Option<Vec<Expected>>,
    #[serde(default)]
    may_be_empty: bool,
    /// Records that windows must drop as late.
    late_dropped: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expected {
    from: String,
    /// An append-only result goes to a sink without a change column, which refuses an updating one.
    #[serde(default)]
    updating: bool,
    oracle: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sources {
    sources: Vec<Value>,
    nexmark_columns: BTreeMap<String, Vec<ColumnOf>>,
}

#[derive(Debug, Deserialize)]
struct ColumnOf {
    name: String,
    #[serde(rename = "type")]
    sql_type: String,
}

/// One test for each case, so that they run side by side and by name.
macro_rules! cases {
    ($($test:ident)*) => {
        const CASES: &[&str] = &[$(stringify!($test)),*];
        $(#[test] fn $test() { check(&stringify!($test).replace('_', "-")); })*
    };
}

cases! {
    aggregate_of_aggregate
    case_when
    casts
    chain
    decimals
    deduplicate_first
    deduplicate_last
    deduplicate_processing_time
    distinct_aggregates
    filter
    filter_clause
    group_by
    group_by_empty_input
    group_by_nothing
    group_by_several
    having
    hop
    interval_join_full
    interval_join_inner
    interval_join_left
    interval_join_residual
    interval_join_right
    join_full
    join_inner
    join_left
    join_residual
    join_right
    join_semi_anti
    join_then_aggregate
    join_updating_full
    join_updating_inner
    join_updating_left
    join_updating_right
    json_access
    late_allowed
    late_dropped
    nexmark_q0
    nexmark_q1
    nexmark_q2
    nexmark_q3
    nexmark_q4
    nexmark_q5
    nexmark_q7
    nexmark_q8
    nexmark_q9
    null_logic
    numbers
    processing_time_windows
    projection
    regular_expressions
    select_distinct
    session
    split_files
    strings
    timestamps
    top_n
    top_n_of_aggregate
    top_n_without_rank
    tumble
    tumble_after_filter
    tumble_global
    tumble_having
    tumble_of_tumble
    union_all
    union_all_updating
    window_join_full
    window_join_inner
    window_join_left
    window_join_right
    window_top_n
    window_top_n_of_aggregate
}

#[test]
fn every_case_is_run() {
    let mut files: Vec<String> = std::fs::read_dir(folder().join("cases"))
        .expect("list the cases")
        .map(|entry| entry.expect("list the cases").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut tests: Vec<String> = CASES.iter().map(|name| name.replace('_', "-")).collect();
    tests.sort();
    assert_eq!(files, tests);
}

fn check(name: &str) {
    let path = folder().join("cases").join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&path).expect("read the case");
    let case: Case = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (transforms, results) = case.steps();
    let scratch = Scratch::new(&format!("oracle-{name}"));
    let seed = seed();
    let mut oracle = Oracle { tables: case.sources.iter().map(|source| table(source)).collect(), checks: vec![] };
    for expected in &results {
        let runs = PARALLELISMS.map(|parallelism| Run {
            label: format!("parallelism {parallelism}"),
            rows: Rows::Folder(output(&scratch, parallelism, &expected.from)),
        });
        oracle.checks.push(Check {
            name: format!("{name} ({})", expected.from),
            sql: expected.oracle.clone(),
            change_column: expected.updating.then_some(CHANGE_COLUMN),
            mode: Mode::Exact,
            may_be_empty: case.may_be_empty,
            runs: runs.to_vec(),
        });
    }
    for parallelism in PARALLELISMS {
        let job = scratch.write_job(
            &format!("{name}-{parallelism}"),
            &json!({
                "parallelism": parallelism,
                "pipeline": {
                    "sources": case.sources.iter().map(|source| source_of(source)).collect::<Vec<_>>(),
                    "transforms": transforms,
                    "sinks": results.iter().map(|expected| sink(&scratch, parallelism, expected)).collect::<Vec<_>>(),
                },
                "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
                "restart": {"none": {}},
            }),
        );
        let finished = Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).succeed();
        if let Some(dropped) = case.late_dropped {
            // As progress writes it: `2,000 late`.
            let expected = format!("{},{:03} late", dropped / 1000, dropped % 1000);
            assert!(finished.stderr.contains(&expected), "no word of `{expected}`: {finished}");
        }
    }
    if let Err(problem) = oracle.compare(&scratch.join("compare.json")) {
        panic!("{}\n{problem}\nWEIR_ORACLE_SEED={seed} cargo xtask test -p weir-cli --test oracle {name}", case.about);
    }
}

impl Case {
    /// The short form for one transform, written out.
    fn steps(&self) -> (Vec<Value>, Vec<Expected>) {
        let transforms = match (&self.sql, &self.transforms) {
            (Some(sql), None) => vec![json!({"name": "out", "sql": sql})],
            (None, Some(transforms)) => transforms.clone(),
            _ => panic!("a case has either `sql` or `transforms`"),
        };
        let results = match (&self.oracle, &self.results) {
            (Some(oracle), None) => {
                vec![Expected { from: "out".to_owned(), updating: self.updating, oracle: oracle.clone() }]
            }
            (None, Some(results)) => results
                .iter()
                .map(|r| Expected { from: r.from.clone(), updating: r.updating, oracle: r.oracle.clone() })
                .collect(),
            _ => panic!("a case has either `oracle` or `results`"),
        };
        (transforms, results)
    }
}

fn sink(scratch: &Scratch, parallelism: u32, expected: &Expected) -> Value {
    let mut sink = json!({
        "name": format!("{}-files", expected.from),
        "from": expected.from,
        "delivery": "ExactlyOnce",
        "files": {"path": output(scratch, parallelism, &expected.from)},
        "format": {"json": {}},
    });
    if expected.updating {
        sink["changeKindColumn"] = json!(CHANGE_COLUMN);
    }
    sink
}

fn output(scratch: &Scratch, parallelism: u32, from: &str) -> PathBuf {
    scratch.join(format!("out-{parallelism}/{from}"))
}

/// The source as the job has it.
fn source_of(name: &str) -> Value {
    let source = sources()
        .sources
        .iter()
        .find(|source| source["name"] == name)
        .unwrap_or_else(|| panic!("no source `{name}` in sources.yaml"));
    let mut source = source.clone();
    if let Some(path) = source["files"]["path"].as_str() {
        let path = path.replace("DATA", &tables(seed()).display().to_string());
        source["files"]["path"] = json!(path);
    }
    source
}

/// The same for the oracle.
fn table(name: &str) -> Table {
    let source = source_of(name);
    let text = |value: &Value| value.as_str().expect("a text in sources.yaml").to_owned();
    let Some(columns) = source["schema"].as_array() else {
        let columns = &sources().nexmark_columns[name];
        return Table {
            name: name.to_owned(),
            files: format!("{}/*", nexmark_tables().join(name).display()),
            format: "json",
            columns: columns.iter().map(|column| (column.name.clone(), column.sql_type.clone())).collect(),
        };
    };
    let path = text(&source["files"]["path"]);
    Table {
        name: name.to_owned(),
        files: if Path::new(&path).is_dir() { format!("{path}/*") } else { path },
        format: if source["format"]["csv"].is_object() { "csv" } else { "json" },
        columns: columns.iter().map(|column| (text(&column["name"]), text(&column["type"]))).collect(),
    }
}

/// Nexmark's tables as a job without any transform copies them to files, once for all cases.
fn nexmark_tables() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oracle-nexmark");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("remove the tables of an earlier build");
        }
        let scratch = Scratch::new("oracle-nexmark-job");
        let names: Vec<&String> = sources().nexmark_columns.keys().collect();
        let sinks: Vec<Value> = names
            .iter()
            .map(|name| {
                json!({
                    "name": format!("{name}-files"),
                    "from": name,
                    "delivery": "ExactlyOnce",
                    "files": {"path": folder.join(name)},
                    "format": {"json": {}},
                })
            })
            .collect();
        let job = scratch.write_job(
            "copy",
            &json!({
                "pipeline": {"sources": names.iter().map(|name| source_of(name)).collect::<Vec<_>>(), "sinks": sinks},
                "checkpoint": {"interval": "1s", "storage": {"uri": scratch.storage_uri("checkpoints")}},
            }),
        );
        Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).succeed();
        folder
    })
}

fn sources() -> &'static Sources {
    static SOURCES: OnceLock<Sources> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let text = std::fs::read_to_string(folder().join("sources.yaml")).expect("read sources.yaml");
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("sources.yaml: {error}"))
    })
}

fn seed() -> u64 {
    match std::env::var("WEIR_ORACLE_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("WEIR_ORACLE_SEED={text} is not a number")),
        Err(_) => DEFAULT_SEED,
    }
}

fn folder() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("tests/oracle")
}
