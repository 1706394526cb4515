//! What the end-to-end tests share: scratch folders, the `weir` process, the oracle.

// Each test target uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod certificates;
pub mod history;
pub mod iceberg;
pub mod inputs;
pub mod kafka;
mod kinesis;
mod oracle;
pub mod postgres;
mod process;
mod random;
pub mod s3;
mod scratch;
pub mod session;
mod tables;
pub mod traffic;
pub mod unaligned;

pub use oracle::{Check, Mode, Oracle, Rows, Run, Table, tables};
pub use process::{Finished, Running, Weir, await_condition, children, is_stopped, signal};
pub use random::{number, random_runs};
pub use s3::s3_server;
pub use scratch::{Scratch, files_below, finished_files, finished_lines};
