//! States and their model, for any store: a test that uses this brings `crate::open_store`.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type, UInt16Type};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::{CheckpointId, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::*;

pub const MAX: u32 = 10;

pub fn schema(name: &str, kind: StateKind, key: Vec<StateField>) -> StateSchema {
    StateSchema {
        name: name.into(),
        kind,
        key,
        namespace: vec![StateField::new("n", DataType::Int64, false)],
        value: vec![StateField::new("count", DataType::Int64, true), StateField::new("text", DataType::Utf8, true)],
        semantics: vec![],
    }
}

pub fn key_fields(byte_keys: bool) -> Vec<StateField> {
    let mut fields = vec![StateField::new("k", DataType::Int64, true)];
    if byte_keys {
        fields.push(StateField::new("s", DataType::Utf8, false));
    }
    fields
}

pub fn key_columns(keys: &[Option<i64>], byte_keys: bool) -> Vec<ArrayRef> {
    let ints: ArrayRef = Arc::new(keys.iter().copied().collect::<Int64Array>());
    let strings: ArrayRef = Arc::new(keys.iter().map(|k| Some(format!("s{k:?}"))).collect::<StringArray>());
    [ints, strings][..1 + byte_keys as usize].to_vec()
}

/// One subtask with its three states.
pub struct Subtask {
    pub state: KeyedState,
    pub rows: [RowStateId; 2],
    pub map: OrderedStateId,
}

impl Subtask {
    pub fn open(
        index: u32,
        parallelism: u32,
        backend: Backend,
        handles: &[KeyedStateHandle],
        source: &MemorySegments,
    ) -> Self {
        Subtask::open_with_kept(index, parallelism, backend, &mut [], handles, source)
    }

    pub fn open_with_kept(
        index: u32,
        parallelism: u32,
        backend: Backend,
        kept: &mut [&mut KeptState],
        handles: &[KeyedStateHandle],
        source: &MemorySegments,
    ) -> Self {
        let key_groups = KeyGroupRange::of_subtask(index, parallelism, MAX);
        let config = StateConfig { key_groups, max_parallelism: MAX };
        let handles = handles_of(handles, key_groups);
        let store = crate::open_store(kept, &handles, config, source);
        let state = match backend {
            Backend::Cold(cache_bytes) => {
                let cold = ColdConfig { store, cache: CacheBudget::new(cache_bytes) };
                KeyedState::open_cold(config, cold, kept, &handles, source)
            }
            Backend::Heap if handles.iter().any(|handle| handle.cold.is_some()) => {
                KeyedState::open_stored(config, &*store, &handles, source)
            }
            Backend::Heap => KeyedState::open_with_kept(config, kept, &handles, source),
        };
        Subtask::of(state.unwrap())
    }

    fn of(mut state: KeyedState) -> Self {
        let rows = [false, true].map(|byte_keys| {
            let name = format!("rows-{byte_keys}");
            state.register_rows(schema(&name, StateKind::Value, key_fields(byte_keys))).unwrap()
        });
        let map = state.register_ordered(schema("map", StateKind::Map, key_fields(true))).unwrap();
        assert_eq!(state.unmatched().count(), 0);
        Subtask { state, rows, map }
    }
}

pub fn handles_of(handles: &[KeyedStateHandle], owned: KeyGroupRange) -> Vec<KeyedStateHandle> {
    handles.iter().filter(|handle| handle.key_groups.intersect(&owned).is_some()).cloned().collect()
}

#[derive(Clone, Copy, Debug)]
pub enum Backend {
    Heap,
    /// With a cache of this many bytes.
    Cold(usize),
}

pub fn backends() -> impl Strategy<Value = Backend> {
    prop_oneof![Just(Backend::Heap), (0usize..3000).prop_map(Backend::Cold)]
}

pub type RowKey = (bool, i64, Option<i64>);
pub type MapKey = (u16, Vec<u8>);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub rows: BTreeMap<RowKey, (i64, Option<String>)>,
    pub map: BTreeMap<MapKey, Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum Step {
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
    /// Cut, and go on at this parallelism; of the subtasks whose bit is set what they held is kept.
    Rescale(u32, u16, Backend),
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
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
        2 => (1u32..5, any::<u16>(), backends()).prop_map(|(p, kept, b)| Step::Rescale(p, kept, b)),
    ];
    prop::collection::vec(step, 1..60)
}

pub struct World {
    pub subtasks: Vec<Subtask>,
    pub model: Model,
    pub segments: MemorySegments,
    pub next: u64,
    /// Written and not confirmed.
    pub written: Vec<(CheckpointId, Vec<KeyedStateHandle>, Model)>,
    pub confirmed: (Vec<KeyedStateHandle>, Model),
}

