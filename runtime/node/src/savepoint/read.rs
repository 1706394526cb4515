//! What a job that starts from a savepoint begins with.

use super::address;
use crate::job::Job;
use crate::restore::{FolderSegments, OperatorRestore, RestoreState, operator_restore};
use tokio::runtime::Handle;
use weir_model::{CheckpointId, Durable, OperatorUid, StateSchema};
use weir_snapshot::savepoint::{SavepointError, SavepointOperator, SavepointReader};
use weir_snapshot::{JobFolder, ObjectPath};
use weir_state::{KeyedState, StateError};

/// The keyed states of one operator, as they stand in a savepoint.
pub(crate) struct SavedStates {
    reader: SavepointReader,
    uid: OperatorUid,
    schemas: Vec<StateSchema>,
    runtime: Handle,
}

/// Why a job cannot begin with a savepoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Unusable(String),
}

impl From<String> for NotOpened {
    fn from(reason: String) -> Self {
        NotOpened::Unusable(reason)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FillError {
    #[error(transparent)]
    Savepoint(#[from] SavepointError),
    #[error("the savepoint's {0}")]
    State(#[from] StateError),
}

impl FillError {
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, FillError::Savepoint(SavepointError::Storage(error)) if error.is_transient())
    }
}

impl SavedStates {
    pub(crate) fn schemas(&self) -> &[StateSchema] {
        &self.schemas
    }

    /// Puts the owned key groups of all states where the operator finds them when it registers its own.
    pub(crate) fn fill(&self, state: &mut KeyedState) -> Result<(), FillError> {
        for schema in &self.schemas {
            state.import(schema, &[])?;
            let mut rows = self.reader.read_state(&self.uid, &schema.name, state.key_groups())?;
            while let Some(batch) = self.runtime.block_on(rows.next())? {
                state.import(schema, batch.columns())?;
            }
        }
        Ok(())
    }
}

/// Reads what the savepoint in the folder `uri` says of itself. Its states are read operator by operator, later.
///
/// With the proof that the checkpoint it was written from was complete.
pub(crate) fn open(
    job: &Job,
    uri: &str,
    runtime: &Handle,
) -> Result<(Durable<CheckpointId>, RestoreState, FolderSegments), NotOpened> {
    let address = address(uri)?;
    if let Some(path) = address.strip_prefix("file://")
        && !std::path::Path::new(path).is_dir()
    {
        return Err(NotOpened::Missing(format!("there is no savepoint `{address}`: no such folder")));
    }
    let storage = runtime.block_on(job.open_storage(&address)).map_err(|error| error.to_string())?;
    let reader = SavepointReader::open(storage.clone(), ObjectPath::root());
    let reader = runtime.block_on(reader).map_err(|error| match error {
        SavepointError::NotASavepoint { .. } => NotOpened::Missing(format!("savepoint `{address}`: {error}")),
        other => NotOpened::Unusable(format!("savepoint `{address}`: {other}")),
    })?;
    let operators = reader.manifest().operators.iter().map(|operator| {
        let restored = restored_operator(&reader, operator, runtime)
            .map_err(|error| format!("savepoint `{address}`, operator `{}`: {error}", operator.uid))?;
        Ok::<_, String>((operator.uid.clone(), restored))
    });
    let restore = RestoreState {
        max_parallelism: reader.manifest().max_parallelism,
        operators: operators.collect::<Result<_, _>>()?,
    };
    // No segment is read from there; everything keyed stands in the savepoint's own tables.
    let segments = FolderSegments::new(JobFolder::at(storage, ObjectPath::root()), runtime.clone());
    Ok((reader.proof(), restore, segments))
}

fn restored_operator(
    reader: &SavepointReader,
    operator: &SavepointOperator,
    runtime: &Handle,
) -> Result<OperatorRestore, serde_json::Error> {
    let schemas: Vec<StateSchema> = operator.states.iter().map(|state| state.schema.clone()).collect();
    let mut restored = operator_restore(&operator.subtasks)?;
    restored.saved = (!schemas.is_empty()).then(|| SavedStates {
        reader: reader.clone(),
        uid: operator.uid.clone(),
        schemas,
        runtime: runtime.clone(),
    });
    Ok(restored)
}
