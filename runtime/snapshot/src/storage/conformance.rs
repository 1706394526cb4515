//! What every `Storage` must pass. Implementations run it in their own tests, against the real service.

use super::{LossyProxy, ObjectInfo, ObjectPath, PutOutcome, Storage, StorageErrorKind, UPLOAD_PART_BYTES, list_all};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

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
    any_valid_name_works(&*storage).await;
    readers_see_one_version(&storage).await;
    clear(&*storage).await;
}

/// Checks what takes many or large objects, on a storage whose root is empty, and leaves it empty.
///
/// # Panics
/// With what was promised and not kept.
pub async fn check_sizes(storage: Arc<dyn Storage>) {
    large_objects_are_read_as_written(&*storage).await;
    a_large_upload_that_is_dropped_leaves_nothing(&*storage).await;
    long_lists_come_in_pages(&storage).await;
    clear(&*storage).await;
}

/// Checks that a lost answer to a successful `put_if_absent` is told from a lost race. `storage` reaches its service
/// through `proxy`, which loses answers to conditional writes when it is armed; `direct` reaches the same root.
///
/// # Panics
/// With what was promised and not kept.
pub async fn check_lost_answers(storage: &dyn Storage, direct: &dyn Storage, proxy: &LossyProxy) {
    proxy.arm(1);
    let outcome = storage.put_if_absent(&path("lost/own"), Bytes::from_static(b"own")).await;
    assert_eq!(proxy.lost(), 1, "the proxy saw no conditional write");
    match outcome {
        Ok(PutOutcome::Created) => {}
        // Honest too: then the caller asks.
        Err(error) if error.is_transient() => {}
        other => panic!("the object was created by this call, and it says {other:?}"),
    }
    assert_eq!(direct.get(&path("lost/own")).await.expect("get"), &b"own"[..]);

    direct.put(&path("lost/race"), Bytes::from_static(b"first")).await.expect("put");
    proxy.arm(1);
    match storage.put_if_absent(&path("lost/race"), Bytes::from_static(b"second")).await {
        Ok(PutOutcome::Exists) => {}
        Err(error) if error.is_transient() => {}
        other => panic!("another was first, and it says {other:?}"),
    }
    proxy.arm(0);
    assert_eq!(direct.get(&path("lost/race")).await.expect("get"), &b"first"[..], "the loser wrote");
    clear(direct).await;
}

