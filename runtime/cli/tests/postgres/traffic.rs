//! A job that writes into PostgreSQL in each way, and what its tables must hold: computed by PostgreSQL itself, from the
//! generator's rule alone.

use super::support::Scratch;
use super::support::postgres::Postgres;
use serde_json::{Value, json};
use std::path::PathBuf;

const ROWS: u64 = 40_000;
/// So that a run takes two seconds, whatever the build and the machine.
const ROWS_PER_SECOND: u64 = 20_000;
const USERS: u64 = 97;

/// Each table beside what it must hold. `users` has rows come and go: a number of clicks is that of no user any more
/// when the last of them has clicked again.
const EXPECTED: [(&str, &str); 4] = [
    (
        "copied",
        "SELECT id, id % 97 AS usr, (id * 3 % 1000)::numeric(12, 2) AS amount, 'u' || id % 97 AS name, \
         timestamp '2026-01-01' + id * interval '10 ms' AS at FROM generate_series(0, $ROWS - 1) id WHERE id % 3 = 0",
    ),
    ("totals", TOTALS),
    ("totals_upserted", TOTALS),
    (
        "users",
        "SELECT n, COUNT(*) AS users FROM (SELECT COUNT(*) AS n FROM generate_series(0, $ROWS - 1) id GROUP BY id % 97) c \
         GROUP BY n",
    ),
];
const TOTALS: &str = "SELECT id % 97 AS usr, COUNT(*) AS n, SUM(id)::bigint AS ids FROM generate_series(0, $ROWS - 1) id GROUP BY id % 97";

pub fn create_tables(postgres: &Postgres) {
    postgres.psql(
        "DROP TABLE IF EXISTS copied, totals, totals_upserted, users; \
         CREATE TABLE copied (at timestamptz, id bigint NOT NULL, usr int CHECK (usr < 97), amount numeric(12, 2), \
           name text, seen timestamptz NOT NULL DEFAULT now()); \
         CREATE TABLE totals (usr bigint PRIMARY KEY, n bigint NOT NULL, ids bigint); \
         CREATE TABLE totals_upserted (usr bigint PRIMARY KEY, n bigint NOT NULL, ids bigint); \
         CREATE TABLE users (users bigint NOT NULL, n bigint UNIQUE)",
    );
}

/// The ways in which rows can wait for their checkpoint.
pub const COMMIT_BY: [&str; 2] = ["StagingTables", "PreparedTransactions"];

/// The job's file in its scratch folder. `commit_by`: of the sink without a key.
pub fn write(scratch: &Scratch, postgres: &Postgres, commit_by: &str) -> PathBuf {
    let sink = |name: &str, from: &str, delivery: &str, key: &[&str]| {
        let table = name.replace('-', "_");
        let mut sink = json!({
            "name": name, "from": from, "delivery": delivery,
            "postgres": {"url": {"value": postgres.url()}, "table": table, "key": key, "batchRows": 500},
        });
        if key.is_empty() {
            sink["postgres"]["commitBy"] = json!(commit_by);
        }
        sink
    };
    let sinks: Vec<Value> = vec![
        sink("copied", "copy", "ExactlyOnce", &[]),
        sink("totals", "sums", "ExactlyOnce", &["usr"]),
        sink("totals-upserted", "sums", "Upsert", &["usr"]),
        sink("users", "counts", "ExactlyOnce", &["n"]),
    ];
    let spec = json!({
        "pipeline": {
            "sources": [{
                "name": "clicks",
                "generator": {
                    "count": ROWS, "rowsPerSecond": ROWS_PER_SECOND, "seed": 1,
                    "columns": [
                        {"name": "id", "sequence": {}},
                        {"name": "usr", "sequence": {"cardinality": USERS}},
                        {"name": "at", "time": {"start": "2026-01-01T00:00:00Z", "step": "10ms"}},
                    ],
                },
                "schema": [
                    {"name": "id", "type": "BIGINT"}, {"name": "usr", "type": "INT"}, {"name": "at", "type": "TIMESTAMP"},
                ],
                "watermark": {"column": "at"},
            }],
            "transforms": [
                {
                    "name": "copy",
                    "sql": "SELECT id, usr, CAST(id * 3 % 1000 AS DECIMAL(12, 2)) AS amount, 'u' || CAST(usr AS VARCHAR) AS name, at \
                            FROM clicks WHERE id % 3 = 0",
                },
                {"name": "sums", "sql": "SELECT CAST(usr AS BIGINT) AS usr, COUNT(*) AS n, SUM(id) AS ids FROM clicks GROUP BY usr"},
                {"name": "counts", "sql": "SELECT n, COUNT(*) AS users FROM sums GROUP BY n"},
            ],
            "sinks": sinks,
        },
        "checkpoint": {
            "interval": "100ms", "mode": "ExactlyOnce", "retain": {"count": 2},
            "storage": {"uri": scratch.storage_uri("checkpoints")},
        },
        // Patient enough for a server that recovers from a crash.
        "restart": {"exponentialDelay": {"initial": "100ms", "max": "1s"}},
    });
    scratch.write_job("into-postgres", &spec)
}

