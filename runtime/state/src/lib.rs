//! Keyed state: what operators remember by key, cut at barriers, restored at any parallelism.
//!
//! A [`KeyedState`] holds all states of one operator subtask. A [`RowState`] gives a row of fixed layout for
//! each namespace and key, for whole batches at a time; an [`OrderedState`] gives bytes for bytes, sorted.
//! Both know what changed since the last confirmed checkpoint.

// Loops by row over several columns at once read better with the row as index; the states of an operator are few
// and large.
#![allow(clippy::needless_range_loop, clippy::large_enum_variant, clippy::type_complexity, clippy::useless_asref)]

#[cfg(target_endian = "big")]
compile_error!("rows and segments hold little-endian numbers as they are in memory");

mod any_state;
pub mod codec;
pub mod cold;
mod compatibility;
mod cut;
mod error;
mod export;
mod handle;
mod import;
mod kept;
mod key_batch;
mod keyed_cold;
mod keyed_state;
mod layout;
mod migrate;
mod ordered;
mod restore;
mod rows;
mod segment;
mod word;

pub use codec::{EncodedRows, KeyCodec, ValueCodec};
pub use cold::{
    CacheBudget, ColdBatch, ColdChange, ColdConfig, ColdDatabase, ColdFile, ColdHandle, ColdKeys, ColdSnapshot,
    ColdStore, ColdWriter, cold_prefix,
};
pub use compatibility::{Verdict, compatibility};
pub use cut::StateCut;
pub use error::StateError;
pub use export::export;
pub use handle::{KeyedStateHandle, Run, RunKind, StateHandle};
pub use kept::KeptState;
pub use key_batch::{KeyBatch, KeyEncoder};
pub use keyed_cold::export_stored;
pub use keyed_state::{KeyedState, OrderedStateId, RowStateId, StateConfig, StateOptions};
pub use layout::{FieldKind, FieldLayout, RowLayout, Slot};
pub use ordered::{OrderedState, time_of_timer, timer_time};
pub use rows::RowState;
pub use segment::{MemorySegments, SegmentRef, SegmentSink, SegmentSource};
