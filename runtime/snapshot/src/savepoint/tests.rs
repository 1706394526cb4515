use super::*;
use crate::manifest::SubtaskManifest;
use crate::storage::{FaultPlan, FaultyStorage, LocalStorage, MemoryStorage, ObjectPath, Storage, list_all};
use crate::testing::path;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt16Array};
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use std::sync::Arc;
use weir_model::types::TIMESTAMP;
use weir_model::{CheckpointId, KeyGroupRange, StateField, StateKind, StateSchema};

const MAX_PARALLELISM: u32 = 128;

fn uid() -> OperatorUid {
    OperatorUid::new("hourly/window-aggregate")
}

fn schema() -> StateSchema {
    StateSchema {
        name: "accumulators".into(),
        kind: StateKind::Value,
        key: vec![StateField::new("carrier", DataType::Utf8, true)],
        namespace: vec![StateField::new("window_end", TIMESTAMP, false)],
        value: vec![StateField::new("sum", DataType::Int64, true)],
        semantics: vec!["sum(Int64)".into()],
    }
}

/// `per_group` rows for each of these key groups; the value tells them apart.
fn rows(groups: std::ops::RangeInclusive<u16>, per_group: usize) -> RecordBatch {
    let groups = groups.flat_map(|group| std::iter::repeat_n(group, per_group)).collect::<Vec<_>>();
    let count = groups.len() as i64;
    let carriers = groups.iter().map(|group| (group % 3 != 0).then(|| format!("carrier {group}")));
    let sums = groups.iter().zip(0..count).map(|(group, row)| *group as i64 * 1_000_000 + row);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from(groups.clone())),
        Arc::new(StringArray::from_iter(carriers)),
        Arc::new(TimestampMicrosecondArray::from_iter_values(0..count)),
        Arc::new(Int64Array::from_iter_values(sums)),
    ];
    RecordBatch::try_new(state_columns(&schema()), columns).unwrap()
}

fn manifest() -> SavepointManifest {
    let subtask = SubtaskManifest { splits: vec![serde_json::json!({"file": "a", "at": 7})], ..Default::default() };
    SavepointManifest {
        job_uid: "job-1".into(),
        job_name: "flight-delays".into(),
        checkpoint: CheckpointId(7),
        created_at_ms: 1_000,
        max_parallelism: MAX_PARALLELISM,
        operators: vec![SavepointOperator { uid: uid(), parallelism: 2, states: vec![], subtasks: vec![subtask] }],
    }
}

/// A savepoint whose two subtasks had half of the key groups each.
async fn write(storage: Arc<dyn Storage>, folder: &ObjectPath, per_group: usize) -> SavepointManifest {
    let writer = SavepointWriter::begin(storage, folder.clone(), MAX_PARALLELISM).await.unwrap();
    for groups in [0..=63, 64..=127] {
        let mut state = writer.state(&uid(), &schema()).unwrap();
        let batch = rows(groups, per_group);
        // In two batches, cut in the middle of a key group.
        let cut = batch.num_rows() / 3;
        state.write(&batch.slice(0, cut)).await.unwrap();
        state.write(&batch.slice(cut, batch.num_rows() - cut)).await.unwrap();
        state.finish().await.unwrap();
    }
    writer.finish(manifest()).await.unwrap()
}

async fn read(reader: &SavepointReader, key_groups: KeyGroupRange) -> Result<Vec<RecordBatch>, SavepointError> {
    let mut rows = reader.read_state(&uid(), "accumulators", key_groups)?;
    let mut batches = vec![];
    while let Some(batch) = rows.next().await? {
        batches.push(batch);
    }
    Ok(batches)
}

fn concat(batches: &[RecordBatch]) -> RecordBatch {
    arrow::compute::concat_batches(&state_columns(&schema()), batches).unwrap()
}

#[tokio::test]
async fn any_range_of_key_groups_is_read_back() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let folder = path("user/savepoint-1");
    // Several row groups per file.
    let written = write(storage.clone(), &folder, 2_500).await;
    assert!(written.operators[0].states[0].files.iter().all(|file| file.row_groups.len() == 3));
    let all = concat(&[rows(0..=63, 2_500), rows(64..=127, 2_500)]);
    for (first, last) in [(0, 127), (0, 0), (127, 127), (26, 27), (60, 70), (5, 4)] {
        let counted = Arc::new(FaultyStorage::new(storage.clone(), FaultPlan::None));
        let reader = SavepointReader::open(counted.clone(), folder.clone()).await.unwrap();
        let found = concat(&read(&reader, KeyGroupRange { first, last }).await.unwrap());
        let groups = all.column(0).as_any().downcast_ref::<UInt16Array>().unwrap().values();
        let from = groups.partition_point(|group| *group < first);
        let to = groups.partition_point(|group| *group <= last).max(from);
        assert_eq!(found, all.slice(from, to - from), "{first}-{last}");
        if first == last {
            assert_eq!(counted.calls(), 3, "the manifest, a footer and one row group");
        }
    }
}

