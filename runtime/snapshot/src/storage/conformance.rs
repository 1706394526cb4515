//! What every `Storage` must pass. Implementations run it in their own tests, against the real service.

use super::{ObjectInfo, ObjectPath, PutOutcome, Storage, StorageErrorKind, list_all};
use bytes::Bytes;
use std::sync::Arc;

/// Checks the promises of the trait on a storage whose root is empty, and leaves it empty.
///
/// # Panics
/// With what was promised and not kept.
pub async fn check(storage: Arc<dyn Storage>) {
    let listed = list_all(&*storage, &ObjectPath::root()).await.expect("the root lists");
    assert!(listed.is_empty(), "the conformance check needs an empty root, {} holds {listed:?}", storage.uri());
    objects_are_read_as_written(&*storage).await;
    what_is_not_there_says_so(&*storage).await;
    ranges_are_exact(&*storage).await;
    only_one_creates(&storage).await;
    lists_are_ordered_and_paged(&*storage).await;
    uploads_appear_at_their_end(&*storage).await;
    deletes_repeat(&*storage).await;
    for info in list_all(&*storage, &ObjectPath::root()).await.expect("the root lists") {
        storage.delete(&info.path).await.expect("objects can be deleted");
    }
}

async fn objects_are_read_as_written(storage: &dyn Storage) {
    let object = path("plain/object");
    for content in [&b"first"[..], b"", b"second, longer than the first"] {
        storage.put(&object, Bytes::copy_from_slice(content)).await.expect("put");
        assert_eq!(storage.get(&object).await.expect("get"), content, "a put replaces");
        assert_eq!(storage.head(&object).await.expect("head"), content.len() as u64);
    }
}

async fn what_is_not_there_says_so(storage: &dyn Storage) {
    let absent = path("absent/object");
    let errors = [
        storage.get(&absent).await.expect_err("get of what isn't there"),
        storage.get_range(&absent, 0, 1).await.expect_err("get_range of what isn't there"),
        storage.head(&absent).await.expect_err("head of what isn't there"),
    ];
    for error in errors {
        assert_eq!(error.kind, StorageErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("absent/object"), "an error names its object: {error}");
    }
    assert_eq!(storage.list(&path("absent"), None, 10).await.expect("list"), [], "an absent folder is empty");
}

async fn ranges_are_exact(storage: &dyn Storage) {
    let object = path("range/object");
    storage.put(&object, Bytes::from_static(b"0123456789")).await.expect("put");
    for (offset, length, expected) in [(0, 10, &b"0123456789"[..]), (3, 4, b"3456"), (9, 1, b"9"), (4, 0, b"")] {
        assert_eq!(storage.get_range(&object, offset, length).await.expect("get_range"), expected);
    }
    for (offset, length) in [(0, 11), (10, 1), (50, 1), (u64::MAX, 2)] {
        let error = storage.get_range(&object, offset, length).await.expect_err("a range beyond the end");
        assert_eq!(error.kind, StorageErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("range/object"), "{error}");
    }
}

async fn only_one_creates(storage: &Arc<dyn Storage>) {
    const WRITERS: usize = 16;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let storage = storage.clone();
        writers.push(tokio::spawn(async move {
            let content = Bytes::from(format!("writer {writer}"));
            storage.put_if_absent(&path("race/object"), content).await.expect("put_if_absent")
        }));
    }
    let mut winner = None;
    for (writer, handle) in writers.into_iter().enumerate() {
        if handle.await.expect("no panic") == PutOutcome::Created {
            assert_eq!(winner.replace(writer), None, "two writers created one object");
        }
    }
    let winner = winner.expect("one writer creates");
    let content = storage.get(&path("race/object")).await.expect("get");
    assert_eq!(content, format!("writer {winner}").into_bytes(), "what stands there is the winner's");
}

async fn lists_are_ordered_and_paged(storage: &dyn Storage) {
    // `-` and `.` sort before `/`, so that the order of whole paths is not the order of a walk through folders.
    let names = ["list/a-b/1", "list/a.b", "list/a/1", "list/a/2", "list/a/b/c", "list/ab", "listed/not"];
    for name in names.iter().rev() {
        storage.put(&path(name), Bytes::from_static(b"xy")).await.expect("put");
    }
    let all = list_all(storage, &path("list")).await.expect("list");
    let expected = names[..6].iter().map(|name| ObjectInfo { path: path(name), length: 2 }).collect::<Vec<_>>();
    assert_eq!(all, expected, "a list holds the folder's objects in the order of their bytes");

    let page = storage.list(&path("list"), None, 2).await.expect("list");
    assert_eq!(page, expected[..2], "limit");
    let page = storage.list(&path("list"), Some(&path("list/a/1")), 2).await.expect("list");
    assert_eq!(page, expected[3..5], "start_after");
    let page = storage.list(&path("list"), Some(&path("list/a/15")), 9).await.expect("list");
    assert_eq!(page, expected[3..], "start_after need not exist");
}

async fn uploads_appear_at_their_end(storage: &dyn Storage) {
    let object = path("upload/object");
    let mut upload = storage.upload(&object).await.expect("upload");
    upload.write(Bytes::from_static(b"one, ")).await.expect("write");
    assert!(storage.head(&object).await.expect_err("unfinished").is_not_found(), "an unfinished upload is invisible");
    assert_eq!(storage.list(&path("upload"), None, 10).await.expect("list"), []);
    upload.write(Bytes::from_static(b"two")).await.expect("write");
    upload.finish().await.expect("finish");
    assert_eq!(storage.get(&object).await.expect("get"), &b"one, two"[..]);

    let dropped = storage.upload(&path("upload/dropped")).await.expect("upload");
    drop(dropped);
    assert!(storage.head(&path("upload/dropped")).await.expect_err("dropped").is_not_found());
}

async fn deletes_repeat(storage: &dyn Storage) {
    let object = path("delete/object");
    storage.put(&object, Bytes::from_static(b"x")).await.expect("put");
    storage.delete(&object).await.expect("delete");
    assert!(storage.get(&object).await.expect_err("deleted").is_not_found());
    storage.delete(&object).await.expect("deleting again is a success");
    let outcome = storage.put_if_absent(&object, Bytes::from_static(b"y")).await.expect("put_if_absent");
    assert_eq!(outcome, PutOutcome::Created, "a deleted name is free");
}

fn path(path: &str) -> ObjectPath {
    ObjectPath::parse(path).expect("a valid path")
}
