use crate::store::RocksDbStore;
use rocksdb::{DB, properties};

/// Levels of a store's files.
const LEVELS: usize = 7;

/// What the stores of a process are doing, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Stores that hold something.
    pub stores: u64,
    /// Bytes of the files that hold the state.
    pub live_file_bytes: u64,
    /// Number of files on each level, the newest first.
    pub files_by_level: [u64; LEVELS],
    /// Bytes that compactions would have to rewrite to bring all stores into shape.
    pub pending_compaction_bytes: u64,
    pub running_compactions: u64,
    pub running_flushes: u64,
    /// The least rate to which a store's writes are held back; 0 if none's are.
    pub delayed_write_bytes_per_second: u64,
    /// Stores that take no writes until compaction has caught up.
    pub stopped_stores: u64,
    pub write_buffer_bytes: u64,
    /// Data, indexes, filters and write buffers.
    pub block_cache_bytes: u64,
    pub block_cache_capacity_bytes: u64,
    /// What all row caches before the stores may hold.
    pub row_cache_capacity_bytes: u64,
}

impl RocksDbStore {
    pub(crate) fn add_figures(&self, figures: &mut Figures) {
        figures.stores += u64::from(self.databases().next().is_some());
        self.databases().for_each(|db| figures.add(db));
    }
}

impl Figures {
    fn add(&mut self, db: &DB) {
        let figure = |name| db.property_int_value(name).ok().flatten().unwrap_or(0);
        self.live_file_bytes += figure(properties::LIVE_SST_FILES_SIZE);
        self.pending_compaction_bytes += figure(properties::ESTIMATE_PENDING_COMPACTION_BYTES);
        // RocksDB counts these for each database by itself.
        self.running_compactions += figure(properties::NUM_RUNNING_COMPACTIONS);
        self.running_flushes += figure(properties::NUM_RUNNING_FLUSHES);
        self.stopped_stores += u64::from(figure(properties::IS_WRITE_STOPPED) > 0);
        let rate = figure(properties::ACTUAL_DELAYED_WRITE_RATE);
        let least = &mut self.delayed_write_bytes_per_second;
        *least = if *least == 0 || rate == 0 { (*least).max(rate) } else { rate.min(*least) };
        for (level, files) in self.files_by_level.iter_mut().enumerate() {
            let count = db.property_value(properties::num_files_at_level(level)).ok().flatten();
            *files += count.and_then(|count| count.parse().ok()).unwrap_or(0);
        }
    }
}
