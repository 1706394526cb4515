//! What validation says of jobs: one change to a good job, one thing wrong.

use serde_json::{Value, json};
use weir_crds::{StreamJob, validate::validate};

fn job() -> Value {
    serde_yaml::from_str(include_str!("jobs/flight-delays.yaml")).unwrap()
}

/// `severity path: reason`, line by line, of the example with the values at the JSON pointers changed.
fn found(changes: &[(&str, Value)]) -> Vec<String> {
    let mut job = job();
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        match job.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} has no place")) {
            Value::Array(items) => items.push(value.clone()),
            object if value.is_null() => {
                object.as_object_mut().unwrap().remove(field);
            }
            object => object[field] = value.clone(),
        }
    }
    let job: StreamJob = serde_json::from_value(job).unwrap();
    validate(&job)
        .into_iter()
        .map(|violation| {
            assert!(!violation.remedy.is_empty(), "no remedy: {violation:?}");
            format!("{} {}: {}", violation.severity.word(), violation.field_path, violation.reason)
        })
        .collect()
}

#[test]
fn the_example_is_right() {
    assert_eq!(found(&[]), Vec::<String>::new());
}

#[test]
fn one_change_one_violation() {
    const SOURCE: &str = "/spec/pipeline/sources/0";
    const SINK: &str = "/spec/pipeline/sinks/0";
    let source = |field: &str| format!("{SOURCE}/{field}");
    let sink = |field: &str| format!("{SINK}/{field}");
    let table: Vec<(String, Value, &str)> = vec![
        ("/metadata/name".into(), json!(null), "error metadata.name: the job has no name"),
        ("/metadata/name".into(), json!("x".repeat(46)), "error metadata.name: 46 characters long"),
        ("/spec/parallelism".into(), json!(0), "error spec.parallelism: there must be at least one subtask"),
        (
            "/spec/pipeline/transforms/1/parallelism".into(),
            json!(129),
            "error spec.pipeline.transforms[1].parallelism: parallelism 129 exceeds maxParallelism 128, the number of key groups",
        ),
        (
            source("watermark/column"),
            json!("sceduled_at"),
            "error spec.pipeline.sources[0].watermark.column: there is no column `sceduled_at` in the schema",
        ),
        (
            source("watermark/column"),
            json!("origin"),
            "error spec.pipeline.sources[0].watermark.column: `origin` is a VARCHAR, and a watermark runs on a TIMESTAMP",
        ),
        (
            source("watermark/idleTimeout"),
            json!("0s"),
            "error spec.pipeline.sources[0].watermark.idleTimeout: every input would always be idle",
        ),
        (
            source("schema/-"),
            json!({"name": "origin", "type": "INT"}),
            "error spec.pipeline.sources[0].schema[4].name: there are two columns `origin`",
        ),
        (source("format"), json!(null), "error spec.pipeline.sources[0].format: kafka needs a format"),
        (source("format"), json!({}), "error spec.pipeline.sources[0].format: no format is named"),
        (
            source("format"),
            json!({"parquet": {}}),
            "error spec.pipeline.sources[0].format.parquet: kafka cannot have the format parquet",
        ),
        (
            source("format"),
            json!({"raw": {}}),
            "error spec.pipeline.sources[0].schema: a raw record is one column of type VARCHAR or BYTES",
        ),
        (
            source("format"),
            json!({"csv": {"delimiter": "é"}}),
            "error spec.pipeline.sources[0].format.csv.delimiter: \"é\" is not one ASCII character",
        ),
        (
            source("format"),
            json!({"csv": {"delimiter": "'", "quote": "'"}}),
            "error spec.pipeline.sources[0].format.csv.quote: delimiter and quote are the same character",
        ),
        (
            source("format/json/deadLetterSink"),
            json!("x"),
            "error spec.pipeline.sources[0].format.json.deadLetterSink: a deadLetterSink without onBadRecord: DeadLetter gets nothing",
        ),
        (source("schema"), json!(null), "error spec.pipeline.sources[0].schema: the columns are not known"),
        (
            source("kafka/startFrom"),
            json!("Timestamp"),
            "error spec.pipeline.sources[0].kafka.startTimestamp: startFrom: Timestamp needs one",
        ),
        (
            source("kafka/startTimestamp"),
            json!("2026-01-01T00:00:00Z"),
            "error spec.pipeline.sources[0].kafka.startTimestamp: belongs to startFrom: Timestamp",
        ),
        (
            source("kafka/startFrom"),
            json!("Offsets"),
            "error spec.pipeline.sources[0].kafka.startOffsets: startFrom: Offsets needs them",
        ),
        (
            source("kafka/startOffsets"),
            json!([{"topic": "flights", "partition": 0, "offset": 7}]),
            "error spec.pipeline.sources[0].kafka.startOffsets: they belong to startFrom: Offsets",
        ),
        (source("kafka/topics"), json!(null), "error spec.pipeline.sources[0].kafka: no choice of topics is named"),
        (source("kafka"), json!(null), "error spec.pipeline.sources[0]: no connector is named"),
        (sink("from"), json!("hourli"), "error spec.pipeline.sinks[0].from: there is no source or transform `hourli`"),
        (
            sink("format"),
            json!({"parquet": {}}),
            "error spec.pipeline.sinks[0].format.parquet: kafka cannot have the format parquet",
        ),
        (
            sink("delivery"),
            json!("Upsert"),
            "error spec.pipeline.sinks[0].kafka.key: Upsert needs to know which columns make the message key",
        ),
        (
            sink("kafka/transactionTimeout"),
            json!("610s"),
            "error spec.pipeline.sinks[0].kafka.transactionTimeout: 10m10s does not exceed checkpoint interval + timeout = 10s + 10m = 10m10s: the broker could abort a transaction that a checkpoint counts on",
        ),
        (
            "/spec/checkpoint".into(),
            json!(null),
            "error spec.pipeline.sinks[0].delivery: ExactlyOnce commits with checkpoints, and the job takes none",
        ),
        (
            "/spec/checkpoint/mode".into(),
            json!("AtLeastOnce"),
            "warning spec.pipeline.sinks[0].delivery: each result is written once, but in checkpoint.mode AtLeastOnce some records may count twice in it",
        ),
        ("/spec/checkpoint/interval".into(), json!("1ms"), "error spec.checkpoint.interval: 1ms is shorter than 10ms"),
        ("/spec/checkpoint/timeout".into(), json!("0s"), "error spec.checkpoint.timeout: no checkpoint could complete"),
        (
            "/spec/checkpoint/maxConcurrent".into(),
            json!(2),
            "warning spec.checkpoint.maxConcurrent: a minPause of 5s lets only one checkpoint run at a time",
        ),
        (
            "/spec/checkpoint/retain/count".into(),
            json!(0),
            "error spec.checkpoint.retain.count: the latest checkpoint must stay",
        ),
        (
            "/spec/checkpoint/storage".into(),
            json!({"uri": "memory://"}),
            "warning spec.checkpoint.storage.uri: memory:// is for development: its checkpoints are gone with the process",
        ),
        (
            "/spec/checkpoint/storage".into(),
            json!({"uri": "file://data/x"}),
            "error spec.checkpoint.storage.uri: `file://data/x` names a host, not a directory",
        ),
        (
            "/spec/checkpoint/storage".into(),
            json!({"uri": "s3:///x"}),
            "error spec.checkpoint.storage.uri: the URI names no bucket",
        ),
        (
            "/spec/checkpoint/storage".into(),
            json!({"uri": "s4://x"}),
            "error spec.checkpoint.storage.uri: the scheme `s4` is unknown",
        ),
        (
            "/spec/checkpoint/storage".into(),
            json!({"uri": "abfss://container/x"}),
            "error spec.checkpoint.storage.uri: an abfss URI names container and account",
        ),
        (
            "/spec/checkpoint/storage".into(),
            json!({"uri": "hdfs://namenode:8020/x", "credentials": {"env": "HDFS"}}),
            "error spec.checkpoint.storage.credentials: hdfs:// takes no credentials",
        ),
        (
            "/spec/checkpoint/storage".into(),
            json!({"uri": "gs://bucket/x", "pathStyle": true}),
            "warning spec.checkpoint.storage.pathStyle: only s3:// knows it",
        ),
        (
            "/spec/stateBackend/rocksdb/memory".into(),
            json!("4Gi"),
            "error spec.stateBackend.rocksdb.memory: RocksDB may use 4Gi, and a worker pod has 4Gi for everything",
        ),
        (
            "/spec/stateBackend/rocksdb/memory".into(),
            json!("1Mi"),
            "error spec.stateBackend.rocksdb.memory: 1Mi is too little for RocksDB",
        ),
        (
            "/spec/stateBackend/rocksdb/highPriorityPoolRatio".into(),
            json!(0.6),
            "error spec.stateBackend.rocksdb.writeBufferRatio: writeBufferRatio and highPriorityPoolRatio are more than the whole memory together",
        ),
        (
            "/spec/restart/exponentialDelay/max".into(),
            json!("500ms"),
            "error spec.restart.exponentialDelay.max: max 500ms is below initial 1s",
        ),
        (
            "/spec/restart".into(),
            json!({"failureRate": {"interval": "0s"}}),
            "error spec.restart.failureRate.interval: no failure happens within no time",
        ),
        (
            "/spec/restore/from/savepoint".into(),
            json!("s"),
            "error spec.restore.from.savepoint: more than one restore point is named: latest, savepoint",
        ),
        ("/spec/savepoints/timeZone".into(), json!("UTC+"), ""),
        (
            "/spec/savepoints/timeZone".into(),
            json!("over there"),
            "error spec.savepoints.timeZone: `over there` is not a time zone",
        ),
        (
            "/spec/pods/template".into(),
            json!({"spce": {}}),
            "error spec.pods.template.spce: a pod template has no field `spce`",
        ),
        (
            "/spec/pods/workers/slots".into(),
            json!(0),
            "error spec.pods.workers.slots: a worker without slots runs nothing",
        ),
    ];
    for (pointer, value, expected) in table {
        let mut found = found(&[(&pointer, value.clone())]);
        // Without checkpoints more follows; the first is what the table is about.
        if pointer == "/spec/checkpoint" {
            found.truncate(1);
        }
        let expected: Vec<&str> = Some(expected).filter(|expected| !expected.is_empty()).into_iter().collect();
        assert_eq!(found, expected, "{pointer} = {value}");
    }
}

