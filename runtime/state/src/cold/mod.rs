//! State larger than memory: a store of sorted bytes behind the states, which then are bounded caches of it.
//!
//! What a store holds is a plain function of the states, the same for every store:
//! - a row: `[state u16][key group u16][namespace i64, sign flipped][key]` -> the row's image; the key is a raw
//!   key's word (8 bytes, nothing if null) or the key's order-preserving bytes;
//! - an entry of an ordered state: `[state u16][key group u16][place]` -> the value.
//!
//! Numbers in keys are big-endian, so that the entries of a key group lie together and a namespace's rows in it.

mod batch;
mod budget;
mod handle;
mod queue;

pub use batch::{ColdBatch, ColdChange};
pub use budget::CacheBudget;
pub(crate) use budget::CacheShare;
pub use handle::{ColdDatabase, ColdFile, ColdHandle, ColdKeys};
pub(crate) use queue::{ColdShared, QueuedPart, write_all, write_if_large};

use crate::{SegmentSink, StateError};
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::KeyGroup;

/// Sorted bytes on disk, of one operator subtask. Called from the subtask's thread and, for checkpoints, from
/// another one at the same time.
///
/// Nothing that is written needs to be durable before `checkpoint`: after a crash the store is made anew from
/// the files of a checkpoint.
pub trait ColdStore: Send + Sync {
    /// Looks up keys (ascending, each once) and calls `found(position, value)` for each that is there.
    fn get_many(
        &self,
        keys: &crate::EncodedRows,
        found: &mut dyn FnMut(usize, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError>;

    /// Begins to bring in changes that together are one ascending sequence.
    fn writer(&self) -> Result<Box<dyn ColdWriter + '_>, StateError>;

    /// Visits the entries with `from <= key` (and `key < to`, if given) in ascending order until told to stop. All of
    /// them are of one state and key group.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError>;

    /// Takes hold of what was written so far; nothing is written meanwhile. Later writes don't change what was frozen.
    fn freeze(&self) -> Result<Box<dyn ColdSnapshot>, StateError>;

    /// The checkpoint with this handle is durable; every segment has its object's name now. Files in it needn't
    /// be written again as long as later handles name them.
    fn confirm(&self, handle: &ColdHandle);
}

/// One cut, or a part of one, on its way into a store.
pub trait ColdWriter {
    /// Adds changes. Over all batches of a writer, puts and deletes ascend by key and no key is in there twice. Range
    /// deletes take out what was in the store before, and leave alone what this writer puts; each is within one key
    /// group.
    fn write(&mut self, batch: &ColdBatch) -> Result<(), StateError>;

    /// Reads see all of it once this returns. Without it, they see none of it or a part.
    fn finish(self: Box<Self>) -> Result<(), StateError>;
}

/// A store as it was when it was frozen.
pub trait ColdSnapshot: Send {
    /// Files of it that no confirmed checkpoint holds are appended to the sink; the handle names all of them.
    fn write(self: Box<Self>, sink: &mut dyn SegmentSink) -> Result<ColdHandle, StateError>;
}

/// A store, and how much of it is kept in memory.
#[derive(Clone)]
pub struct ColdConfig {
    pub store: Arc<dyn ColdStore>,
    /// Of which the states of this subtask keep a share in memory.
    pub cache: Arc<CacheBudget>,
}

impl std::fmt::Debug for ColdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColdConfig").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// Bytes before the namespace or place: state and key group.
pub(crate) const PREFIX_BYTES: usize = 4;
/// Bytes before a row's key.
pub(crate) const ROW_PREFIX_BYTES: usize = 12;

/// Where the entries of a state's key group begin.
pub fn cold_prefix(state: u16, group: KeyGroup) -> [u8; PREFIX_BYTES] {
    (((state as u32) << 16) | group.0 as u32).to_be_bytes()
}

/// Where the rows of a namespace begin in a key group.
pub(crate) fn row_prefix(state: u16, group: KeyGroup, namespace: i64) -> [u8; ROW_PREFIX_BYTES] {
    let mut prefix = [0; ROW_PREFIX_BYTES];
    prefix[..PREFIX_BYTES].copy_from_slice(&cold_prefix(state, group));
    prefix[PREFIX_BYTES..].copy_from_slice(&(namespace as u64 ^ 1 << 63).to_be_bytes());
    prefix
}

/// The least key that doesn't begin with the prefix; `None` if there is none.
pub(crate) fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}
