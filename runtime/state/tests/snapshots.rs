//! States against a model, through cuts, confirmations, aborts and restores at other parallelisms.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use proptest::prelude::*;
use std::sync::Arc;
use weir_model::{CheckpointId, KeyGroup, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::*;

mod memory_store;
mod world;
use memory_store::MemoryStore;
use world::*;

fn open_store(
    _kept: &[&mut KeptState],
    handles: &[KeyedStateHandle],
    config: StateConfig,
    source: &MemorySegments,
) -> Arc<dyn ColdStore> {
    Arc::new(MemoryStore::open(handles, config.key_groups, source))
}

proptest! {
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

/// Many small changes to a larger state: runs stay bounded, and so does what is written.
#[test]
fn runs_behind_a_key_group_stay_bounded() {
    let mut world = World::on(Backend::Heap);
    world.apply(&Step::Upsert(false, 0, (0..5000).map(Some).collect()));
    world.apply(&Step::Put((0..200).map(Some).collect(), 1, 10));
    for round in 0..100i64 {
        world.apply(&Step::Upsert(false, 0, vec![Some(round * 31 % 5000)]));
        world.apply(&Step::Put(vec![Some(round % 200)], 1, 11));
        world.apply(&Step::Cut);
        if round % 3 != 1 {
            world.apply(&Step::Confirm(true));
        }
        let handles = &world.confirmed.0;
        for state in handles.iter().flat_map(|handle| &handle.states) {
            assert!(state.runs.len() <= 26, "{} runs", state.runs.len());
        }
    }
    world.check(3, Backend::Heap);
    let segments: Vec<&SegmentRef> = world.confirmed.0.iter().flat_map(|handle| handle.segments()).collect();
    let bytes: u64 = segments.iter().map(|segment| segment.length).sum();
    assert!(bytes < 400_000, "{bytes} bytes behind the checkpoint");
}

/// Tables that belong to one key group each change hands as they are; their rows and removals, and the full copies that
/// later checkpoints build on, are those of the state that is read.
#[test]
fn large_states_change_hands() {
    let keys = |range: std::ops::Range<i64>| range.map(Some).collect::<Vec<_>>();
    let mut world = World::on(Backend::Heap);
    world.apply(&Step::Upsert(false, 0, [keys(0..20_000), vec![None]].concat()));
    world.apply(&Step::Upsert(true, 1, keys(0..9_000)));
    world.apply(&Step::Upsert(false, 2, keys(0..50)));
    world.apply(&Step::Put(keys(0..3_000), 1, 10));
    let mut written = vec![];
    for (round, (parallelism, kept)) in
        [(4, 0xff), (3, 0xff), (1, 0b101), (5, 0xff), (2, 0b11010), (2, 0xff)].into_iter().enumerate()
    {
        let first = round as i64 * 100;
        world.apply(&Step::Rescale(parallelism, kept, Backend::Heap));
        let objects = |name: &str, bytes: &Vec<u8>| (name == format!("chk-{}", world.next - 1)).then_some(bytes.len());
        written.push(world.segments.with_objects(|all| all.iter().find_map(|(name, bytes)| objects(name, bytes))));
        // Of rows that were born before, since, and that are born again.
        world.apply(&Step::Remove(false, 0, keys(first..first + 50)));
        world.apply(&Step::Upsert(false, 0, keys(30_000 + first..30_040 + first)));
        world.apply(&Step::Upsert(true, 1, keys(first..first + 20)));
        world.apply(&Step::Delete(keys(first..first + 10), 1));
        if round == 2 {
            world.apply(&Step::DropNamespace(2));
        }
        world.apply(&Step::Cut);
        world.check(2, Backend::Heap);
        world.apply(&Step::Remove(false, 0, keys(30_000 + first..30_020 + first)));
        world.apply(&Step::Cut);
        world.check(3, Backend::Heap);
        world.apply(&Step::Confirm(true));
    }
    let (first, later) = written.split_first().expect("six rescales");
    let largest = later.iter().flatten().max();
    assert!(largest < first.as_ref(), "all was written again: {written:?}");
}

/// A namespace that one former subtask has dropped, and another one hasn't: what stands in a run says nothing about the key
/// groups of others that their subtask's successor owns now.
#[test]
fn what_a_former_subtask_dropped_was_its_own() {
    let keys: Vec<Option<i64>> = (0..60).map(Some).collect();
    let mut world = World::on(Backend::Heap);
    world.apply(&Step::Upsert(false, 0, keys.clone()));
    world.apply(&Step::Cut);
    world.apply(&Step::Confirm(true));
    let (_, _, dropped) = world.route(&keys, false, false).swap_remove(0);
    assert!(!dropped.is_empty() && dropped.len() < keys.len());
    let rows = world.subtasks[0].rows[0];
    world.subtasks[0].state.rows(rows).drop_namespace(0);
    world.model.rows.retain(|(_, _, key), _| !dropped.contains(key));
    world.apply(&Step::Cut);
    world.apply(&Step::Confirm(true));
    for parallelism in [1, 3] {
        world.apply(&Step::Rescale(parallelism, 0, Backend::Heap));
        world.apply(&Step::Cut);
        world.check(1, Backend::Heap);
        world.check(3, Backend::Heap);
    }
}

/// An interval without changes writes nothing.
#[test]
fn an_idle_state_costs_nothing() {
    let mut world = World::on(Backend::Heap);
    world.apply(&Step::Cut);
    assert_eq!(world.written[0].1.iter().map(|handle| handle.segments().count()).sum::<usize>(), 0);
    world.apply(&Step::Upsert(true, 0, vec![Some(1), None]));
    world.apply(&Step::Cut);
    world.apply(&Step::Confirm(true));
    let before = world.segments.with_objects(|objects| objects.len());
    world.apply(&Step::Cut);
    assert_eq!(world.segments.with_objects(|objects| objects.len()), before);
    assert_eq!(world.written[0].1, world.confirmed.0);
}

/// No broken byte is ever restored as if it were right.
#[test]
fn every_flipped_byte_is_found() {
    let mut world = World::on(Backend::Heap);
    let keys: Vec<Option<i64>> = (0..12).map(|key| (key > 0).then_some(key)).collect();
    world.apply(&Step::Upsert(true, 0, keys.clone()));
    world.apply(&Step::Upsert(false, 1, keys.clone()));
    world.apply(&Step::Put(keys, 1, 3));
    world.apply(&Step::Cut);
    world.apply(&Step::Confirm(true));
    world.apply(&Step::Upsert(true, 0, vec![Some(7)]));
    world.apply(&Step::Remove(true, 0, vec![Some(1)]));
    world.apply(&Step::Upsert(false, 1, vec![Some(3)]));
    world.apply(&Step::DropNamespace(2));
    world.apply(&Step::Delete(vec![Some(1)], 1));
    world.apply(&Step::Cut);
    let handles = world.written[0].1.clone();
    let config = StateConfig { key_groups: KeyGroupRange { first: 0, last: MAX as u16 - 1 }, max_parallelism: MAX };
    let lengths: Vec<(String, usize)> = world
        .segments
        .with_objects(|objects| objects.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect());
    assert!(KeyedState::open(config, &handles, &world.segments).is_ok());
    let flip = |object: &String, at: usize| {
        world.segments.with_objects(|objects| objects.get_mut(object).unwrap()[at] ^= 0x10);
    };
    let mut unread = 0;
    for (object, length) in lengths {
        for at in 0..length {
            flip(&object, at);
            match KeyedState::open(config, &handles, &world.segments) {
                Err(StateError::Corrupt { object: named, .. }) => assert_eq!(named, object),
                Err(other) => panic!("byte {at} of {object}: {other}"),
                // A block that a newer full copy supersedes isn't read.
                Ok(_) => unread += 1,
            }
            flip(&object, at);
        }
        // Behind the last segment that the handles name, an object may end anywhere.
        let named = handles.iter().flat_map(|handle| handle.segments()).filter(|segment| segment.object == object);
        for length in 0..named.map(|segment| segment.offset + segment.length).max().unwrap() as usize {
            let cut_off = world.segments.with_objects(|objects| objects.get_mut(&object).unwrap().split_off(length));
            let opened = KeyedState::open(config, &handles, &world.segments);
            assert!(matches!(opened, Err(StateError::Corrupt { .. })), "{object} cut off at {length}");
            world.segments.with_objects(|objects| objects.get_mut(&object).unwrap().extend(cut_off));
        }
    }
    assert!(unread < 200, "{unread} bytes can be broken without notice");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut world = World::on(Backend::Heap);
    world.apply(&Step::Upsert(true, 0, vec![Some(1), Some(2), None]));
    world.apply(&Step::Cut);
    let handles = world.written[0].1.clone();
    let key_groups = KeyGroupRange { first: 0, last: MAX as u16 - 1 };
    let open = |handles: &[KeyedStateHandle], max_parallelism| {
        KeyedState::open(StateConfig { key_groups, max_parallelism }, handles, &world.segments)
    };
    let message = |result: Result<KeyedState, StateError>| result.err().unwrap().to_string();
    assert_eq!(
        message(open(&handles, 20)),
        "state `*` cannot be restored: the checkpoint was taken with max parallelism 10, the job has 20; it cannot change"
    );
    assert_eq!(
        message(open(&handles[1..], MAX)),
        "state `*` cannot be restored: 0 subtasks of the checkpoint hold key group 0"
    );
    let mut later = handles.clone();
    later[0].format_version = 3;
    assert_eq!(message(open(&later, MAX)), "checkpoint format version 3; this version of Weir reads up to 2");
    let mut state = open(&handles, MAX).unwrap();
    let error = state.register_rows(schema("rows-true", StateKind::Value, key_fields(false))).unwrap_err();
    assert_eq!(error.to_string(), "state `rows-true` cannot be restored: its key was (k, s) and is now (k)");
    assert_eq!(state.unmatched().count(), 3);
}

#[test]
fn a_wider_schema_reads_the_old_state() {
    let narrow = |name: &str, kind, byte_keys: bool| StateSchema {
        value: vec![StateField::new("count", DataType::Int32, false)],
        key: if byte_keys { key_fields(true) } else { vec![StateField::new("k", DataType::Int32, false)] },
        ..schema(name, kind, vec![])
    };
    let wide = |name: &str, kind, byte_keys: bool| StateSchema {
        key: key_fields(byte_keys),
        value: vec![StateField::new("text", DataType::Utf8, true), StateField::new("count", DataType::Int64, true)],
        ..schema(name, kind, vec![])
    };
    let mut segments = MemorySegments::default();
    segments.begin("chk-1");
    let key_groups = KeyGroupRange { first: 0, last: MAX as u16 - 1 };
    let mut old = KeyedState::new(key_groups, MAX);
    let id = old.register_rows(narrow("rows", StateKind::Value, false)).unwrap();
    let map = old.register_ordered(narrow("map", StateKind::Map, true)).unwrap();
    let column: ArrayRef = Arc::new(arrow::array::Int32Array::from_iter_values(-500..500));
    let mut keys = KeyBatch::new();
    KeyEncoder::new(&narrow("", StateKind::Value, false).key)
        .encode(std::slice::from_ref(&column), 1000, MAX, &mut keys)
        .unwrap();
    let (mut slots, mut new) = (vec![], vec![]);
    old.rows(id).upsert(3, &keys, &mut slots, &mut new).unwrap();
    old.rows(id).set_column(&slots, 0, &column).unwrap();
    let mut value = EncodedRows::default();
    let one: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![-7]));
    ValueCodec::new(&narrow("", StateKind::Map, true).value).unwrap().encode(&[one], 1, &mut value).unwrap();
    KeyEncoder::for_ordered(&key_fields(true)).encode(&key_columns(&[Some(5)], true), 1, MAX, &mut keys).unwrap();
    old.ordered(map).put(keys.key_group(0), keys.key(0), &timer_time(9), value.row(0)).unwrap();
    let handle = old.cut(CheckpointId(1)).unwrap().write(&mut segments).unwrap();

    let config = StateConfig { key_groups, max_parallelism: MAX };
    let mut state = KeyedState::open(config, &[handle], &segments).unwrap();
    let id = state.register_rows(wide("rows", StateKind::Value, false)).unwrap();
    let map = state.register_ordered(wide("map", StateKind::Map, true)).unwrap();
    let mut seen = 0;
    state
        .rows(id)
        .scan(3, 100, |rows, keys, slots| -> Result<(), StateError> {
            let values = rows.columns(slots)?;
            assert_eq!(&values[1], &keys[0]);
            assert_eq!(values[0].null_count(), slots.len());
            seen += slots.len();
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 1000);
    let group: KeyGroup = keys.key_group(0);
    let value = state.ordered(map).get(group, keys.key(0), &timer_time(9)).unwrap().unwrap().to_vec();
    let columns = ValueCodec::new(&wide("", StateKind::Map, true).value).unwrap().decode([&value[..]]).unwrap();
    assert_eq!(columns[1].as_primitive::<Int64Type>().value(0), -7);
    assert!(columns[0].is_null(0));
    // The next checkpoint is complete by itself: old runs are of the old schema.
    let handle = state.cut(CheckpointId(2)).unwrap().write(&mut segments).unwrap();
    assert!(handle.states.iter().all(|state| state.runs.len() == 1));
}

/// Segments and the handle of format version 1. Changing them orphans every checkpoint ever written.
#[test]
fn golden() {
    let mut segments = MemorySegments::default();
    segments.begin("chk-1/worker-0.data");
    let key_groups = KeyGroupRange { first: 2, last: 3 };
    let mut state = KeyedState::new(key_groups, 4);
    let rows = state.register_rows(schema("rows", StateKind::Value, key_fields(false))).unwrap();
    let map = state.register_ordered(schema("map", StateKind::Map, key_fields(true))).unwrap();
    // Keys of the owned groups, and one that is removed between two checkpoints.
    let mut all = KeyBatch::new();
    let values: Vec<Option<i64>> = (0..10).map(Some).chain([None]).collect();
    KeyEncoder::new(&key_fields(false)).encode(&key_columns(&values, false), 11, 4, &mut all).unwrap();
    let owned: Vec<u32> = (0..11).filter(|row| key_groups.contains(all.key_group(*row as usize))).collect();
    let mut keys = KeyBatch::new();
    all.take(&owned, &mut keys);
    let (mut slots, mut new) = (vec![], vec![]);
    let text = state.rows(rows).layout().field(1);
    for (namespace, string) in [(-1, "one"), (5, "")] {
        let state = state.rows(rows);
        state.upsert(namespace, &keys, &mut slots, &mut new).unwrap();
        let counts: ArrayRef = Arc::new(Int64Array::from_iter_values(owned.iter().map(|row| *row as i64 * 100)));
        state.set_column(&slots, 0, &counts).unwrap();
        state.set_var(slots[0], text, Some(string.as_bytes())).unwrap();
    }
    state.ordered(map).put(KeyGroup(2), b"key", b"1", b"first value").unwrap();
    state.ordered(map).put(KeyGroup(3), b"key", b"2", b"second value").unwrap();
    let first = state.cut(CheckpointId(1)).unwrap().write(&mut segments).unwrap();
    state.confirm(CheckpointId(1));
    segments.begin("chk-2/worker-0.data");
    state.rows(rows).find(-1, &keys, &mut slots).unwrap();
    state.rows(rows).remove(slots[1]);
    state.rows(rows).drop_namespace(5);
    state.rows(rows).row_mut(slots[0]);
    state.ordered(map).delete(KeyGroup(3), b"key", b"2").unwrap();
    state.ordered(map).put(KeyGroup(2), b"key", b"3", b"third").unwrap();
    let second = state.cut(CheckpointId(2)).unwrap().write(&mut segments).unwrap();

    let mut found = String::new();
    for (handle, object) in [(first, "chk-1/worker-0.data"), (second, "chk-2/worker-0.data")] {
        found += &serde_json::to_string_pretty(&handle).unwrap();
        found += "\n";
        segments.with_objects(|objects| {
            for line in objects[object].chunks(32) {
                found += &line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                found += "\n";
            }
        });
    }
    let golden = include_str!("golden-1.txt");
    assert!(found == golden, "the format of segments or handles changed; now it is\n{found}");
}

/// Handles of states in a store: as version 1 has them, and of several databases since version 2.
#[test]
fn golden_of_stores() {
    let file = |name: &str, object: &str, offset| ColdFile {
        name: name.into(),
        segments: vec![SegmentRef { object: object.into(), offset, length: 70, crc32c: 7 }],
        length: (offset > 0).then_some(200),
        keys: (offset > 0).then_some(ColdKeys { level: 6, first: 0x2_0000, last: 0x2_0003 }),
    };
    let files = ["000012.sst", "MANIFEST-000009", "CHANGES-4"].map(|name| file(name, "chk-3/worker-0.data", 0));
    let handle = |cold: ColdHandle| KeyedStateHandle {
        format_version: if cold.databases.is_empty() { 1 } else { 2 },
        max_parallelism: 8,
        key_groups: KeyGroupRange { first: 2, last: 5 },
        states: vec![StateHandle {
            schema: schema("rows", StateKind::Value, key_fields(false)),
            has_ttl: false,
            cold_state: Some(2),
            runs: vec![],
        }],
        cold: Some(cold),
    };
    let one = handle(ColdHandle { store: "rocksdb".into(), files: files.to_vec(), databases: vec![] });
    let database = |first, last, files| ColdDatabase { key_groups: KeyGroupRange { first, last }, files };
    let two = handle(ColdHandle {
        store: "rocksdb".into(),
        files: [&files[..], &[file("000012.sst", "chk-2/worker-1.data", 90)]].concat(),
        databases: vec![database(2, 3, 3), database(4, 5, 1)],
    });
    let golden = include_str!("golden-2.json");
    let handles = vec![one, two];
    assert_eq!(serde_json::from_str::<Vec<KeyedStateHandle>>(golden).unwrap(), handles);
    let now = serde_json::to_string_pretty(&handles).unwrap() + "\n";
    assert!(now == golden, "the format of handles changed; now it is\n{now}");
}
