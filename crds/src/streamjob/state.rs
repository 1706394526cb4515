//! State backends: where keyed state is kept while the job runs.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    quantity::ByteSize,
    rules::{MAX_TEXT_LENGTH, at_most_one},
};

/// Where keyed state is kept: one of the two; heap if nothing is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = at_most_one(&["heap", "rocksdb"]))]
pub struct StateBackend {
    /// In memory: fastest, for state that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heap: Option<HeapOptions>,
    /// In RocksDB, on local disk: for state larger than memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rocksdb: Option<RocksDbOptions>,
}

/// Settings of the heap backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct HeapOptions {
    /// Keep a copy of the latest checkpoint on local disk, and restore from it where it is still there.
    #[schemars(extend("default" = defaults::LOCAL_RECOVERY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_recovery: Option<bool>,
}

/// RocksDB's settings. The memory is a bound for each worker process, whatever the number of subtasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct RocksDbOptions {
    #[schemars(extend("default" = defaults::ROCKSDB_PROFILE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<RocksDbProfile>,
    /// Rows in front of RocksDB, write buffers, block cache, indexes and filters of all subtasks of a process, together.
    #[schemars(extend("default" = defaults::ROCKSDB_MEMORY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// The part of the memory for state that is not in files yet, 0 to 1: rows in front of RocksDB and write buffers.
    #[schemars(extend("default" = defaults::ROCKSDB_WRITE_BUFFER_RATIO))]
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_buffer_ratio: Option<f64>,
    /// The part of the block cache kept for indexes and filters, 0 to 1. 0 gives them no preference; anything else is half.
    #[schemars(extend("default" = defaults::ROCKSDB_HIGH_PRIORITY_POOL_RATIO))]
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_priority_pool_ratio: Option<f64>,
    /// Keep a copy of the latest checkpoint on local disk, and restore from it where it is still there.
    #[schemars(extend("default" = defaults::LOCAL_RECOVERY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_recovery: Option<bool>,
    /// A local directory; the worker's own storage if nothing is said.
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Reads in blocks of this size; the profile's choice if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<ByteSize>,
    /// The size of one write buffer; the profile's choice if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_buffer_size: Option<ByteSize>,
    /// Write buffers of one state; the profile's choice if nothing is said.
    #[schemars(range(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_buffer_count: Option<u32>,
    /// Threads for compaction and flush of a process; the profile's choice if nothing is said.
    #[schemars(range(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_threads: Option<u32>,
}

/// A set of RocksDB settings for a kind of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RocksDbProfile {
    Default,
    /// As Flink's SPINNING_DISK_OPTIMIZED.
    SpinningDisk,
    /// As Flink's FLASH_SSD_OPTIMIZED.
    FlashSsd,
}