/// What is wrong with the tables' contents.
pub fn verify(postgres: &Postgres) -> Result<(), String> {
    for (table, expected) in EXPECTED {
        let expected = expected.replace("$ROWS", &ROWS.to_string());
        let columns = match table {
            "copied" => "id, usr, amount, name, at AT TIME ZONE 'UTC'",
            "users" => "n, users",
            _ => "usr, n, ids",
        };
        let difference = postgres.psql(&format!(
            "WITH expected AS ({expected}), found AS (SELECT {columns} FROM {table}), \
             missing AS (SELECT * FROM expected EXCEPT ALL SELECT * FROM found), \
             surplus AS (SELECT * FROM found EXCEPT ALL SELECT * FROM expected) \
             SELECT (SELECT count(*) FROM missing), (SELECT count(*) FROM surplus), \
               (SELECT string_agg(m::text, ' ') FROM (SELECT * FROM missing LIMIT 3) m), \
               (SELECT string_agg(s::text, ' ') FROM (SELECT * FROM surplus LIMIT 3) s)"
        ));
        if difference != "0|0||" {
            return Err(format!("table {table}: missing|surplus|examples of both: {difference}"));
        }
    }
    let left = postgres.psql(
        "SELECT string_agg(name, ' ') FROM (SELECT relname AS name FROM pg_class WHERE relname ~ '^weir_[0-9a-f]+_e' \
         AND relkind = 'r' UNION ALL SELECT gid FROM pg_prepared_xacts) waiting",
    );
    match left.as_str() {
        "" => Ok(()),
        waiting => Err(format!("staging tables or prepared transactions are left: {waiting}")),
    }
}

/// A job that copies a table of the server's into another, which must be left with the same rows.
pub fn write_copy(scratch: &Scratch, postgres: &Postgres) -> PathBuf {
    postgres.psql(
        "DROP TABLE IF EXISTS copied_from, copied_to; \
         CREATE TABLE copied_from AS SELECT i AS id, repeat('x', i % 200) AS text, i::numeric(12, 2) / 4 AS n, \
           timestamptz '2026-01-01Z' + i * interval '1 s' AS at FROM generate_series(1, 300000) i; \
         DELETE FROM copied_from WHERE id % 5 = 0; \
         CREATE TABLE copied_to (LIKE copied_from)",
    );
    let postgres = |table: &str| json!({"url": {"value": postgres.url()}, "table": table});
    let mut source = postgres("copied_from");
    source["bounded"] = json!(true);
    let spec = json!({
        "pipeline": {
            "sources": [{"name": "rows", "postgres": source}],
            "sinks": [{"name": "copy", "from": "rows", "delivery": "ExactlyOnce", "postgres": postgres("copied_to")}],
        },
        "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
        "restart": {"none": {}},
    });
    scratch.write_job("copy-a-table", &spec)
}

pub fn verify_copy(postgres: &Postgres) {
    let rows = postgres.psql(
        "SELECT count(*), (SELECT count(*) FROM (SELECT * FROM copied_from EXCEPT ALL SELECT * FROM copied_to) d) \
         FROM copied_to",
    );
    assert_eq!(rows, "240000|0");
}
