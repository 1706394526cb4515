//! Whether a store keeps the one promise on which everything stands.

use super::{ObjectPath, Operation, PutOutcome, Storage, StorageError, StorageErrorKind};
use bytes::Bytes;
use uuid::Uuid;

const PROBE_FOLDER: &str = "probe";
const FIRST: &[u8] = b"first";

/// Creates one small object twice: the second time must say that it was there, and leave it as it was.
///
/// A store that ignores the condition would let two coordinators complete the same checkpoint, each believing that it
/// was the only one. It is refused before anything stands on it.
pub async fn require_put_if_absent(storage: &dyn Storage, folder: &ObjectPath) -> Result<(), StorageError> {
    let path = folder.child(&format!("{PROBE_FOLDER}/{}", Uuid::new_v4().simple()));
    let path = path.map_err(|error| StorageError::refused(storage.uri(), error))?;
    let outcome = probe(storage, &path).await;
    let is_written = match &outcome {
        Err(error) => error.operation != Operation::PutIfAbsent || error.is_transient(),
        Ok(()) => true,
    };
    // Best effort: what stays is one object of five bytes that nothing reads.
    if is_written && let Err(error) = storage.delete(&path).await {
        tracing::warn!(%error, "the probe of the storage could not be removed");
    }
    outcome
}

async fn probe(storage: &dyn Storage, path: &ObjectPath) -> Result<(), StorageError> {
    let refuse = |reason: &str| {
        let remedy = "checkpoints need a store that creates an object only if it isn't there (S3: `If-None-Match: *` \
                      on PutObject); use another store, or a newer version of this one";
        let message = format!("{reason}; {remedy}");
        Err(StorageError::new(Operation::Open, storage.uri(), StorageErrorKind::Permanent, message))
    };
    match storage.put_if_absent(path, Bytes::from_static(FIRST)).await? {
        PutOutcome::Created => {}
        PutOutcome::Exists => return refuse("an object that nobody has written is said to be there"),
    }
    if storage.put_if_absent(path, Bytes::from_static(b"second")).await? == PutOutcome::Created {
        return refuse("the store replaced an object that was to be created only if absent");
    }
    match storage.get(path).await? {
        content if content == FIRST => Ok(()),
        _ => refuse("the store said that an object was there, and replaced it"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, FaultPlan, FaultyStorage, MemoryStorage, ScriptedFault, list_all};
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_store_that_keeps_its_word_is_left_as_it_was() {
        let storage = MemoryStorage::new();
        require_put_if_absent(&storage, &ObjectPath::parse("job").unwrap()).await.unwrap();
        assert_eq!(list_all(&storage, &ObjectPath::root()).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_store_that_says_created_to_everyone_is_refused() {
        // The second put says `Created`, as a store does that ignores the condition.
        let lies = ScriptedFault {
            operation: Some(Operation::PutIfAbsent),
            path_contains: String::new(),
            nth: 1,
            fault: Fault::Lost,
        };
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), FaultPlan::Scripted(vec![lies]));
        let error = require_put_if_absent(&storage, &ObjectPath::root()).await.unwrap_err();
        assert!(error.to_string().contains("If-None-Match"), "{error}");
    }
}
