//! What a completed checkpoint says of splits that have no more records. A source whose splits follow one another, as a
//! Kinesis shard its parents, may begin with one when the others have been read, by whichever subtask.

use std::collections::BTreeMap;
use weir_connectors::api::SplitState;
use weir_model::OperatorUid;
use weir_snapshot::CheckpointManifest;

/// The splits' names, by source; sources without any are not in it.
pub(crate) type EndedSplits = BTreeMap<OperatorUid, Vec<String>>;

pub(crate) fn ended_splits(manifest: &CheckpointManifest) -> Result<EndedSplits, String> {
    let mut found = EndedSplits::new();
    for operator in &manifest.operators {
        for split in operator.subtasks.iter().flat_map(|subtask| &subtask.splits) {
            let has_field = split.get("position").is_some_and(|position| position.get(SplitState::ENDED).is_some());
            if !has_field {
                continue;
            }
            let split: SplitState = serde_json::from_value(split.clone())
                .map_err(|error| format!("checkpoint {}, source `{}`: {error}", manifest.checkpoint, operator.uid))?;
            if split.is_ended() {
                found.entry(operator.uid.clone()).or_default().push(split.split);
            }
        }
    }
    Ok(found)
}
