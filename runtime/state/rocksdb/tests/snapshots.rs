//! The model test of `weir-state` over RocksDB: every checkpoint restores to the state at its cut, at any parallelism, on
//! either backend; and however a job was rescaled before.

use proptest::prelude::*;
use std::cell::Cell;
use std::sync::{Arc, LazyLock};
use weir_state::*;
use weir_state_rocksdb::{RocksDb, Settings};

#[path = "../../tests/world/mod.rs"]
mod world;
use world::*;

/// Small cuts go through write buffers in the first, and become files of a few rows in the others. More than two databases
/// don't stay beside each other in the last.
static SHARED: LazyLock<[Arc<RocksDb>; 3]> = LazyLock::new(|| {
    let settings = Settings::new(64 << 20);
    let files = Settings { buffered_cut_bytes: 0, max_cut_file_bytes: 1 << 10, ..Settings::flash_ssd(64 << 20) };
    let few = Settings { max_databases: 2, ..files.clone() };
    [settings, files, few].map(|settings| RocksDb::new(&settings).unwrap())
});

thread_local! {
    /// The one that a case is run with: what subtasks of another leave open is nobody's.
    static CHOSEN: Cell<usize> = const { Cell::new(0) };
}

fn open_store(
    kept: &[&mut KeptState],
    handles: &[KeyedStateHandle],
    config: StateConfig,
    source: &MemorySegments,
) -> Arc<dyn ColdStore> {
    SHARED[CHOSEN.get()].store("test", &config, kept, handles, source).unwrap()
}

/// Mostly rescales, each with something written before it, of state that is in files.
fn rescales() -> impl Strategy<Value = Vec<Step>> {
    let cold = || (0usize..500).prop_map(Backend::Cold);
    let step = prop_oneof![
        3 => steps(),
        2 => (1u32..=MAX, cold()).prop_map(|(parallelism, backend)| vec![Step::Rescale(parallelism, !0, backend)]),
        1 => (1u32..=MAX, any::<u16>(), cold()).prop_map(|(p, kept, backend)| vec![Step::Rescale(p, kept, backend)]),
        1 => (1u32..=MAX, cold()).prop_map(|(p, backend)| {
            vec![Step::Cut, Step::Confirm(true), Step::Restart(p, backend)]
        }),
    ];
    let without_others = |steps: Vec<Vec<Step>>| {
        let is_wanted =
            |step: &Step| !matches!(step, Step::Restart(_, Backend::Heap) | Step::Rescale(_, _, Backend::Heap));
        steps.into_iter().flat_map(|steps| steps.into_iter().take(8)).filter(is_wanted).collect()
    };
    prop::collection::vec(step, 1..16).prop_map(without_others)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn every_checkpoint_is_the_state_at_its_cut(
        steps in steps(),
        parallelism in 1u32..5,
        first in backends(),
        second in backends(),
        shared in 0usize..3,
    ) {
        CHOSEN.set(shared);
        let mut world = World::on(first);
        for step in &steps {
            world.apply(step);
        }
        world.check(parallelism, second);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]
    #[test]
    fn stores_are_divided_and_come_together(
        steps in rescales(),
        parallelism in 1u32..=MAX,
        second in backends(),
        shared in 0usize..3,
    ) {
        CHOSEN.set(shared);
        let mut world = World::on(Backend::Cold(0));
        for step in &steps {
            world.apply(step);
            assert_eq!(World::contents(&mut world.subtasks), world.model, "behind {step:?}");
        }
        world.check(parallelism, second);
    }
}