#[test]
fn where_files_may_be_written() {
    let found = |path: &str, storage: Value| {
        let mut sink = json!({"name": "out", "from": "hourly", "files": {"path": path}, "format": {"json": {}}});
        if !storage.is_null() {
            sink["files"]["storage"] = storage;
        }
        found(&[("/spec/pipeline/sinks/-", sink)])
    };
    let minio = json!({"endpoint": "http://minio:9000"});
    assert_eq!(found("s3://bucket/out", minio.clone()), Vec::<String>::new());
    assert_eq!(found("s3://bucket/out", json!(null)), Vec::<String>::new());
    assert_eq!(found("file:///out", json!(null)), Vec::<String>::new());
    assert_eq!(
        found("out", minio),
        ["error spec.pipeline.sinks[2].files.storage: a directory needs no storage settings"]
    );
    assert_eq!(
        found("gs://bucket/out", json!(null)),
        ["error spec.pipeline.sinks[2].files.path: files are not written to gs:// yet"]
    );
}

#[test]
fn a_job_without_checkpoints_is_warned_of_what_it_gives_up() {
    let found = found(&[("/spec/checkpoint", json!(null))]);
    let warned: Vec<&str> = found
        .iter()
        .filter_map(|line| line.strip_prefix("warning "))
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(warned, ["spec.restart", "spec.upgrade.mode", "spec.savepoints.schedule"]);
}

