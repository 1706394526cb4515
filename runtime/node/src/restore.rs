//! From a completed checkpoint to what each subtask of a new attempt starts with.

use crate::savepoint::SavedStates;
use crate::task::NodeSnapshot;
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_connectors::api::{Committable, SinkSnapshot, SplitState};
use weir_model::{OperatorUid, Watermark};
use weir_snapshot::{
    CheckpointManifest, JobFolder, ObjectPath, ObjectReader, OperatorManifest, SegmentLocation, SubtaskManifest,
};
use weir_state::{KeyedStateHandle, SegmentRef, SegmentSource, StateError};

/// What an attempt starts from.
pub(crate) struct RestoreState {
    /// Which the job must have, too.
    pub(crate) max_parallelism: u32,
    pub(crate) operators: BTreeMap<OperatorUid, OperatorRestore>,
}

#[derive(Default)]
pub(crate) struct OperatorRestore {
    /// Of every old subtask that had any.
    pub(crate) keyed: Vec<KeyedStateHandle>,
    /// Keyed state in a savepoint's form, instead.
    pub(crate) saved: Option<SavedStates>,
    pub(crate) splits: Vec<SplitState>,
    /// Old subtask index and what its writer kept.
    pub(crate) writers: Vec<(u32, serde_json::Value)>,
    pub(crate) committables: Vec<Committable>,
    /// Of a source: the least of its subtasks'.
    pub(crate) watermark: Option<Watermark>,
}

impl RestoreState {
    pub(crate) fn of(manifest: &CheckpointManifest) -> Result<Self, String> {
        let operator = |operator: &OperatorManifest| {
            let restored = operator_restore(&operator.subtasks)
                .map_err(|error| format!("checkpoint {}, operator `{}`: {error}", manifest.checkpoint, operator.uid))?;
            Ok::<_, String>((operator.uid.clone(), restored))
        };
        let operators = manifest.operators.iter().map(operator).collect::<Result<_, _>>()?;
        Ok(RestoreState { max_parallelism: manifest.max_parallelism, operators })
    }
}

pub(crate) fn operator_restore(subtasks: &[SubtaskManifest]) -> Result<OperatorRestore, serde_json::Error> {
    let mut restored = OperatorRestore::default();
    for SubtaskManifest { index, finished: _, keyed, splits, sink, operator: own } in subtasks {
        if let Some(keyed) = keyed {
            restored.keyed.push(serde_json::from_value(keyed.clone())?);
        }
        for split in splits {
            restored.splits.push(serde_json::from_value(split.clone())?);
        }
        if let Some(own) = own {
            let watermark: Watermark = serde_json::from_value(own.clone())?;
            restored.watermark = Some(restored.watermark.map_or(watermark, |least| least.min(watermark)));
        }
        if let Some(sink) = sink {
            let SinkSnapshot { committables, writer } = serde_json::from_value(sink.clone())?;
            restored.committables.extend(committables);
            restored.writers.extend(writer.map(|writer| (*index, writer)));
        }
    }
    Ok(restored)
}

/// The parts of a manifest that one subtask contributes.
pub(crate) fn subtask_manifest(index: u32, snapshot: NodeSnapshot) -> Result<SubtaskManifest, serde_json::Error> {
    let NodeSnapshot { uid: _, keyed, splits, sink, watermark } = snapshot;
    Ok(SubtaskManifest {
        index,
        finished: false,
        keyed: keyed.map(serde_json::to_value).transpose()?,
        splits: splits.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?,
        sink: sink.map(serde_json::to_value).transpose()?,
        operator: watermark.map(serde_json::to_value).transpose()?,
    })
}

/// Reads the segments of checkpoints in a job's folder.
pub(crate) struct FolderSegments {
    pub(crate) reader: ObjectReader,
    pub(crate) runtime: tokio::runtime::Handle,
}

impl FolderSegments {
    pub(crate) fn new(folder: JobFolder, runtime: tokio::runtime::Handle) -> Self {
        FolderSegments { reader: ObjectReader::new(folder), runtime }
    }
}

impl SegmentSource for FolderSegments {
    fn read(&self, segment: &SegmentRef) -> Result<Bytes, StateError> {
        let failed = |error: String| StateError::Storage {
            action: "reading",
            object: segment.object.clone(),
            source: std::io::Error::other(error),
        };
        let object = ObjectPath::parse(&segment.object).map_err(|error| failed(error.to_string()))?;
        let location =
            SegmentLocation { object, offset: segment.offset, length: segment.length, crc32c: segment.crc32c };
        self.runtime.block_on(self.reader.read(&location)).map_err(|error| failed(error.to_string()))
    }
}
