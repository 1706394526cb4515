//! Which transactional ids may be used again, and as whom: said by a subtask's committer to its writer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use weir_kafka_client::ProducerIdentity;

#[derive(Default)]
pub(super) struct Pool {
    /// By transactional id: who the producer is since its transaction ended.
    free: Mutex<HashMap<String, ProducerIdentity>>,
}

impl Pool {
    pub(super) fn release(&self, id: &str, identity: ProducerIdentity) {
        self.free().insert(id.to_owned(), identity);
    }

    pub(super) fn take(&self, id: &str) -> Option<ProducerIdentity> {
        self.free().remove(id)
    }

    /// What an earlier attempt of this subtask left.
    pub(super) fn clear(&self, of_subtask: &str) {
        self.free().retain(|id, _| !id.starts_with(of_subtask));
    }

    fn free(&self) -> MutexGuard<'_, HashMap<String, ProducerIdentity>> {
        self.free.lock().expect("nobody panics while holding the pool")
    }
}
