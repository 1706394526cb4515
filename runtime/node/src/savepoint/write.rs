//! From a completed checkpoint, as its segments stand on storage, to a savepoint. Nothing of the running job waits.

use super::address;
use super::states::StatesWriter;
use crate::backends::local_folder;
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::restore::FolderSegments;
use crate::storage_thread::now_ms;
use std::path::Path;
use tokio::runtime::Handle;
use weir_model::CheckpointId;
use weir_snapshot::read_history;
use weir_snapshot::savepoint::{SavepointManifest, SavepointOperator, SavepointWriter};
use weir_snapshot::{CheckpointManifest, JobFolder, ObjectPath, OperatorManifest, SubtaskManifest};

/// Writes the checkpoint as a savepoint into the folder `target`, a path or an address, and returns its address.
/// The checkpoint must stay for as long as this takes. Its files may be put into the folder `local` meanwhile.
pub(crate) fn write(
    job: &Job,
    source: &JobFolder,
    checkpoint: CheckpointId,
    target: &str,
    local: Option<&Path>,
    runtime: &Handle,
) -> Result<String, String> {
    let address = address(target)?;
    let written = || {
        let history = runtime.block_on(read_history(source)).map_err(|error| error.to_string())?;
        let checkpoint = history.checkpoint(checkpoint);
        let checkpoint = checkpoint.ok_or("its checkpoint is not in the job's log any more")?;
        write_to(job, source, checkpoint, manifest(checkpoint), &address, local, runtime)
    };
    written().map_err(|reason: String| format!("the savepoint `{address}` could not be written: {reason}"))?;
    Ok(address)
}

/// Writes a checkpoint out of any job's folder as a savepoint of this job's.
pub(super) fn copy(
    job: &Job,
    source: &JobFolder,
    checkpoint: &CheckpointManifest,
    address: &str,
    runtime: &Handle,
) -> Result<(), String> {
    let own = SavepointManifest { job_uid: job.uid.clone(), ..manifest(checkpoint) };
    write_to(job, source, checkpoint, own, address, local_folder(job).as_deref(), runtime)
        .map_err(|reason| format!("the checkpoint could not be copied to `{address}`: {reason}"))
}

fn write_to(
    job: &Job,
    source: &JobFolder,
    checkpoint: &CheckpointManifest,
    manifest: SavepointManifest,
    address: &str,
    local: Option<&Path>,
    runtime: &Handle,
) -> Result<(), String> {
    let storage = runtime.block_on(job.open_storage(address)).map_err(|error| error.to_string())?;
    let begun = SavepointWriter::begin(storage, ObjectPath::root(), checkpoint.max_parallelism);
    let savepoint = runtime.block_on(begun).map_err(|error| error.to_string())?;
    let segments = FolderSegments::new(source.clone(), runtime.clone());
    StatesWriter { savepoint: &savepoint, segments: &segments, local, runtime }.write(checkpoint)?;
    failpoint("savepoint-write");
    runtime.block_on(savepoint.finish(manifest)).map_err(|error| error.to_string())?;
    Ok(())
}

/// Everything but the keyed states.
fn manifest(checkpoint: &CheckpointManifest) -> SavepointManifest {
    let operator = |operator: &OperatorManifest| SavepointOperator {
        uid: operator.uid.clone(),
        parallelism: operator.parallelism,
        states: vec![],
        subtasks: operator.subtasks.iter().map(without_keyed).filter(holds_something).collect(),
    };
    SavepointManifest {
        job_uid: checkpoint.job_uid.clone(),
        job_name: checkpoint.job_uid.clone(),
        checkpoint: checkpoint.checkpoint,
        created_at_ms: now_ms(),
        max_parallelism: checkpoint.max_parallelism,
        operators: checkpoint.operators.iter().map(operator).collect(),
    }
}

fn without_keyed(subtask: &SubtaskManifest) -> SubtaskManifest {
    SubtaskManifest { keyed: None, ..subtask.clone() }
}

fn holds_something(subtask: &SubtaskManifest) -> bool {
    *subtask != SubtaskManifest { index: subtask.index, ..SubtaskManifest::default() }
}
