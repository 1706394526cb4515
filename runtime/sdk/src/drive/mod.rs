//! How the node drives a user's operator: what stands between `weir_dataflow::Operator` and the SDK's traits.

mod batch;
mod factory;
mod registry;
mod rows;

pub(crate) use batch::BatchDriver;
pub(crate) use factory::{BatchFactory, OperatorFactory, RowFactory};
pub use registry::Operators;
pub(crate) use rows::{RowDriver, change_kinds};
