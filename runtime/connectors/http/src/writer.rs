//! The writer of one subtask: bodies in their order, one after the other.

use crate::batch::{Batch, Columns};
use crate::client::Client;
use crate::sink::HttpSinkConfig;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use weir_connectors::api::*;
use weir_model::CheckpointId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

pub(crate) struct HttpWriter {
    batch: Batch,
    client: Client,
    keys: Keys,
}

/// The keys of requests: the same ones again when the same records come again after a restore, and never one key for two
/// different bodies.
struct Keys {
    owner: u64,
    subtask: u32,
    /// The last checkpoint before the request; 0: there was none.
    checkpoint: u64,
    /// Since that checkpoint.
    sequence: u64,
}

/// As it stands in checkpoints.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriterState {
    checkpoint: u64,
}

impl HttpWriter {
    pub(crate) fn new(
        config: &HttpSinkConfig,
        client: Client,
        context: &SinkContext,
        restored: &[(u32, serde_json::Value)],
    ) -> Result<Self, ConnectorError> {
        let SinkContext { name, job_uid, subtask, input, .. } = context;
        let mut checkpoint = 0;
        for (_, state) in restored {
            let state: WriterState = serde_json::from_value(state.clone()).map_err(|error| {
                ConnectorError::Permanent(format!("sink `{name}`: the checkpoint's state can't be read: {error}"))
            })?;
            checkpoint = checkpoint.max(state.checkpoint);
        }
        let columns = Columns::of(input, config.change_kind_column.as_deref())?;
        // Neither part can hold the byte between them.
        let owner = xxh3_64(format!("{job_uid}\0{name}").as_bytes());
        Ok(HttpWriter {
            batch: Batch::new(&config.format, columns, config.batch_rows)?,
            client,
            keys: Keys { owner, subtask: *subtask, checkpoint, sequence: 0 },
        })
    }
}

impl Keys {
    fn next(&mut self, body: &[u8]) -> String {
        let Keys { owner, subtask, checkpoint, sequence } = self;
        // Of the body too: records of several inputs may come in another order the next time, and what is another body
        // must not be taken for the one before.
        let key = format!("{owner:016x}-{subtask}-{checkpoint}-{sequence}-{:032x}", xxh3_128(body));
        *sequence += 1;
        key
    }
}

impl SinkWriter for HttpWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let HttpWriter { batch: bodies, client, keys } = self;
        bodies.take(batch, |body| {
            let key = keys.next(&body);
            client.send(&key, body)
        })
    }

    /// All that came before is answered.
    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        if let Some(body) = self.batch.finish() {
            let key = self.keys.next(&body);
            self.client.send(&key, body)?;
        }
        (self.keys.checkpoint, self.keys.sequence) = (checkpoint.0, 0);
        let state = serde_json::json!({"checkpoint": checkpoint.0});
        Ok(SinkSnapshot { committables: vec![], writer: Some(state) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_its_place_and_of_its_body() {
        let keys = || Keys { owner: 7, subtask: 2, checkpoint: 5, sequence: 0 };
        let (mut first, mut again) = (keys(), keys());
        assert_eq!(first.next(b"a"), again.next(b"a"), "the same body at the same place");
        assert_ne!(first.next(b"a"), again.next(b"b"), "another body");
        let (third, fourth) = (first.next(b"a"), first.next(b"a"));
        assert_ne!(third, fourth, "the same body once more is another request");
        assert!(third.starts_with("0000000000000007-2-5-2-"), "{third}");
    }
}
