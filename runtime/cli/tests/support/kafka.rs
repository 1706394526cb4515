//! Jobs that read from a topic what they would have made themselves, for tests of other connectors than Kafka.

use super::Scratch;
use super::inputs::{Prefilled, read_from, rows_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const PARTITIONS: u64 = 3;
/// Small, so that a job takes a second or two: a fetch brings one batch at least.
const MESSAGES_OF_A_BATCH: u32 = 20;
const FETCH: &str = "{fetch.max.bytes: '1', max.partition.fetch.bytes: '1'}";

/// Lets the job's first source, a generator, be a topic with the same rows, each partition in their order.
///
/// False: there is no broker.
pub fn read_from_topic(job: &Path) -> bool {
    let Ok(broker) = std::env::var("WEIR_TEST_KAFKA") else { return false };
    static TOPICS: Prefilled = Prefilled::new();
    read_from(job, "kafka", |source| {
        let topic = TOPICS.of(source, || {
            let topic = format!("generated-{}-{:08x}", std::process::id(), rand::random::<u32>());
            fill(&broker, &topic, source);
            topic
        });
        let group = job.parent().and_then(Path::file_name).expect("a folder").to_string_lossy().into_owned();
        let properties: Value = serde_yaml::from_str(FETCH).expect("YAML");
        json!({
            "bootstrapServers": broker, "topics": [topic], "groupId": group, "bounded": true, "properties": properties,
        })
    });
    true
}

/// A topic for a test of another connector: the broker, and its name. None: there is no broker.
pub fn new_topic(name: &str) -> Option<(String, String)> {
    let broker = std::env::var("WEIR_TEST_KAFKA").ok()?;
    let topic = format!("{name}-{:08x}", rand::random::<u32>());
    client(&broker, &["create", &topic, &PARTITIONS.to_string()]);
    Some((broker, topic))
}

/// The committed messages' values.
pub fn values_of(broker: &str, topic: &str) -> Vec<String> {
    messages_of(broker, topic).into_iter().map(|(_, value)| value.expect("a value")).collect()
}

/// The value of each key's last committed message, where it has one.
pub fn latest_of(broker: &str, topic: &str) -> Vec<String> {
    // A key's messages are in one partition, and a partition's in their order.
    let latest: BTreeMap<Option<String>, Option<String>> = messages_of(broker, topic).into_iter().collect();
    latest.into_values().flatten().collect()
}

/// The keys and values of the committed messages.
fn messages_of(broker: &str, topic: &str) -> Vec<(Option<String>, Option<String>)> {
    let lines = client(broker, &["read", topic]);
    let message = |line: &str| {
        let (_, _, key, value): (i32, i64, Option<String>, Option<String>) =
            serde_json::from_str(line).expect("a line of the client");
        (key, value)
    };
    lines.lines().map(message).collect()
}

fn fill(broker: &str, topic: &str, source: &Value) {
    let messages: String =
        rows_of(source).iter().map(|(id, line)| format!("{}\n", json!([id % PARTITIONS, null, line]))).collect();
    let scratch = Scratch::new(&format!("fill-{topic}"));
    let file = scratch.write("messages", messages);
    client(broker, &["create", topic, &PARTITIONS.to_string()]);
    client(broker, &["put", topic, &file.display().to_string(), &MESSAGES_OF_A_BATCH.to_string()]);
}

fn client(broker: &str, arguments: &[&str]) -> String {
    let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set where the broker is");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/client.py");
    let output = Command::new(python).arg(script).arg(broker).args(arguments).output().expect("start Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("JSON")
}
