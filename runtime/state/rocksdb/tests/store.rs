//! What only this store does: files that are uploaded once, files that are left out, bounded runs.

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use weir_model::{CheckpointId, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::*;
use weir_state_rocksdb::{RocksDb, Settings, open_files};

const MAX: u32 = 128;

fn schema(name: &str) -> StateSchema {
    StateSchema {
        name: name.into(),
        kind: StateKind::Value,
        key: vec![StateField::new("k", DataType::Int64, false)],
        namespace: vec![],
        value: vec![StateField::new("v", DataType::Int64, true)],
        semantics: vec![],
    }
}

fn config(subtask: u32, parallelism: u32) -> StateConfig {
    StateConfig { key_groups: KeyGroupRange::of_subtask(subtask, parallelism, MAX), max_parallelism: MAX }
}

/// One operator subtask, and where its checkpoints go.
struct Subtask {
    shared: Arc<RocksDb>,
    state: KeyedState,
    ids: Vec<RowStateId>,
    segments: MemorySegments,
    checkpoints: u64,
}

impl Subtask {
    fn open(settings: &Settings, config: StateConfig, handles: &[KeyedStateHandle], segments: &MemorySegments) -> Self {
        let shared = RocksDb::new(settings).unwrap();
        let mut state = shared.open("test", config, &mut [], handles, segments).unwrap();
        let ids = ["one", "two"].map(|name| state.register_rows(schema(name)).unwrap()).to_vec();
        state.spill().unwrap();
        state.between_batches(1).unwrap();
        Subtask { shared, state, ids, segments: segments.clone(), checkpoints: 0 }
    }

    fn put(&mut self, keys: std::ops::Range<i64>, value: i64) {
        for id in self.ids.clone() {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(keys.clone()));
            let mut batch = KeyBatch::new();
            let key = &schema("").key;
            KeyEncoder::new(key).encode(std::slice::from_ref(&column), column.len(), MAX, &mut batch).unwrap();
            let owned = self.state.key_groups();
            let rows: Vec<u32> =
                (0..column.len() as u32).filter(|row| owned.contains(batch.key_group(*row as usize))).collect();
            let mut mine = KeyBatch::new();
            batch.take(&rows, &mut mine);
            let values: ArrayRef = Arc::new(Int64Array::from_value(value, rows.len()));
            let (mut slots, mut new) = (vec![], vec![]);
            self.state.rows(id).upsert(0, &mine, &mut slots, &mut new).unwrap();
            self.state.rows(id).set_column(&slots, 0, &values).unwrap();
        }
        (0..8).for_each(|_| self.state.between_batches(1).unwrap());
    }

    /// A confirmed checkpoint, and the bytes written for it.
    fn checkpoint(&mut self, object: &str) -> (KeyedStateHandle, usize) {
        self.checkpoints += 1;
        let id = CheckpointId(self.checkpoints);
        self.segments.begin(object);
        let handle = self.state.cut(id).unwrap().write(&mut self.segments).unwrap();
        self.state.confirm(id);
        (handle, self.segments.with_objects(|objects| objects.get(object).map_or(0, Vec::len)))
    }

    fn values(&mut self, id: usize) -> BTreeSet<(i64, i64)> {
        let mut found = BTreeSet::new();
        self.state
            .rows(self.ids[id])
            .scan(0, 1000, |rows, keys, slots| -> Result<(), StateError> {
                let values = rows.columns(slots)?;
                let number = |column: &ArrayRef, row| column.as_any().downcast_ref::<Int64Array>().unwrap().value(row);
                for row in 0..slots.len() {
                    assert!(found.insert((number(&keys[0], row), number(&values[0], row))));
                }
                Ok(())
            })
            .unwrap();
        found
    }
}

type Values = BTreeSet<(i64, i64)>;

fn expected(keys: std::ops::Range<i64>, value: i64) -> Values {
    keys.map(|key| (key, value)).collect()
}

