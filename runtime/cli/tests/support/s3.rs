//! The S3 server to test with, and what a client finds there that is not ours.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Names the server.
pub const VARIABLE: &str = "WEIR_TEST_S3";
pub const BUCKET: &str = "weir-test";

/// The S3 server to test with; without one the test is passed over, which is said.
pub fn s3_server() -> Option<String> {
    let server = std::env::var(VARIABLE).ok();
    if server.is_none() {
        eprintln!("skipped: {VARIABLE} names no S3 server; `cargo xtask test` starts one");
    }
    server
}

/// The server's storage settings, as a job has them.
pub fn storage(server: &str) -> Value {
    json!({"endpoint": server, "region": "us-east-1", "credentials": {"env": "WEIR_TEST"}})
}

/// Objects below a prefix of a test's own.
pub struct Objects {
    server: String,
    prefix: String,
}

impl Objects {
    pub fn new(server: &str, name: &str) -> Self {
        Objects { server: server.to_owned(), prefix: format!("files/{name}-{}", std::process::id()) }
    }

    /// What a files sink says that writes them.
    pub fn sink(&self, folder: &str) -> Value {
        json!({"path": format!("s3://{BUCKET}/{}/{folder}", self.prefix), "storage": storage(&self.server)})
    }

    /// Replaces the folder by them; the uploads that are under way.
    pub fn fetch(&self, into: &Path) -> Result<Vec<String>, String> {
        let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set where the server is");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/s3.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).args([&self.server, BUCKET, &self.prefix]).arg(into);
        let output = command.output().expect("start Python");
        if !output.status.success() {
            return Err(format!("boto3: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}
