//! Against a real S3 server, whose address WEIR_TEST_S3 holds. `cargo xtask test` brings one; `cargo xtask
//! test-storage s3` takes a durable one.

use bytes::Bytes;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use weir_snapshot::log::Opened;
use weir_snapshot::storage::{
    Credentials, LossyProxy, Storage, StorageAddress, StorageError, StorageOptions, UPLOAD_PART_BYTES, conformance,
    list_all, require_put_if_absent,
};
use weir_snapshot::{CommitLog, JobFolder, LogOptions, ObjectPath, StorageErrorKind, WriterId};
use weir_storage_s3::S3Storage;

const VARIABLE: &str = "WEIR_TEST_S3";
static NEXT_ROOT: AtomicU32 = AtomicU32::new(0);

/// The server's address. `None`: there is none, and the test says so.
fn server() -> Option<String> {
    let server = std::env::var(VARIABLE).ok();
    if server.is_none() {
        eprintln!("skipped: {VARIABLE} names no S3 server; `cargo xtask test-storage s3` starts one");
    }
    server
}

/// A bucket's part that nobody else uses.
fn root() -> String {
    format!("s3://weir-test/{}-{}", std::process::id(), NEXT_ROOT.fetch_add(1, Ordering::Relaxed))
}

fn options(endpoint: &str, secret: &str) -> StorageOptions {
    let secrets = [("accessKeyId", "testkey"), ("secretAccessKey", secret)];
    let secrets: Credentials = secrets.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    StorageOptions { endpoint: Some(endpoint.to_owned()), credentials: Some(secrets), ..StorageOptions::default() }
}

async fn open_at(endpoint: &str, uri: &str) -> S3Storage {
    let address = StorageAddress::parse(uri).expect("an address");
    weir_storage_s3::open(&address, &options(endpoint, "testsecret")).await.expect("a client")
}

fn path(path: &str) -> ObjectPath {
    ObjectPath::parse(path).expect("a valid path")
}