/// Large cuts become files at once, here in parts.
fn settings() -> Settings {
    Settings { buffered_cut_bytes: 1 << 12, max_cut_file_bytes: 1 << 16, ..Settings::flash_ssd(32 << 20) }
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let mut subtask = Subtask::open(&settings(), config(0, 1), &[], &MemorySegments::default());
    subtask.put(0..20_000, 1);
    let (first, bytes) = subtask.checkpoint("one");
    assert!(bytes > 100_000, "{bytes} bytes for the first");
    let (second, bytes) = subtask.checkpoint("two");
    assert_eq!(bytes, 0, "nothing had changed");
    assert_eq!(first.cold, second.cold);
    subtask.put(0..10, 2);
    let (third, bytes) = subtask.checkpoint("three");
    assert!(bytes < 20_000, "{bytes} bytes for 20 changed rows");
    let objects: BTreeSet<&str> = third.segments().map(|segment| &*segment.object).collect();
    assert_eq!(objects, BTreeSet::from(["one", "three"]));
    // The numbers of files go on where the checkpoint ended, in both stores; what they hold differs.
    let mut restored: Vec<Subtask> = (0..2)
        .map(|_| Subtask::open(&settings(), config(0, 1), std::slice::from_ref(&third), &subtask.segments))
        .collect();
    for (value, subtask) in restored.iter_mut().enumerate() {
        subtask.put(0..5_000, 10 + value as i64);
        let (handle, _) = subtask.checkpoint(&format!("of {value}"));
        let objects: BTreeSet<&str> = handle.segments().map(|segment| &*segment.object).collect();
        assert!(objects.contains("one") && objects.contains(&*format!("of {value}")), "{objects:?}");
        let mut again = Subtask::open(&settings(), config(0, 1), &[handle], &subtask.segments);
        let mut all = expected(0..5_000, 10 + value as i64);
        all.extend(expected(5_000..20_000, 1));
        for id in 0..2 {
            assert_eq!(again.values(id), all);
        }
    }
}

/// Counts what is read, and refuses what was flipped.
struct Counted<'s> {
    segments: &'s MemorySegments,
    read: Mutex<u64>,
}

impl SegmentSource for Counted<'_> {
    fn read(&self, segment: &SegmentRef) -> Result<Bytes, StateError> {
        *self.read.lock().unwrap() += segment.length;
        self.segments.read(segment)
    }
}

/// A restore at another parallelism reads the files with owned keys, the newest ones aside.
#[test]
fn a_part_is_read_from_the_files_that_hold_it() {
    let settings = Settings { max_cut_file_bytes: 1 << 14, ..settings() };
    let mut subtask = Subtask::open(&settings, config(0, 1), &[], &MemorySegments::default());
    subtask.put(0..400_000, 1);
    subtask.checkpoint("one");
    subtask.put(0..100, 2);
    let (handle, _) = subtask.checkpoint("two");
    let all: u64 = handle.bytes();
    let source = Counted { segments: &subtask.segments, read: Mutex::new(0) };
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for part in 0..8 {
        let before = *source.read.lock().unwrap();
        let shared = RocksDb::new(&settings).unwrap();
        let mut state = shared.open("part", config(part, 8), &mut [], std::slice::from_ref(&handle), &source).unwrap();
        let ids = ["one", "two"].map(|name| state.register_rows(schema(name)).unwrap()).to_vec();
        let read = *source.read.lock().unwrap() - before;
        assert!(read < all / 2, "{read} bytes of {all} read for an eighth of the key groups");
        let mut part = Subtask { shared, state, ids, segments: MemorySegments::default(), checkpoints: 0 };
        for (id, found) in found.iter_mut().enumerate() {
            found.append(&mut part.values(id));
        }
    }
    let mut expected_all = expected(0..100, 2);
    expected_all.extend(expected(100..400_000, 1));
    assert_eq!(found, [expected_all.clone(), expected_all.clone()]);
    // All of it, for a savepoint.
    let files = open_files(None, std::slice::from_ref(&handle), handle.key_groups, &source).unwrap();
    let mut rows = 0;
    export_stored::<StateError>(&handle, handle.key_groups, &files, |_, columns| {
        rows += columns[0].len();
        Ok(())
    })
    .unwrap();
    assert_eq!(rows, 800_000);
}

