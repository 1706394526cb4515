//! Connections between the processes of a job: who may make them, and that nobody else reads them.
//!
//! * [`Tls`]: this process's certificate and the CAs it believes, from files that may change at any time
//! * [`JobIdentity`]: the job that a certificate is of; a peer of another job is refused
//! * [`Security`]: takes and makes connections, with TLS or, where somebody said so, without
//! * [`Listener`]: a port whose connections have shown who they are, for gRPC and HTTP alike
//! * [`OwnCertificates`]: what `weir run --workers` makes for itself
//!
//! Both sides of a connection show a certificate. Who may connect is decided by the CA and by the job's name in the
//! certificate, not by addresses: workers come and go, and reach each other by whatever address a pod has.

mod certificates;
mod connection;
mod identity;
mod issue;
mod listener;
mod scratch;
mod socket;
mod words;

pub use certificates::{Tls, TlsError};
pub use connection::{Connection, Refusal, Security};
pub use identity::JobIdentity;
pub use issue::{Authority, Issued, OwnCertificates};
pub use listener::{Clients, Listener};
pub use words::explain;

#[cfg(test)]
mod tests;
