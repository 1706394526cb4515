use crate::cold::{ColdHandle, ColdShared, QueuedPart};
use crate::handle::{KeyedStateHandle, Run, StateHandle};
use crate::ordered::cut::OrderedCut;
use crate::rows::cut::RowCut;
use crate::segment::block::BlockWriter;
use crate::{SegmentSink, StateError};
use std::sync::{Arc, Mutex, PoisonError};
use weir_model::{CheckpointId, KeyGroupRange, StateSchema};

/// All states of a subtask as they were at a barrier. Written by another thread while the subtask goes on.
pub struct StateCut {
    pub(crate) checkpoint: CheckpointId,
    pub(crate) key_groups: KeyGroupRange,
    pub(crate) max_parallelism: u32,
    pub(crate) sequence: u64,
    pub(crate) parts: Vec<CutPart>,
    pub(crate) written: Written,
    pub(crate) cold: Option<ColdCut>,
}

/// A cut that is in the queue of a cold store. Without this, nobody wants a checkpoint of it any more.
pub(crate) struct ColdCut {
    pub(crate) shared: Arc<ColdShared>,
    pub(crate) interval: u32,
}

impl ColdCut {
    pub(crate) fn push(shared: Arc<ColdShared>, interval: u32, parts: Vec<QueuedPart>) -> Self {
        shared.push(interval, parts, true);
        ColdCut { shared, interval }
    }
}

impl Drop for ColdCut {
    fn drop(&mut self) {
        self.shared.abandon(self.interval);
    }
}

/// What the writer tells the state about the cut, for the day it's confirmed.
pub(crate) type Written = Arc<Mutex<Option<WrittenCut>>>;

pub(crate) struct WrittenCut {
    pub(crate) runs: Vec<StateRuns>,
    pub(crate) cold: Option<ColdHandle>,
}

/// The runs behind one state, and which of them holds each key group in full.
#[derive(Clone, Default)]
pub(crate) struct StateRuns {
    pub(crate) runs: Arc<Vec<Run>>,
    /// By place in the owned range; 0: no run does.
    pub(crate) base_sequences: Vec<u64>,
}

impl StateRuns {
    /// Of a state of which no checkpoint holds anything in runs.
    pub(crate) fn none(owned: KeyGroupRange) -> Self {
        StateRuns { runs: Arc::default(), base_sequences: vec![0; owned.len()] }
    }
}

pub(crate) struct CutPart {
    pub(crate) schema: StateSchema,
    pub(crate) has_ttl: bool,
    /// Its number in the store.
    pub(crate) number: Option<u16>,
    /// Those of the last confirmed checkpoint.
    pub(crate) before: StateRuns,
    pub(crate) changes: PartCut,
}

pub(crate) enum PartCut {
    Unchanged,
    Rows(RowCut),
    Ordered(OrderedCut),
}

impl StateCut {
    pub fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    /// Encodes the cut and appends it to the sink: one segment for each state that changed, or a few if it is
    /// large. The handle names these segments, and the older ones that still count.
    ///
    /// # Errors
    /// What the sink says; the checkpoint is to be aborted then.
    pub fn write(self, sink: &mut dyn SegmentSink) -> Result<KeyedStateHandle, StateError> {
        let (mut states, mut runs) = (vec![], vec![]);
        for part in self.parts {
            let after =
                part.changes.write(sink, self.key_groups, self.sequence, part.before).map_err(|error| match error {
                    StateError::TooLarge { what, .. } => StateError::TooLarge { state: part.schema.name.clone(), what },
                    error => error,
                })?;
            let CutPart { schema, has_ttl, number, .. } = part;
            states.push(StateHandle { schema, has_ttl, cold_state: number, runs: after.runs.to_vec() });
            runs.push(after);
        }
        let cold = self.cold.as_ref().map(|cut| cut.shared.checkpoint(cut.interval, sink)).transpose()?;
        let written = WrittenCut { runs, cold: cold.clone() };
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
        Ok(KeyedStateHandle {
            format_version: KeyedStateHandle::version_with(cold.as_ref()),
            max_parallelism: self.max_parallelism,
            key_groups: self.key_groups,
            states,
            cold,
        })
    }
}

impl PartCut {
    fn write(
        self,
        sink: &mut dyn SegmentSink,
        owned: KeyGroupRange,
        sequence: u64,
        before: StateRuns,
    ) -> Result<StateRuns, StateError> {
        let mut writer = BlockWriter::new(sink, owned, sequence);
        let bases = match &self {
            PartCut::Unchanged => return Ok(before),
            PartCut::Rows(cut) => {
                cut.write(&mut writer)?;
                &cut.bases
            }
            PartCut::Ordered(cut) => {
                cut.write(&mut writer)?;
                &cut.bases
            }
        };
        let StateRuns { runs, mut base_sequences } = before;
        for (base, _) in base_sequences.iter_mut().zip(bases).filter(|(_, is_base)| **is_base) {
            *base = sequence;
        }
        let mut runs = runs.to_vec();
        runs.extend(writer.finish()?);
        // A run counts as long as one of its key groups has no newer full copy.
        runs.retain(|run| {
            run.key_groups.iter().any(|group| base_sequences[(group.0 - owned.first) as usize] <= run.sequence)
        });
        Ok(StateRuns { runs: Arc::new(runs), base_sequences })
    }
}
