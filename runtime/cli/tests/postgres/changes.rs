//! The source of changes: rows of a table, then what becomes of them, while our processes and the server are killed. What
//! a job makes of them must in the end be what the server itself computes from the table.

use super::copies::Copy;
use super::support::postgres::Postgres;
use super::support::unaligned::make_unaligned;
use super::support::{Scratch, Weir, await_condition, files_below, random_runs};
use super::{MAX_DEATHS, start};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEFAULT_RUNS: u64 = 2;
const REGIONS: u32 = 7;
/// Up to 30,000 rows are read at first: two seconds.
const SLOW_SINK_ROWS_PER_SECOND: u64 = 15_000;

/// Each table beside what it must hold.
const EXPECTED: [(&str, &str, &str); 2] = [
    (
        "region_sums",
        "region, n, amount, longest",
        "SELECT region, count(*) AS n, sum(amount) AS amount, max(length(note)) AS longest FROM orders GROUP BY region",
    ),
    ("orders_copy", "region, id, amount, note", "SELECT region, id, amount, note FROM orders"),
];

/// The key has two columns, one of them text, so that its order is the server's own. Notes are stored out of line: an
/// update that leaves them as they are doesn't log them again.
fn create_tables(postgres: &Postgres, rows: u32) {
    drop_slots(postgres);
    postgres.psql(&format!(
        "DROP TABLE IF EXISTS orders, region_sums, orders_copy; \
         CREATE TABLE orders (note text, region varchar(20) COLLATE \"C\", amount numeric(12, 2), id bigint, \
           PRIMARY KEY (region, id)); \
         ALTER TABLE orders REPLICA IDENTITY FULL; \
         ALTER TABLE orders ALTER COLUMN note SET STORAGE EXTERNAL; \
         INSERT INTO orders SELECT repeat('n', CASE WHEN i % 100 = 0 THEN 3000 ELSE i % 50 END), \
           'r' || i % {REGIONS}, i % 1000 / 4.0, i FROM generate_series(1, {rows}) i; \
         CREATE TABLE region_sums (region text PRIMARY KEY, n bigint, amount numeric, longest int); \
         CREATE TABLE orders_copy (region text, id bigint, amount numeric(12, 2), note text, PRIMARY KEY (region, id))"
    ));
}

/// The server may take a moment to know that nobody reads one any more.
fn drop_slots(postgres: &Postgres) {
    let client = postgres.client();
    await_condition("replication slots can be dropped", || {
        client.try_psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").ok()
    });
}

fn write_job(scratch: &Scratch, postgres: &Postgres) -> PathBuf {
    let table = |name: &str, key: &[&str]| json!({"url": {"value": postgres.url()}, "table": name, "key": key});
    let spec = json!({
        "pipeline": {
            "sources": [{
                "name": "orders",
                "postgres": {"url": {"value": postgres.url()}, "table": "orders"},
                "schema": [
                    {"name": "region", "type": "VARCHAR"}, {"name": "id", "type": "BIGINT"},
                    {"name": "amount", "type": "DECIMAL(12, 2)"}, {"name": "note", "type": "VARCHAR"},
                ],
            }],
            "transforms": [{
                "name": "sums",
                "sql": "SELECT region, COUNT(*) AS n, SUM(amount) AS amount, \
                        MAX(CAST(character_length(note) AS INT)) AS longest FROM orders GROUP BY region",
            }],
            "sinks": [
                {"name": "sums-out", "from": "sums", "delivery": "ExactlyOnce", "postgres": table("region_sums", &["region"])},
                {
                    "name": "copy-out", "from": "orders", "delivery": "ExactlyOnce",
                    "postgres": table("orders_copy", &["region", "id"]),
                },
            ],
        },
        "checkpoint": {
            "interval": "100ms", "retain": {"count": 2}, "storage": {"uri": scratch.storage_uri("checkpoints")},
        },
        "restart": {"exponentialDelay": {"initial": "100ms", "max": "1s"}},
    });
    scratch.write_job("from-changes", &spec)
}

