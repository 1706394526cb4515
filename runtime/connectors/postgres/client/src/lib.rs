//! Connections to PostgreSQL: where the server is, how the way there is secured, and what its errors mean for a job.

mod connection;
mod patience;
mod tls;
mod url;

pub use connection::{Connection, Lazy, address, probed, refusal, server, while_doing};
pub use tls::Tls;
pub use url::{ConnectionUrl, TlsFiles, TlsMode};
