//! A catalog in PostgreSQL: commits that end between the file and the row, or after the row and before the answer, and what is
//! said of databases that are none.

use super::support::finished_lines;
use super::ways::{Fate, SwapWay};
use super::{Death, Kind, Session, TABLES};
use serde_json::json;

/// Of the commits of four sinks, one of the second checkpoint's at the latest.
const NTH: u32 = 6;

fn killed_at(fate: Fate, kind: Kind) {
    let Some(mut session) = Session::new(&format!("iceberg-{fate:?}"), kind) else { return };
    let died = session.start(2, &Death::AtSwap(fate, NTH)).unwrap_or_else(|problem| panic!("{fate:?}: {problem}"));
    assert!(died, "no swap was {fate:?}");
    // One was seen in vain, or not at all.
    let postgres = session.catalog.postgres().expect("it is in SQL");
    let swapped = postgres.psql("SELECT count(*) FROM iceberg_tables WHERE previous_metadata_location IS NOT NULL");
    assert_ne!(swapped, "0", "nothing was committed before");
    session.finish(3).unwrap_or_else(|problem| panic!("{fate:?}: {problem}"));
}

#[test]
fn killed_before_the_swap() {
    killed_at(Fate::Held, Kind::SqlInStore);
}

#[test]
fn killed_after_the_swap_and_before_its_answer() {
    killed_at(Fate::HeldAnswer, Kind::SqlInFolder);
}

/// Iceberg's own client of such a catalog, in Java, finds the tables, and commits between two starts of the job.
#[test]
fn java_reads_and_commits_to_the_same_tables() {
    let Some(mut session) = Session::new("iceberg-java", Kind::SqlInStore) else { return };
    let died = session.start(2, &Death::Failpoint("mid-commit", NTH)).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(died, "the failpoint was not passed");
    let before = session.catalog.tables_of_java("shop", "met.first");
    assert!(before.contains_key("copy") && before.values().any(|records| *records > 0), "{before:?}");
    session.finish(3).unwrap_or_else(|problem| panic!("{problem}"));
    let after = session.catalog.tables_of_java("shop", "met.again");
    for table in TABLES {
        let rows = finished_lines(&session.scratch.join("out").join(table)).len();
        assert_eq!(after.get(table), Some(&rows), "{table}: {before:?}, then {after:?}");
    }
    let postgres = session.catalog.postgres().expect("it is in SQL");
    let lasting =
        postgres.psql("SELECT count(*) FROM iceberg_tables WHERE metadata_location <> previous_metadata_location");
    assert_eq!(lasting, TABLES.len().to_string());
}

#[test]
fn a_swap_whose_answer_is_lost_is_not_made_twice() {
    let Some(mut session) = Session::new("iceberg-lost-swaps", Kind::SqlInStore) else { return };
    let way = SwapWay::to(session.catalog.postgres().expect("it is in SQL"), Fate::LostAnswer, 2);
    session.change(|spec| {
        for sink in spec["pipeline"]["sinks"].as_array_mut().expect("sinks") {
            sink["iceberg"]["catalog"]["sql"]["url"] = json!({"value": way.url});
        }
    });
    session.finish(2).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(way.met() > 0, "no answer was lost, so that nothing is shown");
}

#[test]
fn what_is_wrong_with_a_database_is_said() {
    let Some(session) = Session::new("iceberg-wrong-sql", Kind::SqlInFolder) else { return };
    let postgres = session.catalog.postgres().expect("it is in SQL");
    let set = |field: &str, value: &str| format!("spec.pipeline.sinks[0].iceberg.{field}={value}");
    let url = |url: &str| set("catalog.sql.url", &format!("{{value: '{url}'}}"));
    let check = |what: &str, changes: &[String], parts: &[&str]| {
        let options: Vec<&str> = changes.iter().flat_map(|change| ["--set", change]).collect();
        let refused = session.weir("plan", &options).fail();
        for part in parts {
            let said = refused.stderr.contains(part) || refused.stdout.contains(part);
            assert!(said, "{what}: no word of {part}: {refused}");
        }
        let tells = refused.stderr.contains("hush") || refused.stdout.contains("hush");
        assert!(!tells, "{what}: the password is shown: {refused}");
    };
    check("no url", &[url("mysql://me:hush@db/lake")], &["does not begin with postgres://", "catalog.sql.url"]);
    check("two kinds", &[set("catalog.rest", "{uri: 'http://x'}")], &["rest", "sql", "keep one of them"]);
    check(
        "no catalog",
        &[set("createTable", "")],
        &["has no table `iceberg_tables`", "createTable", "catalog.sql.url"],
    );
    check("no place", &[set("catalog.sql.warehouse", "")], &["catalog.sql.warehouse", "no place for the new table"]);
    check("a relative place", &[set("catalog.sql.warehouse", "lake")], &["catalog.sql.warehouse"]);
    check("no secret", &[set("catalog.sql.url", "{env: NOTHING_THERE}")], &["NOTHING_THERE", "catalog.sql.url"]);
    postgres.psql(
        "CREATE ROLE reader LOGIN; CREATE TABLE iceberg_tables (catalog_name text, table_namespace text, table_name text, \
         metadata_location text, previous_metadata_location text); GRANT SELECT ON iceberg_tables TO reader; \
         CREATE TABLE iceberg_namespace_properties (catalog_name text, namespace text, property_key text, property_value text); \
         GRANT SELECT ON iceberg_namespace_properties TO reader",
    );
    let reader = postgres.url().replace("test@", "reader:hush@");
    check("no right", &[url(&reader)], &["this user may not INSERT", "GRANT INSERT ON iceberg_tables"]);
    let gone = format!("file://{}", session.scratch.join("gone.metadata.json").display());
    postgres.psql(&format!("INSERT INTO iceberg_tables VALUES ('test', 'shop', 'copy', '{gone}', NULL)"));
    check("no metadata", &[], &[&gone, "not"]);
    postgres.psql(
        "ALTER TABLE iceberg_tables ADD COLUMN iceberg_type text; UPDATE iceberg_tables SET iceberg_type = 'VIEW'",
    );
    check("a view", &[], &["`shop.copy` is a view"]);
    postgres.psql("ALTER TABLE iceberg_tables DROP COLUMN previous_metadata_location");
    check("another table", &[], &["it lacks previous_metadata_location"]);
}
