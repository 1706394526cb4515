//! Keyed state in RocksDB: the cold store behind the row tables and trees of `weir-state`.
//!
//! * [`RocksDb`]: what all stores of a process share: memory, threads, a scratch folder
//! * [`RocksDbStore`]: what one operator subtask keeps, in a database or a few
//! * [`open_files`]: the files of a checkpoint, to be read by whoever keeps its state elsewhere
//!
//! RocksDB's files are no source of truth. There is no write-ahead log; after a failure a store is made anew from the
//! files that a checkpoint names.

mod changes;
mod database;
mod donors;
mod failure;
mod figures;
mod files;
mod helpers;
mod options;
mod restore;
mod scratch;
mod settings;
mod shared;
mod snapshot;
mod store;
mod writer;

pub use donors::open_files;
pub use figures::Figures;
pub use settings::{Compression, Settings};
pub use shared::RocksDb;
pub use store::RocksDbStore;

/// As handles call this store.
pub const STORE_NAME: &str = "rocksdb";
