//! Format version 1, byte for byte: what was written once must be read for ever, and written the same.
//!
//! A change here is a change of a stored format. `WEIR_BLESS=1 cargo test -p weir-snapshot golden` writes the files
//! anew, for a version that has not been released.

use crate::envelope;
use crate::log::{CloseReason, Closed, LogEntry, LogRecord, Opened, RestorePoint, WriterId};
use crate::manifest::*;
use crate::savepoint::*;
use crate::testing::path;
use arrow::datatypes::DataType;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use weir_model::types::TIMESTAMP;
use weir_model::*;

#[test]
fn opened() {
    let restored_from = Some(RestorePoint::Checkpoint { checkpoint: CheckpointId(4711) });
    check_entry("opened", LogRecord::Opened(Opened { restored_from, job_fingerprint: "5f0e8a91c2d3b4a6".into() }));
    let restored_from = Some(RestorePoint::Location { uri: "file:///var/weir/savepoints/upgrade-6".into() });
    check_entry("opened-elsewhere", LogRecord::Opened(Opened { restored_from, job_fingerprint: "5f".into() }));
    check_entry("opened-empty", LogRecord::Opened(Opened { restored_from: None, job_fingerprint: "5f".into() }));
}

#[test]
fn marked() {
    let opened = Opened { restored_from: None, job_fingerprint: "5f".into() };
    let marks = ["1f7c2a52-g7", "1f7c2a52-g9"].map(|mark| mark.parse().unwrap());
    let entry = LogEntry { marks: marks.into(), ..entry(LogRecord::Opened(opened)) };
    check("opened-marked", entry.encode().unwrap(), &entry);
}

#[test]
fn checkpoint_completed() {
    check_entry("checkpoint-completed", LogRecord::CheckpointCompleted(checkpoint()));
}

#[test]
fn unaligned_checkpoint_completed() {
    let mut manifest = checkpoint();
    let in_flight =
        json!({"segment": {"object": "chk-4712/e3-a1-worker-0.data", "offset": 0, "length": 900}, "rows": 7});
    manifest.operators[0].subtasks[0].in_flight = Some(in_flight);
    manifest.unaligned = true;
    manifest.sizes.in_flight_bytes = 900;
    check_entry("unaligned-checkpoint-completed", LogRecord::CheckpointCompleted(manifest));
}

#[test]
fn closed() {
    let closed = Closed { reason: CloseReason::Stopped, message: "stopped with savepoint `upgrade-6`".into() };
    check_entry("closed", LogRecord::Closed(closed));
}

#[test]
fn savepoint() {
    let manifest = SavepointManifest {
        job_uid: "1f7c2a52-6d1e-4a53-9a9d-0d6c8a3f1b11".into(),
        job_name: "flight-delays".into(),
        checkpoint: CheckpointId(4712),
        created_at_ms: 1_795_262_400_000,
        max_parallelism: 128,
        operators: vec![SavepointOperator {
            uid: OperatorUid::new("hourly/window-aggregate"),
            parallelism: 4,
            states: vec![SavepointState {
                schema: schema(),
                columns: state_columns(&schema()).fields().iter().map(|field| field.name().clone()).collect(),
                rows: 70_000,
                files: vec![SavepointFile {
                    path: path("hourly%2Fwindow-aggregate/accumulators/part-00000.parquet"),
                    rows: 70_000,
                    length: 1_200_000,
                    crc32c: 0x1234_5678,
                    key_groups: KeyGroupRange { first: 0, last: 127 },
                    row_groups: vec![
                        chunk(0, 1_100_000, Some(KeyGroupRange { first: 0, last: 119 })),
                        chunk(1_100_000, 90_000, Some(KeyGroupRange { first: 119, last: 127 })),
                    ],
                    footer: chunk(1_190_000, 10_000, None),
                }],
            }],
            subtasks: subtasks(None),
        }],
    };
    check("savepoint", envelope::seal_pretty(&manifest).unwrap(), &manifest);
}

fn chunk(offset: u64, length: u64, key_groups: Option<KeyGroupRange>) -> FileChunk {
    FileChunk { offset, length, crc32c: 0x9abc_def0, key_groups }
}

fn checkpoint() -> CheckpointManifest {
    CheckpointManifest {
        job_uid: "1f7c2a52-6d1e-4a53-9a9d-0d6c8a3f1b11".into(),
        checkpoint: CheckpointId(4712),
        kind: CheckpointKind::Checkpoint,
        unaligned: false,
        epoch: Epoch(3),
        attempt: AttemptNumber(1),
        started_at_ms: 1_795_262_400_000,
        completed_at_ms: 1_795_262_400_084,
        max_parallelism: 128,
        operators: vec![OperatorManifest {
            uid: OperatorUid::new("hourly/window-aggregate"),
            parallelism: 2,
            states: vec![schema()],
            subtasks: subtasks(Some(json!({"segments": [{"object": 0, "offset": 16, "length": 4096}]}))),
        }],
        objects: vec![
            object("chk-4711/e3-a1-worker-0.data", 8_192, 0xdead_beef),
            object("chk-4712/e3-a1-worker-0.data", 4_112, 7),
        ],
        sizes: CheckpointSizes { new_bytes: 4_112, full_bytes: 12_304, in_flight_bytes: 0 },
    }
}

fn object(name: &str, length: u64, crc32c: u32) -> ObjectRef {
    ObjectRef { path: path(name), length, crc32c }
}

fn subtasks(keyed: Option<serde_json::Value>) -> Vec<SubtaskManifest> {
    let first = SubtaskManifest {
        index: 0,
        finished: false,
        keyed,
        splits: vec![json!({"split": "2013-01.csv.gz", "position": {"bytes": 1_048_576}})],
        sink: Some(json!({"committables": [{"from": "a.pending", "to": "a.csv"}]})),
        operator: Some(json!({"watermark_us": -1})),
        in_flight: None,
    };
    vec![first, SubtaskManifest { index: 1, finished: true, ..Default::default() }]
}

fn schema() -> StateSchema {
    StateSchema {
        name: "accumulators".into(),
        kind: StateKind::Value,
        key: vec![StateField::new("carrier", DataType::Utf8, true)],
        namespace: vec![StateField::new("window_end", TIMESTAMP, false)],
        value: vec![
            StateField::new("sum", DataType::Decimal128(38, 2), true),
            StateField::new("seen", DataType::new_list(DataType::Int64, true), true),
        ],
        semantics: vec!["sum(Decimal128(10, 2))".into(), "distinct(Int64)".into()],
    }
}

fn check_entry(name: &str, record: LogRecord) {
    let entry = entry(record);
    check(name, entry.encode().unwrap(), &entry);
}

fn entry(record: LogRecord) -> LogEntry {
    LogEntry {
        number: 42,
        epoch: Epoch(3),
        owner: WriterId::named("9f8e7d6c-5b4a-4321-8765-0123456789ab"),
        low_water: 37,
        written_at_ms: 1_795_262_400_090,
        record,
        marks: vec![],
    }
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, written: Bytes, value: &T) {
    let file = format!("{}/fixtures/format-1/{name}.json", std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(&file, &written).unwrap();
    }
    let golden = std::fs::read(&file).unwrap();
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&golden), "{name}: written as ever");
    assert_eq!(envelope::open::<T>(&golden).unwrap(), *value, "{name}: read as ever");
}
