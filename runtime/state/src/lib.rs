//! Keyed state: what operators remember by key, cut at barriers, restored at any parallelism.
//!
//! A [`KeyedState`] holds all states of one operator subtask. A [`RowState`] gives a row of fixed layout for
//! each namespace and key, for whole batches at a time; an [`OrderedState`] gives bytes for bytes, sorted.
//! Both know what changed since the last confirmed checkpoint.

#[cfg(target_endian = "big")]
compile_error!("rows and segments hold little-endian numbers as they are in memory");

pub mod codec;
mod error;
mod key_batch;
mod keyed_state;
mod layout;
mod ordered;
mod rows;
mod word;

pub use codec::{EncodedRows, KeyCodec, ValueCodec};
pub use error::StateError;
pub use key_batch::{KeyBatch, KeyEncoder};
pub use keyed_state::{KeyedState, OrderedStateId, RowStateId, StateOptions};
pub use layout::{FieldKind, FieldLayout, RowLayout, Slot};
pub use ordered::{OrderedState, time_of_timer, timer_time};
pub use rows::RowState;
