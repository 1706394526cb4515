//! What only a state in front of a cold store does: timers over a store, a bounded cache, imports and exports.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, UInt16Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Int64Type};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weir_model::{CheckpointId, KeyGroup, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::*;

mod memory_store;
use memory_store::MemoryStore;

const OWNED: KeyGroupRange = KeyGroupRange { first: 0, last: 127 };
const CONFIG: StateConfig = StateConfig { key_groups: OWNED, max_parallelism: 128 };

fn schema(kind: StateKind) -> StateSchema {
    StateSchema {
        name: "state".into(),
        kind,
        key: vec![StateField::new("k", DataType::Int64, false)],
        namespace: vec![StateField::new("n", DataType::Int64, false)],
        value: vec![StateField::new("v", DataType::Int64, true)],
        semantics: vec![],
    }
}

fn open(cache_bytes: usize) -> KeyedState {
    let cold = ColdConfig { store: Arc::new(MemoryStore::default()), cache: CacheBudget::new(cache_bytes) };
    KeyedState::open_cold(CONFIG, cold, &mut [], &[], &MemorySegments::default()).unwrap()
}

/// Looks at the cache, whatever was counted before.
fn tidy(state: &mut KeyedState) {
    (0..8).for_each(|_| state.between_batches(1).unwrap());
}

proptest! {
    #[test]
    fn due_timers_come_from_memory_and_store(
        steps in prop::collection::vec((0u16..4, -50i64..50, 0u8..4, 0u8..10), 1..200),
    ) {
        let mut state = open(0);
        let id = state.register_ordered(schema(StateKind::Timer)).unwrap();
        let mut model: BTreeSet<(u16, i64, u8)> = BTreeSet::new();
        for (group, time, key, action) in steps {
            match action {
                0 => tidy(&mut state),
                1 => drop(state.cut(CheckpointId(1)).unwrap()),
                2 => {
                    let mut due = vec![];
                    let timers = state.ordered(id);
                    while timers.take_due(time, 3, |group, time, key, _| due.push((group.0, time, key[0]))).unwrap() == 3 {}
                    due.sort();
                    let expected: Vec<_> = model.iter().filter(|(_, at, _)| *at <= time).copied().collect();
                    model.retain(|(_, at, _)| *at > time);
                    prop_assert_eq!(due, expected);
                }
                3 => {
                    state.ordered(id).delete_timer(KeyGroup(group), time, &[key]).unwrap();
                    model.remove(&(group, time, key));
                }
                _ => {
                    state.ordered(id).put_timer(KeyGroup(group), time, &[key], &[]).unwrap();
                    model.insert((group, time, key));
                }
            }
            prop_assert_eq!(state.ordered(id).first_time(), model.iter().map(|(_, time, _)| *time).min());
        }
    }
}

fn keys(values: std::ops::Range<i64>) -> (KeyBatch, ArrayRef) {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    let mut keys = KeyBatch::new();
    KeyEncoder::new(&schema(StateKind::Value).key)
        .encode(std::slice::from_ref(&column), column.len(), 128, &mut keys)
        .unwrap();
    (keys, column)
}

/// Ten times the cache: all rows are there, few of them in memory.
#[test]
fn a_state_larger_than_its_cache() {
    const ROWS: i64 = 200_000;
    const CACHE_BYTES: usize = 800_000;
    let mut state = open(CACHE_BYTES);
    let id = state.register_rows(schema(StateKind::Value)).unwrap();
    let (mut slots, mut new) = (vec![], vec![]);
    for round in 1..=3i64 {
        for first in (0..ROWS).step_by(5000) {
            let (batch, _) = keys(first..first + 5000);
            let rows = state.rows(id);
            rows.upsert(7, &batch, &mut slots, &mut new).unwrap();
            assert_eq!(new.len(), if round == 1 { 5000 } else { 0 });
            let count = rows.layout().field(0);
            rows.for_each_mut(&slots, |_, row| count.set_i64(row, count.get_i64(row) + 1));
            tidy(&mut state);
            assert!(state.rows(id).len() * 32 < CACHE_BYTES * 2, "{} rows in memory", state.rows(id).len());
        }
        let mut seen = 0;
        state
            .rows(id)
            .scan(7, 8192, |rows, _, slots| -> Result<(), StateError> {
                let expected: ArrayRef = Arc::new(Int64Array::from_value(round, slots.len()));
                assert_eq!(&rows.column(slots, 0)?, &expected);
                seen += slots.len();
                Ok(())
            })
            .unwrap();
        assert_eq!(seen as i64, ROWS);
    }
    assert_eq!(state.rows(id).namespaces().collect::<Vec<_>>(), [7]);
    state.rows(id).drop_namespace(7);
    assert!(state.rows(id).is_empty());
    tidy(&mut state);
    let (batch, _) = keys(0..10);
    state.rows(id).find(7, &batch, &mut slots).unwrap();
    assert!(slots.iter().all(|slot| slot.is_none()), "what was dropped is in the store no more");
}

