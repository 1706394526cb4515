//! What processes of a job say to each other: the control plane's protocol, and the data plane's frames.

pub mod data;
mod version;

pub use version::{PROTOCOL, check_version};

/// The control plane, generated from `proto/weir/v1`.
pub mod v1 {
    #![allow(clippy::large_enum_variant, missing_docs)]
    tonic::include_proto!("weir.v1");
}
