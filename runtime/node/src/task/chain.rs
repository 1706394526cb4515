//! The nodes of one task, in the order in which a batch passes them, and the recursion that passes it on.

use super::output::Outputs;
use crate::metrics::NodeMetrics;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use weir_connectors::api::{ConnectorError, SinkWriter};
use weir_dataflow::operator::{Collector, Operator, OperatorContext, OperatorError, OperatorMetrics};
use weir_model::{OperatorUid, StreamElement, Watermark};
use weir_state::KeyedState;

/// What one subtask of a node runs. The source of a task is not among them: it drives the chain.
pub(crate) struct ChainNode {
    pub(crate) uid: OperatorUid,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) kind: ChainNodeKind,
}

pub(crate) enum ChainNodeKind {
    Operator { operator: Box<dyn Operator>, state: Box<KeyedState>, counts: OperatorMetrics },
    Sink(Box<dyn SinkWriter>),
}

/// The sink of a chain before its task runs. A writer is opened only when sinks are settled: opening it may fence
/// what an earlier attempt left, which by then is committed or gone.
pub(crate) struct SinkToOpen {
    pub(crate) uid: OperatorUid,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) open: Box<dyn FnOnce() -> Result<Box<dyn SinkWriter>, ConnectorError> + Send>,
}

/// The part of a chain that is still ahead of a batch.
pub(crate) struct Downstream<'a> {
    pub(crate) nodes: &'a mut [ChainNode],
    pub(crate) outputs: &'a mut Outputs,
    /// Where the innermost failure is noted: the collector's error type knows no node.
    pub(crate) failed_in: &'a mut Option<OperatorUid>,
}

impl Downstream<'_> {
    pub(crate) fn process(&mut self, input: usize, batch: RecordBatch) -> Result<(), OperatorError> {
        let rows = batch.num_rows() as u64;
        if rows == 0 {
            return Ok(());
        }
        let Some((node, rest)) = self.nodes.split_first_mut() else {
            return self.outputs.emit(&batch);
        };
        node.metrics.records_in.add(rows);
        let result = match &mut node.kind {
            ChainNodeKind::Operator { operator, state, counts } => {
                let now_us = now_us();
                let mut context = OperatorContext { state, processing_time_us: now_us, metrics: counts };
                let mut rest = Counted {
                    metrics: &node.metrics,
                    rest: Downstream { nodes: rest, outputs: self.outputs, failed_in: self.failed_in },
                };
                let result = operator.process(input, batch, &mut context, &mut rest);
                node.metrics.late_records.set(counts.late_records_dropped);
                state.between_batches(now_us).map_err(OperatorError::from).and(result)
            }
            ChainNodeKind::Sink(writer) => writer.write(&batch).map_err(of_connector),
        };
        note(self.failed_in, &node.uid, result)
    }

    /// Lets event time come to `watermark` in every node, and sends it on.
    pub(crate) fn watermark(&mut self, watermark: Watermark) -> Result<(), OperatorError> {
        let Some((node, rest)) = self.nodes.split_first_mut() else {
            return self.outputs.broadcast(&StreamElement::Watermark(watermark));
        };
        node.metrics.watermark_us.set(watermark.0);
        let mut passed_on = watermark;
        if let ChainNodeKind::Sink(writer) = &mut node.kind
            && watermark == Watermark::MAX
        {
            writer.end_of_input();
        }
        if let ChainNodeKind::Operator { operator, state, counts } = &mut node.kind {
            let now_us = now_us();
            let mut context = OperatorContext { state, processing_time_us: now_us, metrics: counts };
            let mut rest = Counted {
                metrics: &node.metrics,
                rest: Downstream { nodes: rest, outputs: self.outputs, failed_in: self.failed_in },
            };
            let mut result = operator.on_watermark(watermark, &mut context, &mut rest);
            if watermark == Watermark::MAX && result.is_ok() {
                result = operator.on_end(&mut context, &mut rest);
            }
            passed_on = operator.output_watermark(watermark);
            node.metrics.late_records.set(counts.late_records_dropped);
            let result = result.and_then(|()| state.between_batches(now_us).map_err(OperatorError::from));
            note(self.failed_in, &node.uid, result)?;
        }
        Downstream { nodes: rest, outputs: self.outputs, failed_in: self.failed_in }.watermark(passed_on)
    }

    /// Calls the nodes whose processing-time timers are due.
    pub(crate) fn processing_time(&mut self, now_us: i64) -> Result<(), OperatorError> {
        let Some((node, rest)) = self.nodes.split_first_mut() else { return Ok(()) };
        if let ChainNodeKind::Operator { operator, state, counts } = &mut node.kind
            && operator.next_processing_time_us().is_some_and(|due_us| due_us <= now_us)
        {
            let mut context = OperatorContext { state, processing_time_us: now_us, metrics: counts };
            let mut rest = Counted {
                metrics: &node.metrics,
                rest: Downstream { nodes: rest, outputs: self.outputs, failed_in: self.failed_in },
            };
            let result = operator.on_processing_time(&mut context, &mut rest);
            let result = result.and_then(|()| state.between_batches(now_us).map_err(OperatorError::from));
            note(self.failed_in, &node.uid, result)?;
        }
        Downstream { nodes: rest, outputs: self.outputs, failed_in: self.failed_in }.processing_time(now_us)
    }
}

/// What a connector says will fail again ends the job, whether it is opened, reads or writes: a right that was withdrawn, an
/// offset that retention has removed, a record that can't be decoded. No restart mends it.
pub(crate) fn of_connector(error: ConnectorError) -> OperatorError {
    match error {
        ConnectorError::Permanent(reason) => OperatorError::Refused(reason),
        ConnectorError::Transient(reason) => OperatorError::Outside(reason),
    }
}

/// When a node of the chain next wants to be called for its processing-time timers.
pub(crate) fn next_processing_time_us(nodes: &[ChainNode]) -> Option<i64> {
    let due = nodes.iter().filter_map(|node| match &node.kind {
        ChainNodeKind::Operator { operator, .. } => operator.next_processing_time_us(),
        ChainNodeKind::Sink(_) => None,
    });
    due.min()
}

pub(crate) fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Counts what a node emits on its way to the next.
struct Counted<'a> {
    metrics: &'a NodeMetrics,
    rest: Downstream<'a>,
}

impl Collector for Counted<'_> {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        self.metrics.records_out.add(batch.num_rows() as u64);
        self.rest.process(0, batch)
    }
}

/// Keeps the first (innermost) node that failed.
fn note(
    failed_in: &mut Option<OperatorUid>,
    uid: &OperatorUid,
    result: Result<(), OperatorError>,
) -> Result<(), OperatorError> {
    if let Err(error) = &result
        && !matches!(error, OperatorError::Cancelled)
    {
        failed_in.get_or_insert_with(|| uid.clone());
    }
    result
}
