//! Commits and aborts against a real S3 server, whose address WEIR_TEST_S3 holds; `cargo xtask test` brings one.

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use weir_connectors::api::*;
use weir_connectors::files::{FilesSinkConfig, MultipartStore, ObjectFilesSink, ObjectName, Uploaded};
use weir_model::{AttemptNumber, CheckpointId, CommitPermit, Durable, Epoch, Fence};
use weir_snapshot::storage::{Credentials, LossyProxy, StorageOptions};

const VARIABLE: &str = "WEIR_TEST_S3";

fn server() -> Option<String> {
    let server = std::env::var(VARIABLE).ok();
    if server.is_none() {
        eprintln!("skipped: {VARIABLE} names no S3 server; `cargo xtask test` starts one");
    }
    server
}

/// A folder that nobody else uses.
fn folder() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("s3://weir-test/commit/{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn store(endpoint: &str) -> Arc<dyn MultipartStore> {
    let secrets = [("accessKeyId", "testkey"), ("secretAccessKey", "testsecret")];
    let secrets: Credentials = secrets.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    let options =
        StorageOptions { endpoint: Some(endpoint.to_owned()), credentials: Some(secrets), ..StorageOptions::default() };
    weir_connectors_s3::connect(&options).expect("a client")
}

fn sink(endpoint: &str, folder: &str) -> ObjectFilesSink {
    let store = store(endpoint);
    ObjectFilesSink::new(FilesSinkConfig::json(folder), Arc::new(move || Ok(store.clone()))).expect("a sink")
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

fn writer(sink: &ObjectFilesSink, name: &str, epoch: u64) -> Box<dyn SinkWriter> {
    let context = SinkContext {
        name: name.into(),
        job_uid: "uid-1".into(),
        subtask: 0,
        parallelism: 1,
        attempt: format!("e{epoch}-a1"),
        epoch: Epoch(epoch),
        attempt_number: AttemptNumber(1),
        input: schema(),
    };
    sink.writer(context, vec![]).expect("a writer")
}

fn committer(sink: &ObjectFilesSink, epoch: u64) -> Box<dyn Committer> {
    let context = CommitterContext { name: "out".into(), job_uid: "uid-1".into(), epoch: Epoch(epoch) };
    sink.committer(context).expect("a committer").expect("two phases")
}

fn prepare(writer: &mut dyn SinkWriter) -> Vec<Committable> {
    let rows = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(0..1000))]).expect("rows");
    writer.write(&rows).expect("write");
    let committables = writer.pre_commit(CheckpointId(1)).expect("pre-commit").committables;
    assert_eq!(committables.len(), 1);
    committables
}

fn permit() -> CommitPermit {
    let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
    CommitPermit::for_durable(&Durable::attest(CheckpointId(1)), fence)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_not_a_lost_upload() {
    let Some(server) = server() else { return };
    let host = server.strip_prefix("http://").expect("plain HTTP").to_owned();
    let proxy = LossyProxy::start(&host, &["post /", "uploadid="]).await.expect("a proxy");
    let (url, folder) = (proxy.url(), folder());
    let (committables, mut through, mut direct) = tokio::task::spawn_blocking({
        let (server, folder) = (server.clone(), folder.clone());
        move || {
            let sink_direct = sink(&server, &folder);
            let committables = prepare(&mut *writer(&sink_direct, "out", 1));
            (committables, committer(&sink(&url, &folder), 1), committer(&sink_direct, 1))
        }
    })
    .await
    .expect("prepared");
    proxy.arm(1);
    let again = committables.clone();
    tokio::task::spawn_blocking(move || through.commit(permit(), &again).expect("the repeated request finds it done"))
        .await
        .expect("committed");
    assert_eq!(proxy.lost(), 1, "no answer was lost");
    tokio::task::spawn_blocking(move || direct.commit(permit(), &committables).expect("again, after a restart"))
        .await
        .expect("committed again");
}

#[test]
fn an_upload_that_somebody_aborted_stops_the_job() {
    let Some(server) = server() else { return };
    let (store, folder) = (store(&server), folder());
    let sink = sink(&server, &folder);
    let committables = prepare(&mut *writer(&sink, "out", 1));
    let uploaded: Uploaded = serde_json::from_value(committables[0].0.clone()).expect("an upload");
    store.abort(&uploaded.object, &uploaded.upload).expect("abort");
    match committer(&sink, 1).commit(permit(), &committables) {
        Err(ConnectorError::Permanent(reason)) => {
            for part in ["sink `out`", "part-00000-", "is gone", "no such object", "aborted it"] {
                assert!(reason.contains(part), "no word of {part}: {reason}");
            }
        }
        other => panic!("what cannot be committed any more was {other:?}"),
    }
}

#[test]
fn what_no_checkpoint_holds_is_aborted_and_nothing_else() {
    let Some(server) = server() else { return };
    let (store, folder) = (store(&server), folder());
    let sink = sink(&server, &folder);
    let held = prepare(&mut *writer(&sink, "out", 1));
    if !lists(&store, &folder) {
        return;
    }
    let orphan = prepare(&mut *writer(&sink, "out", 1));
    let of_another_sink = prepare(&mut *writer(&sink, "other", 1));
    let of_a_later_coordinator = prepare(&mut *writer(&sink, "out", 3));
    let foreign = ObjectName::parse(&folder).expect("a folder").join("foreign.bin");
    let mut upload = store.begin(&foreign);
    upload.send(b"not ours".to_vec()).expect("send");
    let foreign = upload.uploaded().expect("uploaded");

    let mut committer = committer(&sink, 2);
    committer.abort_others(&held, &[]).expect("abort");
    let left = store.uploads(&ObjectName::parse(&folder).expect("a folder")).expect("list").expect("a list");
    let mut left: Vec<String> = left.into_iter().map(|(_, upload)| upload).collect();
    let id = |committables: &[Committable]| committables[0].0["upload"].as_str().expect("an id").to_owned();
    let mut expected = vec![id(&held), id(&of_another_sink), id(&of_a_later_coordinator), foreign.upload];
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    assert!(committer.commit(permit(), &orphan).is_err(), "what was aborted was committed");
    committer.commit(permit(), &held).expect("what the checkpoint holds is committed");
}

#[test]
fn a_writer_that_ends_leaves_no_upload() {
    let Some(server) = server() else { return };
    let (store, folder) = (store(&server), folder());
    let sink = sink(&server, &folder);
    let name = ObjectName::parse(&folder).expect("a folder");
    let other = store.begin(&name.join("other")).uploaded().expect("an upload without parts");
    if !lists(&store, &folder) {
        return;
    }
    store.abort(&other.object, &other.upload).expect("abort");
    let mut abandoned = writer(&sink, "out", 1);
    let rows = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(0..1000))]).expect("rows");
    abandoned.write(&rows).expect("write");
    let uploads = || store.uploads(&name).expect("list").expect("a list");
    await_condition("the upload begins", || !uploads().is_empty());
    abandoned.abort();
    await_condition("the upload is aborted", || uploads().is_empty());
}

/// Whether an upload that is there is found by its folder: MinIO lists those of one key alone.
fn lists(store: &Arc<dyn MultipartStore>, folder: &str) -> bool {
    let listed = store.uploads(&ObjectName::parse(folder).expect("a folder")).expect("list");
    let lists = listed.is_some_and(|uploads| !uploads.is_empty());
    if !lists {
        eprintln!("skipped: this store does not list the uploads of a folder");
    }
    lists
}

fn await_condition(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("waited in vain: {what}");
}
