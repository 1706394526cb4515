//! A job over many processes: the coordinator's port, and the worker that comes to it.
//!
//! A lost stream is a lost worker to the coordinator: it lets the attempt fail and starts another one without it. The
//! worker holds on to what it runs, and registers anew: a coordinator that has taken the job over may go on with that,
//! any other tells it to end it.

mod client;
mod convert;
mod engagement;
mod server;

pub use client::{WorkerError, WorkerOptions, run_worker};
pub(crate) use server::{JobText, serve};

use std::time::Duration;

/// How often each side lets the other know that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which the other side is taken for lost. A process that was paused longer comes back to nothing.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that wait for a slow connection; a side that falls behind further is taken for lost.
const MESSAGES: usize = 4096;
/// Longest message: a manifest names the state of every subtask.
const MESSAGE_BYTES: usize = 256 << 20;

fn message(message: weir_wire::v1::worker_message::Message) -> weir_wire::v1::WorkerMessage {
    weir_wire::v1::WorkerMessage { message: Some(message) }
}
