//! The blackhole sink: takes rows and forgets them, for measuring what stands before it.

use crate::api::*;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use weir_model::CheckpointId;

pub struct BlackholeSink;

impl Sink for BlackholeSink {
    fn check(&self, _input: &SchemaRef) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Nothing is visible, so nothing is visible twice.
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    /// As Flink's blackhole: it stands for a sink that goes by the latest row of a key.
    fn reads_update_before(&self) -> bool {
        false
    }

    fn writer(
        &self,
        _context: SinkContext,
        _restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(BlackholeWriter))
    }

    fn committer(&self, _context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(None)
    }
}

struct BlackholeWriter;

impl SinkWriter for BlackholeWriter {
    fn write(&mut self, _batch: &RecordBatch) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        Ok(SinkSnapshot::default())
    }
}
