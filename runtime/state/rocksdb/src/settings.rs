use std::path::PathBuf;

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;

/// The settings of all stores of a process. Begin with a profile's.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Bytes of all that stores and the row caches before them keep in memory, together.
    pub memory_bytes: usize,
    /// The part of the memory for state that is not in files: row caches and write buffers.
    pub write_buffer_ratio: f64,
    /// Whether indexes and filters may take up to half of the block cache before data does. (RocksDB's C interface has
    /// no way to say another part.)
    pub indexes_and_filters_first: bool,
    /// Where stores have their files; a folder for temporary files if there is none.
    pub folder: Option<PathBuf>,
    pub block_bytes: usize,
    pub write_buffer_bytes: usize,
    pub write_buffer_count: u32,
    /// Threads for flushes and compactions, of all stores together.
    pub background_threads: u32,
    /// Files are split at this size.
    pub target_file_bytes: usize,
    pub compaction_readahead_bytes: usize,
    pub compression: Compression,
    /// Whether files are mapped into memory. A lookup then copies nothing out of the system's page cache, which is not
    /// counted in `memory_bytes` either way; the process shows the pages in use as resident.
    pub maps_files: bool,
    /// Cuts up to this size go through a write buffer, larger ones become files at once.
    pub buffered_cut_bytes: usize,
    /// A cut that is larger than this is in several files.
    pub max_cut_file_bytes: usize,
    /// A store is made of so many databases at most. Where more come together, the smallest are copied into the others.
    pub max_databases: usize,
}

/// How blocks are compressed in the local files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4,
    /// Zstd for the oldest run of files, which is most of the state; LZ4 for what is rewritten soon.
    ZstdBelow,
}

impl Settings {
    /// For any disk, with so much memory.
    pub fn new(memory_bytes: usize) -> Self {
        Settings {
            memory_bytes,
            write_buffer_ratio: 0.5,
            indexes_and_filters_first: true,
            folder: None,
            // A lookup decompresses a whole block for one row; of twice this size it takes twice as long.
            block_bytes: 4 * KIB,
            write_buffer_bytes: 8 * MIB,
            write_buffer_count: 2,
            background_threads: 2,
            target_file_bytes: 16 * MIB,
            compaction_readahead_bytes: 2 * MIB,
            compression: Compression::Lz4,
            maps_files: false,
            buffered_cut_bytes: MIB,
            // Few: each file of a cut may be a run to look through.
            max_cut_file_bytes: 64 * MIB,
            // Each has a write buffer, a manifest file and changes since the last flush of its own, which every
            // checkpoint names. More than this come together where a job is rescaled to less than an eighth.
            max_databases: 8,
        }
    }

    /// For disks that seek slowly: large blocks and files, fewer bytes.
    pub fn spinning_disk(memory_bytes: usize) -> Self {
        Settings {
            block_bytes: 64 * KIB,
            target_file_bytes: 64 * MIB,
            compaction_readahead_bytes: 8 * MIB,
            compression: Compression::ZstdBelow,
            ..Settings::new(memory_bytes)
        }
    }

    /// For disks that read small blocks anywhere at once: mapped and not compressed, more compactions at a time.
    pub fn flash_ssd(memory_bytes: usize) -> Self {
        Settings {
            background_threads: 4,
            compression: Compression::None,
            maps_files: true,
            ..Settings::new(memory_bytes)
        }
    }

    /// How the memory is divided. Rows before the stores get most of what is for state that isn't in files, since a
    /// row there costs a fifth of what it costs in a write buffer.
    pub(crate) fn memory(&self) -> Memory {
        let unwritten = (self.memory_bytes as f64 * self.write_buffer_ratio.clamp(0.0, 1.0)) as usize;
        let write_buffers = (unwritten / 4).min(MAX_WRITE_BUFFERS);
        let row_caches = unwritten - write_buffers;
        // Write buffers are charged to the block cache.
        Memory { row_caches, write_buffers, block_cache: self.memory_bytes - row_caches }
    }
}

/// Large cuts pass the write buffers by, so that more of them would lie idle.
const MAX_WRITE_BUFFERS: usize = 64 * MIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) row_caches: usize,
    pub(crate) write_buffers: usize,
    pub(crate) block_cache: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_adds_up() {
        for mib in [8, 64, 256, 4096] {
            for write_buffer_ratio in [0.0, 0.3, 0.5, 1.0] {
                let settings = Settings { write_buffer_ratio, ..Settings::new(mib * MIB) };
                let Memory { row_caches, write_buffers, block_cache } = settings.memory();
                assert_eq!(row_caches + block_cache, mib * MIB);
                assert!(write_buffers <= block_cache.max(1), "{settings:?}");
            }
        }
    }
}
