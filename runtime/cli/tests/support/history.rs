//! What a job's commit log says.

use super::Scratch;
use std::sync::Arc;
use weir_model::Epoch;
use weir_snapshot::log::LogRecord;
use weir_snapshot::storage::LocalStorage;
use weir_snapshot::{JobFolder, read_history};

/// Epoch of each entry of the commit log in the scratch folder, and whether it is a completed checkpoint. Empty as long
/// as there is none, or it is somewhere else.
pub fn entries(scratch: &Scratch, job_uid: &str) -> Vec<(Epoch, bool)> {
    let folder = scratch.join("checkpoints");
    if !folder.is_dir() {
        return vec![];
    }
    let storage = LocalStorage::open(folder).expect("the storage");
    let folder = JobFolder::of_job(Arc::new(storage), job_uid).expect("a job's folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    // Read while it is written: it may change under the reader, who then looks again.
    let Ok(history) = runtime.block_on(read_history(&folder)) else { return vec![] };
    let is_checkpoint = |record: &LogRecord| matches!(record, LogRecord::CheckpointCompleted(_));
    history.entries.iter().map(|entry| (entry.epoch, is_checkpoint(&entry.record))).collect()
}

pub fn epochs(scratch: &Scratch, job_uid: &str) -> Vec<Epoch> {
    entries(scratch, job_uid).into_iter().map(|(epoch, _)| epoch).collect()
}
