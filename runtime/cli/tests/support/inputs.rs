//! Where a job's rows come from: its generator, or a server that has the same ones.

use super::kafka::read_from_topic;
use super::kinesis::read_from_stream;
use super::{Scratch, Weir, finished_lines};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// One of them for a random run, as far as servers are there; which one. `WEIR_TEST_SOURCE` (`kafka`, `kinesis` or
/// `generator`) lets it be the same in all runs.
pub fn generator_or_server(rng: &mut ChaCha8Rng, job: &Path) -> &'static str {
    // Drawn in any case: the seed means the same wherever it runs.
    let drawn = rng.random_range(0..3);
    let source = match std::env::var("WEIR_TEST_SOURCE").as_deref() {
        Ok("kafka") => 0,
        Ok("kinesis") => 1,
        Ok("generator") => 2,
        Ok(other) => panic!("WEIR_TEST_SOURCE is `{other}`; it may be kafka, kinesis or generator"),
        Err(_) => drawn,
    };
    match source {
        0 if read_from_topic(job) => "from Kafka",
        1 if read_from_stream(job) => "from Kinesis",
        _ => "generated",
    }
}

/// Replaces the job's first source, a generator, by one of JSON messages with these settings.
pub fn read_from(job: &Path, connector: &str, settings: impl FnOnce(&Value) -> Value) {
    let text = std::fs::read_to_string(job).expect("read the job");
    let mut resource: Value = serde_json::from_str(&text).expect("the job is JSON");
    let source = &mut resource["spec"]["pipeline"]["sources"][0];
    let settings = settings(source);
    let fields = source.as_object_mut().expect("a source");
    fields.remove("generator").expect("the first source is a generator");
    fields.insert(connector.to_owned(), settings);
    fields.insert("format".to_owned(), json!({"json": {}}));
    std::fs::write(job, serde_json::to_string_pretty(&resource).expect("JSON is written to memory")).expect("write");
}

/// What a process has filled with the rows of generators: each once.
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
