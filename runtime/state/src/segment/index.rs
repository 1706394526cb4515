//! The index of a run: which key groups it holds, and where their blocks are. It ends the run's segment.

use super::SegmentRef;
use super::column::{Malformed, Reader};
use crate::StateError;
use weir_model::KeyGroup;

const MAGIC: [u8; 4] = *b"WSI1";

/// What a run holds, by key group in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunIndex {
    /// Namespaces dropped since the run before: they go from every key group before the run's blocks apply.
    pub(crate) dropped_namespaces: Vec<i64>,
    pub(crate) groups: Vec<GroupEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupEntry {
    pub(crate) group: KeyGroup,
    /// Whether the blocks are all there is of the group, so that older runs don't count.
    pub(crate) is_base: bool,
    pub(crate) blocks: Vec<BlockEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    /// From the begin of the segment.
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) crc32c: u32,
}

impl RunIndex {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&(self.dropped_namespaces.len() as u32).to_le_bytes());
        self.dropped_namespaces.iter().for_each(|namespace| out.extend_from_slice(&namespace.to_le_bytes()));
        out.extend_from_slice(&(self.groups.len() as u32).to_le_bytes());
        for entry in &self.groups {
            out.extend_from_slice(&entry.group.0.to_le_bytes());
            out.push(entry.is_base as u8);
            out.extend_from_slice(&(entry.blocks.len() as u32).to_le_bytes());
            for block in &entry.blocks {
                out.extend_from_slice(&block.offset.to_le_bytes());
                out.extend_from_slice(&block.length.to_le_bytes());
                out.extend_from_slice(&block.crc32c.to_le_bytes());
            }
        }
    }

    /// `at` says where the bytes come from.
    pub(crate) fn read(bytes: &[u8], at: &SegmentRef) -> Result<Self, StateError> {
        Self::parse(bytes).map_err(|malformed| at.corrupt(0, format!("the index of a run: {malformed}")))
    }

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(Malformed("it isn't one"));
        }
        let dropped = reader.count(8)?;
        let dropped_namespaces = (0..dropped).map(|_| reader.i64()).collect::<Result<_, _>>()?;
        let count = reader.count(7)?;
        let mut groups: Vec<GroupEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let group = KeyGroup(reader.u16()?);
            if groups.last().is_some_and(|last| last.group >= group) {
                return Err(Malformed("key groups out of order"));
            }
            let is_base = match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(Malformed("a key group of no known kind")),
            };
            let blocks = (0..reader.count(16)?)
                .map(|_| Ok(BlockEntry { offset: reader.u64()?, length: reader.u32()?, crc32c: reader.u32()? }))
                .collect::<Result<_, Malformed>>()?;
            groups.push(GroupEntry { group, is_base, blocks });
        }
        reader.finish()?;
        Ok(RunIndex { dropped_namespaces, groups })
    }

    pub(crate) fn get(&self, group: KeyGroup) -> Option<&GroupEntry> {
        self.groups.binary_search_by_key(&group, |entry| entry.group).ok().map(|at| &self.groups[at])
    }
}