#[test]
fn a_dead_letter_sink_has_no_from() {
    let format = json!({"json": {"onBadRecord": "DeadLetter", "deadLetterSink": "bad"}});
    let with_sink =
        |sink: Value| found(&[("/spec/pipeline/sources/0/format", format.clone()), ("/spec/pipeline/sinks/-", sink)]);
    assert_eq!(with_sink(json!({"name": "bad", "print": {}})), Vec::<String>::new());
    assert_eq!(
        with_sink(json!({"name": "bad", "from": "hourly", "print": {}})),
        [
            "error spec.pipeline.sinks[2].from: `bad` takes the bad records of source `flights` and cannot read another step too"
        ]
    );
    assert_eq!(
        with_sink(json!({"name": "bda", "from": "hourly", "print": {}})),
        ["error spec.pipeline.sources[0].format.json.deadLetterSink: there is no sink `bad`"]
    );
}

#[test]
fn two_sinks_do_not_share_a_directory() {
    let sink = |name: &str, path: &str| json!({"name": name, "from": "hourly", "files": {"path": path}, "format": {"json": {}}});
    let found = found(&[("/spec/pipeline/sinks/-", sink("a", "out")), ("/spec/pipeline/sinks/-", sink("b", "out/"))]);
    assert_eq!(found, ["error spec.pipeline.sinks[3].files.path: sink `a` writes into the same directory"]);
}

