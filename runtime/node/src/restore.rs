//! From a completed checkpoint to what each subtask of a new attempt starts with.

use crate::savepoint::SavedStates;
use crate::task::{InFlightHandle, NodeSnapshot};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use weir_connectors::api::{Committable, SinkSnapshot, SplitState};
use weir_model::{OperatorUid, StateSchema, Watermark};
use weir_snapshot::{
    CheckpointManifest, JobFolder, ObjectPath, ObjectReader, OperatorManifest, SegmentError, SegmentLocation,
    SubtaskManifest,
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
    /// Of a source, or of what was the head of a task: the least of its subtasks'.
    pub(crate) watermark: Option<Watermark>,
    /// How many old subtasks there were.
    pub(crate) parallelism: u32,
    /// The same by old subtask.
    pub(crate) watermarks: BTreeMap<u32, Watermark>,
    /// What an unaligned barrier overtook, by old subtask.
    pub(crate) in_flight: BTreeMap<u32, InFlightHandle>,
}

impl OperatorRestore {
    /// Of its keyed states, each once.
    pub(crate) fn schemas(&self) -> Vec<StateSchema> {
        let mut schemas: Vec<StateSchema> = self.saved.iter().flat_map(|saved| saved.schemas()).cloned().collect();
        for state in self.keyed.iter().flat_map(|handle| &handle.states) {
            if schemas.iter().all(|schema| schema.name != state.schema.name) {
                schemas.push(state.schema.clone());
            }
        }
        schemas
    }
}

impl RestoreState {
    pub(crate) fn of(manifest: &CheckpointManifest) -> Result<Self, String> {
        let operator = |operator: &OperatorManifest| {
            let restored = operator_restore(&operator.subtasks)
                .map_err(|error| format!("checkpoint {}, operator `{}`: {error}", manifest.checkpoint, operator.uid))?;
            let restored = OperatorRestore { parallelism: operator.parallelism, ..restored };
            Ok::<_, String>((operator.uid.clone(), restored))
        };
        let operators = manifest.operators.iter().map(operator).collect::<Result<_, _>>()?;
        Ok(RestoreState { max_parallelism: manifest.max_parallelism, operators })
    }
}

pub(crate) fn operator_restore(subtasks: &[SubtaskManifest]) -> Result<OperatorRestore, serde_json::Error> {
    let mut restored = OperatorRestore::default();
    for SubtaskManifest { index, finished: _, keyed, splits, sink, operator: own, in_flight } in subtasks {
        if let Some(keyed) = keyed {
            restored.keyed.push(serde_json::from_value(keyed.clone())?);
        }
        for split in splits {
            restored.splits.push(serde_json::from_value(split.clone())?);
        }
        if let Some(own) = own {
            let watermark: Watermark = serde_json::from_value(own.clone())?;
            restored.watermark = Some(restored.watermark.map_or(watermark, |least| least.min(watermark)));
            restored.watermarks.insert(*index, watermark);
        }
        if let Some(in_flight) = in_flight {
            restored.in_flight.insert(*index, serde_json::from_value(in_flight.clone())?);
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
    let NodeSnapshot { uid: _, keyed, splits, sink, watermark, in_flight } = snapshot;
    Ok(SubtaskManifest {
        index,
        finished: false,
        keyed: keyed.map(serde_json::to_value).transpose()?,
        splits: splits.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?,
        sink: sink.map(serde_json::to_value).transpose()?,
        operator: watermark.map(serde_json::to_value).transpose()?,
        in_flight: in_flight.map(serde_json::to_value).transpose()?,
    })
}

/// How closely a checkpoint is looked at before it is started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Whether its objects are there, in their lengths: one request for each.
    Presence,
    /// Every byte that a restore needs.
    EveryByte,
}

/// What of the checkpoint's state cannot be read any more: the first object that is missing or damaged.
///
/// # Errors
/// The storage gave no answer, which says nothing about the checkpoint.
pub(crate) fn damage(
    manifest: &CheckpointManifest,
    folder: &JobFolder,
    look: Look,
    runtime: &tokio::runtime::Handle,
) -> Result<Option<String>, String> {
    for object in &manifest.objects {
        let name = folder.describe(&object.path);
        match runtime.block_on(folder.storage().head(&folder.path(&object.path))) {
            Ok(length) if length == object.length => {}
            Ok(length) => {
                return Ok(Some(format!("`{name}` has {length} bytes, and the manifest says {}", object.length)));
            }
            Err(error) if error.is_not_found() => return Ok(Some(format!("`{name}` is missing"))),
            Err(error) => return Err(error.to_string()),
        }
    }
    match look {
        Look::Presence => Ok(None),
        Look::EveryByte => damaged_segment(manifest, folder, runtime),
    }
}

fn damaged_segment(
    manifest: &CheckpointManifest,
    folder: &JobFolder,
    runtime: &tokio::runtime::Handle,
) -> Result<Option<String>, String> {
    let reader = ObjectReader::new(folder.clone());
    let states = manifest.operators.iter().flat_map(|operator| &operator.subtasks);
    let mut segments = BTreeSet::new();
    let mut needs = |segment: &SegmentRef| {
        segments.insert((segment.object.clone(), segment.offset, segment.length, segment.crc32c))
    };
    for subtask in states {
        if let Some(keyed) = &subtask.keyed {
            let handle = serde_json::from_value::<KeyedStateHandle>(keyed.clone());
            handle.map_err(|error| error.to_string())?.segments().for_each(|segment| {
                needs(segment);
            });
        }
        if let Some(in_flight) = &subtask.in_flight {
            let handle = serde_json::from_value::<InFlightHandle>(in_flight.clone());
            needs(&handle.map_err(|error| error.to_string())?.segment);
        }
    }
    for (object, offset, length, crc32c) in segments {
        let object = ObjectPath::parse(&object).map_err(|error| error.to_string())?;
        let location = SegmentLocation { object, offset, length, crc32c };
        match runtime.block_on(reader.verify_segment(&location)) {
            Ok(()) => {}
            Err(error) if error.is_damage() => return Ok(Some(error.to_string())),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(None)
}

/// Why a read of a segment failed, of the kinds that somebody acts upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    Transient,
    Damage,
}

/// Reads the segments of checkpoints in a job's folder.
pub(crate) struct FolderSegments {
    reader: ObjectReader,
    runtime: tokio::runtime::Handle,
    /// The first: what reads through this wraps errors so that their kind is lost.
    failure: Mutex<Option<ReadFailure>>,
}

impl FolderSegments {
    pub(crate) fn new(folder: JobFolder, runtime: tokio::runtime::Handle) -> Self {
        FolderSegments { reader: ObjectReader::new(folder), runtime, failure: Mutex::new(None) }
    }

    pub(crate) fn failure(&self) -> Option<ReadFailure> {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: &SegmentError) {
        let kind = match () {
            () if error.is_transient() => ReadFailure::Transient,
            () if error.is_damage() => ReadFailure::Damage,
            () => return,
        };
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(kind);
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
        self.runtime.block_on(self.reader.read(&location)).map_err(|error| {
            self.note(&error);
            failed(error.to_string())
        })
    }
}
