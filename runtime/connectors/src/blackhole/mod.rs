//! The blackhole sink: takes rows and forgets them, for measuring what stands before it; slowly, if asked to.

use crate::api::*;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::time::{Duration, Instant};
use weir_model::{CheckpointId, UpdateBeforeUse};

#[derive(Clone, Debug, Default)]
pub struct BlackholeSink {
    /// Over all subtasks; none: as fast as they come.
    pub rows_per_second: Option<u64>,
}

impl Sink for BlackholeSink {
    fn check(&self, _input: &SchemaRef) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Nothing is visible, so nothing is visible twice.
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    /// As Flink's blackhole: it stands for a sink that goes by the latest row of a key.
    fn update_before_use(&self) -> UpdateBeforeUse {
        UpdateBeforeUse::None
    }

    fn writer(
        &self,
        context: SinkContext,
        _restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        // A subtask's even share of it.
        let per_row = |rate: u64| Duration::from_secs(u64::from(context.parallelism)).div_f64(rate as f64);
        Ok(Box::new(BlackholeWriter { per_row: self.rows_per_second.map(per_row), free_at: Instant::now() }))
    }

    fn committer(&self, _context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(None)
    }
}

/// A sleep ends late, by milliseconds where processors are busy: what comes next is waited for so much less, or the rate
/// would fall with the size of batches.
const MOST_OVERSLEPT: Duration = Duration::from_millis(20);

struct BlackholeWriter {
    per_row: Option<Duration>,
    /// When it has done all that it was given.
    free_at: Instant,
}

impl SinkWriter for BlackholeWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let Some(per_row) = self.per_row else { return Ok(()) };
        let now = Instant::now();
        let idle_since = now.checked_sub(MOST_OVERSLEPT).unwrap_or(now);
        self.free_at = self.free_at.max(idle_since) + per_row.mul_f64(batch.num_rows() as f64);
        std::thread::sleep(self.free_at.saturating_duration_since(now));
        Ok(())
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        Ok(SinkSnapshot::default())
    }
}
