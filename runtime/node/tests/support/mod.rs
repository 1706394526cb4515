//! A small job run in this process: its input is generated, its output is files.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_node::job::load_text;
use weir_node::{Job, Registry};

pub const USERS: i64 = 7;
/// Of event time; a row is 10 ms after the one before.
const WINDOW_ROWS: i64 = 100;

/// Rows as they come, without keys; sums by key that are updated; sums by key and second.
pub fn job(folder: &Path, rows: i64, rows_per_second: u64, changes: impl FnOnce(&mut Value)) -> Arc<Job> {
    let sink = |name: &str| {
        json!({
            "name": format!("{name}-files"),
            "from": name,
            "delivery": "ExactlyOnce",
            "files": {"path": folder.join(name)},
            "format": {"json": {}},
        })
    };
    let mut totals = sink("totals");
    totals["changeKindColumn"] = json!("op");
    let mut spec = json!({
        "parallelism": 2,
        "maxParallelism": 8,
        "pipeline": {
            "sources": [{
                "name": "clicks",
                "generator": {
                    "count": rows,
                    "rowsPerSecond": rows_per_second,
                    "columns": [
                        {"name": "id", "sequence": {}},
                        {"name": "usr", "sequence": {"cardinality": USERS}},
                        {"name": "at", "time": {"step": "10ms"}},
                    ],
                },
                "schema": [
                    {"name": "id", "type": "BIGINT"},
                    {"name": "usr", "type": "BIGINT"},
                    {"name": "at", "type": "TIMESTAMP"},
                ],
                "watermark": {"column": "at", "maxOutOfOrderness": "0s"},
            }],
            "transforms": [
                {"name": "copy", "sql": "SELECT id FROM clicks"},
                {"name": "totals", "sql": "SELECT usr, COUNT(*) AS n, SUM(id) AS ids FROM clicks GROUP BY usr"},
                {
                    "name": "windows",
                    "sql": "SELECT usr, COUNT(*) AS n, SUM(id) AS ids \
                            FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' SECOND)) \
                            GROUP BY usr, window_start, window_end",
                },
            ],
            "sinks": [sink("copy"), totals, sink("windows")],
        },
        "checkpoint": {"interval": "10ms", "tolerableFailures": 3, "retain": {"count": 2}},
        "restart": {"fixedDelay": {"attempts": 3, "delay": "1ms"}},
    });
    changes(&mut spec);
    let resource =
        json!({"apiVersion": "weir.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": "small"}, "spec": spec});
    let loaded = load_text(resource.to_string(), folder.to_owned(), Arc::new(Registry::default()), |_| Ok(()));
    let problems: Vec<String> = loaded.diagnostics.iter().map(|found| format!("{found:?}")).collect();
    Arc::new(loaded.job.unwrap_or_else(|| panic!("the test's job is wrong: {problems:#?}")))
}

/// How far the output may be from that of an undisturbed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    ExactlyOnce,
    /// Nothing is lost, and what is counted ends right; rows may stand there twice.
    AtLeastOnce,
}

/// What is wrong with the visible output of a finished job.
pub fn verify(folder: &Path, rows: i64, guarantee: Guarantee) -> Result<(), String> {
    let number = |row: &Value, column: &str| row[column].as_i64().ok_or_else(|| format!("no {column} in {row}"));
    let mut copied: Vec<i64> =
        lines(&folder.join("copy")).iter().map(|row| number(row, "id")).collect::<Result<_, _>>()?;
    copied.sort_unstable();
    let mut windows = vec![];
    for row in lines(&folder.join("windows")) {
        windows.push((number(&row, "usr")?, number(&row, "n")?, number(&row, "ids")?));
    }
    windows.sort_unstable();
    if guarantee == Guarantee::AtLeastOnce {
        copied.dedup();
        windows.dedup();
    }
    if !copied.iter().copied().eq(0..rows) {
        return Err(format!("{} ids of {rows}, from {:?} to {:?}", copied.len(), copied.first(), copied.last()));
    }
    let mut expected: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for id in 0..rows {
        let sums = expected.entry((id / WINDOW_ROWS, id % USERS)).or_default();
        *sums = (sums.0 + 1, sums.1 + id);
    }
    let mut expected: Vec<_> = expected.into_iter().map(|((_, usr), (n, ids))| (usr, n, ids)).collect();
    expected.sort_unstable();
    if windows != expected {
        return Err(format!("windows: {windows:?}, expected {expected:?}"));
    }
    let mut totals: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for row in lines(&folder.join("totals")) {
        if row["op"] == "+I" || row["op"] == "+U" {
            // Counts only grow: the highest is the last.
            let found = (number(&row, "n")?, number(&row, "ids")?);
            let last = totals.entry(number(&row, "usr")?).or_insert(found);
            *last = found.max(*last);
        }
    }
    for usr in 0..USERS {
        let ids: Vec<i64> = (0..rows).filter(|id| id % USERS == usr).collect();
        let expected = (ids.len() as i64, ids.iter().sum());
        if totals.get(&usr) != Some(&expected) {
            return Err(format!("user {usr}: {:?}, expected {expected:?}", totals.get(&usr)));
        }
    }
    Ok(())
}

/// The rows of all visible files.
fn lines(folder: &Path) -> Vec<Value> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let files: Vec<PathBuf> = entries.map(|entry| entry.expect("list the output").path()).collect();
    let is_visible =
        |file: &&PathBuf| !file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
    let texts = files.iter().filter(is_visible).map(|file| std::fs::read_to_string(file).expect("read the output"));
    texts
        .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect::<Vec<_>>())
        .collect()
}
