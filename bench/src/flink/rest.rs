//! As much of HTTP as asking Flink takes.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A job is accepted when its program has run.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer, bytes.
const ANSWER_LIMIT: u64 = 16 << 20;

/// Flink's REST address on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    pub port: u16,
}

impl Rest {
    pub fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, "")
    }

    pub fn patch(&self, path: &str) -> Result<Value> {
        self.ask("PATCH", path, "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", path, &body.to_string())
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("PUT", path, &body.to_string())
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let context = || format!("asking Flink: {method} {path}");
        let mut connection = TcpStream::connect_timeout(&address, TIMEOUT).with_context(context)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: one answer, not in chunks, and the connection's end is its end.
        let headers = format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        write!(connection, "{method} {path} HTTP/1.0\r\n{headers}\r\n\r\n{body}")?;
        let mut answer = vec![];
        connection.take(ANSWER_LIMIT).read_to_end(&mut answer).with_context(context)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").with_context(context)?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            bail!("{method} {path}: status {status}: {body}");
        }
        if body.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(body).with_context(context)
    }
}
