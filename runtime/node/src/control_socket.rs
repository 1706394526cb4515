//! How `weir savepoint`, `rescale`, `stop` and `cancel` reach a job that runs in another process of this machine: a Unix socket
//! whose name follows from the job's storage and UID. One JSON line asks, one answers.

use crate::control::Request;
use crate::job::Job;
use crate::run::RequestSender;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use weir_coordinator::{RescaleAnswer, StopMode};
use weir_model::hash::hash_u64;

/// Longest request or answer, bytes: a savepoint's address and some text.
const MESSAGE_LIMIT: u64 = 64 << 10;
/// How long the end of the process waits for answers that are being written.
const FAREWELL: Duration = Duration::from_secs(5);
/// Connections after which a broken listener gives up.
const ACCEPT_FAILURES: u32 = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "request")]
pub enum SocketRequest {
    Savepoint {
        folder: Option<String>,
        stop: bool,
    },
    /// Without another checkpoint.
    Cancel,
    /// After a last checkpoint.
    Stop,
    /// Answered when the job runs with it.
    Rescale {
        parallelism: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SocketAnswer {
    /// With the savepoint's address, where one was asked for.
    Done {
        savepoint: Option<String>,
    },
    Rescaled {
        parallelism: u32,
        /// From the request on.
        duration_ms: u64,
    },
    Failed {
        reason: String,
    },
}

/// The answering side of a job's socket.
pub struct ControlSocket {
    open: Arc<Connections>,
}

impl ControlSocket {
    /// Waits until all who asked have their answer: the process is about to end.
    pub fn finish(&self) {
        self.open.wait_for_none(FAREWELL);
    }
}

/// Answers requests until the process ends, from a thread of its own.
pub fn serve(job: &Job, requests: RequestSender) -> Result<ControlSocket> {
    let path = socket_path(job)?;
    // One left by a process that was killed. A living one is fenced by the commit log anyway.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let open = Arc::new(Connections::default());
    let counted = Arc::clone(&open);
    std::thread::Builder::new().name("control socket".to_owned()).spawn(move || {
        let mut failures = 0;
        for connection in listener.incoming() {
            match connection {
                Ok(connection) => {
                    let (requests, counted) = (requests.clone(), Counted::new(&counted));
                    std::thread::spawn(move || {
                        answer(connection, &requests);
                        drop(counted);
                    });
                }
                Err(_) if failures < ACCEPT_FAILURES => failures += 1,
                Err(_) => return,
            }
        }
    })?;
    Ok(ControlSocket { open })
}

/// How many are being answered.
#[derive(Default)]
struct Connections {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Connections {
    fn wait_for_none(&self, at_most: Duration) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(count, at_most, |count| *count > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn add(&self, change: impl FnOnce(&mut usize)) {
        change(&mut self.count.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

struct Counted(Arc<Connections>);

impl Counted {
    fn new(open: &Arc<Connections>) -> Self {
        open.add(|count| *count += 1);
        Counted(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.add(|count| *count -= 1);
    }
}

/// Asks the job that runs on this machine.
///
/// # Errors
/// `NotFound` or `ConnectionRefused`: it doesn't run here.
pub fn ask(job: &Job, request: &SocketRequest) -> Result<SocketAnswer> {
    let mut connection = UnixStream::connect(socket_path(job)?)?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    connection.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(connection.take(MESSAGE_LIMIT)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(Error::new(ErrorKind::UnexpectedEof, "the job ended before it answered"));
    }
    Ok(serde_json::from_str(&answer)?)
}

fn answer(mut connection: UnixStream, requests: &RequestSender) {
    let answer = match read(&connection) {
        Ok(request) => carry_out(request, requests),
        Err(error) => SocketAnswer::Failed { reason: format!("not a request: {error}") },
    };
    if let Ok(mut line) = serde_json::to_string(&answer) {
        line.push('\n');
        // Who asked may have gone; the request is carried out all the same.
        connection.write_all(line.as_bytes()).ok();
    }
}

fn read(connection: &UnixStream) -> Result<SocketRequest> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(connection.take(MESSAGE_LIMIT)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn carry_out(request: SocketRequest, requests: &RequestSender) -> SocketAnswer {
    let ended = || SocketAnswer::Failed { reason: "the job has ended".to_owned() };
    let stop = match request {
        SocketRequest::Savepoint { folder, stop } => {
            let (answer, answered) = channel();
            if !requests.send(Request::Savepoint { folder, stop, answer }) {
                return ended();
            }
            return match answered.recv() {
                Ok(Ok(savepoint)) => SocketAnswer::Done { savepoint: Some(savepoint) },
                Ok(Err(reason)) => SocketAnswer::Failed { reason },
                Err(_) => ended(),
            };
        }
        SocketRequest::Rescale { parallelism } => {
            let (answer, answers) = channel();
            if !requests.send(Request::Rescale { parallelism, answer }) {
                return ended();
            }
            let last = answers.into_iter().find(|answer| *answer != RescaleAnswer::Accepted);
            return match last {
                Some(RescaleAnswer::Done { parallelism, duration_ms }) => {
                    SocketAnswer::Rescaled { parallelism, duration_ms }
                }
                Some(RescaleAnswer::Refused { reason } | RescaleAnswer::Failed { reason }) => {
                    SocketAnswer::Failed { reason }
                }
                Some(RescaleAnswer::Accepted) | None => ended(),
            };
        }
        SocketRequest::Cancel => StopMode::Cancel,
        SocketRequest::Stop => StopMode::Drain,
    };
    match requests.send(Request::Stop(stop)) {
        true => SocketAnswer::Done { savepoint: None },
        false => ended(),
    }
}

/// In a folder that only this user can enter; the name is short, since socket paths are limited to 107 bytes.
fn socket_path(job: &Job) -> Result<PathBuf> {
    let uid = std::fs::metadata("/proc/self").map(|own| own.uid()).unwrap_or(0);
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => PathBuf::from(folder).join("weir"),
        None => std::env::temp_dir().join(format!("weir-{uid}")),
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&folder)?;
    if std::fs::metadata(&folder)?.uid() != uid {
        return Err(Error::new(ErrorKind::PermissionDenied, format!("`{}` belongs to another user", folder.display())));
    }
    let identity = format!("{}\0{}", job.storage_uri(), job.uid);
    let hash = identity.bytes().fold(0u64, |hash, byte| hash_u64(hash ^ u64::from(byte)));
    Ok(folder.join(format!("{hash:016x}.sock")))
}