/// There is nothing to read.
struct Nothing;

impl SegmentSource for Nothing {
    fn read(&self, segment: &SegmentRef) -> Result<Bytes, StateError> {
        panic!("`{}` was read, and what it holds is open", segment.object)
    }
}

/// Rescaled in place: a checkpoint, and what the former subtasks leave open.
fn rescaled(former: Vec<Subtask>, parallelism: u32, object: &str) -> (Vec<Subtask>, Vec<KeyedStateHandle>) {
    let (shared, mut segments) = (former[0].shared.clone(), former[0].segments.clone());
    let (mut handles, mut kept) = (vec![], vec![]);
    for (index, mut former) in former.into_iter().enumerate() {
        let id = CheckpointId(former.checkpoints + 1);
        segments.begin(format!("{object}-{index}"));
        handles.push(former.state.cut(id).unwrap().write(&mut segments).unwrap());
        kept.push(former.state.keep(id).unwrap());
    }
    let open = |index| {
        let config = config(index, parallelism);
        let mut kept: Vec<&mut KeptState> = kept.iter_mut().collect();
        let is_owned = |handle: &&KeyedStateHandle| handle.key_groups.intersect(&config.key_groups).is_some();
        let handles: Vec<KeyedStateHandle> = handles.iter().filter(is_owned).cloned().collect();
        let mut state = shared.open("test", config, &mut kept, &handles, &Nothing).unwrap();
        let ids = ["one", "two"].map(|name| state.register_rows(schema(name)).unwrap()).to_vec();
        Subtask { shared: shared.clone(), state, ids, segments: segments.clone(), checkpoints: 0 }
    };
    ((0..parallelism).map(open).collect(), handles)
}

fn all_values(subtasks: &mut [Subtask], id: usize) -> BTreeSet<(i64, i64)> {
    subtasks.iter_mut().flat_map(|subtask| subtask.values(id)).collect()
}

#[test]
fn what_is_open_is_linked_and_not_uploaded_again() {
    let mut one = Subtask::open(&settings(), config(0, 1), &[], &MemorySegments::default());
    one.put(0..100_000, 1);
    let (_, all) = one.checkpoint("first");
    one.put(0..1_000, 2);
    let (mut four, _) = rescaled(vec![one], 4, "up");
    let mut now = expected(0..1_000, 2);
    now.extend(expected(1_000..100_000, 1));
    let written: usize = (0..4).map(|at| four[at].checkpoint(&format!("of four {at}")).1).sum();
    assert!(written < all / 10, "{written} bytes written of {all}, and nothing had changed");
    for id in 0..2 {
        assert_eq!(all_values(&mut four, id), now);
    }

    // Of what comes back nothing is as it was before it went.
    four.iter_mut().for_each(|subtask| subtask.put(0..50_000, 3));
    let mut now = expected(0..50_000, 3);
    now.extend(expected(50_000..100_000, 1));
    let (mut two, handles) = rescaled(four, 2, "down");
    for id in 0..2 {
        assert_eq!(all_values(&mut two, id), now);
    }
    let confirmed: Vec<KeyedStateHandle> =
        two.iter_mut().enumerate().map(|(at, subtask)| subtask.checkpoint(&format!("of two {at}")).0).collect();
    let segments = two[0].segments.clone();
    for handles in [handles, confirmed] {
        for parallelism in [1, 2, 3, 4] {
            let mut restored: Vec<Subtask> = (0..parallelism)
                .map(|index| {
                    let config = config(index, parallelism);
                    let is_owned =
                        |handle: &&KeyedStateHandle| handle.key_groups.intersect(&config.key_groups).is_some();
                    let handles: Vec<KeyedStateHandle> = handles.iter().filter(is_owned).cloned().collect();
                    Subtask::open(&settings(), config, &handles, &segments)
                })
                .collect();
            for id in 0..2 {
                assert_eq!(all_values(&mut restored, id), now, "restored at parallelism {parallelism}");
            }
        }
    }
}

