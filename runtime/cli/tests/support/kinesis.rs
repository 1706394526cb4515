//! Jobs that read from a stream what they would have made themselves, for tests of other connectors than Kinesis.

use super::Scratch;
use super::inputs::{Prefilled, read_from, rows_of};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

const SHARDS: u64 = 3;
/// Partition keys, so many that each shard has some.
const KEYS: u64 = 30;

/// Lets the job's first source, a generator, be a stream with the same rows, each key's in their order.
///
/// False: there is no server.
pub fn read_from_stream(job: &Path) -> bool {
    let Ok(server) = std::env::var("WEIR_TEST_KINESIS") else { return false };
    static STREAMS: Prefilled = Prefilled::new();
    read_from(job, "kinesis", |source| {
        let stream = STREAMS.of(source, || {
            let stream = format!("generated-{}-{:08x}", std::process::id(), rand::random::<u32>());
            fill(&server, &stream, source);
            stream
        });
        json!({
            "stream": stream, "region": "us-east-1", "endpoint": server, "credentials": {"env": "WEIR_TEST"},
            "startFrom": "Earliest", "bounded": true, "readInterval": "20ms", "recordsPerRead": 1_000,
        })
    });
    true
}

fn fill(server: &str, stream: &str, source: &Value) {
    let records: String =
        rows_of(source).iter().map(|(id, line)| format!("{}\n", json!([format!("k{}", id % KEYS), line]))).collect();
    let scratch = Scratch::new(&format!("fill-{stream}"));
    let file = scratch.write("records", records);
    client(server, "create", stream, &SHARDS.to_string());
    client(server, "put", stream, &file.display().to_string());
}

fn client(server: &str, command: &str, stream: &str, argument: &str) {
    let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set where the server is");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/kinesis.py");
    let mut started = Command::new(python);
    let output = started.arg("-B").arg(script).args([server, command, stream, argument]).output();
    let output = output.expect("start Python");
    assert!(output.status.success(), "boto3: {}", String::from_utf8_lossy(&output.stderr));
}
