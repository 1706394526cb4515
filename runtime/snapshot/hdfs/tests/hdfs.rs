//! Against a small HDFS cluster, whose address WEIR_TEST_HDFS holds: `cargo xtask test-storage hdfs`.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use weir_snapshot::storage::{
    Credentials, Storage, StorageAddress, StorageOptions, conformance, list_all, require_put_if_absent,
};
use weir_snapshot::{ObjectPath, StorageErrorKind};
use weir_storage_hdfs::HdfsStorage;

const VARIABLE: &str = "WEIR_TEST_HDFS";
static NEXT_ROOT: AtomicU32 = AtomicU32::new(0);

/// The folder of one test. `None`: there is no server, and the test says so.
async fn storage() -> Option<HdfsStorage> {
    let Ok(server) = std::env::var(VARIABLE) else {
        eprintln!("skipped: {VARIABLE} names no server; `cargo xtask test-storage hdfs` starts one");
        return None;
    };
    let root = format!("{server}/weir/{}-{}", std::process::id(), NEXT_ROOT.fetch_add(1, Ordering::Relaxed));
    let address = StorageAddress::parse(&root).expect("an address");
    Some(weir_storage_hdfs::open(&address, &StorageOptions::default()).await.expect("a client"))
}

fn path(path: &str) -> ObjectPath {
    ObjectPath::parse(path).expect("a valid path")
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(storage) = storage().await else { return };
    require_put_if_absent(&storage, &ObjectPath::root()).await.expect("put-if-absent");
    conformance::check(Arc::new(storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_many_and_large_objects() {
    let Some(storage) = storage().await else { return };
    conformance::check_sizes(Arc::new(storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_is_not_listed_and_is_swept() {
    let Some(storage) = storage().await else { return };
    storage.put(&path("job/a"), Bytes::from_static(b"1")).await.expect("put");
    let mut upload = storage.upload(&path("job/b")).await.expect("upload");
    upload.write(Bytes::from_static(b"half")).await.expect("write");
    std::mem::forget(upload);
    let listed = list_all(&storage, &path("job")).await.expect("list");
    assert_eq!(listed.iter().map(|info| info.path.as_str()).collect::<Vec<_>>(), ["job/a"]);
    let swept = storage.sweep_unfinished(&path("job"), Duration::from_secs(3600)).await.expect("sweep");
    assert_eq!(swept, 0, "too young");
    assert_eq!(storage.sweep_unfinished(&path("job"), Duration::ZERO).await.expect("sweep"), 1);
    storage.delete(&path("job/a")).await.expect("delete");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named() {
    let open = async |uri: &str, options: StorageOptions| {
        let address = StorageAddress::parse(uri).expect("an address");
        weir_storage_hdfs::open(&address, &options).await.map(|_| ()).expect_err("refused")
    };
    let error = open("hdfs:///x", StorageOptions::default()).await;
    assert!(error.to_string().contains("no name node"), "{error}");
    let credentials = Some([("accountKey".to_owned(), "x".to_owned())].into_iter().collect::<Credentials>());
    let error = open("hdfs://nn:8020/x", StorageOptions { credentials, ..StorageOptions::default() }).await;
    assert!(error.to_string().contains("HADOOP_USER_NAME"), "{error}");
    assert_eq!(error.kind, StorageErrorKind::Permanent);
}
