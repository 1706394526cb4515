//! Against a server that speaks the protocol of Azure Blob Storage, whose address WEIR_TEST_AZURE holds:
//! `cargo xtask test-storage azure`.

use object_store::ClientOptions;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector, HttpRequestBody, ReqwestConnector};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use weir_snapshot::ObjectPath;
use weir_snapshot::storage::{
    Credentials, LossyProxy, StorageAddress, StorageOptions, conformance, require_put_if_absent,
};
use weir_storage_object_store::ObjectStorage;

const VARIABLE: &str = "WEIR_TEST_AZURE";
const CONTAINER: &str = "weir-test";
/// The emulator's account, with the key that its documentation publishes.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
static NEXT_ROOT: AtomicU32 = AtomicU32::new(0);

/// The server's address; its container is there. `None`: there is no server, and the test says so.
async fn server() -> Option<String> {
    let Ok(server) = std::env::var(VARIABLE) else {
        eprintln!("skipped: {VARIABLE} names no server; `cargo xtask test-storage azure` starts one");
        return None;
    };
    create_container(&server).await;
    Some(server)
}

async fn create_container(server: &str) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let uri = format!("{server}/{CONTAINER}?restype=container");
    let request = http::Request::put(uri).header("content-length", "0").body(HttpRequestBody::empty());
    let mut request = request.expect("a request");
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).expect("a key"));
    AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).expect("a signature");
    let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).expect("a client");
    let status = client.execute(request).await.expect("an answer").status();
    // 409: another test was first.
    assert!(status.is_success() || status.as_u16() == 409, "the container can't be made: {status}");
}

fn root() -> String {
    format!("az://{CONTAINER}/{}-{}", std::process::id(), NEXT_ROOT.fetch_add(1, Ordering::Relaxed))
}

fn open_at(endpoint: &str, uri: &str) -> ObjectStorage {
    let secrets = [("accountName", ACCOUNT), ("accountKey", KEY)];
    let secrets: Credentials = secrets.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    let endpoint = Some(endpoint.to_owned());
    let options = StorageOptions { endpoint, credentials: Some(secrets), ..StorageOptions::default() };
    weir_storage_object_store::open(&StorageAddress::parse(uri).expect("an address"), &options).expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(server) = server().await else { return };
    let storage = open_at(&server, &root());
    require_put_if_absent(&storage, &ObjectPath::root()).await.expect("put-if-absent");
    conformance::check(Arc::new(storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_many_and_large_objects() {
    let Some(server) = server().await else { return };
    conformance::check_sizes(Arc::new(open_at(&server, &root()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_not_a_lost_race() {
    let Some(server) = server().await else { return };
    let host = server.strip_prefix("http://").expect("plain HTTP").split('/').next().expect("a host");
    let proxy = LossyProxy::start(host, &["put /", "if-none-match"]).await.expect("a proxy");
    let uri = root();
    let through = format!("{}/{ACCOUNT}", proxy.url());
    conformance::check_lost_answers(&open_at(&through, &uri), &open_at(&server, &uri), &proxy).await;
}

#[test]
fn mistakes_are_named() {
    let refused = |uri: &str| {
        let address = StorageAddress::parse(uri).expect("an address");
        weir_storage_object_store::open(&address, &StorageOptions::default()).expect_err("refused").to_string()
    };
    assert!(refused("abfss://c/x").contains("abfss://container@account.dfs.core.windows.net/prefix"));
}