fn databases(handle: &KeyedStateHandle) -> usize {
    handle.cold.as_ref().unwrap().databases.len().max(1)
}

/// Restores the checkpoint with other parallelisms, and looks at all there is.
fn check_restored(settings: &Settings, handles: &[KeyedStateHandle], segments: &MemorySegments, values: &Values) {
    for parallelism in [1, 2, 3, 5] {
        let open = |index| {
            let config = config(index, parallelism);
            let is_owned = |handle: &&KeyedStateHandle| handle.key_groups.intersect(&config.key_groups).is_some();
            let handles: Vec<KeyedStateHandle> = handles.iter().filter(is_owned).cloned().collect();
            Subtask::open(settings, config, &handles, segments)
        };
        let mut restored: Vec<Subtask> = (0..parallelism).map(open).collect();
        for id in 0..2 {
            assert_eq!(&all_values(&mut restored, id), values, "restored at parallelism {parallelism}");
        }
    }
}

#[test]
fn what_comes_together_is_neither_read_nor_uploaded_again() {
    let mut one = Subtask::open(&settings(), config(0, 1), &[], &MemorySegments::default());
    one.put(0..100_000, 1);
    let (_, all) = one.checkpoint("first");
    let (mut four, _) = rescaled(vec![one], 4, "up");
    four.iter_mut().for_each(|subtask| subtask.put(0..50_000, 2));
    four.iter_mut().enumerate().for_each(|(at, subtask)| drop(subtask.checkpoint(&format!("of four {at}"))));
    four.iter_mut().for_each(|subtask| subtask.put(0..100, 3));
    let mut now = expected(0..100, 3);
    now.extend(expected(100..50_000, 2));
    now.extend(expected(50_000..100_000, 1));

    let (mut former, mut parallelism) = (four, 2);
    for expected_databases in [2, 4] {
        let (mut fewer, handles) = rescaled(former, parallelism, &format!("down to {parallelism}"));
        check_restored(&settings(), &handles, &fewer[0].segments, &now);
        let mut confirmed = vec![];
        for (at, subtask) in fewer.iter_mut().enumerate() {
            let (handle, written) = subtask.checkpoint(&format!("of {parallelism}, {at}"));
            assert!(written < all / 20, "{written} bytes written of {all}, and nothing had changed");
            assert_eq!(databases(&handle), expected_databases);
            assert_eq!(handle.format_version, 2);
            confirmed.push(handle);
        }
        check_restored(&settings(), &confirmed, &fewer[0].segments, &now);
        (former, parallelism) = (fewer, parallelism / 2);
    }
    for id in 0..2 {
        assert_eq!(all_values(&mut former, id), now);
    }

    // Written to, deleted from and divided again, with databases that are divided and such that stay whole.
    let mut one = former.remove(0);
    one.put(40_000..60_000, 4);
    one.put(0..10, 5);
    now.retain(|(key, _)| !(40_000..60_000).contains(key) && !(0..10).contains(key));
    now.extend(expected(40_000..60_000, 4));
    now.extend(expected(0..10, 5));
    let (handle, _) = one.checkpoint("of one");
    let (segments, shared) = (one.segments.clone(), one.shared.clone());
    check_restored(&settings(), std::slice::from_ref(&handle), &segments, &now);
    assert_eq!(shared.figures().stores, 1);
    let (mut three, handles) = rescaled(vec![one], 3, "up again");
    check_restored(&settings(), &handles, &segments, &now);
    let handles: Vec<KeyedStateHandle> =
        three.iter_mut().enumerate().map(|(at, subtask)| subtask.checkpoint(&format!("of three {at}")).0).collect();
    assert_eq!(handles.iter().map(databases).collect::<Vec<_>>(), [2, 2, 2]);
    for id in 0..2 {
        assert_eq!(all_values(&mut three, id), now);
    }
    check_restored(&settings(), &handles, &segments, &now);
}