async fn clear(storage: &dyn Storage) {
    for info in list_all(storage, &ObjectPath::root()).await.expect("the root lists") {
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
    const ROUNDS: usize = 5;
    for round in 0..ROUNDS {
        let object = path(&format!("race/object-{round}"));
        let winner = race(storage, &object).await;
        let content = storage.get(&object).await.expect("get");
        assert_eq!(content, format!("writer {winner}").into_bytes(), "what stands there is the winner's");
    }
    let object = path("race/replaced");
    storage.put(&object, Bytes::from_static(b"put")).await.expect("put");
    let outcome = storage.put_if_absent(&object, Bytes::from_static(b"late")).await.expect("put_if_absent");
    assert_eq!(outcome, PutOutcome::Exists, "an object that was put is there");
    assert_eq!(storage.get(&object).await.expect("get"), &b"put"[..], "who comes too late changes nothing");
}

/// The one of many writers that created the object.
async fn race(storage: &Arc<dyn Storage>, object: &ObjectPath) -> usize {
    const WRITERS: usize = 16;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (storage, object) = (storage.clone(), object.clone());
        writers.push(tokio::spawn(async move {
            let content = Bytes::from(format!("writer {writer}"));
            storage.put_if_absent(&object, content).await.expect("put_if_absent")
        }));
    }
    let mut winner = None;
    for (writer, handle) in writers.into_iter().enumerate() {
        if handle.await.expect("no panic") == PutOutcome::Created {
            assert_eq!(winner.replace(writer), None, "two writers created one object");
        }
    }
    winner.expect("one writer creates")
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

    let mut again = storage.upload(&object).await.expect("upload");
    again.write(Bytes::from_static(b"three")).await.expect("write");
    again.finish().await.expect("finish");
    assert_eq!(storage.get(&object).await.expect("get"), &b"three"[..], "an upload replaces");

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

async fn any_valid_name_works(storage: &dyn Storage) {
    // No `:`, which HDFS lacks; names that people gave are escaped anyway.
    let names = ["names/%2E.data", "names/a b+c&d=e", "names/a%2Fb", "names/~$!'()*,;@#?[]", "names/ü-漢-🦀"];
    for name in names {
        let content = Bytes::copy_from_slice(name.as_bytes());
        let outcome = storage.put_if_absent(&path(name), content.clone()).await.expect(name);
        assert_eq!(outcome, PutOutcome::Created, "{name} is a name of its own");
        assert_eq!(storage.get(&path(name)).await.expect(name), content, "{name}");
        assert_eq!(storage.head(&path(name)).await.expect(name), name.len() as u64, "{name}");
    }
    let mut sorted = names;
    sorted.sort_unstable();
    let listed = list_all(storage, &path("names")).await.expect("list");
    let listed = listed.iter().map(|info| info.path.as_str()).collect::<Vec<_>>();
    assert_eq!(listed, sorted, "names are listed as they were given");
}

async fn readers_see_one_version(storage: &Arc<dyn Storage>) {
    const VERSIONS: u8 = 10;
    const BYTES: usize = 64 << 10;
    let object = path("versions/object");
    storage.put(&object, vec![0; BYTES].into()).await.expect("put");
    let writer = tokio::spawn({
        let (storage, object) = (storage.clone(), object.clone());
        async move {
            for version in 1..=VERSIONS {
                storage.put(&object, vec![version; BYTES].into()).await.expect("put");
            }
        }
    });
    let mut last = 0;
    while last < VERSIONS {
        let content = storage.get(&object).await.expect("get while it is replaced");
        assert_eq!(content.len(), BYTES, "a reader sees a whole object");
        assert!(content.iter().all(|byte| *byte == content[0]), "a reader sees one version");
        assert!(content[0] >= last, "a reader that saw version {last} then saw {}", content[0]);
        last = content[0];
        // A storage that never waits would not let the writer run, where both share a thread.
        tokio::task::yield_now().await;
    }
    writer.await.expect("no panic");
}

/// Bytes of which each tells where it stands.
fn numbered(length: usize) -> Bytes {
    (0..length / 8 + 1).flat_map(|number| (number as u64).to_le_bytes()).take(length).collect::<Vec<_>>().into()
}

async fn large_objects_are_read_as_written(storage: &dyn Storage) {
    let object = path("large/object");
    // Two full parts and the rest, in pieces that end elsewhere.
    let content = numbered(2 * UPLOAD_PART_BYTES + 12_345);
    let mut upload = storage.upload(&object).await.expect("upload");
    let mut rest = content.clone();
    while !rest.is_empty() {
        upload.write(rest.split_to(rest.len().min(5_000_011))).await.expect("write");
    }
    assert!(storage.head(&object).await.expect_err("unfinished").is_not_found(), "an unfinished upload is invisible");
    upload.finish().await.expect("finish");
    assert_eq!(storage.head(&object).await.expect("head"), content.len() as u64);
    let border = UPLOAD_PART_BYTES as u64 - 9;
    for (offset, length) in [(border, 20), (0, 1), (content.len() as u64 - 3, 3), (border, 6 << 20)] {
        let range = storage.get_range(&object, offset, length).await.expect("get_range");
        assert!(range == content.slice(offset as usize..(offset + length) as usize), "{length} bytes at {offset}");
    }
    assert!(storage.get(&object).await.expect("get") == content, "parts come in their order");

    let mut exact = storage.upload(&path("large/exact")).await.expect("upload");
    for part in [content.slice(..UPLOAD_PART_BYTES), content.slice(UPLOAD_PART_BYTES..2 * UPLOAD_PART_BYTES)] {
        exact.write(part).await.expect("write");
    }
    exact.finish().await.expect("finish");
    assert_eq!(storage.head(&path("large/exact")).await.expect("head"), 2 * UPLOAD_PART_BYTES as u64);
}

async fn a_large_upload_that_is_dropped_leaves_nothing(storage: &dyn Storage) {
    let object = path("dropped/object");
    let mut upload = storage.upload(&object).await.expect("upload");
    upload.write(numbered(UPLOAD_PART_BYTES)).await.expect("write");
    upload.write(numbered(UPLOAD_PART_BYTES)).await.expect("write");
    drop(upload);
    // It tidies up in the background; what it has not reached is swept.
    storage.sweep_unfinished(&path("dropped"), Duration::ZERO).await.expect("sweep");
    assert!(storage.head(&object).await.expect_err("dropped").is_not_found());
    assert_eq!(storage.list(&path("dropped"), None, 10).await.expect("list"), []);
}

async fn long_lists_come_in_pages(storage: &Arc<dyn Storage>) {
    // More than a page of any store, and written many at once.
    const OBJECTS: usize = 1_010;
    const AT_ONCE: usize = 32;
    let names = (0..OBJECTS).map(|number| path(&format!("many/{number:05}"))).collect::<Vec<_>>();
    for names in names.chunks(AT_ONCE) {
        let puts = names.iter().cloned().map(|name| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.put(&name, Bytes::from_static(b"x")).await.expect("put") })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await.expect("no panic");
        }
    }
    let of = |infos: Vec<ObjectInfo>| infos.into_iter().map(|info| info.path).collect::<Vec<_>>();
    assert_eq!(of(list_all(&**storage, &path("many")).await.expect("list")), names);
    let limit = OBJECTS - 5;
    assert_eq!(of(storage.list(&path("many"), None, limit).await.expect("list")), names[..limit], "a large limit");
    let after = storage.list(&path("many"), Some(&names[1_000]), 100).await.expect("list");
    assert_eq!(of(after), names[1_001..], "start_after in the second page");
}

fn path(path: &str) -> ObjectPath {
    ObjectPath::parse(path).expect("a valid path")
}