/// A checkpoint holds its cut, though rows changed and the cache was full before it was written.
#[test]
fn nothing_later_goes_into_a_checkpoint() {
    let mut state = open(100);
    let id = state.register_rows(schema(StateKind::Value)).unwrap();
    let set = |state: &mut KeyedState, value: i64| {
        let (batch, _) = keys(0..100);
        let (mut slots, mut new) = (vec![], vec![]);
        state.rows(id).upsert(0, &batch, &mut slots, &mut new).unwrap();
        let values: ArrayRef = Arc::new(Int64Array::from_value(value, 100));
        state.rows(id).set_column(&slots, 0, &values).unwrap();
    };
    state.spill().unwrap();
    set(&mut state, 1);
    let first = state.cut(CheckpointId(1)).unwrap();
    set(&mut state, 2);
    let second = state.cut(CheckpointId(2)).unwrap();
    set(&mut state, 3);
    let mut segments = MemorySegments::default();
    segments.begin("one");
    let handle = first.write(&mut segments).unwrap();
    let values = |handle: &KeyedStateHandle, segments: &MemorySegments| {
        let store = MemoryStore::open(std::slice::from_ref(handle), OWNED, segments);
        let mut values = BTreeSet::new();
        export_stored::<StateError>(handle, handle.key_groups, &store, |_, columns| {
            let column = columns.last().unwrap().as_any().downcast_ref::<Int64Array>().unwrap();
            values.extend(column.values().iter().copied());
            Ok(())
        })
        .unwrap();
        values
    };
    assert_eq!(values(&handle, &segments), BTreeSet::from([1]));
    let third = state.cut(CheckpointId(3)).unwrap();
    segments.begin("three");
    let handle = third.write(&mut segments).unwrap();
    assert_eq!(values(&handle, &segments), BTreeSet::from([3]));
    let error = second.write(&mut segments).unwrap_err().to_string();
    assert_eq!(
        error,
        "the cold store failed to checkpoint: a later checkpoint of the subtask has been written already"
    );
    state.confirm(CheckpointId(3));
}

/// When a checkpoint is written may depend on the subtask, as an unaligned one's does: a full cache doesn't wait for it.
/// The checkpoint holds its cut, and nothing of what went into the store before it was written.
#[test]
fn a_full_cache_makes_room_before_the_checkpoint_is_written() {
    let mut state = open(1000);
    let id = state.register_rows(schema(StateKind::Value)).unwrap();
    state.spill().unwrap();
    let (mut slots, mut new) = (vec![], vec![]);
    state.rows(id).upsert(0, &keys(0..1000).0, &mut slots, &mut new).unwrap();
    let cut = state.cut(CheckpointId(1)).unwrap();
    state.rows(id).upsert(0, &keys(1000..2000).0, &mut slots, &mut new).unwrap();
    tidy(&mut state);
    assert!(state.rows(id).len() < 100, "{} rows stayed", state.rows(id).len());
    let mut segments = MemorySegments::default();
    segments.begin("one");
    let handle = cut.write(&mut segments).unwrap();
    let store = MemoryStore::open(std::slice::from_ref(&handle), OWNED, &segments);
    let mut found = 0;
    export_stored::<StateError>(&handle, handle.key_groups, &store, |_, columns| {
        found += columns[0].len();
        Ok(())
    })
    .unwrap();
    assert_eq!(found, 1000);
    assert_eq!(state.rows(id).namespaces().count(), 1);
    let again = state.cut(CheckpointId(2)).unwrap();
    state.rows(id).upsert(0, &keys(2000..3000).0, &mut slots, &mut new).unwrap();
    tidy(&mut state);
    // Nobody wants it any more: what was held for it goes.
    drop(again);
    state.confirm(CheckpointId(1));
}

