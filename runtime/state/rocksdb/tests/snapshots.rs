//! The model test of `weir-state` over RocksDB: every checkpoint restores to the state at its cut, at any parallelism, on
//! either backend.

use proptest::prelude::*;
use std::sync::{Arc, LazyLock};
use weir_state::*;
use weir_state_rocksdb::{RocksDb, Settings};

#[path = "../../tests/world/mod.rs"]
mod world;
use world::*;

/// Small cuts go through write buffers in one, and become files of a few rows in the other.
static SHARED: LazyLock<[Arc<RocksDb>; 2]> = LazyLock::new(|| {
    let settings = Settings::new(64 << 20);
    let files = Settings { buffered_cut_bytes: 0, max_cut_file_bytes: 1 << 10, ..Settings::flash_ssd(64 << 20) };
    [settings, files].map(|settings| RocksDb::new(&settings).unwrap())
});

fn open_store(
    kept: &[&mut KeptState],
    handles: &[KeyedStateHandle],
    config: StateConfig,
    source: &MemorySegments,
) -> Arc<dyn ColdStore> {
    let of_states: usize = handles.iter().map(|handle| handle.segments().count()).sum();
    SHARED[of_states % 2].store("test", &config, kept, handles, source).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn every_checkpoint_is_the_state_at_its_cut(
        steps in steps(),
        parallelism in 1u32..5,
        first in backends(),
        second in backends(),
    ) {
        let mut world = World::on(first);
        for step in &steps {
            world.apply(step);
        }
        world.check(parallelism, second);
    }
}