impl World {
    pub fn on(backend: Backend) -> Self {
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
    pub fn route(
        &self,
        keys: &[Option<i64>],
        byte_keys: bool,
        ordered: bool,
    ) -> Vec<(usize, KeyBatch, Vec<Option<i64>>)> {
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

    pub fn apply(&mut self, step: &Step) {
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
            Step::Rescale(parallelism, kept, backend) => self.rescale(*parallelism, *kept, *backend),
        }
    }

    fn rescale(&mut self, parallelism: u32, kept: u16, backend: Backend) {
        self.cut();
        let (checkpoint, handles, model) = self.written.pop().unwrap();
        self.written.clear();
        let former = std::mem::take(&mut self.subtasks).into_iter().enumerate();
        let former = former.filter(|(index, _)| kept >> index & 1 != 0);
        let mut kept: Vec<KeptState> = former.filter_map(|(_, subtask)| subtask.state.keep(checkpoint)).collect();
        let open = |index| {
            let mut kept: Vec<&mut KeptState> = kept.iter_mut().collect();
            Subtask::open_with_kept(index, parallelism, backend, &mut kept, &handles, &self.segments)
        };
        self.subtasks = (0..parallelism).map(open).collect();
        self.confirmed = (handles, model);
    }

    pub fn put(&mut self, keys: &[Option<i64>], namespace: i64, length: Option<usize>) {
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

    pub fn cut(&mut self) {
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

    pub fn confirm(&mut self, newest: bool) {
        if self.written.is_empty() {
            return;
        }
        let at = if newest { self.written.len() - 1 } else { 0 };
        let (checkpoint, handles, model) = self.written.drain(..=at).next_back().unwrap();
        self.subtasks.iter_mut().for_each(|subtask| subtask.state.confirm(checkpoint));
        self.confirmed = (handles, model);
    }

    pub fn contents(subtasks: &mut [Subtask]) -> Model {
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
    pub fn check(&mut self, parallelism: u32, backend: Backend) {
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
            let mut imported = [self.exported_and_imported(handles, parallelism, backend)];
            assert_eq!(&Self::contents(&mut imported), model, "a checkpoint exported by {parallelism} parts");
        }
    }

    /// What a savepoint of the checkpoint holds, as the state of one subtask; each handle is read by so many parts.
    fn exported_and_imported(&self, handles: &[KeyedStateHandle], parts: u32, backend: Backend) -> Subtask {
        let key_groups = KeyGroupRange { first: 0, last: MAX as u16 - 1 };
        let config = StateConfig { key_groups, max_parallelism: MAX };
        let store = crate::open_store(&[], &[], config, &self.segments);
        let mut state = match backend {
            Backend::Heap => KeyedState::new(key_groups, MAX),
            Backend::Cold(cache_bytes) => {
                let cold = ColdConfig { store, cache: CacheBudget::new(cache_bytes) };
                KeyedState::open_cold(config, cold, &mut [], &[], &self.segments).unwrap()
            }
        };
        for handle in handles {
            for part in
                (0..parts).filter_map(|part| KeyGroupRange::of_subtask(part, parts, MAX).intersect(&handle.key_groups))
            {
                let mut last = BTreeMap::new();
                let mut places = BTreeSet::new();
                let visit = |schema: &StateSchema, columns: Vec<ArrayRef>| {
                    for row in 0..columns[0].len() {
                        let group = columns[0].as_primitive::<UInt16Type>().value(row);
                        let before = last.insert(schema.name.clone(), group);
                        assert!(before.is_none_or(|before| before <= group), "rows ascend by key group");
                        assert!((part.first..=part.last).contains(&group), "a row of another part");
                        let place = &columns[1..1 + schema.key.len() + schema.namespace.len()];
                        let place = place.iter().map(|column| array_value_to_string(column, row).unwrap());
                        assert!(places.insert((schema.name.clone(), place.collect::<Vec<_>>())), "a row twice");
                    }
                    state.import(schema, &columns)
                };
                match handle.cold {
                    None => export(handle, part, &self.segments, visit),
                    Some(_) => {
                        let handles = std::slice::from_ref(handle);
                        let config = StateConfig { key_groups: handle.key_groups, max_parallelism: MAX };
                        let store = crate::open_store(&[], handles, config, &self.segments);
                        export_stored(handle, part, &*store, visit)
                    }
                }
                .unwrap();
            }
        }
        Subtask::of(state)
    }
}
