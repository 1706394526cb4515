//! Writes the blocks of a run, key group by key group, into few large segments.

use super::SegmentSink;
use super::index::{BlockEntry, GroupEntry, RunIndex};
use crate::StateError;
use crate::handle::{Run, RunKind};
use weir_model::{KeyGroup, KeyGroupRange};

/// A segment is closed at the first end of a key group past this.
const SEGMENT_BYTES: usize = 1 << 25;

pub(crate) struct BlockWriter<'s> {
    sink: &'s mut dyn SegmentSink,
    owned: KeyGroupRange,
    sequence: u64,
    buffer: Vec<u8>,
    index: RunIndex,
    /// First key group that the segment being written stands for.
    first: u16,
    runs: Vec<Run>,
}

impl<'s> BlockWriter<'s> {
    pub(crate) fn new(sink: &'s mut dyn SegmentSink, owned: KeyGroupRange, sequence: u64) -> Self {
        let first = owned.first;
        BlockWriter { sink, owned, sequence, buffer: vec![], index: RunIndex::default(), first, runs: vec![] }
    }

    /// To be called before the first group.
    pub(crate) fn drop_namespaces(&mut self, namespaces: Vec<i64>) {
        self.index.dropped_namespaces = namespaces;
    }

    /// Begins a key group; they come in ascending order.
    pub(crate) fn begin_group(&mut self, group: KeyGroup, is_base: bool) {
        self.index.groups.push(GroupEntry { group, is_base, blocks: vec![] });
    }

    /// Adds a block to the group begun last.
    pub(crate) fn block(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), StateError> {
        self.close_if_large()?;
        let begin = self.buffer.len();
        write(&mut self.buffer);
        let block = &self.buffer[begin..];
        let length = u32::try_from(block.len())
            .map_err(|_| StateError::TooLarge { state: "?".into(), what: "a row of more than 4 GiB" })?;
        let entry = BlockEntry { offset: begin as u64, length, crc32c: crc32c::crc32c(block) };
        let group = self.index.groups.last_mut().expect("a block belongs to a group");
        group.blocks.push(entry);
        Ok(())
    }

    /// Between two key groups, ends a segment that is large enough.
    fn close_if_large(&mut self) -> Result<(), StateError> {
        let begins_group = self.index.groups.last().is_some_and(|group| group.blocks.is_empty());
        if self.buffer.len() < SEGMENT_BYTES || !begins_group {
            return Ok(());
        }
        let next = self.index.groups.pop().expect("just looked at");
        self.close(next.group.0 - 1)?;
        self.index.groups.push(next);
        Ok(())
    }

    fn close(&mut self, last: u16) -> Result<(), StateError> {
        let index_offset = self.buffer.len();
        self.index.write(&mut self.buffer);
        let index_crc32c = crc32c::crc32c(&self.buffer[index_offset..]);
        let key_groups = KeyGroupRange { first: self.first, last };
        let all_bases = self.index.groups.len() == key_groups.len() && self.index.groups.iter().all(|g| g.is_base);
        self.runs.push(Run {
            segment: self.sink.append(&self.buffer)?,
            index_offset: index_offset as u64,
            index_crc32c,
            kind: if all_bases { RunKind::Base } else { RunKind::Delta },
            key_groups,
            sequence: self.sequence,
        });
        self.buffer.clear();
        self.index.groups.clear();
        self.first = last + 1;
        Ok(())
    }

    /// The runs written: one a segment, of key groups that don't overlap.
    pub(crate) fn finish(mut self) -> Result<Vec<Run>, StateError> {
        if self.first <= self.owned.last {
            self.close(self.owned.last)?;
        }
        Ok(self.runs)
    }
}
