//! What the end-to-end tests share: scratch folders, the `weir` process, the oracle.

// Each test target uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod certificates;
pub mod history;
mod oracle;
pub mod postgres;
mod process;
mod scratch;
pub mod session;
pub mod traffic;

pub use oracle::{Check, Mode, Oracle, Rows, Run, Table, tables};
pub use process::{Finished, Running, Weir, await_condition, is_stopped, signal};
pub use scratch::{Scratch, finished_files, finished_lines};
