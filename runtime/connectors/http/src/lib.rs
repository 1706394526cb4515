//! The HTTP sink: requests with records, at least once, each with a key by which a receiver can tell that it had it before.

mod batch;
mod client;
mod sink;
mod writer;

pub use client::tls;
pub use sink::{BodyFormat, HttpSink, HttpSinkConfig, Method};
