//! Jobs that read from a topic what they would have made themselves, for tests of other connectors than Kafka.

use super::{Scratch, Weir, finished_lines};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

const PARTITIONS: u64 = 3;
/// Small, so that a job takes a second or two: a fetch brings one batch at least.
const MESSAGES_OF_A_BATCH: u32 = 20;
const FETCH: &str = "{fetch.max.bytes: '1', max.partition.fetch.bytes: '1'}";

/// In half of the runs, as `read_from_topic`, where there is a broker; what the rows come from.
pub fn generator_or_topic(rng: &mut ChaCha8Rng, job: &Path) -> &'static str {
    // Drawn in any case: the seed means the same wherever it runs.
    match rng.random_bool(0.5) && read_from_topic(job) {
        true => "from Kafka",
        false => "generated",
    }
}

/// Lets the job's first source, a generator, be a topic with the same rows, each partition in their order.
///
/// False: there is no broker.
pub fn read_from_topic(job: &Path) -> bool {
    let Ok(broker) = std::env::var("WEIR_TEST_KAFKA") else { return false };
    let text = std::fs::read_to_string(job).expect("read the job");
    let mut resource: Value = serde_json::from_str(&text).expect("the job is JSON");
    let source = &mut resource["spec"]["pipeline"]["sources"][0];
    let topic = topic_of(&broker, source);
    let fields = source.as_object_mut().expect("a source");
    fields.remove("generator").expect("the first source is a generator");
    let group = job.parent().and_then(Path::file_name).expect("a folder").to_string_lossy().into_owned();
    let properties: Value = serde_yaml::from_str(FETCH).expect("YAML");
    let kafka = json!({
        "bootstrapServers": broker, "topics": [topic], "groupId": group, "bounded": true, "properties": properties,
    });
    fields.insert("kafka".to_owned(), kafka);
    fields.insert("format".to_owned(), json!({"json": {}}));
    std::fs::write(job, serde_json::to_string_pretty(&resource).expect("JSON is written to memory")).expect("write");
    true
}

/// Filled once by a process, for each different source.
fn topic_of(broker: &str, source: &Value) -> String {
    static TOPICS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut source = source.clone();
    source["generator"].as_object_mut().expect("the first source is a generator").remove("rowsPerSecond");
    let mut topics = TOPICS.lock().unwrap_or_else(PoisonError::into_inner);
    let number = topics.len();
    let topic = topics.entry(source.to_string()).or_insert_with(|| {
        let topic = format!("generated-{}-{number}-{:08x}", std::process::id(), rand::random::<u32>());
        fill(broker, &topic, &source);
        topic
    });
    topic.clone()
}

fn fill(broker: &str, topic: &str, source: &Value) {
    let scratch = Scratch::new(&format!("fill-{topic}"));
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
    let messages: String =
        rows.iter().map(|(id, line)| format!("{}\n", json!([id % PARTITIONS, null, line]))).collect();
    let file = scratch.write("messages", messages);
    client(broker, &["create", topic, &PARTITIONS.to_string()]);
    client(broker, &["put", topic, &file.display().to_string(), &MESSAGES_OF_A_BATCH.to_string()]);
}

fn client(broker: &str, arguments: &[&str]) {
    let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set where the broker is");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/client.py");
    let output = Command::new(python).arg(script).arg(broker).args(arguments).output().expect("start Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
