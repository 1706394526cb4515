//! What stands between the storage trait and `object_store`, on its store in memory: for both orders of lists.

use object_store::memory::InMemory;
use std::sync::Arc;
use weir_snapshot::ObjectPath;
use weir_snapshot::storage::{KeyPrefix, conformance, require_put_if_absent};
use weir_storage_object_store::{ListOrder, ObjectStorage};

fn storage(order: ListOrder, prefix: &str) -> ObjectStorage {
    let prefix = KeyPrefix::new(prefix).expect("a prefix");
    ObjectStorage::new(Arc::new(InMemory::new()), order, prefix, "memory://")
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    for (order, prefix) in [(ListOrder::ByKey, "a/b"), (ListOrder::Any, "a/b"), (ListOrder::ByKey, "")] {
        let storage = Arc::new(storage(order, prefix));
        require_put_if_absent(&*storage, &ObjectPath::root()).await.expect("put-if-absent");
        conformance::check(storage.clone()).await;
        conformance::check_sizes(storage).await;
    }
}
