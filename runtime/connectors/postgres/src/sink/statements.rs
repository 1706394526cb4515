//! The sink's SQL.

use super::target::Target;
use crate::table::quoted;

/// Beside the table's own columns: the number of a row among those written since the last checkpoint, ...
const ROW: &str = "weir_row";
/// ... and whether it takes its key's row away.
const DELETES: &str = "weir_deletes";

/// A table with those of the target's columns that are written, with their types and what must hold for their
/// values: a row that the target refuses must be refused before a checkpoint counts on it.
pub(super) fn create_like(target: &Target, prefix: &str, name: &str, suffix: &str) -> String {
    let written = target.column_names();
    let dropped = target.table.columns.iter().filter(|column| !written.contains(&column.name));
    let mut changes: Vec<String> = dropped.map(|column| format!("DROP COLUMN {}", quoted(&column.name))).collect();
    if !target.key.is_empty() {
        changes.extend(target.key.iter().map(|column| format!("ALTER COLUMN {} SET NOT NULL", quoted(column))));
        changes.push(format!("ADD COLUMN {ROW} bigint, ADD COLUMN {DELETES} boolean"));
    }
    let like = target.table.name.quoted();
    let create = format!("CREATE {prefix}TABLE {name} (LIKE {like} INCLUDING CONSTRAINTS) {suffix}");
    if changes.is_empty() { create } else { format!("{create}; ALTER TABLE {name} {}", changes.join(", ")) }
}

pub(super) fn copy_into(table: &str, columns: &[String], is_keyed: bool) -> String {
    let mut columns = list(columns);
    if is_keyed {
        columns.push_str(&format!(", {ROW}, {DELETES}"));
    }
    format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)")
}

/// Rows of one table into another: inserted, or if there is a key merged by it, the last row of each key deciding.
pub(super) fn merge(from: &str, into: &str, columns: &[String], key: &[String]) -> String {
    let all = list(columns);
    if key.is_empty() {
        return format!("INSERT INTO {into} ({all}) SELECT {all} FROM {from}");
    }
    let keys = list(key);
    let last = format!("(SELECT DISTINCT ON ({keys}) * FROM {from} ORDER BY {keys}, {ROW} DESC)");
    let same: Vec<String> = key.iter().map(|column| format!("old.{0} = new.{0}", quoted(column))).collect();
    let others = columns.iter().filter(|column| !key.contains(column));
    let updates: Vec<String> = others.map(|column| format!("{0} = EXCLUDED.{0}", quoted(column))).collect();
    let action = if updates.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", updates.join(", ")) };
    format!(
        "DELETE FROM {into} old USING {last} new WHERE new.{DELETES} AND {}; \
         INSERT INTO {into} ({all}) SELECT {all} FROM {last} new WHERE NOT {DELETES} ON CONFLICT ({keys}) DO {action}",
        same.join(" AND ")
    )
}

/// What has been committed: of each writer its last batch. Small: those of a writer replace each other.
pub(super) fn create_commits(table: &str) -> String {
    // Two that create it at once would both find it missing.
    format!(
        "SELECT pg_catalog.pg_advisory_xact_lock(7310868735490617); \
         CREATE TABLE IF NOT EXISTS {table} (writer text NOT NULL, batch bigint NOT NULL, job text NOT NULL, \
         sink text NOT NULL, epoch bigint NOT NULL, checkpoint bigint NOT NULL, \
         committed_at timestamptz NOT NULL DEFAULT pg_catalog.now(), PRIMARY KEY (writer, batch))"
    )
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_by_key() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(merge("s", "t", &names(&["a", "b"]), &[]), r#"INSERT INTO t ("a", "b") SELECT "a", "b" FROM s"#);
        let merged = merge("s", "t", &names(&["a", "b"]), &names(&["a"]));
        assert!(
            merged.starts_with(
                r#"DELETE FROM t old USING (SELECT DISTINCT ON ("a") * FROM s ORDER BY "a", weir_row DESC)"#
            ),
            "{merged}"
        );
        assert!(merged.ends_with(r#"ON CONFLICT ("a") DO UPDATE SET "b" = EXCLUDED."b""#), "{merged}");
        assert!(merge("s", "t", &names(&["a"]), &names(&["a"])).ends_with("DO NOTHING"));
    }
}
