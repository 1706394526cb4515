//! Each change of a table with its kind, as lines of files, messages of a topic or rows of an Iceberg table: what is left of
//! them is the table. And a topic in which the latest message of a key counts.

use super::support::iceberg::{Catalog, Kind};
use super::support::kafka::{latest_of, new_topic, values_of};
use super::support::postgres::Postgres;
use super::support::s3::Objects;
use super::support::{Scratch, finished_lines, s3_server};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of Iceberg's.
const TABLE: &str = "shop.changes";

pub struct Copy {
    place: Place,
    /// Of what is fetched.
    folder: PathBuf,
}

enum Place {
    Files,
    Objects(Objects),
    Topic {
        broker: String,
        topic: String,
    },
    /// By key, in transactions: without, what a lost attempt has read of the table may stay although it was deleted before the
    /// next one read it.
    Latest {
        broker: String,
        topic: String,
    },
    Table(Catalog),
}

impl Copy {
    /// One of them, as far as servers are there. The name is that of a run.
    pub fn random(rng: &mut ChaCha8Rng, scratch: &Scratch, name: &str) -> Self {
        // Drawn in any case: the seed means the same wherever it runs.
        let place = match rng.random_range(0..5) {
            0 => s3_server().map(|server| Place::Objects(Objects::new(&server, name))),
            1 => new_topic("changes").map(|(broker, topic)| Place::Topic { broker, topic }),
            2 => new_topic("latest").map(|(broker, topic)| Place::Latest { broker, topic }),
            3 => Catalog::start(Kind::SqlInFolder, scratch.path()).map(Place::Table),
            _ => None,
        };
        Copy { place: place.unwrap_or(Place::Files), folder: scratch.join("changes") }
    }

    pub fn name(&self) -> &'static str {
        match &self.place {
            Place::Files => "to files",
            Place::Objects(_) => "to objects",
            Place::Topic { .. } => "to Kafka",
            Place::Latest { .. } => "to Kafka by key",
            Place::Table(_) => "to Iceberg",
        }
    }

    /// Lets the job write it too.
    pub fn add_to(&self, job: &Path) {
        let text = std::fs::read_to_string(job).expect("read the job");
        let mut resource: Value = serde_json::from_str(&text).expect("the job is JSON");
        let mut sink =
            json!({"name": "each-change", "from": "orders", "delivery": "ExactlyOnce", "changeKindColumn": "op"});
        match &self.place {
            Place::Files => sink["files"] = json!({"path": self.folder, "rolling": {"maxAge": "100ms"}}),
            Place::Objects(objects) => {
                sink["files"] = objects.sink("changes");
                sink["files"]["rolling"] = json!({"maxAge": "100ms"});
            }
            Place::Topic { broker, topic } => sink["kafka"] = json!({"bootstrapServers": broker, "topic": topic}),
            Place::Latest { broker, topic } => {
                sink = json!({
                    "name": "latest", "from": "orders", "delivery": "ExactlyOnce",
                    "kafka": {"bootstrapServers": broker, "topic": topic, "key": ["region", "id"]},
                });
            }
            Place::Table(catalog) => sink["iceberg"] = catalog.sink(TABLE),
        }
        if !matches!(self.place, Place::Table(_)) {
            sink["format"] = json!({"json": {}});
        }
        resource["spec"]["pipeline"]["sinks"].as_array_mut().expect("sinks").push(sink);
        std::fs::write(job, resource.to_string()).expect("write the job");
    }

    /// What the table and the changes that are committed by now differ in.
    pub fn difference(&self, postgres: &Postgres) -> Option<String> {
        let lines = match self.lines() {
            Ok(lines) => lines,
            Err(problem) => return Some(problem),
        };
        let mut left: BTreeMap<String, i64> = BTreeMap::new();
        for line in lines {
            let (row, kind) = row(&line);
            *left.entry(row).or_default() += if kind.starts_with('-') { -1 } else { 1 };
        }
        let table = postgres.psql("SELECT row_to_json(o) FROM orders o");
        for line in table.lines() {
            *left.entry(row(line).0).or_default() -= 1;
        }
        left.retain(|_, count| *count != 0);
        let some: Vec<_> = left.iter().take(3).map(|(row, count)| format!("{count} of {row:.80}")).collect();
        (!left.is_empty()).then(|| format!("changes {}: {} rows are not right: {some:?}", self.name(), left.len()))
    }

    /// Each a change; by key each a row.
    fn lines(&self) -> Result<Vec<String>, String> {
        match &self.place {
            Place::Files => {}
            Place::Objects(objects) => drop(objects.fetch(&self.folder)?),
            Place::Topic { broker, topic } => return Ok(values_of(broker, topic)),
            Place::Latest { broker, topic } => return Ok(latest_of(broker, topic)),
            Place::Table(catalog) => drop(catalog.client("read", TABLE, &[&self.folder.display().to_string()])?),
        }
        Ok(finished_lines(&self.folder))
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
