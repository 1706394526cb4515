//! Types, partitions, the creation of tables, and tables that others write to, too.

use super::{Catalog, Kind, weir};
use crate::support::{Check, Mode, Oracle, Rows, Run, Scratch};
use serde_json::{Value, json};

const ROWS: u64 = 8_000;

/// A generator whose rows the oracle can make, too, in columns of every type.
fn spec(catalog: &Catalog, scratch: &Scratch, table: &str, columns: &str) -> Value {
    json!({
        "pipeline": {
            "sources": [{
                "name": "rows",
                "generator": {"count": ROWS, "rowsPerSecond": 4_000, "columns": [
                    {"name": "id", "sequence": {}},
                    {"name": "part", "sequence": {"cardinality": 7}},
                    {"name": "at", "time": {"step": "10m", "maxOutOfOrderness": "0s"}},
                ]},
                "schema": [
                    {"name": "id", "type": "BIGINT", "nullable": false},
                    {"name": "part", "type": "INT"},
                    {"name": "at", "type": "TIMESTAMP"},
                ],
            }],
            "transforms": [{"name": "typed", "sql": format!("SELECT {columns} FROM rows")}],
            "sinks": [{
                "name": "out", "from": "typed", "delivery": "ExactlyOnce", "iceberg": catalog.sink(&format!("shop.{table}")),
            }],
        },
        "checkpoint": {"interval": "400ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
    })
}

const TYPED: &str = "id, CASE WHEN part <> 3 THEN part = 1 END AS flag, CAST(part AS SMALLINT) AS small, part AS n, \
    CAST(id AS DOUBLE) / 4 AS ratio, CAST(part - 3 AS DECIMAL(10, 2)) AS price, \
    CASE WHEN part <> 5 THEN 'name' || CAST(part AS VARCHAR) END AS name, at, at AS local, CAST(at AS DATE) AS day";

fn verify(scratch: &Scratch, sql: &str) {
    let rows = scratch.join("out").join("rows.jsonl");
    let oracle = Oracle {
        tables: vec![],
        checks: vec![Check {
            name: "typed".into(),
            sql: sql.into(),
            change_column: None,
            mode: Mode::Exact,
            may_be_empty: false,
            runs: vec![Run {
                label: "Iceberg".into(),
                rows: Rows::Sql(format!(
                    "SELECT id::BIGINT, flag::BOOLEAN, small::BIGINT, n::INT, ratio::DOUBLE, price::DECIMAL(12, 2), \
                     name::VARCHAR, \"at\"::TIMESTAMP, local::TIMESTAMP, day::DATE FROM read_json('{}')",
                    rows.display()
                )),
            }],
        }],
    };
    oracle.compare(&scratch.join("compare.json")).unwrap_or_else(|problem| panic!("{problem}"));
}

fn expected() -> String {
    format!(
        "SELECT range AS id, CASE WHEN range % 7 <> 3 THEN range % 7 = 1 END AS flag, range % 7 AS small, \
         (range % 7)::INT AS n, range / 4 AS ratio, (range % 7 - 3)::DECIMAL(12, 2) AS price, \
         CASE WHEN range % 7 <> 5 THEN 'name' || (range % 7) END AS name, \
         TIMESTAMP '2026-01-01' + range * INTERVAL 10 MINUTE AS \"at\", \"at\" AS local, \"at\"::DATE AS day FROM range({ROWS})"
    )
}

#[test]
fn a_partitioned_table_of_another_engine() {
    a_table_of_another_engine(Kind::Rest);
}

#[test]
fn a_partitioned_table_of_another_engine_in_sql() {
    a_table_of_another_engine(Kind::SqlInFolder);
}

/// A table that somebody else has made, with wider types, divided in six ways; with kills and a rescaling.
fn a_table_of_another_engine(kind: Kind) {
    let scratch = Scratch::new(&format!("iceberg-typed-{kind:?}"));
    let Some(catalog) = Catalog::start(kind, scratch.path()) else { return };
    catalog.client("create", "shop.typed", &[]).unwrap_or_else(|problem| panic!("{problem}"));
    let job = scratch.write_job("typed", &spec(&catalog, &scratch, "typed", TYPED));
    let plan = weir(&scratch, "plan", &job, &[]).succeed();
    assert!(plan.stdout.contains("table `shop.typed` takes what it would get"), "{plan}");
    let killed = weir(&scratch, "run", &job, &["-p", "2"]).env("WEIR_FAILPOINT", "after-manifest:2").run();
    assert!(!killed.status.success(), "{killed}");
    let finished = weir(&scratch, "run", &job, &["-p", "1"]).succeed();
    let folder = scratch.join("out").display().to_string();
    catalog.client("read", "shop.typed", &[&folder]).unwrap_or_else(|problem| panic!("{problem}\n{finished}"));
    verify(&scratch, &expected());
}

#[test]
fn a_table_of_its_own_to_which_others_append() {
    a_shared_table(Kind::Rest);
}

#[test]
fn a_table_of_its_own_to_which_others_append_in_sql() {
    a_shared_table(Kind::SqlInStore);
}

/// What the job creates itself; and others append to the same table all the while.
fn a_shared_table(kind: Kind) {
    let scratch = Scratch::new(&format!("iceberg-own-{kind:?}"));
    let Some(catalog) = Catalog::start(kind, scratch.path()) else { return };
    let mut job = spec(&catalog, &scratch, "own", TYPED);
    job["pipeline"]["sources"][0]["schema"][0]["nullable"] = json!(true);
    let sink = &mut job["pipeline"]["sinks"][0];
    sink["iceberg"]["createTable"] = json!({"partitionBy": ["month(at)", "bucket(2, id)", "truncate(4, small)"]});
    let job = scratch.write_job("own", &job);
    let refused = weir(&scratch, "run", &job, &["--set", "spec.pipeline.sinks[0].iceberg.createTable="]).fail();
    let missing = if kind == Kind::Rest { "shop.own" } else { "iceberg_tables" };
    let missing = format!("has no table `{missing}`");
    assert!(refused.stderr.contains(&missing) && refused.stderr.contains("createTable"), "{refused}");
    let plan = weir(&scratch, "plan", &job, &[]).succeed();
    assert!(plan.stdout.contains("is not there and would be created"), "{plan}");
    let killed = weir(&scratch, "run", &job, &["-p", "2"]).env("WEIR_FAILPOINT", "mid-commit:2").run();
    assert!(!killed.status.success(), "{killed}");
    const THEIRS: usize = 12;
    let mut others =
        catalog.client_command("append", "shop.own", &[&THEIRS.to_string()]).spawn().expect("start Python");
    let finished = weir(&scratch, "run", &job, &["-p", "3"]).succeed();
    assert!(others.wait().expect("wait for the others").success(), "the others could not append");
    let folder = scratch.join("out").display().to_string();
    catalog.client("read", "shop.own", &[&folder]).unwrap_or_else(|problem| panic!("{problem}\n{finished}"));
    let theirs =
        (1..=THEIRS).map(|number| format!("(-{number}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"));
    let theirs = theirs.collect::<Vec<_>>().join(", ");
    verify(&scratch, &format!("{} UNION ALL SELECT * FROM (VALUES {theirs})", expected()));
    // A column of another type is told before anything runs.
    let other = spec(&catalog, &scratch, "own", &TYPED.replace("part AS n", "'text' AS n"));
    let other = scratch.write_job("other", &other);
    let plan = weir(&scratch, "plan", &other, &[]).fail();
    for part in ["`n` is Utf8 here and int in the table", "error: out: the table", "CAST it"] {
        assert!(plan.stdout.contains(part) || plan.stderr.contains(part), "no word of {part}: {plan}");
    }
}