/// Of a checkpoint, whole databases are restored as they are, also where several subtasks become one.
#[test]
fn whole_databases_of_a_checkpoint_are_not_uploaded_again() {
    let segments = MemorySegments::default();
    let mut handles = vec![];
    for part in 0..3 {
        let mut subtask = Subtask::open(&settings(), config(part, 3), &[], &segments);
        subtask.put(0..60_000, 1);
        handles.push(subtask.checkpoint(&format!("part {part}")).0);
    }
    let all: u64 = handles.iter().map(KeyedStateHandle::bytes).sum();
    let mut one = Subtask::open(&settings(), config(0, 1), &handles, &segments);
    one.put(0..10, 2);
    let (handle, written) = one.checkpoint("one");
    assert_eq!(databases(&handle), 3);
    assert!(written < all as usize / 20, "{written} bytes written of {all} for 20 changed rows");
    let mut now = expected(0..10, 2);
    now.extend(expected(10..60_000, 1));
    check_restored(&settings(), &[handle], &segments, &now);
}

#[test]
fn databases_stay_few() {
    let settings = Settings { max_databases: 2, ..settings() };
    let mut one = Subtask::open(&settings, config(0, 1), &[], &MemorySegments::default());
    one.put(0..20_000, 1);
    let (mut former, mut now) = (vec![one], expected(0..20_000, 1));
    for (round, parallelism) in [5, 3, 1, 4, 1, 2, 1].into_iter().enumerate() {
        let (value, upto) = (round as i64 + 2, 3_000 * (round as i64 % 3 + 1));
        former.iter_mut().for_each(|subtask| subtask.put(0..upto, value));
        now.retain(|(key, _)| *key >= upto);
        now.extend(expected(0..upto, value));
        let (mut next, handles) = rescaled(former, parallelism, &format!("round {round}"));
        check_restored(&settings, &handles, &next[0].segments, &now);
        for (at, subtask) in next.iter_mut().enumerate() {
            let (handle, _) = subtask.checkpoint(&format!("round {round}, then {at}"));
            assert!(databases(&handle) <= 2, "{} databases at parallelism {parallelism}", databases(&handle));
        }
        for id in 0..2 {
            assert_eq!(all_values(&mut next, id), now);
        }
        former = next;
    }
}

/// What a former subtask's writer may still do changes nothing of a database that another store goes on with.
#[test]
fn a_store_that_was_given_away_takes_nothing() {
    let mut one = Subtask::open(&settings(), config(0, 1), &[], &MemorySegments::default());
    one.put(0..3_000, 1);
    let (shared, mut segments) = (one.shared.clone(), one.segments.clone());
    segments.begin("first");
    let handle = one.state.cut(CheckpointId(1)).unwrap().write(&mut segments).unwrap();
    let mut kept = one.state.keep(CheckpointId(1)).unwrap();
    let former = kept.store().unwrap().clone();
    let open = |kept: &mut KeptState, source: &dyn SegmentSource| {
        let mut state = shared.open("test", config(0, 1), &mut [kept], std::slice::from_ref(&handle), source).unwrap();
        let ids = ["one", "two"].map(|name| state.register_rows(schema(name)).unwrap()).to_vec();
        Subtask { shared: shared.clone(), state, ids, segments: segments.clone(), checkpoints: 0 }
    };
    let mut first = open(&mut kept, &Nothing);
    assert!(former.writer().is_err() && former.freeze().is_err());
    former.confirm(handle.cold.as_ref().unwrap());
    first.put(0..1_000, 2);
    let (later, _) = first.checkpoint("of the first heir");
    let mut now = expected(0..1_000, 2);
    now.extend(expected(1_000..3_000, 1));
    check_restored(&settings(), &[later], &segments, &now);
    // Whoever asks for it once more gets what the checkpoint holds.
    let mut second = open(&mut kept, &segments);
    assert_eq!(second.values(0), expected(0..3_000, 1));
}

