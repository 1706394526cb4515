//! A checkpoint costs a write for each worker and one for the log, whatever the number of operators and subtasks.

use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use weir_node::{LocalJob, Outcome, Registry, StartFrom, job};
use weir_snapshot::storage::{CountingStorage, MemoryStorage, WriteCounts};

/// Five stateful operators, each between exchanges of its own.
fn job_text(output: &Path, parallelism: u32) -> String {
    let keys = ["a", "b", "c", "d", "e"];
    let columns = keys.iter().zip([300, 7, 41, 1_000, 13]);
    let columns: Vec<_> =
        columns.map(|(key, cardinality)| json!({"name": key, "sequence": {"cardinality": cardinality}})).collect();
    let schema: Vec<_> = keys.iter().map(|key| json!({"name": key, "type": "BIGINT"})).collect();
    let transforms: Vec<_> = keys
        .iter()
        .map(|key| {
            let sql = format!("SELECT {key}, COUNT(*) AS n, SUM(a) AS total FROM numbers GROUP BY {key}");
            json!({"name": format!("by-{key}"), "sql": sql})
        })
        .collect();
    let sinks: Vec<_> = keys
        .iter()
        .map(|key| {
            json!({
                "name": format!("{key}-files"),
                "from": format!("by-{key}"),
                "delivery": "ExactlyOnce",
                "files": {"path": output.join(key)},
                "format": {"json": {}},
                "changeKindColumn": "op",
            })
        })
        .collect();
    let job = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": "counted"},
        "spec": {
            "parallelism": parallelism,
            "pipeline": {
                "sources": [{
                    "name": "numbers",
                    "generator": {"count": 20_000, "rowsPerSecond": 20_000, "columns": columns},
                    "schema": schema,
                }],
                "transforms": transforms,
                "sinks": sinks,
            },
            "checkpoint": {"interval": "100ms", "retain": {"count": 3}},
            "restart": {"none": {}},
        },
    });
    job.to_string()
}

/// Runs the job to its end; what it wrote, and how many checkpoints it completed.
fn run(parallelism: u32) -> (WriteCounts, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = CountingStorage::new(Arc::new(MemoryStorage::new()));
    let registry = Arc::new(Registry::default());
    let text = job_text(folder.path(), parallelism);
    let loaded = job::load_text(text, folder.path().to_path_buf(), registry, |_| Ok(()));
    let job = loaded.job.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
    let local =
        LocalJob::start_on(Arc::new(job), &StartFrom::Latest, Arc::new(storage.clone())).expect("the job starts");
    let status = local.status();
    assert_eq!(local.run(), Outcome::Finished);
    let status = status.lock();
    let failed = status.checkpoints.iter().filter_map(|line| line.failure.as_ref()).collect::<Vec<_>>();
    assert!(failed.is_empty(), "{failed:?}");
    (storage.counts(), status.checkpoints.len() as u64)
}

#[test]
fn a_checkpoint_is_two_writes() {
    for parallelism in [1, 4, 16] {
        let (counts, completed) = run(parallelism);
        assert!(completed >= 3, "{completed} checkpoints are too few to count by");
        // What isn't a checkpoint's: the opening and the closing of the log.
        const OTHER_ENTRIES: u64 = 2;
        assert_eq!(counts.puts_if_absent, completed + OTHER_ENTRIES, "log entries, parallelism {parallelism}");
        // A checkpoint in which no state changed needs no object.
        assert!(counts.puts <= completed, "{counts:?} for {completed} checkpoints, parallelism {parallelism}");
        assert!(counts.puts + 1 >= completed, "{counts:?} for {completed} checkpoints, parallelism {parallelism}");
        assert_eq!(counts.uploads, 0, "small objects are put by one request");
    }
}
