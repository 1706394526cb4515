//! The vocabulary of the runtime: ids, key groups, the job graph and what flows through it.
//!
//! Everything here is plain data and pure functions: no IO, no clock, no threads, no randomness.
//! Every other runtime crate depends on this one, and this one depends on none of them.

pub mod change;
pub mod commit;
pub mod element;
pub mod error_chain;
pub mod expression;
pub mod graph;
pub mod hash;
pub mod ids;
pub mod in_flight;
pub mod key_group;
pub mod state_schema;
pub mod types;

pub use change::{CHANGE_KIND_COLUMN, ChangeKind, UpdateBeforeUse};
pub use commit::{CommitPermit, Durable};
pub use element::{Barrier, CheckpointKind, StreamElement, Watermark};
pub use error_chain::error_chain;
pub use expression::{EvalError, Expression};
pub use ids::{AttemptNumber, CheckpointId, Epoch, Fence, OperatorUid, SubtaskId, WorkerId};
pub use in_flight::{ChannelInFlight, ChannelProgress, InFlightElement, SubtaskInFlight};
pub use key_group::{KeyGroup, KeyGroupRange};
pub use state_schema::{StateField, StateKind, StateSchema};
