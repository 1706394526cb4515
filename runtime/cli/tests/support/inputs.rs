//! Where a job's rows come from: its generator, or a server that has the same ones.

use super::kafka::read_from_topic;
use super::kinesis::read_from_stream;
use super::tables::Tables;
use super::{Scratch, Weir, finished_lines};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Where a job's first source has its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Generator,
    Kafka,
    Kinesis,
    /// A table's rows, once.
    Postgres,
}

/// The servers that have what jobs would have made, of one test.
#[derive(Default)]
pub struct Inputs {
    tables: Tables,
}

impl Input {
    /// `WEIR_TEST_SOURCE` (`generator`, `kafka`, `kinesis` or `postgres`) lets it be the same in all runs.
    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        // Drawn in any case: the seed means the same for the rest of the run.
        let drawn = [Input::Generator, Input::Kafka, Input::Kinesis, Input::Postgres][rng.random_range(0..4)];
        Input::of_all_runs().unwrap_or(drawn)
    }

    /// What `WEIR_TEST_SOURCE` says.
    pub fn of_all_runs() -> Option<Self> {
        Some(match std::env::var("WEIR_TEST_SOURCE").ok()?.as_str() {
            "generator" => Input::Generator,
            "kafka" => Input::Kafka,
            "kinesis" => Input::Kinesis,
            "postgres" => Input::Postgres,
            other => panic!("WEIR_TEST_SOURCE is `{other}`; it may be generator, kafka, kinesis or postgres"),
        })
    }
}

impl Inputs {
    /// Lets the job read from there, if the server can be had; where it reads from.
    pub fn put(&self, input: Input, job: &Path) -> &'static str {
        match input {
            Input::Kafka if read_from_topic(job) => "from Kafka",
            Input::Kinesis if read_from_stream(job) => "from Kinesis",
            Input::Postgres if self.tables.read_from_table(job) => "from a table of PostgreSQL",
            _ => "generated",
        }
    }

    /// One of them for a random run; which one.
    pub fn choose(&self, rng: &mut ChaCha8Rng, job: &Path) -> &'static str {
        self.put(Input::random(rng), job)
    }
}

/// Replaces the job's first source, a generator, by one of JSON messages, or a table, with these settings.
pub fn read_from(job: &Path, connector: &str, settings: impl FnOnce(&Value) -> Value) {
    let text = std::fs::read_to_string(job).expect("read the job");
    let mut resource: Value = serde_json::from_str(&text).expect("the job is JSON");
    let source = &mut resource["spec"]["pipeline"]["sources"][0];
    let settings = settings(source);
    let fields = source.as_object_mut().expect("a source");
    fields.remove("generator").expect("the first source is a generator");
    fields.insert(connector.to_owned(), settings);
    if connector != "postgres" {
        fields.insert("format".to_owned(), json!({"json": {}}));
    }
    std::fs::write(job, serde_json::to_string_pretty(&resource).expect("JSON is written to memory")).expect("write");
}

/// What a process has filled with the rows of generators: each once.
#[derive(Default)]
pub struct Prefilled(Mutex<BTreeMap<String, String>>);

impl Prefilled {
    pub const fn new() -> Self {
        Prefilled(Mutex::new(BTreeMap::new()))
    }

    /// Its name, which `fill` gives it.
    pub fn of(&self, source: &Value, fill: impl FnOnce() -> String) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(unhurried(source).to_string())
            .or_insert_with(fill)
            .clone()
    }
}

fn unhurried(source: &Value) -> Value {
    let mut source = source.clone();
    source["generator"].as_object_mut().expect("the first source is a generator").remove("rowsPerSecond");
    source
}

/// The rows of a generator by their ids, in order, as JSON lines.
pub fn rows_of(source: &Value) -> Vec<(u64, String)> {
    let source = unhurried(source);
    let scratch = Scratch::new(&format!("rows-{:08x}", rand::random::<u32>()));
    let folder = scratch.join("rows");
    let spec = json!({
        "pipeline": {
            "sources": [source],
            "sinks": [{"name": "rows", "from": source["name"], "files": {"path": folder}, "format": {"json": {}}}],
        },
        "checkpoint": {"storage": {"uri": scratch.storage_uri("checkpoints")}},
    });
    let job = scratch.write_job("fill", &spec);
    Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).succeed();
    let id = |line: &str| serde_json::from_str::<Value>(line).expect("a JSON line")["id"].as_u64().expect("an id");
    let mut rows: Vec<(u64, String)> = finished_lines(&folder).into_iter().map(|line| (id(&line), line)).collect();
    rows.sort_unstable();
    rows
}