fn host(endpoint: &str) -> &str {
    endpoint.strip_prefix("http://").expect("plain HTTP")
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(server) = server() else { return };
    let storage = open_at(&server, &root()).await;
    require_put_if_absent(&storage, &ObjectPath::root()).await.expect("put-if-absent");
    conformance::check(Arc::new(storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_many_and_large_objects() {
    let Some(server) = server() else { return };
    conformance::check_sizes(Arc::new(open_at(&server, &root()).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_not_a_lost_race() {
    let Some(server) = server() else { return };
    let proxy = LossyProxy::start(host(&server), &["put /", "if-none-match"]).await.expect("a proxy");
    let uri = root();
    let (storage, direct) = (open_at(&proxy.url(), &uri).await, open_at(&server, &uri).await);
    conformance::check_lost_answers(&storage, &direct, &proxy).await;
    // More precisely than the suite asks: the SDK repeats the request, and the object tells whose it is.
    proxy.arm(1);
    let outcome = storage.put_if_absent(&path("own"), Bytes::from_static(b"1")).await;
    assert_eq!(outcome.map_err(|error| error.to_string()), Ok(weir_snapshot::storage::PutOutcome::Created));
}

/// Every answer to every entry's first write is lost, and the log knows its entries.
#[tokio::test(flavor = "multi_thread")]
async fn the_commit_log_recognises_its_own_entries() {
    let Some(server) = server() else { return };
    let proxy = LossyProxy::start(host(&server), &["put /", "if-none-match"]).await.expect("a proxy");
    let uri = root();
    let lossy = JobFolder::of_job(Arc::new(open_at(&proxy.url(), &uri).await), "job").expect("a folder");
    for epoch in 1..=3 {
        proxy.arm(1);
        let choose = |_: &_| Ok::<_, Infallible>(Opened { restored_from: None, job_fingerprint: String::new() });
        let log = CommitLog::open(lossy.clone(), WriterId::random(), LogOptions::default(), epoch, choose).await;
        assert_eq!(log.expect("the log opens").epoch().0, epoch);
        assert_eq!(proxy.lost(), epoch);
    }
    let direct = open_at(&server, &uri).await;
    let entries = list_all(&direct, &path("job/log")).await.expect("list");
    assert_eq!(entries.len(), 3, "one entry for each opening: {entries:?}");
}

/// An answer to the end of an upload in parts is lost: the object is there, and `finish` finds that out.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_end_was_not_confirmed_is_found_complete() {
    let Some(server) = server() else { return };
    let proxy = LossyProxy::start(host(&server), &["post /", "uploadid="]).await.expect("a proxy");
    let uri = root();
    let (storage, direct) = (open_at(&proxy.url(), &uri).await, open_at(&server, &uri).await);
    let mut upload = storage.upload(&path("large")).await.expect("upload");
    upload.write(vec![7; UPLOAD_PART_BYTES + 1].into()).await.expect("write");
    proxy.arm(1);
    upload.finish().await.expect("finish");
    assert_eq!(proxy.lost(), 1);
    assert_eq!(direct.head(&path("large")).await.expect("head"), UPLOAD_PART_BYTES as u64 + 1);
    direct.delete(&path("large")).await.expect("delete");
}

/// As a process that is killed leaves them. How old an upload must be is tested beside the code: one of the servers dates
/// all of them alike.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_were_left_are_swept() {
    let Some(server) = server() else { return };
    let storage = open_at(&server, &root()).await;
    let mut upload = storage.upload(&path("job/left")).await.expect("upload");
    upload.write(vec![7; UPLOAD_PART_BYTES].into()).await.expect("write");
    std::mem::forget(upload);
    let swept = storage.sweep_unfinished(&path("job"), Duration::ZERO).await.expect("sweep");
    // MinIO lists unfinished uploads by whole names only, and removes them after a day by itself.
    assert!(swept <= 1, "{swept}");
    assert_eq!(storage.sweep_unfinished(&path("job"), Duration::ZERO).await.expect("sweep"), 0, "nothing stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named() {
    let Some(server) = server() else { return };
    let kind = |error: &StorageError| error.kind;
    let nowhere = open_at(&server, "s3://no-such-bucket/x").await;
    let error = nowhere.put(&path("a"), Bytes::from_static(b"x")).await.expect_err("no bucket");
    assert_eq!(kind(&error), StorageErrorKind::Permanent, "{error}");
    for part in ["s3://no-such-bucket/x/a", "NoSuchBucket", "create the bucket"] {
        assert!(error.to_string().contains(part), "no word of {part}: {error}");
    }
    for (uri, part) in [("s3:///x", "no bucket"), ("s3://b--x-s3/x", "directory bucket"), ("s3://b/../x", "`..`")] {
        let address = StorageAddress::parse(uri).expect("an address");
        let error = weir_storage_s3::open(&address, &options(&server, "x")).await.expect_err("refused").to_string();
        assert!(error.contains(part) && error.contains(uri), "{uri}: {error}");
    }
    let address = StorageAddress::parse("s3://b/x").expect("an address");
    let half: Credentials = [("accessKeyId".to_owned(), "id".to_owned())].into_iter().collect();
    let half = StorageOptions { credentials: Some(half), ..options(&server, "x") };
    let error = weir_storage_s3::open(&address, &half).await.expect_err("refused").to_string();
    assert!(error.contains("`secretAccessKey`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_a_transient_failure() {
    // Nothing listens on a port that was free a moment ago.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let storage = open_at(&format!("http://127.0.0.1:{port}"), "s3://b/x").await;
    let error = storage.get(&path("a")).await.expect_err("nobody is there");
    assert_eq!(error.kind, StorageErrorKind::Transient, "{error}");
    assert!(error.to_string().contains("refused"), "the cause is named: {error}");
}
