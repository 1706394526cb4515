//! RocksDB's options, from the settings.

use crate::settings::{Compression, Settings};
use rocksdb::{
    BlockBasedOptions, Cache, DBCompactionStyle, DBCompressionType, DataBlockIndexType, LogLevel, LruCacheOptions,
    Options, UniversalCompactOptions, WriteBufferManager,
};

/// Sorted runs of files at which compaction sets in. Each checkpoint adds one, so this bounds what a lookup and a
/// restore have to do with.
const RUNS_BEFORE_COMPACTION: i32 = 6;
/// Runs at which writers are slowed down, and stopped.
pub(crate) const RUNS_SLOW: i32 = 20;
pub(crate) const RUNS_STOP: i32 = 32;
/// A run is merged with the next older one if that is larger by no more percent than this.
const RUN_SIZE_RATIO_PERCENT: i32 = 10;
/// How much larger than the state its files may be: what is obsolete is written to no checkpoint twice.
const MAX_SIZE_AMPLIFICATION_PERCENT: i32 = 100;
/// Files held open by one store.
const MAX_OPEN_FILES: i32 = 256;
/// Bits of a Bloom filter for a key: one lookup of an absent key in a hundred reads a block for nothing.
const FILTER_BITS: f64 = 10.0;
/// A shard of the cache holds at least so much; more shards than the few threads that read are of no use.
const CACHE_SHARD_BYTES: usize = 1 << 23;
const MAX_CACHE_SHARD_BITS: u32 = 6;
/// What stands in a manifest file before a new one begins; each checkpoint holds one.
const MANIFEST_BYTES: usize = 1 << 15;
const LOG_BYTES: usize = 1 << 20;

/// The block cache of all stores.
pub(crate) fn cache(bytes: usize) -> Cache {
    let shards = (bytes / CACHE_SHARD_BYTES).max(1);
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(shards.ilog2().min(MAX_CACHE_SHARD_BITS) as i32);
    Cache::new_lru_cache_opts(&options)
}

/// Of a store that is written to.
pub(crate) fn of_store(settings: &Settings, cache: &Cache, write_buffers: &WriteBufferManager) -> Options {
    let mut options = quiet();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&tables(settings, cache));
    options.set_write_buffer_manager(write_buffers);
    options.set_write_buffer_size(settings.write_buffer_bytes);
    options.set_max_write_buffer_number(settings.write_buffer_count.max(2) as i32);
    options.set_max_background_jobs(settings.background_threads as i32);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_max_manifest_file_size(MANIFEST_BYTES);
    options.set_bytes_per_sync(1 << 20);
    // One thread writes at a time.
    options.set_allow_concurrent_memtable_write(false);
    compaction(&mut options, settings);
    options
}

/// Runs of similar size are merged with each other. Merging each small run into one large sorted level, as leveled
/// compaction does, rewrites all of a large state every few checkpoints, and each rewritten file is uploaded again.
fn compaction(options: &mut Options, settings: &Settings) {
    options.set_compaction_style(DBCompactionStyle::Universal);
    let mut universal = UniversalCompactOptions::default();
    universal.set_size_ratio(RUN_SIZE_RATIO_PERCENT);
    universal.set_max_size_amplification_percent(MAX_SIZE_AMPLIFICATION_PERCENT);
    options.set_universal_compaction_options(&universal);
    options.set_level_zero_file_num_compaction_trigger(RUNS_BEFORE_COMPACTION);
    options.set_level_zero_slowdown_writes_trigger(RUNS_SLOW);
    options.set_level_zero_stop_writes_trigger(RUNS_STOP);
    options.set_target_file_size_base(settings.target_file_bytes as u64);
    options.set_compaction_readahead_size(settings.compaction_readahead_bytes);
    match settings.compression {
        Compression::None => options.set_compression_type(DBCompressionType::None),
        Compression::Lz4 => options.set_compression_type(DBCompressionType::Lz4),
        Compression::ZstdBelow => {
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_bottommost_compression_type(DBCompressionType::Zstd);
        }
    }
    options.set_allow_mmap_reads(settings.maps_files);
}

/// Of files that are read once, and of which some may be missing that hold none of the keys wanted.
pub(crate) fn of_donor(cache: Option<&Cache>) -> Options {
    let mut options = quiet();
    let mut tables = BlockBasedOptions::default();
    match cache {
        Some(cache) => tables.set_block_cache(cache),
        None => tables.disable_cache(),
    }
    options.set_block_based_table_factory(&tables);
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_max_open_files(MAX_OPEN_FILES);
    // Files that aren't there are only noticed when they are read.
    options.set_paranoid_checks(false);
    options.set_disable_auto_compactions(true);
    options
}

fn quiet() -> Options {
    let mut options = Options::default();
    options.set_log_level(LogLevel::Error);
    options.set_keep_log_file_num(1);
    options.set_max_log_file_size(LOG_BYTES);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

fn tables(settings: &Settings, cache: &Cache) -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(cache);
    tables.set_block_size(settings.block_bytes);
    tables.set_bloom_filter(FILTER_BITS, false);
    tables.set_optimize_filters_for_memory(true);
    // Indexes and filters count as memory, too.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_cache_index_and_filter_blocks_with_high_priority(settings.indexes_and_filters_first);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    tables
}