/// What the tables' contents differ in; nothing: they are right.
fn difference(postgres: &Postgres, copy: Option<&Copy>) -> Option<String> {
    let in_tables = difference_of_tables(postgres);
    in_tables.or_else(|| copy.and_then(|copy| copy.difference(postgres)))
}

fn difference_of_tables(postgres: &Postgres) -> Option<String> {
    EXPECTED.iter().find_map(|(table, columns, expected)| {
        let found = postgres.psql(&format!(
            "WITH expected AS ({expected}), found AS (SELECT {columns} FROM {table}), \
             missing AS (SELECT * FROM expected EXCEPT ALL SELECT * FROM found), \
             surplus AS (SELECT * FROM found EXCEPT ALL SELECT * FROM expected) \
             SELECT (SELECT count(*) FROM missing), (SELECT count(*) FROM surplus), \
               (SELECT string_agg(left(m::text, 60), ' ') FROM (SELECT * FROM missing LIMIT 3) m), \
               (SELECT string_agg(left(s::text, 60), ' ') FROM (SELECT * FROM surplus LIMIT 3) s)"
        ));
        (found != "0|0||").then(|| format!("table {table}: missing|surplus|examples of both: {found}"))
    })
}

/// Runs until the tables are right, and still are when a last change has come through.
fn finish(
    scratch: &Scratch,
    postgres: &Postgres,
    job: &std::path::Path,
    parallelism: u32,
    copy: Option<&Copy>,
) -> Result<(), String> {
    let mut running = start(scratch, job, parallelism, 0).spawn();
    for last in ["z1", "z2"] {
        postgres.psql(&format!("INSERT INTO orders VALUES ('the last', '{last}', 1, 1)"));
        let began = Instant::now();
        while let Some(difference) = difference(postgres, copy) {
            if running.has_ended() || began.elapsed() > Duration::from_secs(90) {
                return Err(format!("{difference}\n{}", running.kill()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    running.kill();
    Ok(())
}

/// A transaction of random changes.
fn transaction(rng: &mut ChaCha8Rng, rows: u32) -> String {
    let mut statements = vec!["BEGIN".to_owned()];
    for _ in 0..rng.random_range(1..5) {
        let (id, region, amount) =
            (rng.random_range(1..=rows), rng.random_range(0..REGIONS), rng.random_range(0..1000));
        statements.push(match rng.random_range(0..8) {
            0 | 1 => format!(
                "INSERT INTO orders VALUES (repeat('i', {amount}), 'r{region}', {amount}, {}) ON CONFLICT DO NOTHING",
                rng.random_range(1..2 * rows)
            ),
            2 => format!("UPDATE orders SET amount = amount + {amount} WHERE id = {id}"),
            3 => format!(
                "UPDATE orders SET amount = {amount}, note = NULL WHERE region = 'r{region}' AND id % 997 = {id} % 997"
            ),
            4 => format!("UPDATE orders SET note = repeat('u', 2500 + {amount}) WHERE id = {id}"),
            // Another key, perhaps of a part of the table that has not been read, or has.
            5 => format!(
                "UPDATE orders o SET region = 'r{region}' WHERE id = {id} AND NOT EXISTS \
                 (SELECT 1 FROM orders WHERE region = 'r{region}' AND id = {id})"
            ),
            6 => format!("DELETE FROM orders WHERE id = {id}"),
            _ => format!("DELETE FROM orders WHERE region = 'r{region}' AND id % 499 = {id} % 499"),
        });
    }
    statements.push(if rng.random_bool(0.1) { "ROLLBACK" } else { "COMMIT" }.to_owned());
    statements.join("; ")
}

#[test]
fn changes_under_random_kills() {
    let Some(mut postgres) = Postgres::start() else { return };
    let repeat = |seed| format!("cargo xtask kill-test-postgres 1 {seed}");
    random_runs("POSTGRES", DEFAULT_RUNS, repeat, |seed, rng| random_run(&mut postgres, seed, rng));
}

/// What happened in it.
fn random_run(postgres: &mut Postgres, seed: u64, rng: &mut ChaCha8Rng) -> Result<String, String> {
    let name = format!("postgres-changes-{seed}");
    let scratch = Scratch::new(&name);
    let rows = rng.random_range(1_000..30_000);
    create_tables(postgres, rows);
    let job = write_job(&scratch, postgres);
    let copy = Copy::random(rng, &scratch, &name);
    copy.add_to(&job);
    let mut story = vec![format!("{rows} rows, {}", copy.name())];
    if rng.random_bool(0.5) {
        make_unaligned(&job, 0, ("orders", SLOW_SINK_ROWS_PER_SECOND));
        story.push("unaligned".to_owned());
    }
    let (client, is_over) = (postgres.client(), AtomicBool::new(false));
    let mut work = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    std::thread::scope(|scope| -> Result<(), String> {
        let worker = scope.spawn(|| {
            let mut transactions = 0;
            while !is_over.load(Ordering::Acquire) {
                // It may be away.
                transactions += u32::from(client.try_psql(&transaction(&mut work, rows)).is_ok());
            }
            transactions
        });
        let deaths = rng.random_range(1..=MAX_DEATHS);
        let done = (0..deaths).try_for_each(|_| {
            let (parallelism, workers) = (rng.random_range(1..=4), [0, 0, 2][rng.random_range(0..3)]);
            let mut running = start(&scratch, &job, parallelism, workers).spawn();
            let delay = Duration::from_millis(rng.random_range(0..2_500));
            running.pass(delay);
            let mut told = format!("p={parallelism} workers={workers} {delay:.0?} ");
            match rng.random_range(0..4) {
                0 => {
                    postgres.crash();
                    told += "server crashed ";
                    running.pass(Duration::from_millis(rng.random_range(0..1_500)));
                }
                1 if workers > 0 => {
                    let pids = running.children();
                    if !pids.is_empty() {
                        super::support::signal(pids[rng.random_range(0..pids.len())], libc::SIGKILL);
                        told += "worker killed ";
                        running.pass(Duration::from_millis(rng.random_range(0..1_500)));
                    }
                }
                _ => {}
            }
            let finished = running.kill();
            story.push(told + "killed");
            match finished.status.code() {
                Some(code) if code != 0 => Err(format!("{}: a start failed by itself: {finished}", story.join(", "))),
                _ => Ok(()),
            }
        });
        is_over.store(true, Ordering::Release);
        let transactions = worker.join().expect("the workload runs to its end");
        story.push(format!("{transactions} transactions"));
        done
    })?;
    let parallelism = rng.random_range(1..=4);
    let story = format!("{}, then p={parallelism}", story.join(", "));
    finish(&scratch, postgres, &job, parallelism, Some(&copy)).map_err(|problem| {
        let kept = scratch.keep().display();
        format!("{story}: {problem}\nkept for inspection: {kept}")
    })?;
    Ok(story)
}

/// The snapshot can't be had again: the rest of the rows is read from a later one, and changes in between count where
/// their rows had been read before them.
#[test]
fn rows_go_on_behind_a_checkpoint_that_came_in_between() {
    let Some(postgres) = Postgres::start() else { return };
    let scratch = Scratch::new("postgres-changes-cuts");
    create_tables(&postgres, 100_000);
    let job = write_job(&scratch, &postgres);
    let is_between = || {
        let position = last_position(&scratch)?;
        position["at"]["rows"]["cuts"].as_array().map(Vec::len)
    };
    for cuts in 1..=2 {
        let died = start(&scratch, &job, 2, 0).env("WEIR_FAILPOINT", "after-manifest:1").run();
        assert!(died.status.signal().is_some(), "the failpoint was not passed: {died}");
        assert_eq!(is_between(), Some(cuts), "the checkpoint came when all had been read");
        // Of every region some, so in front of where the reader is and behind.
        postgres.psql(&format!(
            "UPDATE orders SET amount = amount + {cuts} WHERE id % 5 = {cuts}; DELETE FROM orders WHERE id % 7 = {cuts}; \
             UPDATE orders SET region = 'r' || (id + {cuts}) % {REGIONS} WHERE id % 11 = {cuts}; \
             INSERT INTO orders SELECT 'new', 'r' || i % {REGIONS}, 1, i FROM generate_series({cuts}00001, {cuts}00200) i"
        ));
    }
    finish(&scratch, &postgres, &job, 3, None).unwrap_or_else(|problem| panic!("{problem}"));
}

/// Of the source's only split, in the last checkpoint.
fn last_position(scratch: &Scratch) -> Option<Value> {
    files_below(&scratch.join("checkpoints")).iter().rev().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let at = text.find("\"split\":\"changes\"")?;
        let position = &text[at..];
        let position = &position[position.find("\"position\":")? + "\"position\":".len()..];
        serde_json::Deserializer::from_str(position).into_iter::<Value>().next()?.ok()
    })
}

#[test]
fn what_keeps_changes_from_being_read_is_said_at_plan_time() {
    let Some(postgres) = Postgres::start() else { return };
    postgres.psql(
        "CREATE TABLE keyless (id bigint); ALTER TABLE keyless REPLICA IDENTITY FULL; \
         CREATE TABLE by_key (id bigint PRIMARY KEY); \
         CREATE TABLE parts (id bigint PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE UNLOGGED TABLE lost (id bigint PRIMARY KEY); ALTER TABLE lost REPLICA IDENTITY FULL; \
         CREATE TABLE fine (id bigint PRIMARY KEY, twice bigint GENERATED ALWAYS AS (id * 2) STORED); \
         ALTER TABLE fine REPLICA IDENTITY FULL; \
         CREATE PUBLICATION others FOR TABLE by_key; \
         CREATE PUBLICATION a_few FOR TABLE fine WHERE (id > 5) WITH (publish = 'insert'); \
         CREATE ROLE reader LOGIN; GRANT SELECT ON fine TO reader",
    );
    postgres.psql("SELECT pg_create_logical_replication_slot('foreign_one', 'test_decoding')");
    let reader = postgres.url().replace("test@", "reader@");
    for (name, url, more, columns, said) in [
        ("keyless", postgres.url(), json!({}), vec!["id"], vec!["`public.keyless` has no primary key"]),
        (
            "by_key",
            postgres.url(),
            json!({}),
            vec!["id"],
            vec!["ALTER TABLE \"public\".\"by_key\" REPLICA IDENTITY FULL"],
        ),
        ("parts", postgres.url(), json!({}), vec!["id"], vec!["`public.parts` is partitioned"]),
        ("lost", postgres.url(), json!({}), vec!["id"], vec!["changes of `public.lost` are not logged"]),
        ("nowhere", postgres.url(), json!({}), vec!["id"], vec!["there is no table `nowhere`"]),
        ("fine", postgres.url(), json!({}), vec!["id", "twice"], vec!["column `twice` is computed by the server"]),
        (
            "fine",
            postgres.url(),
            json!({"publication": "absent"}),
            vec!["id"],
            vec!["there is no publication `absent`"],
        ),
        ("fine", postgres.url(), json!({"publication": "others"}), vec!["id"], vec!["has no changes of `public.fine`"]),
        (
            "fine",
            postgres.url(),
            json!({"publication": "a_few"}),
            vec!["id"],
            vec!["the publication `a_few` leaves changes out", "gives only rows with (id > 5)"],
        ),
        ("fine", postgres.url(), json!({"slot": "foreign_one"}), vec!["id"], vec!["plugin `test_decoding`"]),
        (
            "fine",
            reader,
            json!({}),
            vec!["id"],
            vec![
                "the user `reader` may not replicate; ALTER ROLE",
                "this user may not make a publication of `public.fine`",
            ],
        ),
        (
            "fine",
            postgres.url(),
            json!({}),
            vec!["id"],
            vec!["changes of `fine` of PostgreSQL", "will be made", "SELECT pg_drop_replication_slot('weir_"],
        ),
    ] {
        let scratch = Scratch::new("postgres-changes-plan");
        let mut source = json!({"url": {"value": url}, "table": name});
        source.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let schema: Vec<Value> = columns.iter().map(|name| json!({"name": name, "type": "BIGINT"})).collect();
        let spec = json!({
            "pipeline": {
                "sources": [{"name": "rows", "postgres": source, "schema": schema}],
                "sinks": [{"name": "out", "from": "rows", "blackhole": {}}],
            },
            "checkpoint": {"storage": {"uri": scratch.storage_uri("checkpoints")}},
        });
        let job = scratch.write_job("plan", &spec);
        let planned = Weir::new(scratch.path(), ["plan".as_ref(), job.as_os_str()]).run();
        let is_fine = said.contains(&"will be made");
        assert_eq!(planned.status.success(), is_fine, "{name} {more}: {planned}");
        for part in said {
            assert!(
                planned.stderr.contains(part) || planned.stdout.contains(part),
                "{name}: no word of {part}: {planned}"
            );
        }
    }
    assert_eq!(postgres.psql("SELECT count(*) FROM pg_replication_slots"), "1", "a plan has made a slot");
}

/// What can't be gone on from is said, and nothing is read as if it could.
#[test]
fn changes_that_are_lost_end_the_job() {
    let Some(postgres) = Postgres::start() else { return };
    create_tables(&postgres, 100);
    let scratch = Scratch::new("postgres-changes-lost");
    let job = write_job(&scratch, &postgres);
    let read = || await_condition("the rows are there", || difference_of_tables(&postgres).is_none().then_some(()));
    let once = || start(&scratch, &job, 1, 0).with(["--set", "spec.restart={none: {}}"]);

    let running = start(&scratch, &job, 1, 0).spawn();
    read();
    // The slot goes on with each checkpoint, also where others write and nothing is ours to read.
    let confirmed = || postgres.psql("SELECT confirmed_flush_lsn FROM pg_replication_slots");
    let before = confirmed();
    postgres.psql("CREATE TABLE elsewhere AS SELECT generate_series(1, 1000) AS i");
    let written = postgres.psql("SELECT pg_current_wal_lsn()");
    await_condition("the server may forget what others wrote", || {
        let is_behind = postgres.psql(&format!("SELECT '{written}'::pg_lsn <= '{}'::pg_lsn", confirmed()));
        (is_behind == "t").then_some(())
    });
    assert_ne!(before, confirmed());
    // Another column is passed over.
    postgres.psql("ALTER TABLE orders ADD COLUMN extra int DEFAULT 7; INSERT INTO orders VALUES ('x', 'new', 1, 1, 2)");
    read();
    postgres.psql("TRUNCATE orders");
    let finished = running.wait();
    assert!(!finished.status.success(), "{finished}");
    assert!(finished.stderr.contains("was emptied by TRUNCATE"), "{finished}");
    assert!(finished.stderr.contains("start the job afresh"), "{finished}");
    let failed = once().fail();
    assert!(failed.stderr.contains("`public.orders` was emptied by TRUNCATE"), "{failed}");

    let advance = "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots";
    let client = postgres.client();
    await_condition("nobody else reads the slot", || client.try_psql(advance).ok());
    let failed = once().fail();
    assert!(failed.stderr.contains("somebody else has read it"), "{failed}");
    drop_slots(&postgres);
    let failed = once().fail();
    assert!(failed.stderr.contains("is gone, and with it changes since"), "{failed}");
}

/// A row is the same whether it was there before the job or came later: an aggregate takes back what it was given.
#[test]
fn values_of_each_type_as_rows_and_as_changes() {
    let Some(postgres) = Postgres::start() else { return };
    let columns = [
        ("b", "boolean", "BOOLEAN", "true"),
        ("s", "smallint", "SMALLINT", "-7"),
        ("r", "real", "FLOAT", "0.1"),
        ("d", "double precision", "DOUBLE", "1e300"),
        ("n", "numeric(12, 2)", "DECIMAL(12, 2)", "123.45"),
        ("wide", "numeric", "DECIMAL(30, 5)", "0.00001"),
        ("padded", "char(5)", "VARCHAR", "'ab'"),
        ("t", "text", "VARCHAR", "'it''s ü'"),
        ("bytes", "bytea", "BYTES", "'\\x00ff'"),
        ("day", "date", "DATE", "'2026-02-28'"),
        ("clock", "time", "TIME", "'23:59:59.5'"),
        ("at", "timestamp", "TIMESTAMP", "'2026-01-31 12:00:00.000001'"),
        ("atz", "timestamptz", "TIMESTAMP", "'2026-01-31 12:00:00.5+02'"),
        ("j", "jsonb", "VARCHAR", "'{\"a\": [1, null]}'"),
        ("u", "uuid", "VARCHAR", "'00000000-0000-0000-0000-00000000000a'"),
        ("tags", "text[]", "VARCHAR", "'{x,NULL,\"y z\"}'"),
        ("past", "interval", "VARCHAR", "'1 day 2 hours'"),
        ("nothing", "int", "INT", "NULL"),
    ];
    let all = |part: fn(&(&str, &str, &str, &str)) -> String| columns.iter().map(part).collect::<Vec<_>>().join(", ");
    let (table, values) = (all(|column| format!("{} {}", column.0, column.1)), all(|column| column.3.to_owned()));
    // As people have it set, and not as we do.
    postgres.psql(
        "ALTER DATABASE postgres SET datestyle = 'German'; ALTER DATABASE postgres SET intervalstyle = 'iso_8601'",
    );
    postgres.psql(
        "ALTER DATABASE postgres SET timezone = 'Asia/Kolkata'; ALTER DATABASE postgres SET bytea_output = 'escape'",
    );
    postgres
        .psql(&format!("CREATE TABLE kinds (id int PRIMARY KEY, {table}); ALTER TABLE kinds REPLICA IDENTITY FULL"));
    let insert = |id: u32| postgres.psql(&format!("SET datestyle = 'ISO'; INSERT INTO kinds VALUES ({id}, {values})"));
    insert(1);
    let scratch = Scratch::new("postgres-changes-values");
    let mut schema = vec![json!({"name": "id", "type": "INT"})];
    schema.extend(columns.iter().map(|(name, _, ours, _)| json!({"name": name, "type": ours})));
    let spec = json!({
        "pipeline": {
            "sources": [{
                "name": "kinds", "postgres": {"url": {"value": postgres.url()}, "table": "kinds"}, "schema": schema,
            }],
            "sinks": [{"name": "out", "from": "kinds", "print": {}}],
        },
        "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
    });
    let job = scratch.write_job("kinds", &spec);
    let running = start(&scratch, &job, 1, 0).spawn();
    let line = |begins: &str| {
        await_condition(begins, || {
            let text = running.stdout();
            let begins = format!("{begins}, ");
            text.lines().find_map(|line| line.split_once(&begins).map(|(_, rest)| rest.to_owned()))
        })
    };
    let row = line("+I[1");
    insert(2);
    assert_eq!(line("+I[2"), row, "as a change, and as a row");
    postgres.psql("UPDATE kinds SET id = 3 WHERE id = 1; DELETE FROM kinds WHERE id = 2");
    for taken in ["-U[1", "+U[3", "-D[2"] {
        assert_eq!(line(taken), row, "{taken}");
    }
    running.kill();
}
