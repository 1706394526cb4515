//! Streams of the server, through a client of another make.

use crate::support::Scratch;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Where the server is. None: there is none, and the test says so.
pub fn server() -> Option<String> {
    let server = std::env::var("WEIR_TEST_KINESIS").ok();
    if server.is_none() {
        eprintln!("skipped: WEIR_TEST_KINESIS names no server; `cargo xtask test --test kinesis` starts one");
    }
    server
}

pub struct Stream {
    server: String,
    pub name: String,
}

/// A process that puts records. Killed when it goes out of scope.
pub struct Feeder(Child);

impl Stream {
    /// `name` is made unique.
    pub fn create(server: &str, name: &str, shards: u32) -> Self {
        let stream = Stream { server: server.to_owned(), name: format!("{name}-{:08x}", rand::random::<u32>()) };
        stream.client(&["create"], &[&shards.to_string()]);
        stream
    }

    /// Of a job's source.
    pub fn settings(&self, more: Value) -> Value {
        let mut settings = json!({
            "stream": self.name, "region": "us-east-1", "endpoint": self.server, "credentials": {"env": "WEIR_TEST"},
            "readInterval": "20ms", "shardDiscoveryInterval": "100ms", "recordsPerRead": 200,
        });
        settings.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        settings
    }

    /// Begins to put records, and to change the shards meanwhile.
    pub fn feed(&self, records: i64, keys: i64, changes: u32, seed: u64) -> Feeder {
        let numbers = [0, records, keys, i64::from(changes), seed as i64].map(|number| number.to_string());
        let mut command = self.command(&["feed"]);
        let command = command.args(numbers).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Feeder(command.spawn().expect("start Python"))
    }

    /// Puts records by partition key, as they are or as one that the Kinesis Producer Library would have made of them.
    pub fn put(&self, scratch: &Scratch, command: &str, records: &[(&str, Value)]) {
        let lines: String = records.iter().map(|record| format!("{}\n", json!(record))).collect();
        let file = scratch.write(&format!("{}.records", self.name), lines);
        self.client(&[command], &[&file.display().to_string()]);
    }

    pub fn reshard(&self, seed: u64) {
        self.client(&["reshard"], &[&seed.to_string()]);
    }

    /// Each shard, its parents, and the sequence numbers of its records.
    pub fn shards(&self) -> Vec<(String, Vec<String>, Vec<String>)> {
        let lines = self.client(&["shards"], &[]);
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of the client")).collect()
    }

    fn client(&self, command: &[&str], arguments: &[&str]) -> String {
        let output = self.command(command).args(arguments).output().expect("start Python");
        assert!(output.status.success(), "boto3: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("the client writes UTF-8")
    }

    fn command(&self, command: &[&str]) -> Command {
        let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set where the server is");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/kinesis.py");
        let mut started = Command::new(python);
        started.arg("-B").arg(script).arg(&self.server).args(command).arg(&self.name);
        started
    }
}

impl Feeder {
    /// Until all has been put.
    pub fn finish(mut self) -> Result<(), String> {
        let status = self.0.wait().expect("wait for Python");
        if status.success() { Ok(()) } else { Err(format!("the records could not be put: {status}")) }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
