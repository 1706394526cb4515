//! Each change of a table with its kind, as lines of files or as messages of a topic: what is left of them is the table.

use super::support::kafka::{new_topic, values_of};
use super::support::postgres::Postgres;
use super::support::{Scratch, finished_lines};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub enum Copy {
    Files(PathBuf),
    Topic { broker: String, topic: String },
}

impl Copy {
    /// One of both, as far as a broker is there.
    pub fn random(rng: &mut ChaCha8Rng, scratch: &Scratch) -> Self {
        // Drawn in any case: the seed means the same wherever it runs.
        let topic = if rng.random_bool(0.5) { new_topic("changes") } else { None };
        match topic {
            Some((broker, topic)) => Copy::Topic { broker, topic },
            None => Copy::Files(scratch.join("changes")),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Copy::Files(_) => "to files",
            Copy::Topic { .. } => "to Kafka",
        }
    }

    /// Lets the job write it too.
    pub fn add_to(&self, job: &Path) {
        let text = std::fs::read_to_string(job).expect("read the job");
        let mut resource: Value = serde_json::from_str(&text).expect("the job is JSON");
        let mut sink = json!({
            "name": "each-change", "from": "orders", "delivery": "ExactlyOnce", "format": {"json": {}},
            "changeKindColumn": "op",
        });
        match self {
            Copy::Files(folder) => sink["files"] = json!({"path": folder, "rolling": {"maxAge": "100ms"}}),
            Copy::Topic { broker, topic } => sink["kafka"] = json!({"bootstrapServers": broker, "topic": topic}),
        }
        resource["spec"]["pipeline"]["sinks"].as_array_mut().expect("sinks").push(sink);
        std::fs::write(job, resource.to_string()).expect("write the job");
    }

    /// What the table and the changes that are committed by now differ in.
    pub fn difference(&self, postgres: &Postgres) -> Option<String> {
        let mut left: BTreeMap<String, i64> = BTreeMap::new();
        let lines = match self {
            Copy::Files(folder) => finished_lines(folder),
            Copy::Topic { broker, topic } => values_of(broker, topic),
        };
        for line in lines {
            let (row, kind) = row(&line);
            *left.entry(row).or_default() += if kind.starts_with('+') { 1 } else { -1 };
        }
        let table = postgres.psql("SELECT row_to_json(o) FROM orders o");
        for line in table.lines() {
            *left.entry(row(line).0).or_default() -= 1;
        }
        left.retain(|_, count| *count != 0);
        let some: Vec<_> = left.iter().take(3).map(|(row, count)| format!("{count} of {row:.80}")).collect();
        (!left.is_empty()).then(|| format!("changes {}: {} rows are not right: {some:?}", self.name(), left.len()))
    }
}

/// A row, whichever of both wrote it, and its kind.
fn row(line: &str) -> (String, String) {
    let row: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let amount = match &row["amount"] {
        Value::String(text) => text.parse().ok(),
        number => number.as_f64(),
    };
    let cents = amount.map(|amount: f64| (amount * 100.0).round() as i64);
    let kind = row["op"].as_str().unwrap_or_default().to_owned();
    (json!([row["region"], row["id"], cents, row["note"]]).to_string(), kind)
}
