//! States against a model, through cuts, confirmations, aborts and restores at other parallelisms.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::{CheckpointId, KeyGroup, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::*;

mod memory_store;
use memory_store::MemoryStore;

const MAX: u32 = 10;

fn schema(name: &str, kind: StateKind, key: Vec<StateField>) -> StateSchema {
    StateSchema {
        name: name.into(),
        kind,
        key,
        namespace: vec![StateField::new("n", DataType::Int64, false)],
        value: vec![StateField::new("count", DataType::Int64, true), StateField::new("text", DataType::Utf8, true)],
        semantics: vec![],
    }
}

fn key_fields(byte_keys: bool) -> Vec<StateField> {
    let mut fields = vec![StateField::new("k", DataType::Int64, true)];
    if byte_keys {
        fields.push(StateField::new("s", DataType::Utf8, false));
    }
    fields
}

fn key_columns(keys: &[Option<i64>], byte_keys: bool) -> Vec<ArrayRef> {
    let ints: ArrayRef = Arc::new(keys.iter().copied().collect::<Int64Array>());
    let strings: ArrayRef = Arc::new(keys.iter().map(|k| Some(format!("s{k:?}"))).collect::<StringArray>());
    [ints, strings][..1 + byte_keys as usize].to_vec()
}

/// One subtask with its three states.
struct Subtask {
    state: KeyedState,
    rows: [RowStateId; 2],
    map: OrderedStateId,
}

impl Subtask {
    fn open(
        index: u32,
        parallelism: u32,
        backend: Backend,
        handles: &[KeyedStateHandle],
        source: &MemorySegments,
    ) -> Self {
        let key_groups = KeyGroupRange::of_subtask(index, parallelism, MAX);
        let config = StateConfig { key_groups, max_parallelism: MAX };
        let handles = handles_of(handles, key_groups);
        let store = MemoryStore::open(&handles, key_groups, source);
        let state = match backend {
            Backend::Cold(cache_bytes) => {
                let cold = ColdConfig { store: Arc::new(store), cache_bytes };
                KeyedState::open_cold(config, cold, &handles, source)
            }
            Backend::Heap if handles.iter().any(|handle| handle.cold.is_some()) => {
                KeyedState::open_stored(config, &store, &handles)
            }
            Backend::Heap => KeyedState::open(config, &handles, source),
        };
        let mut state = state.unwrap();
        let rows = [false, true].map(|byte_keys| {
            let name = format!("rows-{byte_keys}");
            state.register_rows(schema(&name, StateKind::Value, key_fields(byte_keys))).unwrap()
        });
        let map = state.register_ordered(schema("map", StateKind::Map, key_fields(true))).unwrap();
        assert_eq!(state.unmatched().count(), 0);
        Subtask { state, rows, map }
    }
}

fn handles_of(handles: &[KeyedStateHandle], owned: KeyGroupRange) -> Vec<KeyedStateHandle> {
    handles.iter().filter(|handle| handle.key_groups.intersect(&owned).is_some()).cloned().collect()
}

#[derive(Clone, Copy, Debug)]
enum Backend {
    Heap,
    /// With a cache of this many bytes.
    Cold(usize),
}

fn backends() -> impl Strategy<Value = Backend> {
    prop_oneof![Just(Backend::Heap), (0usize..3000).prop_map(Backend::Cold)]
}

