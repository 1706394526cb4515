//! A topic in which the latest message of a key counts, and results whose key an update changes, or which a filter lets go.

use crate::broker::Broker;
use crate::support::{Scratch, Weir};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const LINES: i64 = 400;
/// Lines of all keys come before those of the first alone, of which there are more than the limit in the end.
const MIXED: i64 = 300;
const KEYS: i64 = 7;
const LIMIT: i64 = 50;

#[test]
fn what_an_update_takes_away_is_away() {
    let Some(broker) = Broker::of_tests() else { return };
    let name = format!("by-key-{:08x}", rand::random::<u32>());
    let scratch = Scratch::new(&name);
    let topic = |topic: &str| format!("{name}-{topic}");
    ["few", "pairs", "few-upserted", "pairs-upserted"].iter().for_each(|of| broker.create(&topic(of), 2));
    let sink = |from: &str, to: &str, delivery: &str, key: &[&str]| {
        let kafka = json!({"bootstrapServers": broker.address, "topic": topic(to), "key": key});
        json!({"name": to, "from": from, "delivery": delivery, "kafka": kafka, "format": {"json": {}}})
    };
    let spec = json!({
        "parallelism": 2,
        "pipeline": {
            // Slow enough that results change in many batches.
            "sources": [{
                "name": "ids",
                "generator": {"count": LINES, "rowsPerSecond": LINES, "columns": [{"name": "id", "sequence": {}}]},
                "schema": [{"name": "id", "type": "BIGINT"}],
            }],
            "transforms": [
                {
                    "name": "lines",
                    "sql": format!("SELECT CASE WHEN id < {MIXED} THEN id % {KEYS} ELSE 0 END AS k FROM ids"),
                },
                {"name": "totals", "sql": "SELECT k, COUNT(*) AS n FROM lines GROUP BY k"},
                {"name": "small", "sql": format!("SELECT k, n FROM totals WHERE n < {LIMIT}")},
            ],
            "sinks": [
                sink("small", "few", "ExactlyOnce", &["k"]),
                sink("totals", "pairs", "ExactlyOnce", &["k", "n"]),
                sink("small", "few-upserted", "Upsert", &["k"]),
                sink("totals", "pairs-upserted", "Upsert", &["k", "n"]),
            ],
        },
        "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
    });
    let job = scratch.write_job("by-key", &spec);
    let finished = Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).succeed();
    let mut totals: BTreeMap<i64, i64> = BTreeMap::new();
    (0..LINES).for_each(|id| *totals.entry(if id < MIXED { id % KEYS } else { 0 }).or_default() += 1);
    let small: BTreeMap<i64, i64> = totals.clone().into_iter().filter(|(_, n)| *n < LIMIT).collect();
    assert!(!small.is_empty() && small.len() < totals.len(), "nothing would be shown");
    for (of, expected) in [("few", &small), ("pairs", &totals), ("few-upserted", &small), ("pairs-upserted", &totals)] {
        let mut latest = BTreeMap::new();
        for message in broker.read(&topic(of)) {
            latest.insert(message.key.expect("a key"), message.value);
        }
        let row = |text: String| {
            let row: Value = serde_json::from_str(&text).expect("JSON");
            (row["k"].as_i64().expect("a key"), row["n"].as_i64().expect("a number"))
        };
        let found: BTreeSet<(i64, i64)> = latest.into_values().flatten().map(row).collect();
        assert_eq!(found, expected.clone().into_iter().collect(), "{of}: {finished}");
    }
}