/// What the store holds under which key is part of the storage format.
#[test]
fn golden() {
    let store = Arc::new(MemoryStore::default());
    let cold = ColdConfig { store: store.clone(), cache: CacheBudget::new(0) };
    let mut state = KeyedState::open_cold(CONFIG, cold, &mut [], &[], &MemorySegments::default()).unwrap();
    let mut of_rows = schema(StateKind::Value);
    of_rows.value.push(StateField::new("s", DataType::Utf8, true));
    let id = state.register_rows(StateSchema { name: "rows".into(), ..of_rows }).unwrap();
    let map = state.register_ordered(schema(StateKind::Map)).unwrap();
    let (mut slots, mut new) = (vec![], vec![]);
    let (batch, column) = keys(258..259);
    state.rows(id).upsert(-1, &batch, &mut slots, &mut new).unwrap();
    state.rows(id).set_column(&slots, 0, &column).unwrap();
    let field = state.rows(id).layout().field(1);
    state.rows(id).set_var(slots[0], field, Some(b"abc")).unwrap();
    state.ordered(map).put(KeyGroup(3), b"k", b"n", b"v").unwrap();
    tidy(&mut state);
    let mut found = vec![];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    store
        .scan(&[], None, &mut |key, value| {
            found.push(format!("{} {}", hex(key), hex(value)));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let group = batch.key_group(0).0;
    let row = format!("0000{group:04x}7fffffffffffffff0000000000000102 0000000002010000000000000300000000000000616263");
    assert_eq!(found, [row, "000100036b6e 76".to_string()]);
}

/// More than is brought into the store at once, in the order of key groups and then in none; the last that is said of a key
/// counts.
#[test]
fn what_is_imported_by_itself_is_the_state() {
    const KEYS: i64 = 100_000;
    let schema = StateSchema {
        value: vec![StateField::new("v", DataType::Int64, true), StateField::new("t", DataType::Utf8, true)],
        ..schema(StateKind::Value)
    };
    let mut state = open(1 << 16);
    let mut model = BTreeMap::new();
    for round in 0..2i64 {
        let rows = if round == 0 { 0..KEYS } else { KEYS - 10_000..KEYS + 30_000 };
        let count = rows.clone().count();
        let column = |value: &dyn Fn(i64) -> Option<i64>| -> ArrayRef {
            Arc::new(rows.clone().map(value).collect::<Int64Array>())
        };
        let text = |key: i64| (key % 5 > 0).then(|| format!("{key} ").repeat(key as usize % 40));
        let value = |key: i64| (key % 7 > 0).then_some(key + round);
        let (keys, namespaces, values) = (column(&Some), column(&|key| Some(key % 3 - 1)), column(&value));
        let texts: ArrayRef = Arc::new(rows.clone().map(text).collect::<StringArray>());
        let mut encoded = KeyBatch::new();
        KeyEncoder::new(&schema.key).encode(std::slice::from_ref(&keys), count, 128, &mut encoded).unwrap();
        let groups: ArrayRef = Arc::new(UInt16Array::from_iter_values((0..count).map(|row| encoded.key_group(row).0)));
        let mut order: Vec<u32> = (0..count as u32).collect();
        if round == 0 {
            order.sort_by_key(|row| (encoded.key_group(*row as usize), row % 11));
        }
        for part in order.chunks(8192) {
            let part = UInt32Array::from(part.to_vec());
            let columns =
                [&groups, &keys, &namespaces, &values, &texts].map(|column| take(column, &part, None).unwrap());
            state.import(&schema, &columns).unwrap();
        }
        model.extend(rows.map(|key| ((key % 3 - 1, key), (value(key), text(key)))));
    }
    let id = state.register_rows(schema).unwrap();
    let rows = state.rows(id);
    let mut found = BTreeMap::new();
    for namespace in rows.namespaces().collect::<Vec<_>>() {
        rows.scan(namespace, 1000, |rows, keys, slots| -> Result<(), StateError> {
            let values = rows.columns(slots)?;
            let (numbers, texts) = (values[0].as_primitive::<Int64Type>(), values[1].as_string::<i32>());
            for (row, key) in keys[0].as_primitive::<Int64Type>().values().iter().enumerate() {
                let number = numbers.is_valid(row).then(|| numbers.value(row));
                let text = texts.is_valid(row).then(|| texts.value(row).to_owned());
                assert!(found.insert((namespace, *key), (number, text)).is_none(), "a row twice");
            }
            Ok(())
        })
        .unwrap();
    }
    assert!(found == model, "{} rows, and {} expected", found.len(), model.len());
}
