//! What the end-to-end tests share: scratch folders, the `weir` process, the oracle.

// Each test target uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod certificates;
pub mod history;
mod oracle;
pub mod postgres;
mod process;
mod s3;
mod scratch;
pub mod session;
pub mod traffic;

pub use oracle::{Check, Mode, Oracle, Rows, Run, Table, tables};
pub use process::{Finished, Running, Weir, await_condition, is_stopped, signal};
pub use s3::s3_server;
pub use scratch::{Scratch, files_below, finished_files, finished_lines};

/// What the variable says, if it is set.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
