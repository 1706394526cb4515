//! The connection of a socket source, in a thread of its own: resolving, connecting and reading all may block.

use super::Reconnect;
use crate::api::ConnectorError;
use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Thread};
use std::time::Duration;

const BLOCK_BYTES: usize = 64 << 10;
/// Blocks that wait to be polled; then the server has to wait.
const MAX_WAITING: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon the thread notices that nobody listens any more.
const READ_TIMEOUT: Duration = Duration::from_millis(200);

pub(super) struct Connection {
    received: Receiver<Received>,
    stop: Arc<AtomicBool>,
    thread: Thread,
}

pub(super) enum Received {
    Connected,
    Block(Vec<u8>),
    Closed,
    /// Too many failures in a row; the last one's reason.
    GivenUp(String),
}

impl Connection {
    pub fn start(address: String, reconnect: Reconnect) -> Result<Self, ConnectorError> {
        let (sender, received) = sync_channel(MAX_WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name(format!("socket {address}"))
            .spawn(move || run(&address, reconnect, &sender, &stopped))
            .map_err(|error| ConnectorError::Transient(format!("cannot start a thread for the socket: {error}")))?;
        Ok(Connection { received, stop, thread: thread.thread().clone() })
    }

    /// What has come, in order; `None` if nothing waits.
    pub fn receive(&self) -> Option<Received> {
        self.received.try_recv().ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

fn run(address: &str, reconnect: Reconnect, sender: &SyncSender<Received>, stop: &AtomicBool) {
    let (mut failures, mut pause) = (0, reconnect.first);
    while !stop.load(Ordering::Relaxed) {
        match connect(address) {
            Ok(stream) => {
                (failures, pause) = (0, reconnect.first);
                let told = sender.send(Received::Connected).and_then(|()| {
                    read(stream, sender, stop)?;
                    sender.send(Received::Closed)
                });
                if told.is_err() {
                    return;
                }
                tracing::warn!(address, "the connection was closed, connecting again");
            }
            Err(error) => {
                failures += 1;
                if failures >= reconnect.attempts.max(1) {
                    let reason = format!("cannot connect to {address}, tried {failures} times: {error}");
                    // If nobody listens, nobody needs to know.
                    let _ = sender.send(Received::GivenUp(reason));
                    return;
                }
                tracing::warn!(address, %error, failures, "cannot connect, trying again");
            }
        }
        thread::park_timeout(pause);
        pause = (pause * 2).min(reconnect.max);
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(READ_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads until the connection ends, one way or another. An error means that nobody listens.
fn read(
    mut stream: TcpStream,
    sender: &SyncSender<Received>,
    stop: &AtomicBool,
) -> Result<(), std::sync::mpsc::SendError<Received>> {
    let mut block = vec![0; BLOCK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(length) => sender.send(Received::Block(block[..length].to_vec()))?,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                _ => {
                    tracing::warn!(%error, "the connection broke");
                    break;
                }
            },
        }
    }
    Ok(())
}
