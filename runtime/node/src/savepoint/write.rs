//! From a completed checkpoint, as its segments stand on storage, to a savepoint. Nothing of the running job waits.

use super::address;
use crate::backends::local_folder;
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::restore::FolderSegments;
use crate::storage_thread::now_ms;
use arrow::array::{ArrayRef, RecordBatch};
use std::collections::HashMap;
use std::path::Path;
use tokio::runtime::Handle;
use weir_model::{CheckpointId, OperatorUid, StateSchema};
use weir_snapshot::read_history;
use weir_snapshot::savepoint::{
    SavepointError, SavepointManifest, SavepointOperator, SavepointWriter, StateWriter, state_columns,
};
use weir_snapshot::{CheckpointManifest, JobFolder, ObjectPath, OperatorManifest, SubtaskManifest};
use weir_state::{KeyedStateHandle, StateError, export_stored};
use weir_state_rocksdb::open_files;

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Savepoint(#[from] SavepointError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("its keyed state is not described as this version of Weir does: {0}")]
    Handle(#[from] serde_json::Error),
}

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
    for operator in &checkpoint.operators {
        let subtasks = operator.subtasks.iter().filter_map(|subtask| Some((subtask.index, subtask.keyed.as_ref()?)));
        for (index, keyed) in subtasks {
            write_subtask(&savepoint, &operator.uid, keyed, &segments, local, runtime)
                .map_err(|error| format!("{}, subtask {index}: {error}", operator.uid))?;
        }
    }
    failpoint("savepoint-write");
    runtime.block_on(savepoint.finish(manifest)).map_err(|error| error.to_string())?;
    Ok(())
}

/// Writes all keyed state of one subtask.
fn write_subtask(
    savepoint: &SavepointWriter,
    uid: &OperatorUid,
    keyed: &serde_json::Value,
    segments: &FolderSegments,
    local: Option<&Path>,
    runtime: &Handle,
) -> Result<(), WriteError> {
    let handle: KeyedStateHandle = serde_json::from_value(keyed.clone())?;
    let writer = |schema: &StateSchema| Ok((schema.name.clone(), savepoint.state(uid, schema)?));
    let schemas = handle.states.iter().map(|state| &state.schema);
    let mut writers: HashMap<String, StateWriter> = schemas.map(writer).collect::<Result<_, SavepointError>>()?;
    let visit = |schema: &StateSchema, columns: Vec<ArrayRef>| {
        let batch = RecordBatch::try_new(state_columns(schema), columns)?;
        let writer = writers.get_mut(&schema.name).expect("only states of the handle are exported");
        Ok::<_, WriteError>(runtime.block_on(writer.write(&batch))?)
    };
    if handle.cold.is_some() {
        let files = open_files(local, std::slice::from_ref(&handle), handle.key_groups, segments)?;
        export_stored(&handle, &files, visit)?;
    } else {
        weir_state::export(&handle, segments, visit)?;
    }
    writers.into_values().try_for_each(|writer| Ok(runtime.block_on(writer.finish())?))
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
