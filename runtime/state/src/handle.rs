//! What a checkpoint's manifest holds of one subtask's keyed state.

use crate::cold::ColdHandle;
use crate::{SegmentRef, StateError};
use serde::{Deserialize, Serialize};
use weir_model::{KeyGroupRange, StateSchema};

/// The keyed state of one subtask at one checkpoint: every segment that a restore reads, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyedStateHandle {
    pub format_version: u32,
    pub max_parallelism: u32,
    pub key_groups: KeyGroupRange,
    pub states: Vec<StateHandle>,
    /// The files behind the states, if the subtask keeps them in a cold store; else they are in runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<ColdHandle>,
}

/// One state of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateHandle {
    pub schema: StateSchema,
    /// Whether entries carry the time of their last write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_ttl: bool,
    /// The state's number in the cold store, if the subtask has one: also while all that there is is in runs, so that
    /// subtasks of which some keep their states there and some don't yet agree about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_state: Option<u16>,
    /// Ascending by sequence: what a later run says of a key goes over what an earlier one says.
    pub runs: Vec<Run>,
}

/// One segment with blocks of rows by key group, its index at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub segment: SegmentRef,
    /// From the begin of the segment.
    pub index_offset: u64,
    pub index_crc32c: u32,
    pub kind: RunKind,
    /// Key groups for which the run counts; the segment may hold more.
    pub key_groups: KeyGroupRange,
    pub sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunKind {
    /// All there is of its key groups.
    Base,
    /// What changed since the run before; some key groups may be there in full.
    Delta,
}

impl KeyedStateHandle {
    /// The newest version. Since version 2 a cold store may be several databases; a handle without them is still
    /// written as one of version 1, which earlier versions of Weir read.
    pub const FORMAT_VERSION: u32 = 2;

    /// The version that a handle with this store is of.
    pub(crate) fn version_with(cold: Option<&ColdHandle>) -> u32 {
        if cold.is_some_and(|cold| !cold.databases.is_empty()) { 2 } else { 1 }
    }

    /// Puts the object's name into the refs that were written without one.
    pub fn resolve(&mut self, object: &str) {
        for segment in self.segments_mut() {
            if segment.object.is_empty() {
                segment.object = object.to_string();
            }
        }
    }

    /// Every segment that a restore may read.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentRef> {
        let files = self.cold.iter().flat_map(|cold| &cold.files).flat_map(|file| &file.segments);
        self.states.iter().flat_map(|state| &state.runs).map(|run| &run.segment).chain(files)
    }

    fn segments_mut(&mut self) -> impl Iterator<Item = &mut SegmentRef> {
        let files = self.cold.iter_mut().flat_map(|cold| &mut cold.files).flat_map(|file| &mut file.segments);
        self.states.iter_mut().flat_map(|state| &mut state.runs).map(|run| &mut run.segment).chain(files)
    }

    /// Bytes behind the handle.
    pub fn bytes(&self) -> u64 {
        self.segments().map(|segment| segment.length).sum()
    }

    /// The owned key groups in parts of about so many bytes: what is worth a thread, or room in memory, by itself.
    pub fn parts(&self, bytes: u64) -> impl Iterator<Item = KeyGroupRange> + use<> {
        self.parts_of(self.key_groups, bytes)
    }

    pub(crate) fn parts_of(
        &self,
        key_groups: KeyGroupRange,
        bytes: u64,
    ) -> impl Iterator<Item = KeyGroupRange> + use<> {
        let parts = self.bytes() / bytes + 1;
        let step = (self.key_groups.len() as u64).div_ceil(parts).max(1) as usize;
        let last = key_groups.last;
        key_groups.iter().step_by(step).map(move |first| {
            let last = last.min(first.0.saturating_add(step as u16 - 1));
            KeyGroupRange { first: first.0, last }
        })
    }

    pub(crate) fn check_version(&self) -> Result<(), StateError> {
        match self.format_version {
            1..=Self::FORMAT_VERSION => Ok(()),
            found => Err(StateError::Version { found, supported: Self::FORMAT_VERSION }),
        }
    }
}

impl Run {
    /// Where the index is.
    pub(crate) fn index(&self) -> Result<SegmentRef, StateError> {
        let length = self.segment.length.checked_sub(self.index_offset);
        let length = length.ok_or_else(|| self.segment.corrupt(0, "the index begins behind the segment"))?;
        self.segment.part(self.index_offset, length, self.index_crc32c)
    }
}
