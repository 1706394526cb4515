//! What a subtask's part in a checkpoint takes: measured on the way of its barriers, told with the acknowledgement.

use crate::metrics::{CheckpointFigures, NodeMetrics};
use crate::storage_thread::now_ms;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use weir_model::CheckpointId;

/// Checkpoints whose barriers are remembered; there are never more under way.
const REMEMBERED: usize = 64;

/// When the first barrier of each checkpoint came that isn't cut yet.
#[derive(Default)]
pub(crate) struct Arrivals(BTreeMap<CheckpointId, Arrival>);

#[derive(Clone, Copy)]
struct Arrival {
    at: Instant,
    at_ms: u64,
}

/// A cut that goes on.
pub(crate) struct BegunCut {
    arrival: Arrival,
    begun: Instant,
}

/// A cut that is to be written.
pub(crate) struct EndedCut {
    figures: CheckpointFigures,
    ended: Instant,
    metrics: Arc<NodeMetrics>,
}

impl Arrivals {
    pub(crate) fn arrived(&mut self, checkpoint: CheckpointId) {
        self.0.entry(checkpoint).or_insert_with(|| Arrival { at: Instant::now(), at_ms: now_ms() });
        if self.0.len() > REMEMBERED {
            self.0.pop_first();
        }
    }

    pub(crate) fn cut_begins(&mut self, checkpoint: CheckpointId) -> BegunCut {
        let begun = Instant::now();
        let arrival = self.0.remove(&checkpoint).unwrap_or(Arrival { at: begun, at_ms: now_ms() });
        // Those before it were given up, or their barriers are still to be cancelled.
        self.0 = self.0.split_off(&checkpoint);
        BegunCut { arrival, begun }
    }
}

impl BegunCut {
    pub(crate) fn ended(self, metrics: Arc<NodeMetrics>) -> EndedCut {
        let BegunCut { arrival, begun } = self;
        let ended = Instant::now();
        let figures = CheckpointFigures {
            first_barrier_ms: arrival.at_ms,
            alignment_us: (begun - arrival.at).as_micros() as u64,
            sync_us: (ended - begun).as_micros() as u64,
            ..CheckpointFigures::default()
        };
        EndedCut { figures, ended, metrics }
    }
}

impl EndedCut {
    pub(crate) fn written(self, checkpoint: CheckpointId, bytes: u64) -> CheckpointFigures {
        self.metrics.task.barrier_written.set(checkpoint.0);
        CheckpointFigures { async_us: self.ended.elapsed().as_micros() as u64, bytes, ..self.figures }
    }
}
