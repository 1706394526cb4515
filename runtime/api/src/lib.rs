//! What a running job says of itself and takes from people and machines over HTTP: the types, the operations, their
//! OpenAPI description, and a client.
//!
//! * [`Operation`]: every method and path, with what goes in and comes out; server, client and description use it
//! * [`view`]: the bodies
//! * [`client`]: asks a job, over TCP with TLS or without, or over the Unix socket of a job on this machine
//! * [`Trust`]: what a client believes of a job's HTTPS, and shows of itself
//! * [`openapi`]: the description in `docs/reference/openapi.json`
//! * [`metrics`]: the names of the metrics, and the table in `docs/reference/metrics.md`

pub mod client;
pub mod metrics;
pub mod openapi;
mod operation;
mod problem;
mod savepoint_id;
mod trust;
pub mod view;

pub use client::{Address, Client, ClientError};
pub use operation::{Access, Operation};
pub use problem::{PROBLEM_MEDIA_TYPE, Problem};
pub use savepoint_id::SavepointId;
pub use trust::{Pem, Trust};