#[tokio::test]
async fn a_copied_folder_is_a_savepoint() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let (folder, copy) = (path("a"), path("elsewhere/b"));
    let written = write(storage.clone(), &folder, 3).await;
    for object in list_all(&*storage, &folder).await.unwrap() {
        let relative = object.path.relative_to(&folder).unwrap();
        storage.put(&copy.join(&relative), storage.get(&object.path).await.unwrap()).await.unwrap();
        storage.delete(&object.path).await.unwrap();
    }
    let reader = SavepointReader::open(storage, copy).await.unwrap();
    assert_eq!(*reader.manifest(), written);
    assert_eq!(written.operators[0].subtasks, manifest().operators[0].subtasks);
    let found = read(&reader, KeyGroupRange { first: 0, last: 127 }).await.unwrap();
    assert_eq!(concat(&found).num_rows(), 3 * 128);
    assert!(reader.verify().await.unwrap().is_empty());
}

/// As the first version wrote them: with dictionaries, compressed by Zstd. Of each number below 1000 by what is left of it
/// after division by 50: how many there are, their sum, both once more for the average, and the first text of those above
/// 900.
#[tokio::test]
async fn what_an_older_version_wrote_is_read() {
    let folder = format!("{}/fixtures/savepoint-1", std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(folder).unwrap());
    let reader = SavepointReader::open(storage, ObjectPath::root()).await.unwrap();
    assert!(reader.verify().await.unwrap().is_empty());
    let operator = OperatorUid::new("totals/aggregate");
    let mut rows = reader.read_state(&operator, "groups", KeyGroupRange { first: 0, last: 127 }).unwrap();
    let mut found = vec![];
    while let Some(batch) = rows.next().await.unwrap() {
        let text = |column: usize, row| array_value_to_string(batch.column(column), row).unwrap();
        found.extend((0..batch.num_rows()).map(|row| (1..7).map(|at| text(at, row)).collect::<Vec<_>>().join(" ")));
    }
    let expected = (0..50).map(|rest| {
        let sum: u64 = (0..20).map(|turn| 50 * turn + rest).sum();
        let least = if rest == 0 { 950 } else { 900 + rest };
        format!("name {rest} 20 {sum} {sum} 20 {least}")
    });
    found.sort_unstable();
    let mut expected: Vec<String> = expected.collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn every_changed_byte_is_noticed_and_the_file_named() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let folder = path("sp");
    write(storage.clone(), &folder, 1).await;
    for object in list_all(&*storage, &folder).await.unwrap() {
        let good = storage.get(&object.path).await.unwrap();
        for byte in 0..good.len() {
            let mut damaged = good.to_vec();
            damaged[byte] ^= 0x04;
            storage.put(&object.path, damaged.into()).await.unwrap();
            let outcome = match SavepointReader::open(storage.clone(), folder.clone()).await {
                Err(error) => error.to_string(),
                Ok(reader) => {
                    let faults = reader.verify().await.unwrap();
                    assert_eq!(faults.len(), 1, "byte {byte} of {}", object.path);
                    let all = KeyGroupRange { first: 0, last: 127 };
                    assert_eq!(read(&reader, all).await.unwrap_err().to_string(), faults[0].to_string());
                    faults[0].to_string()
                }
            };
            assert!(outcome.contains(object.path.as_str()), "byte {byte} of {}: {outcome}", object.path);
        }
        storage.put(&object.path, good).await.unwrap();
    }
}

#[tokio::test]
async fn an_unfinished_savepoint_is_none_and_a_finished_one_stays() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let folder = path("sp");
    let writer = SavepointWriter::begin(storage.clone(), folder.clone(), MAX_PARALLELISM).await.unwrap();
    let mut state = writer.state(&uid(), &schema()).unwrap();
    state.write(&rows(0..=1, 1)).await.unwrap();
    let error = SavepointReader::open(storage.clone(), folder.clone()).await.unwrap_err().to_string();
    assert_eq!(error, "`memory://sp` is not a savepoint, or one that was never finished: it holds no `savepoint.json`");
    let error = writer.clone().finish(manifest()).await.unwrap_err().to_string();
    assert!(error.contains("1 of its writers have not finished"), "{error}");

    write(storage.clone(), &folder, 1).await;
    let again = SavepointWriter::begin(storage, folder, MAX_PARALLELISM).await.unwrap_err();
    assert!(matches!(again, SavepointError::AlreadyThere { .. }));
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let writer = SavepointWriter::begin(storage.clone(), path("sp"), 64).await.unwrap();
    let refused = async |batch: &RecordBatch| {
        let mut state = writer.state(&uid(), &schema()).unwrap();
        state.write(&rows(10..=11, 1)).await.unwrap();
        state.write(batch).await.unwrap_err().to_string()
    };
    assert!(refused(&rows(3..=4, 1)).await.contains("key group 3 comes after 11"));
    assert!(refused(&rows(11..=64, 1)).await.contains("key group 64 is not below the max parallelism, 64"));
    let fewer = rows(12..=12, 1).project(&[0, 1]).unwrap();
    assert!(refused(&fewer).await.contains("its columns are UInt16, Utf8, and its schema makes them"));
    let other = StateSchema { semantics: vec!["max(Int64)".into()], ..schema() };
    assert!(writer.state(&uid(), &other).is_err());

    write(storage.clone(), &path("good"), 1).await;
    let reader = SavepointReader::open(storage, path("good")).await.unwrap();
    let error = reader.read_state(&uid(), "timers", KeyGroupRange { first: 0, last: 1 }).err().unwrap();
    assert_eq!(
        error.to_string(),
        "the savepoint holds no state `timers` of `hourly/window-aggregate`; \
         it holds `accumulators` of `hourly/window-aggregate`"
    );
}