#[test]
fn several_parts_become_one() {
    let segments = MemorySegments::default();
    let handles: Vec<KeyedStateHandle> = (0..3)
        .map(|part| {
            let mut subtask = Subtask::open(&settings(), config(part, 3), &[], &segments);
            subtask.put(0..3_000, part as i64);
            subtask.put(0..1_000, 7);
            subtask.checkpoint(&format!("part {part}")).0
        })
        .collect();
    let mut one = Subtask::open(&settings(), config(0, 1), &handles, &segments);
    for id in 0..2 {
        let values = one.values(id);
        assert_eq!(values.len(), 3_000);
        assert!(expected(0..1_000, 7).is_subset(&values));
    }
}

/// A checkpoint in which little changed each time: files and manifest stay few, whatever their number.
#[test]
fn files_stay_few() {
    let mut subtask = Subtask::open(&settings(), config(0, 1), &[], &MemorySegments::default());
    subtask.put(0..2_000, 0);
    for round in 0..150 {
        subtask.put(round..round + 3, round);
        let (handle, _) = subtask.checkpoint(&format!("{round}"));
        let files = handle.cold.unwrap().files;
        assert!(files.len() < 40, "{} files in checkpoint {round}", files.len());
        let manifest = files.iter().find(|file| file.name.starts_with("MANIFEST")).unwrap();
        let bytes: u64 = manifest.segments.iter().map(|segment| segment.length).sum();
        assert!(bytes < 100_000, "a manifest file of {bytes} bytes");
    }
    let figures = subtask.shared.figures();
    assert_eq!(figures.stores, 1);
    assert!(figures.live_file_bytes > 0 && figures.files_by_level.iter().sum::<u64>() > 0, "{figures:?}");
}

#[test]
fn a_broken_segment_is_named() {
    let mut subtask = Subtask::open(&settings(), config(0, 1), &[], &MemorySegments::default());
    subtask.put(0..5_000, 1);
    let (handle, bytes) = subtask.checkpoint("broken");
    for at in (0..bytes).step_by(bytes / 50) {
        subtask.segments.with_objects(|objects| objects.get_mut("broken").unwrap()[at] ^= 4);
        for config in [config(0, 1), config(0, 2)] {
            let opened = RocksDb::new(&settings()).unwrap().open(
                "test",
                config,
                &mut [],
                std::slice::from_ref(&handle),
                &subtask.segments,
            );
            // Half of the key groups may be in other files.
            if let Err(error) = opened {
                assert!(error.to_string().contains("`broken`"), "byte {at}: {error}");
            } else {
                assert!(config.key_groups.len() < 128, "byte {at} was not noticed");
            }
        }
        subtask.segments.with_objects(|objects| objects.get_mut("broken").unwrap()[at] ^= 4);
    }
}

/// A state that a restored job doesn't have any more takes nothing from one that gets its number later.
#[test]
fn a_state_that_went_leaves_nothing_behind() {
    let mut subtask = Subtask::open(&settings(), config(0, 1), &[], &MemorySegments::default());
    subtask.put(0..3_000, 1);
    let (handle, _) = subtask.checkpoint("both");
    let segments = subtask.segments.clone();
    let shared = RocksDb::new(&settings()).unwrap();
    let mut state = shared.open("test", config(0, 1), &mut [], &[handle], &segments).unwrap();
    let ids = vec![state.register_rows(schema("one")).unwrap()];
    let mut without = Subtask { shared, state, ids, segments: segments.clone(), checkpoints: 0 };
    let (handle, _) = without.checkpoint("one of them");
    let mut back = Subtask::open(&settings(), config(0, 1), &[handle], &segments);
    assert_eq!(back.values(0), expected(0..3_000, 1));
    assert_eq!(back.values(1), BTreeSet::new());
}
