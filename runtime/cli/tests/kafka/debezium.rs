//! Change events of Debezium: what a job makes of them is what SQL makes of the tables as they are in the end.

use crate::broker::Broker;
use crate::support::{Check, Mode, Oracle, Rows, Run, Scratch, Table, Weir};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PARTITIONS: u64 = 3;
const ORDERS: [(&str, &str); 4] = [("id", "BIGINT"), ("customer", "BIGINT"), ("cents", "BIGINT"), ("note", "VARCHAR")];
const CUSTOMERS: [(&str, &str); 2] = [("id", "BIGINT"), ("region", "VARCHAR")];

/// A table and its history, as a database and Debezium would make them.
struct History {
    rng: ChaCha8Rng,
    rows: BTreeMap<u64, Value>,
    /// Partition, key, value; a message without a value is a tombstone.
    messages: Vec<(i32, Option<String>, Option<String>)>,
}

impl History {
    /// Rows with ids below `ids` that are inserted, changed and deleted.
    fn new(seed: u64, changes: usize, ids: u64, row: impl Fn(&mut ChaCha8Rng, u64) -> Value) -> Self {
        let mut history = History { rng: ChaCha8Rng::seed_from_u64(seed), rows: BTreeMap::new(), messages: vec![] };
        (0..changes).for_each(|_| history.change(ids, &row));
        history
    }

    fn change(&mut self, ids: u64, row: impl Fn(&mut ChaCha8Rng, u64) -> Value) {
        let id = self.rng.random_range(0..ids);
        let is_deleted = self.rows.contains_key(&id) && self.rng.random_bool(0.3);
        let after = if is_deleted { Value::Null } else { row(&mut self.rng, id) };
        let before = match is_deleted {
            true => self.rows.remove(&id),
            false => self.rows.insert(id, after.clone()),
        };
        let op = match (&before, is_deleted) {
            (_, true) => "d",
            (Some(_), false) => "u",
            (None, false) if self.rng.random_bool(0.2) => "r",
            (None, false) => "c",
        };
        let source = json!({"connector": "postgresql", "lsn": self.messages.len(), "snapshot": "false"});
        let event =
            json!({"before": before, "after": after, "source": source, "op": op, "ts_ms": 1_700_000_000_000_u64});
        // With its schema around it, or without.
        let event = match self.rng.random_bool(0.5) {
            true => {
                json!({"schema": {"type": "struct", "fields": [{"field": "op", "type": "string"}]}, "payload": event})
            }
            false => event,
        };
        let (partition, key) = ((id % PARTITIONS) as i32, Some(json!({"id": id}).to_string()));
        self.messages.push((partition, key.clone(), Some(event.to_string())));
        if is_deleted {
            self.messages.push((partition, key, None));
        }
    }

    fn table(&self, scratch: &Scratch, name: &str, columns: &[(&str, &str)]) -> Table {
        let lines: String = self.rows.values().map(|row| format!("{row}\n")).collect();
        let file = scratch.write(&format!("{name}.jsonl"), lines);
        let columns = columns.iter().map(|(name, sql_type)| ((*name).to_owned(), (*sql_type).to_owned())).collect();
        Table { name: name.to_owned(), files: file.display().to_string(), format: "json", columns }
    }
}

#[test]
fn aggregates_and_joins_of_changing_tables() {
    let Some(broker) = Broker::of_tests() else { return };
    let seed = rand::rng().random_range(0..1_000_000_000);
    println!("Debezium: seed {seed}");
    let scratch = Scratch::new("kafka-debezium");
    let name = format!("debezium-{:08x}", rand::random::<u32>());
    let topic = |of: &str| format!("{name}-{of}");
    let mut orders = History::new(seed, 4_000, 300, |rng, id| {
        let note = rng.random_bool(0.5).then(|| format!("note \"{}\"", rng.random_range(0..9)));
        json!({"id": id, "customer": rng.random_range(0..40), "cents": rng.random_range(1..5_000), "note": note})
    });
    let customers =
        History::new(seed + 1, 400, 40, |rng, id| json!({"id": id, "region": format!("r{}", rng.random_range(0..5))}));
    // Of these three there is no row.
    for bad in [r#"{"op":"t"}"#, r#"{"before":null,"after":{"id":1},"op":"u"}"#, r#"{"id":7,"cents":9}"#] {
        orders.messages.push((0, None, Some(bad.to_owned())));
    }
    for (of, history) in [("orders", &orders), ("customers", &customers)] {
        broker.create(&topic(of), PARTITIONS as u32);
        broker.put(&scratch, &topic(of), history.messages.iter().cloned());
    }
    let source = |of: &str, columns: &[(&str, &str)]| {
        let columns: Vec<Value> =
            columns.iter().map(|(name, of_type)| json!({"name": name, "type": of_type})).collect();
        json!({
            "name": of,
            "kafka": {"bootstrapServers": broker.address, "topics": [topic(of)], "bounded": true},
            "format": {"debezium": {"onBadRecord": "Skip"}},
            "schema": columns,
        })
    };
    let transforms = [
        (
            "totals",
            "SELECT customer, COUNT(*) AS n, SUM(cents) AS cents, MAX(cents) AS most, COUNT(note) AS notes FROM orders GROUP BY customer",
        ),
        (
            "regions",
            "SELECT c.region, COUNT(*) AS n, SUM(o.cents) AS cents FROM orders o JOIN customers c ON o.customer = c.id GROUP BY c.region",
        ),
    ];
    let sinks = transforms.map(|(transform, _)| {
        json!({
            "name": format!("{transform}-files"),
            "from": transform,
            "delivery": "ExactlyOnce",
            "files": {"path": scratch.join("out").join(transform)},
            "format": {"json": {}},
            "changeKindColumn": "op",
        })
    });
    let spec = json!({
        "parallelism": 2,
        "pipeline": {
            "sources": [source("orders", &ORDERS), source("customers", &CUSTOMERS)],
            "transforms": transforms.map(|(name, sql)| json!({"name": name, "sql": sql})),
            "sinks": sinks,
        },
        "checkpoint": {"interval": "200ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
        "restart": {"none": {}},
    });
    let job = scratch.write_job(&name, &spec);
    let weir = || Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]);
    let refused = weir().with(["--set", "spec.pipeline.sources[0].schema[3].metadata=Headers"]).fail();
    assert!(refused.stderr.contains("with debezium only Topic, Partition and Key"), "{refused}");
    let finished = weir().succeed();
    assert!(finished.stderr.contains("3 bad"), "{finished}");
    let oracle = Oracle {
        tables: vec![orders.table(&scratch, "orders", &ORDERS), customers.table(&scratch, "customers", &CUSTOMERS)],
        checks: transforms
            .map(|(transform, sql)| Check {
                name: transform.to_owned(),
                sql: sql.replace("SUM(cents)", "SUM(cents)::BIGINT").replace("SUM(o.cents)", "SUM(o.cents)::BIGINT"),
                change_column: Some("op"),
                mode: Mode::Exact,
                may_be_empty: false,
                runs: vec![Run { label: "Debezium".into(), rows: Rows::Folder(scratch.join("out").join(transform)) }],
            })
            .into(),
    };
    oracle
        .compare(&scratch.join("compare.json"))
        .unwrap_or_else(|problem| panic!("seed {seed}: {problem}\n{finished}"));
}
