//! As much of HTTP as asking Flink takes.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer, bytes.
const ANSWER_LIMIT: u64 = 16 << 20;

/// Flink's REST address on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    pub port: u16,
}

impl Rest {
    pub fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path)
    }

    pub fn patch(&self, path: &str) -> Result<Value> {
        self.ask("PATCH", path)
    }

    fn ask(&self, method: &str, path: &str) -> Result<Value> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let context = || format!("asking Flink: {method} {path}");
        let mut connection = TcpStream::connect_timeout(&address, TIMEOUT).with_context(context)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: one answer, not in chunks, and the connection's end is its end.
        write!(connection, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
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
