//! Every default: what the runtime takes when a spec says nothing, and what the schema tells of it.

use std::time::Duration;

use serde_json::{Value, json};
use weir_crds::{ByteSize, schema::structural, streamjob::*};

/// A spec with the sections given and nothing in them.
fn spec(sections: Value) -> StreamJobSpec {
    let mut spec = json!({"pipeline": {"sources": [], "sinks": []}});
    for (name, section) in sections.as_object().unwrap() {
        spec[name] = section.clone();
    }
    serde_json::from_value(spec).unwrap()
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_spec_that_says_nothing() {
    let spec = spec(json!({}));
    assert_eq!((spec.parallelism(), spec.max_parallelism(), spec.state()), (1, 128, JobState::Running));
    assert_eq!((spec.checkpointing_enabled(), spec.checkpoint_interval(), spec.storage_uri()), (false, None, None));
    assert_eq!(spec.state_backend(), StateBackendKind::Heap);
    assert_eq!(spec.restart(), EffectiveRestart::None);
    assert_eq!(spec.restore_from(), RestoreOrigin::Latest);
    assert_eq!((spec.restore_if_missing(), spec.restore_if_broken()), (IfMissing::Fail, IfBroken::Fail));
    assert_eq!((spec.worker_slots(), spec.step_parallelism(None), spec.step_parallelism(Some(3))), (1, 1, 3));
    let upgrade = spec.upgrade();
    assert_eq!(
        (upgrade.mode(), upgrade.approval(), upgrade.on_failure()),
        (UpgradeMode::Savepoint, ApprovalMode::Automatic, OnUpgradeFailure::Rollback)
    );
    assert_eq!((upgrade.verify_checkpoints(), upgrade.verify_deadline()), (1, 10 * MINUTE));
    assert!(!spec.allow_non_restored_state());
}

#[test]
fn checkpoints() {
    let spec = spec(json!({"checkpoint": {}}));
    assert_eq!(spec.checkpoint_interval(), Some(10 * SECOND));
    let checkpoint = spec.checkpoint.as_ref().unwrap();
    assert_eq!(checkpoint.mode(), CheckpointMode::ExactlyOnce);
    assert_eq!((checkpoint.min_pause(), checkpoint.timeout()), (Duration::ZERO, 10 * MINUTE));
    assert_eq!((checkpoint.max_concurrent(), checkpoint.tolerable_failures()), (1, 0));
    assert_eq!((checkpoint.aligned_timeout(), checkpoint.on_delete()), (None, DeletionPolicy::Retain));
    assert_eq!((checkpoint.retain_count(), checkpoint.retain_max_age()), (3, None));
    assert_eq!(
        spec.restart(),
        EffectiveRestart::ExponentialDelay {
            initial: Duration::from_millis(100),
            max: MINUTE,
            multiplier: 2.0,
            jitter: 0.1,
            reset_after: 60 * MINUTE,
            max_attempts: None,
            max_same_failures: 10
        }
    );
}

#[test]
fn unaligned_checkpoints_begin_so_at_once() {
    let policy = |unaligned: Value| spec(json!({"checkpoint": {"unaligned": unaligned}})).checkpoint.unwrap();
    assert_eq!(policy(json!({})).aligned_timeout(), None);
    assert_eq!(policy(json!({"enabled": true})).aligned_timeout(), Some(Duration::ZERO));
    assert_eq!(policy(json!({"enabled": true, "alignedTimeout": "30s"})).aligned_timeout(), Some(30 * SECOND));
}

#[test]
fn restart_strategies() {
    let restart = |strategy: Value| spec(json!({"restart": strategy})).restart();
    assert_eq!(restart(json!({"fixedDelay": {}})), EffectiveRestart::FixedDelay { attempts: 1, delay: SECOND });
    assert_eq!(
        restart(json!({"failureRate": {}})),
        EffectiveRestart::FailureRate { max_failures: 1, interval: MINUTE, delay: SECOND }
    );
    assert_eq!(restart(json!({"none": {}})), EffectiveRestart::None);
    assert!(matches!(restart(json!({"exponentialDelay": {}})), EffectiveRestart::ExponentialDelay { .. }));
}

#[test]
fn rocksdb() {
    let StateBackendKind::RocksDb(rocksdb) = spec(json!({"stateBackend": {"rocksdb": {}}})).state_backend() else {
        panic!("rocksdb was named");
    };
    assert_eq!((rocksdb.profile(), rocksdb.memory()), (RocksDbProfile::Default, ByteSize::from_mib(256)));
    assert_eq!((rocksdb.write_buffer_ratio(), rocksdb.high_priority_pool_ratio()), (0.5, 0.1));
}

#[test]
fn local_recovery_is_for_who_asks_for_it() {
    assert!(!spec(json!({})).local_recovery());
    assert!(!spec(json!({"stateBackend": {"rocksdb": {}}})).local_recovery());
    assert!(!spec(json!({"stateBackend": {"heap": {}}})).local_recovery());
    assert!(spec(json!({"stateBackend": {"rocksdb": {"localRecovery": true}}})).local_recovery());
    assert!(spec(json!({"stateBackend": {"heap": {"localRecovery": true}}})).local_recovery());
}

#[test]
fn connectors_and_formats() {
    let files = FilesSource::default();
    assert_eq!((files.follow(), files.compression(), files.poll_interval()), (false, Compression::Auto, SECOND));
    assert_eq!(files.split_size(), ByteSize::from_mib(64));
    let sink = FilesSink::default();
    assert_eq!((sink.compression(), sink.rolling_max_size()), (Compression::None, ByteSize::from_mib(128)));
    assert_eq!((sink.rolling_max_age(), sink.rolling_inactivity()), (15 * MINUTE, None));
    assert_eq!(Sink::default().delivery(), Delivery::AtLeastOnce);
    assert_eq!(KafkaSource::default().start_from(), StartFrom::CommittedOffsets);
    assert_eq!(KafkaSink::default().transaction_timeout(), 15 * MINUTE);
    let csv = CsvSourceFormat::default();
    assert_eq!((csv.header(), csv.null_value()), (true, ""));
    assert_eq!(csv.separators(), CsvSeparators { delimiter: b',', quote: b'"' });
    let parquet = ParquetSinkFormat::default();
    assert_eq!((parquet.compression(), parquet.row_group_rows()), (Compression::Zstd, 122_880));
    let sequence = SequenceGenerator::default();
    assert_eq!((sequence.start(), sequence.step(), sequence.order()), (0, 1, RowOrder::Sequential));
    let time = TimeGenerator::default();
    assert_eq!((time.start(), time.step()), ("2026-01-01T00:00:00Z", Duration::from_millis(1)));
    let nexmark = NexmarkSource::default();
    assert_eq!((nexmark.seed(), nexmark.event_interval()), (0, Duration::from_micros(100)));
    let transform = Transform::default();
    assert_eq!((transform.allowed_lateness(), transform.state_ttl()), (Duration::ZERO, None));
    assert!(
        Column { name: "a".into(), column_type: "INT".parse().unwrap(), nullable: None, metadata: None }.is_nullable()
    );
}

#[test]
fn the_schema_tells_the_same() {
    let schema = structural::<StreamJobSpec>();
    for (pointer, default) in [
        ("parallelism", json!(1)),
        ("maxParallelism", json!(128)),
        ("state", json!("Running")),
        ("checkpoint/interval", json!("10s")),
        ("checkpoint/timeout", json!("10m")),
        ("checkpoint/mode", json!("ExactlyOnce")),
        ("checkpoint/retain/count", json!(3)),
        ("stateBackend/rocksdb/memory", json!("256Mi")),
        ("restart/exponentialDelay/multiplier", json!(2.0)),
        ("upgrade/verify/deadline", json!("10m")),
        ("savepoints/timeZone", json!("UTC")),
        ("restore/ifMissing", json!("Fail")),
        ("pods/workers/slots", json!(1)),
    ] {
        let path: String = pointer.split('/').map(|field| format!("/properties/{field}")).collect();
        assert_eq!(schema.pointer(&format!("{path}/default")), Some(&default), "{pointer}");
    }
}

#[test]
fn the_schemas_defaults_are_values_of_their_own_schema() {
    let mut checked = 0;
    check_defaults(&structural::<StreamJobSpec>(), "spec", &mut checked);
    assert!(checked > 50, "only {checked} defaults");
}

fn check_defaults(schema: &Value, path: &str, checked: &mut usize) {
    if let Some(default) = schema.get("default") {
        let fits = match schema["type"].as_str() {
            Some("string") => default.is_string(),
            Some("integer") => default.is_u64() || default.is_i64(),
            Some("number") => default.is_number(),
            Some("boolean") => default.is_boolean(),
            None => default.is_string(),
            Some(_) => false,
        };
        assert!(fits, "{path}: {default}");
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(allowed.contains(default), "{path}: {default}");
        }
        *checked += 1;
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        check_defaults(field, &format!("{path}.{name}"), checked);
    }
    if schema["items"].is_object() {
        check_defaults(&schema["items"], &format!("{path}[]"), checked);
    }
}