type RowKey = (bool, i64, Option<i64>);
type MapKey = (u16, Vec<u8>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    rows: BTreeMap<RowKey, (i64, Option<String>)>,
    map: BTreeMap<MapKey, Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(bool, i64, Vec<Option<i64>>),
    Remove(bool, i64, Vec<Option<i64>>),
    DropNamespace(i64),
    Put(Vec<Option<i64>>, i64, usize),
    Delete(Vec<Option<i64>>, i64),
    /// Cut and write.
    Cut,
    /// Cut for a checkpoint that comes to nothing.
    AbortedCut,
    BetweenBatches,
    /// Confirm the oldest (0) or newest (1) cut that isn't, and forget it and those before.
    Confirm(bool),
    /// Restart from the last confirmed checkpoint at this parallelism.
    Restart(u32, Backend),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || prop::collection::vec(prop::option::weighted(0.95, 0i64..60), 1..40);
    let step = prop_oneof![
        4 => (any::<bool>(), 0i64..3, keys()).prop_map(|(b, n, k)| Step::Upsert(b, n, k)),
        3 => (any::<bool>(), 0i64..3, keys()).prop_map(|(b, n, k)| Step::Remove(b, n, k)),
        1 => (0i64..3).prop_map(Step::DropNamespace),
        3 => (keys(), 0i64..3, 0usize..30).prop_map(|(k, n, v)| Step::Put(k, n, v)),
        2 => (keys(), 0i64..3).prop_map(|(k, n)| Step::Delete(k, n)),
        5 => Just(Step::Cut),
        4 => any::<bool>().prop_map(Step::Confirm),
        1 => Just(Step::AbortedCut),
        4 => Just(Step::BetweenBatches),
        1 => (1u32..5, backends()).prop_map(|(p, b)| Step::Restart(p, b)),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    subtasks: Vec<Subtask>,
    model: Model,
    segments: MemorySegments,
    next: u64,
    /// Written and not confirmed.
    written: Vec<(CheckpointId, Vec<KeyedStateHandle>, Model)>,
    confirmed: (Vec<KeyedStateHandle>, Model),
}

impl World {
    fn new() -> Self {
        World::on(Backend::Heap)
    }

    fn on(backend: Backend) -> Self {
        let segments = MemorySegments::default();
        World {
            subtasks: (0..2).map(|index| Subtask::open(index, 2, backend, &[], &segments)).collect(),
            model: Model::default(),
            segments,
            next: 1,
            written: vec![],
            confirmed: Default::default(),
        }
    }

    /// The keys of a batch by the subtask that owns them.
    fn route(&self, keys: &[Option<i64>], byte_keys: bool, ordered: bool) -> Vec<(usize, KeyBatch, Vec<Option<i64>>)> {
        let fields = key_fields(byte_keys);
        let mut encoder = if ordered { KeyEncoder::for_ordered(&fields) } else { KeyEncoder::new(&fields) };
        let mut batch = KeyBatch::new();
        encoder.encode(&key_columns(keys, byte_keys), keys.len(), MAX, &mut batch).unwrap();
        let of = |row: usize| {
            self.subtasks.iter().position(|s| s.state.key_groups().contains(batch.key_group(row))).unwrap()
        };
        (0..self.subtasks.len())
            .map(|subtask| {
                let rows: Vec<u32> = (0..keys.len()).filter(|row| of(*row) == subtask).map(|row| row as u32).collect();
                let mut part = KeyBatch::new();
                batch.take(&rows, &mut part);
                (subtask, part, rows.iter().map(|row| keys[*row as usize]).collect())
            })
            .collect()
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Upsert(byte_keys, namespace, keys) => {
                for (subtask, batch, keys) in self.route(keys, *byte_keys, false) {
                    let subtask = &mut self.subtasks[subtask];
                    let rows = subtask.state.rows(subtask.rows[*byte_keys as usize]);
                    let (mut slots, mut new) = (vec![], vec![]);
                    rows.upsert(*namespace, &batch, &mut slots, &mut new).unwrap();
                    let (count, text) = (rows.layout().field(0), rows.layout().field(1));
                    for (slot, key) in slots.iter().zip(keys) {
                        let row = rows.row_mut(*slot);
                        let value = count.get_i64(row) + 1;
                        count.set_i64(row, value);
                        let string = (value % 3 != 0).then(|| format!("{key:?}").repeat(value as usize % 4));
                        rows.set_var(*slot, text, string.as_deref().map(str::as_bytes)).unwrap();
                        self.model.rows.insert((*byte_keys, *namespace, key), (value, string));
                    }
                }
            }
            Step::Remove(byte_keys, namespace, keys) => {
                let mut keys = keys.clone();
                keys.sort();
                keys.dedup();
                for (subtask, batch, keys) in self.route(&keys, *byte_keys, false) {
                    let subtask = &mut self.subtasks[subtask];
                    let rows = subtask.state.rows(subtask.rows[*byte_keys as usize]);
                    let mut slots = vec![];
                    rows.find(*namespace, &batch, &mut slots).unwrap();
                    for (slot, key) in slots.iter().zip(keys) {
                        assert_eq!(!slot.is_none(), self.model.rows.remove(&(*byte_keys, *namespace, key)).is_some());
                        if !slot.is_none() {
                            rows.remove(*slot);
                        }
                    }
                }
            }
            Step::DropNamespace(namespace) => {
                for subtask in &mut self.subtasks {
                    subtask.rows.iter().for_each(|id| subtask.state.rows(*id).drop_namespace(*namespace));
                }
                self.model.rows.retain(|(_, of, _), _| of != namespace);
            }
            Step::Put(keys, namespace, length) => self.put(keys, *namespace, Some(*length)),
            Step::Delete(keys, namespace) => self.put(keys, *namespace, None),
            Step::Cut => self.cut(),
            Step::Confirm(newest) => self.confirm(*newest),
            Step::AbortedCut => {
                let checkpoint = CheckpointId(self.next);
                self.next += 1;
                self.subtasks.iter_mut().for_each(|subtask| drop(subtask.state.cut(checkpoint).unwrap()));
            }
            Step::BetweenBatches => {
                // Often enough that the cache is looked at.
                for subtask in &mut self.subtasks {
                    (0..8).for_each(|_| subtask.state.between_batches(1_000_000).unwrap());
                }
            }
            Step::Restart(parallelism, backend) => {
                let (handles, model) = &self.confirmed;
                let open = |index| Subtask::open(index, *parallelism, *backend, handles, &self.segments);
                self.subtasks = (0..*parallelism).map(open).collect();
                self.model = model.clone();
                self.written.clear();
            }
        }
    }

    fn put(&mut self, keys: &[Option<i64>], namespace: i64, length: Option<usize>) {
        let mut namespaces = EncodedRows::default();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![namespace]));
        KeyCodec::new(&schema("", StateKind::Map, vec![]).namespace)
            .unwrap()
            .encode(&[column], 1, &mut namespaces)
            .unwrap();
        for (subtask, batch, _) in self.route(keys, true, true) {
            let subtask = &mut self.subtasks[subtask];
            let map = subtask.state.ordered(subtask.map);
            for row in 0..batch.len() {
                let (group, key) = (batch.key_group(row), batch.key(row));
                let place = (group.0, [key, namespaces.row(0)].concat());
                match length {
                    Some(length) => {
                        let mut value = EncodedRows::default();
                        let columns: Vec<ArrayRef> = vec![
                            Arc::new(Int64Array::from(vec![length as i64])),
                            Arc::new(StringArray::from(vec!["x".repeat(length)])),
                        ];
                        let codec = ValueCodec::new(&schema("", StateKind::Map, vec![]).value).unwrap();
                        codec.encode(&columns, 1, &mut value).unwrap();
                        map.put(group, key, namespaces.row(0), value.row(0)).unwrap();
                        self.model.map.insert(place, value.row(0).to_vec());
                    }
                    None => {
                        map.delete(group, key, namespaces.row(0)).unwrap();
                        self.model.map.remove(&place);
                    }
                }
            }
        }
    }

    fn cut(&mut self) {
        let checkpoint = CheckpointId(self.next);
        self.next += 1;
        let cuts: Vec<StateCut> =
            self.subtasks.iter_mut().map(|subtask| subtask.state.cut(checkpoint).unwrap()).collect();
        self.segments.begin(format!("chk-{checkpoint}"));
        let handles: Vec<_> = cuts.into_iter().map(|cut| cut.write(&mut self.segments).unwrap()).collect();
        for handle in &handles {
            let text = serde_json::to_string(handle).unwrap();
            assert_eq!(&serde_json::from_str::<KeyedStateHandle>(&text).unwrap(), handle);
        }
        self.written.push((checkpoint, handles, self.model.clone()));
    }

    fn confirm(&mut self, newest: bool) {
        if self.written.is_empty() {
            return;
        }
        let at = if newest { self.written.len() - 1 } else { 0 };
        let (checkpoint, handles, model) = self.written.drain(..=at).next_back().unwrap();
        self.subtasks.iter_mut().for_each(|subtask| subtask.state.confirm(checkpoint));
        self.confirmed = (handles, model);
    }

    fn contents(subtasks: &mut [Subtask]) -> Model {
        let mut found = Model::default();
        for subtask in subtasks {
            for byte_keys in [false, true] {
                let rows = subtask.state.rows(subtask.rows[byte_keys as usize]);
                for namespace in rows.namespaces().collect::<Vec<_>>() {
                    rows.scan(namespace, 7, |rows, keys, slots| -> Result<(), StateError> {
                        let values = rows.columns(slots)?;
                        let (keys, counts) =
                            (keys[0].as_primitive::<Int64Type>(), values[0].as_primitive::<Int64Type>());
                        let texts = values[1].as_string::<i32>();
                        for row in 0..slots.len() {
                            let key = (byte_keys, namespace, keys.is_valid(row).then(|| keys.value(row)));
                            let text = texts.is_valid(row).then(|| texts.value(row).to_string());
                            assert!(found.rows.insert(key, (counts.value(row), text)).is_none());
                        }
                        Ok(())
                    })
                    .unwrap();
                }
            }
            let map = subtask.state.ordered(subtask.map);
            for group in map.key_groups().iter() {
                map.scan_range(group, &[], None, |place, value| {
                    found.map.insert((group.0, place.to_vec()), value.to_vec());
                    ControlFlow::Continue(())
                })
                .unwrap();
            }
        }
        found
    }

    /// Every checkpoint that was written restores to what was there at its cut.
    fn check(&mut self, parallelism: u32, backend: Backend) {
        assert_eq!(Self::contents(&mut self.subtasks), self.model, "the live state");
        let checkpoints = self.written.iter().map(|(_, handles, model)| (handles, model));
        for (handles, model) in checkpoints.chain([(&self.confirmed.0, &self.confirmed.1)]) {
            let open = |index| Subtask::open(index, parallelism, backend, handles, &self.segments);
            let mut restored: Vec<Subtask> = (0..parallelism).map(open).collect();
            assert_eq!(
                &Self::contents(&mut restored),
                model,
                "a checkpoint restored at parallelism {parallelism} on {backend:?}"
            );
        }
    }
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
    let mut world = World::new();
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

/// An interval without changes writes nothing.
#[test]
fn an_idle_state_costs_nothing() {
    let mut world = World::new();
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
    let mut world = World::new();
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
    let mut world = World::new();
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
    later[0].format_version = 2;
    assert_eq!(message(open(&later, MAX)), "checkpoint format version 2; this version of Weir reads up to 1");
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
