//! What an operator is: batches and watermarks in, batches out, keyed state beside it.
//!
//! An operator has no clock, thread or channel of its own. Whatever drives it (a node's task thread or the
//! simulator) owns the order of events, the cut of its state and everything that can wait.

use arrow::record_batch::RecordBatch;
use weir_model::{EvalError, Watermark};
use weir_state::{KeyedState, StateError};

/// One subtask of an operator. A batch has at most a few times `BATCH_ROWS` rows and at least one.
pub trait Operator: Send {
    /// Takes a batch of input number `input`.
    fn process(
        &mut self,
        input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError>;

    /// Event time has come to `watermark` on all inputs. The driver sends it on after this returns, so what
    /// is emitted here is still in time for the next operator.
    fn on_watermark(
        &mut self,
        _watermark: Watermark,
        _context: &mut OperatorContext<'_>,
        _out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        Ok(())
    }

    /// The clock has come to (or past) what `next_processing_time_us` asked for.
    fn on_processing_time(
        &mut self,
        _context: &mut OperatorContext<'_>,
        _out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        Ok(())
    }

    /// When `on_processing_time` wants to be called next, in microseconds since the Unix epoch.
    fn next_processing_time_us(&self) -> Option<i64> {
        None
    }

    /// The watermark that the operator sends on when its inputs are at `watermark`: lower for an operator that
    /// holds rows back (an interval join's outer rows).
    fn output_watermark(&self, watermark: Watermark) -> Watermark {
        watermark
    }

    /// No input follows; `on_watermark(Watermark::MAX)` has been called.
    fn on_end(&mut self, _context: &mut OperatorContext<'_>, _out: &mut dyn Collector) -> Result<(), OperatorError> {
        Ok(())
    }
}

/// What the driver lends to an operator for one call.
pub struct OperatorContext<'a> {
    pub state: &'a mut KeyedState,
    /// Microseconds since the Unix epoch; the driver's clock, read once per call.
    pub processing_time_us: i64,
    pub metrics: &'a mut OperatorMetrics,
}

/// Counters that only the operator can know; read by the driver after each call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperatorMetrics {
    /// Rows behind the watermark (and the allowed lateness) that were dropped.
    pub late_records_dropped: u64,
}

/// Where an operator puts its output: one call per batch. Fails when the job is being cancelled.
pub trait Collector {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError>;
}

/// For tests and for drivers that pass a whole output on.
impl Collector for Vec<RecordBatch> {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        self.push(batch);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error(transparent)]
    Expression(#[from] EvalError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// A result that doesn't fit its type (a SUM past BIGINT).
    #[error("{0}")]
    Failed(String),
    /// Something beside the data: the other side of a connector, or, for all that is known, of a user's operator. The
    /// same records may pass the next time.
    #[error("{0}")]
    Outside(String),
    /// No other try would find it otherwise: what is to be opened isn't there, or not allowed (any more); a record can't be
    /// decoded.
    #[error("{0}")]
    Refused(String),
    /// The reader of the output is gone because the job is being cancelled.
    #[error("cancelled")]
    Cancelled,
}
