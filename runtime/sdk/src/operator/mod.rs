//! What a user implements, and what it is handed.

mod batch;
mod context;
mod row;
mod setup;

pub use batch::{BatchContext, BatchOperator, BatchSetup};
pub use context::{Context, KeyColumn, Timer};
pub use row::{OpenContext, Operator};
pub use setup::Setup;
