//! Against a server that speaks the protocol of Google Cloud Storage, whose address WEIR_TEST_GCS holds:
//! `cargo xtask test-storage gcs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use weir_snapshot::ObjectPath;
use weir_snapshot::storage::{LossyProxy, StorageAddress, StorageOptions, conformance, require_put_if_absent};
use weir_storage_object_store::ObjectStorage;

const VARIABLE: &str = "WEIR_TEST_GCS";
const BUCKET: &str = "weir-test";
static NEXT_ROOT: AtomicU32 = AtomicU32::new(0);

/// The server's address. `None`: there is no server, and the test says so.
fn server() -> Option<String> {
    let server = std::env::var(VARIABLE).ok();
    if server.is_none() {
        eprintln!("skipped: {VARIABLE} names no server; `cargo xtask test-storage gcs` starts one");
    }
    server
}

fn root() -> String {
    format!("gs://{BUCKET}/{}-{}", std::process::id(), NEXT_ROOT.fetch_add(1, Ordering::Relaxed))
}

fn open_at(endpoint: &str, uri: &str) -> ObjectStorage {
    let options = StorageOptions { endpoint: Some(endpoint.to_owned()), ..StorageOptions::default() };
    weir_storage_object_store::open(&StorageAddress::parse(uri).expect("an address"), &options).expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(server) = server() else { return };
    let storage = open_at(&server, &root());
    require_put_if_absent(&storage, &ObjectPath::root()).await.expect("put-if-absent");
    conformance::check(Arc::new(storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_many_and_large_objects() {
    let Some(server) = server() else { return };
    conformance::check_sizes(Arc::new(open_at(&server, &root()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_not_a_lost_race() {
    let Some(server) = server() else { return };
    let host = server.strip_prefix("http://").expect("plain HTTP");
    let proxy = LossyProxy::start(host, &["put /", "x-goog-if-generation-match: 0"]).await.expect("a proxy");
    let uri = root();
    conformance::check_lost_answers(&open_at(&proxy.url(), &uri), &open_at(&server, &uri), &proxy).await;
}

#[test]
fn mistakes_are_named() {
    let address = StorageAddress::parse("gs:///x").expect("an address");
    let refused = weir_storage_object_store::open(&address, &StorageOptions::default()).expect_err("refused");
    assert!(refused.to_string().contains("no bucket"), "{refused}");
}
