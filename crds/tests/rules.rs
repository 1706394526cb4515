//! The CEL rules, evaluated as the API server does: `kubectl apply` itself refuses nonsense.

use kube::core::cel::Validator;
use serde_json::{Value, json};
use weir_crds::crd;

fn schema(kind: &str) -> Value {
    let definition = crd::all().into_iter().find(|definition| definition.spec.names.kind == kind).unwrap();
    serde_json::to_value(definition.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap())
        .unwrap()
}

fn job() -> Value {
    serde_yaml::from_str(include_str!("jobs/flight-delays.yaml")).unwrap()
}

/// The messages of the rules that `object` breaks, as a change of `old` where there is one.
fn refused(kind: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(&schema(kind), object, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
    }
}

#[test]
fn the_example_is_accepted() {
    assert_eq!(refused("StreamJob", &job(), None), Vec::<String>::new());
    assert_eq!(refused("StreamJob", &job(), Some(&job())), Vec::<String>::new());
}

#[test]
fn nonsense_is_refused() {
    let table: Vec<(&str, Value, &str)> = vec![
        ("/spec/parallelism", json!(500), "parallelism may not exceed maxParallelism"),
        ("/metadata/name", json!("a.b"), "a job's name is lower-case letters"),
        ("/spec/pipeline/sources/0/kafka/topicPattern", json!("x.*"), "exactly one of topics, topicPattern"),
        ("/spec/pipeline/sources/0/files", json!({"path": "x"}), "exactly one of files, generator"),
        ("/spec/pipeline/sources/0/watermark/column", json!("x"), "the watermark's column is not in the schema"),
        (
            "/spec/pipeline/sources/0/format",
            json!({"json": {"onBadRecord": "DeadLetter"}}),
            "deadLetterSink belongs to",
        ),
        ("/spec/pipeline/sources/0/name", json!("hourly"), "a source and a transform have the same name"),
        ("/spec/pipeline/sources/0/name", json!("alerts-table"), "a source and a sink have the same name"),
        ("/spec/pipeline/transforms/0/name", json!("alerts-table"), "a transform and a sink have the same name"),
        (
            "/spec/pipeline/transforms/0/operator",
            json!({"type": "X", "input": "flights"}),
            "exactly one of sql, operator",
        ),
        ("/spec/pipeline/sinks/1/print", json!({}), "exactly one of files, print"),
        (
            "/spec/pipeline/sinks/1/postgres",
            json!({"url": {"env": "X"}, "table": "t"}),
            "delivery: Upsert needs postgres.key",
        ),
        ("/spec/checkpoint/unaligned/enabled", json!(true), ""),
        ("/spec/checkpoint/mode", json!("AtLeastOnce"), ""),
        ("/spec/stateBackend/heap", json!({}), "at most one of heap, rocksdb"),
        ("/spec/restart/none", json!({}), "at most one of exponentialDelay"),
        ("/spec/restore/from/path", json!("s3://x"), "exactly one of latest, checkpoint"),
    ];
    for (pointer, value, message) in table {
        let mut changed = job();
        set(&mut changed, pointer, value.clone());
        let refused = refused("StreamJob", &changed, None);
        if message.is_empty() {
            assert!(refused.is_empty(), "{pointer} = {value}: {refused:?}");
        } else {
            assert!(refused.iter().any(|found| found.starts_with(message)), "{pointer} = {value}: {refused:?}");
        }
    }
    let mut unaligned = job();
    set(&mut unaligned, "/spec/checkpoint/unaligned/enabled", json!(true));
    set(&mut unaligned, "/spec/checkpoint/maxConcurrent", json!(2));
    assert_eq!(
        refused("StreamJob", &unaligned, None),
        ["unaligned checkpoints need mode: ExactlyOnce and maxConcurrent: 1"]
    );
}

#[test]
fn what_state_depends_on_cannot_change() {
    let mut changed = job();
    set(&mut changed, "/spec/maxParallelism", json!(64));
    let refused_change = refused("StreamJob", &changed, Some(&job()));
    assert_eq!(refused_change, ["maxParallelism is the number of key groups and is immutable"]);

    let savepoint = |job: &str| json!({"metadata": {"name": "s"}, "spec": {"job": job}});
    assert!(refused("Savepoint", &savepoint("a"), Some(&savepoint("a"))).is_empty());
    assert_eq!(refused("Savepoint", &savepoint("b"), Some(&savepoint("a"))), ["a savepoint's spec is immutable"]);

    let checkpoint = |id: u64, pinned: bool| {
        let spec = json!({"job": "a", "jobUid": "u", "id": id, "kind": "Aligned", "path": "s3://x", "pinned": pinned});
        json!({"metadata": {"name": "c"}, "spec": spec})
    };
    assert!(refused("Checkpoint", &checkpoint(1, true), Some(&checkpoint(1, false))).is_empty());
    assert_eq!(refused("Checkpoint", &checkpoint(2, true), Some(&checkpoint(1, true))), ["id is immutable"]);
}

/// Sets the value at a JSON pointer whose parent is there.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = value;
}
