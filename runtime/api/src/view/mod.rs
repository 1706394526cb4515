//! The bodies of requests and answers. Times are milliseconds since the Unix epoch unless their name says otherwise;
//! sizes are bytes. A client has to pass over fields that it doesn't know.

mod change;
mod checkpoint;
mod graph;
mod job;
mod plan;
mod subtask;

pub use change::*;
pub use checkpoint::*;
pub use graph::*;
pub use job::*;
pub use plan::*;
pub use subtask::*;