#[test]
fn generators_fit_their_columns() {
    let source = |columns: Value, schema: Value| {
        let source = json!({"name": "rows", "generator": {"columns": columns}, "schema": schema});
        found(&[("/spec/pipeline/sources/-", source)])
    };
    let one = |rule: Value, column_type: &str| {
        let mut column = rule;
        column["name"] = json!("c");
        source(json!([column]), json!([{"name": "c", "type": column_type, "nullable": false}]))
    };
    for (rule, column_type) in [
        (json!({"sequence": {"cardinality": 10, "order": "Mixed"}}), "BIGINT"),
        (json!({"sequence": {}}), "VARCHAR"),
        (json!({"random": {"max": 5}}), "DOUBLE"),
        (json!({"random": {"values": ["a", "b"]}}), "VARCHAR"),
        (json!({"constant": {"value": 127}}), "TINYINT"),
        (json!({"constant": {"value": "2026-01-01 10:00:00"}}), "TIMESTAMP(3)"),
        (json!({"time": {}}), "TIMESTAMP_LTZ"),
    ] {
        assert_eq!(one(rule.clone(), column_type), Vec::<String>::new(), "{rule} {column_type}");
    }
    const COLUMN: &str = "error spec.pipeline.sources[1].generator.columns[0]";
    for (rule, column_type, expected) in [
        (
            json!({"sequence": {}}),
            "BOOLEAN",
            ".sequence: `sequence` makes a number or VARCHAR, and the column is BOOLEAN",
        ),
        (json!({"random": {}}), "INT", ".random.max: a random number needs an upper bound"),
        (json!({"random": {"min": 5, "max": 1}}), "INT", ".random.max: max 1 is below min 5"),
        (json!({"random": {"max": 1, "nullRatio": 0.5}}), "INT", ".random.nullRatio: the column may not be NULL"),
        (json!({"constant": {"value": 128}}), "TINYINT", ".constant.value: 128 is no value of type TINYINT"),
        (json!({"constant": {}}), "INT", ".constant.value: null is no value of type INT"),
        (json!({"time": {}}), "BIGINT", ".time: `time` makes TIMESTAMP or DATE, and the column is BIGINT"),
    ] {
        assert_eq!(one(rule.clone(), column_type), [format!("{COLUMN}{expected}")], "{rule} {column_type}");
    }
}

#[test]
fn a_socket_is_refused_in_exactly_once_unless_accepted() {
    let socket = |accept: Value, mode: &str| {
        let source = json!({"name": "lines", "socket": {"address": "localhost:9999", "acceptAtMostOnce": accept}, "format": {"raw": {}}});
        let sinks = json!([{"name": "out", "from": "lines", "print": {}}]);
        found(&[
            ("/spec/pipeline/sources/-", source),
            ("/spec/pipeline/sinks", sinks),
            ("/spec/checkpoint/mode", json!(mode)),
        ])
    };
    assert_eq!(socket(json!(true), "ExactlyOnce"), Vec::<String>::new());
    assert_eq!(socket(json!(false), "AtLeastOnce"), Vec::<String>::new());
    assert_eq!(
        socket(json!(false), "ExactlyOnce"),
        [
            "error spec.pipeline.sources[1].socket.acceptAtMostOnce: a socket cannot be read again, so its records are at most once, and the job asks for ExactlyOnce"
        ]
    );
}
