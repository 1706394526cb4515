//! Values of each type, there and back, and what is said of a table that can't take them.

use super::start;
use super::support::postgres::Postgres;
use super::support::{Scratch, finished_lines};
use serde_json::{Value, json};

#[test]
fn of_each_type_there_and_back() {
    let Some(postgres) = Postgres::start() else { return };
    let scratch = Scratch::new("postgres-values");
    postgres.psql(
        "CREATE TYPE mood AS ENUM ('fine', 'so so'); \
         CREATE SCHEMA \"Odd\"; \
         CREATE TABLE \"Odd\".\"values\" (id bigint, b boolean, s smallint, i bigint, r real, d double precision, \
           n numeric(14, 4), any_n numeric, t varchar(20), j jsonb, u uuid, m mood, day date, at timestamp, atz timestamptz, \
           \"Weird \"\"name\" text)",
    );
    let sql = "SELECT id, id = 1 AS b, CAST(id AS SMALLINT) AS s, CAST(id AS INT) AS i, CAST(id AS FLOAT) / 4 AS r, \
               id / CAST(8 AS DOUBLE) AS d, CAST(-id * 12345 AS DECIMAL(12, 2)) AS n, CAST(id AS DECIMAL(38, 10)) AS any_n, \
               CASE WHEN id = 2 THEN NULL ELSE 'it''s ü' END AS t, '{\"id\": ' || CAST(id AS VARCHAR) || '}' AS j, \
               '00000000-0000-0000-0000-00000000000' || CAST(id AS VARCHAR) AS u, 'so so' AS m, CAST(at AS DATE) AS day, \
               at, at AS atz, 'x' AS \"Weird \"\"name\" FROM rows";
    let spec = json!({
        "pipeline": {
            "sources": [{
                "name": "rows",
                "generator": {"count": 3, "columns": [
                    {"name": "id", "sequence": {}},
                    {"name": "at", "time": {"start": "1999-12-31T23:59:59.5Z", "step": "1s"}},
                ]},
                "schema": [{"name": "id", "type": "BIGINT"}, {"name": "at", "type": "TIMESTAMP"}],
            }],
            "transforms": [{"name": "values", "sql": sql}],
            "sinks": [{
                "name": "out", "from": "values",
                "postgres": {"url": {"value": postgres.url()}, "table": "Odd.values"},
            }],
        },
        "checkpoint": {"storage": {"uri": scratch.storage_uri("checkpoints")}},
    });
    let job = scratch.write_job("values", &spec);
    start(&scratch, &job, 1, 0).succeed();
    let found = postgres.psql("SET timezone = 'UTC'; SELECT * FROM \"Odd\".\"values\" ORDER BY id");
    let expected = [
        "0|f|0|0|0|0|0.0000|0.0000000000|it's ü|{\"id\": 0}|00000000-0000-0000-0000-000000000000|so so|1999-12-31|\
         1999-12-31 23:59:59.5|1999-12-31 23:59:59.5+00|x",
        "1|t|1|1|0.25|0.125|-12345.0000|1.0000000000|it's ü|{\"id\": 1}|00000000-0000-0000-0000-000000000001|so so|\
         2000-01-01|2000-01-01 00:00:00.5|2000-01-01 00:00:00.5+00|x",
        "2|f|2|2|0.5|0.25|-24690.0000|2.0000000000||{\"id\": 2}|00000000-0000-0000-0000-000000000002|so so|2000-01-01|\
         2000-01-01 00:00:01.5|2000-01-01 00:00:01.5+00|x",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);

    let read = |name: &str, schema: Option<Value>| {
        let mut source = json!({
            "name": "rows",
            "postgres": {"url": {"value": postgres.url()}, "table": "Odd.values", "bounded": true},
        });
        if let Some(schema) = schema {
            source["schema"] = schema;
        }
        let spec = json!({
            "pipeline": {
                "sources": [source],
                "sinks": [{"name": "out", "from": "rows", "files": {"path": scratch.join(name)}, "format": {"json": {}}}],
            },
            "checkpoint": {"storage": {"uri": scratch.storage_uri(&format!("checkpoints-{name}"))}},
        });
        scratch.write_job(name, &spec)
    };
    let job = read("back", None);
    start(&scratch, &job, 2, 0).succeed();
    let mut rows: Vec<Value> =
        finished_lines(&scratch.join("back")).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    rows.sort_by_key(|row| row["id"].as_i64());
    assert_eq!(rows.len(), 3);
    let expected = json!({
        "id": 1, "b": true, "s": 1, "i": 1, "r": 0.25, "d": 0.125, "t": "it's ü", "j": "{\"id\": 1}",
        "u": "00000000-0000-0000-0000-000000000001", "m": "so so", "day": "2000-01-01", "Weird \"name": "x",
    });
    for (column, value) in expected.as_object().expect("an object") {
        assert_eq!(&rows[1][column], value, "{column}: {}", rows[1]);
    }
    for column in ["at", "atz"] {
        assert!(rows[1][column].as_str().is_some_and(|at| at.starts_with("2000-01-01T00:00:00.5")), "{}", rows[1]);
    }
    assert!(rows[1]["n"].as_f64() == Some(-12345.0) && rows[2]["t"].is_null(), "{rows:?}");

    let job = read("wrong", Some(json!([{"name": "t", "type": "BIGINT"}])));
    let refused = start(&scratch, &job, 1, 0).with(["--set", "spec.restart={none: {}}"]).fail();
    let said =
        "column `t` of `Odd.values` is character varying(20), which cannot be read as BIGINT; declare it as VARCHAR";
    assert!(refused.stderr.contains(said), "{refused}");
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    let Some(postgres) = Postgres::start() else { return };
    postgres.psql(
        "CREATE TABLE narrow (id int, extra text NOT NULL); CREATE TABLE keyless (id bigint); \
         CREATE TABLE computed (id bigint GENERATED ALWAYS AS IDENTITY)",
    );
    for (name, table, delivery, key, said) in [
        ("absent", "nowhere", "AtLeastOnce", vec![], "there is no table `nowhere`; create it"),
        ("narrow", "narrow", "AtLeastOnce", vec![], "column `id`: BIGINT does not fit into the table's integer"),
        ("keyless", "keyless", "Upsert", vec!["id"], "the key (id) has no unique index"),
        ("computed", "computed", "ExactlyOnce", vec![], "column `id` is generated by the server"),
    ] {
        let scratch = Scratch::new(&format!("postgres-refused-{name}"));
        let spec = json!({
            "pipeline": {
                "sources": [{
                    "name": "rows",
                    "generator": {"count": 3, "columns": [{"name": "id", "sequence": {}}]},
                    "schema": [{"name": "id", "type": "BIGINT"}],
                }],
                "sinks": [{
                    "name": "out", "from": "rows", "delivery": delivery,
                    "postgres": {"url": {"value": postgres.url()}, "table": table, "key": key},
                }],
            },
            "checkpoint": {"storage": {"uri": scratch.storage_uri("checkpoints")}},
        });
        let job = scratch.write_job("refused", &spec);
        let refused = start(&scratch, &job, 1, 0).with(["--set", "spec.restart={none: {}}"]).fail();
        assert!(refused.stderr.contains(said), "{name}: {refused}");
    }
    assert_eq!(postgres.psql("SELECT count(*) FROM keyless"), "0");
}
