//! The thread of a source: polls its reader, makes watermarks, and puts barriers into the stream when told to.

use super::*;
use crate::metrics::NodeMetrics;
use crate::task_clock::Spell;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_connectors::api::{ConnectorError, Poll, SourceReader};
use weir_dataflow::operator::OperatorError;
use weir_dataflow::watermark::{Progress, WatermarkGenerator};
use weir_model::{Barrier, OperatorUid, StreamElement, Watermark};

/// How often a source without records looks whether its splits have fallen idle.
const IDLE_CHECK: Duration = Duration::from_millis(100);

const LAG_INTERVAL: Duration = Duration::from_secs(1);

/// The number of every reader's first split.
const FIRST_SPLIT: u32 = 0;

pub(crate) struct SourceTask {
    pub(crate) core: TaskCore,
    pub(crate) uid: OperatorUid,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) reader: Box<dyn SourceReader>,
    pub(crate) event_time: Option<EventTime>,
    pub(crate) restored_watermark: Option<Watermark>,
    pub(crate) dead_letters: Outputs,
    pub(crate) pace: Pace,
    /// When the reader is asked how far behind it is.
    pub(crate) lags_due: Instant,
}

/// The event time of a source that has one.
pub(crate) struct EventTime {
    pub(crate) generator: WatermarkGenerator,
    pub(crate) column: usize,
    has_splits: bool,
    said_idle: bool,
}

impl EventTime {
    pub(crate) fn new(generator: WatermarkGenerator, column: usize) -> Self {
        EventTime { generator, column, has_splits: false, said_idle: false }
    }
}

/// Where a source stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    /// Nothing to poll before this moment.
    Waiting(Instant),
    /// The barrier of a stop has been sent: no record until `Resume` or the end.
    Held {
        at_end: bool,
    },
    /// All records have been sent, and what the end of input sets off; barriers are still taken.
    AtEnd,
}

impl SourceTask {
    pub(crate) fn run(mut self) {
        let result = self.process();
        self.core.end(result);
    }

    fn process(&mut self) -> Result<TaskEnd, OperatorError> {
        self.core.open()?;
        self.core.replay()?;
        // What the checkpoint's watermark had made late stays late: it goes out before the first row.
        if let Some(watermark) = self.restored_watermark.take()
            && let Some(event_time) = &mut self.event_time
        {
            let progress = event_time.generator.resume_from(watermark);
            self.forward(progress)?;
        }
        self.await_first_record();
        let mut phase = Phase::Reading;
        loop {
            if let Some(end) = self.read_mail(&mut phase)? {
                return Ok(end);
            }
            if phase == Phase::Reading {
                phase = self.poll()?;
            }
        }
    }

    /// Takes one message if there is one; waits for one as long as there is nothing to poll.
    fn read_mail(&mut self, phase: &mut Phase) -> Result<Option<TaskEnd>, OperatorError> {
        let timers = self.core.timer_deadline();
        let retry = match *phase {
            Phase::Reading => Some(Instant::now()),
            Phase::Waiting(until) => Some(until),
            Phase::Held { .. } | Phase::AtEnd => None,
        };
        let deadline = [timers, retry].into_iter().flatten().min();
        match self.core.gate.next(deadline, usize::MAX) {
            Event::Cancelled => return Ok(Some(TaskEnd::Cancelled)),
            Event::TimedOut => {
                if timers.is_some_and(|due| due <= Instant::now()) {
                    self.core.fire_timers()?;
                }
                if matches!(*phase, Phase::Waiting(until) if until <= Instant::now()) {
                    *phase = Phase::Reading;
                }
            }
            Event::Element(..) => unreachable!("a source has no input channels"),
            Event::Mail(Mail::Trigger { barrier, is_unaligned, hold }) => {
                let is_at_end = matches!(*phase, Phase::AtEnd | Phase::Held { at_end: true });
                self.core.barrier_arrived(barrier.checkpoint);
                let barrier = match is_unaligned {
                    true => StreamElement::UnalignedBarrier(barrier),
                    false => StreamElement::Barrier(barrier),
                };
                self.checkpoint(barrier, is_at_end)?;
                if hold {
                    *phase = Phase::Held { at_end: *phase == Phase::AtEnd };
                }
            }
            Event::Mail(Mail::Resume) => {
                if let Phase::Held { at_end } = *phase {
                    *phase = if at_end { Phase::AtEnd } else { Phase::Reading };
                }
            }
            Event::Mail(Mail::CancelCheckpoint(checkpoint)) => {
                let cancel = StreamElement::CancelBarrier(checkpoint);
                self.core.outputs.broadcast(&cancel)?;
                self.dead_letters.broadcast(&cancel)?;
            }
            Event::Mail(mail) => {
                if let Mail::Commit { permit, ended } = &mail {
                    self.reader.checkpoint_completed(permit.checkpoint());
                    if let Some(ended) = ended.get(&self.uid) {
                        self.reader.splits_ended(ended);
                    }
                }
                return Ok(self.core.mail(mail));
            }
        }
        Ok(None)
    }

    fn poll(&mut self) -> Result<Phase, OperatorError> {
        let polled = self.reader.poll(self.pace.at_most()).map_err(|error| self.failed(error))?;
        self.metrics.bad_records.set(self.metrics.bad_records.get().max(self.reader.skipped_records()));
        if let Some(pending) = self.reader.pending_records() {
            self.metrics.pending_records.set(i64::try_from(pending).unwrap_or(i64::MAX));
        }
        if let Some(pending) = self.reader.pending_bytes() {
            self.metrics.pending_bytes.set(i64::try_from(pending).unwrap_or(i64::MAX));
        }
        if self.lags_due <= Instant::now() {
            self.lags_due = Instant::now() + LAG_INTERVAL;
            self.metrics.split_lags.set(self.reader.split_lags());
        }
        match polled {
            Poll::Batch { batch, split, rejected } => {
                if let Some(rejected) = rejected {
                    self.metrics.bad_records.add(rejected.num_rows() as u64);
                    self.dead_letters.emit(&rejected)?;
                }
                self.metrics.records_out.add(batch.num_rows() as u64);
                self.observe(split, &batch)?;
                let (rows, spell) = (batch.num_rows(), Spell::begin());
                self.core.downstream().process(0, batch)?;
                let worked = spell.end();
                self.pace.worked(rows, worked);
                if let Some(event_time) = &mut self.event_time {
                    event_time.generator.on_backpressure((worked.work + worked.waited).as_micros() as i64);
                }
                self.progress()?;
                Ok(Phase::Reading)
            }
            Poll::SplitFinished { split } => {
                if let Some(event_time) = &mut self.event_time {
                    event_time.generator.on_split_finished(split);
                }
                self.progress()?;
                Ok(Phase::Reading)
            }
            Poll::SplitAdded { split } => {
                if let Some(event_time) = &mut self.event_time {
                    event_time.has_splits = true;
                    event_time.generator.add_split(split, now_us());
                }
                Ok(Phase::Reading)
            }
            Poll::Pending { retry_after } => {
                self.progress()?;
                self.idle_without_splits()?;
                Ok(Phase::Waiting(Instant::now() + retry_after.min(IDLE_CHECK)))
            }
            Poll::End => {
                // The last watermark lets everything that waits for time come out before the final barrier.
                self.forward(Progress { watermark: Some(Watermark::MAX), idle: false })?;
                self.core.reporter.report(TaskEventKind::EndOfInput);
                Ok(Phase::AtEnd)
            }
        }
    }

    fn observe(&mut self, split: u32, batch: &RecordBatch) -> Result<(), OperatorError> {
        let Some(event_time) = &mut self.event_time else { return Ok(()) };
        event_time.has_splits = true;
        event_time.generator.on_batch(split, batch.column(event_time.column), now_us()).map_err(|error| {
            self.core.failed_in = Some(self.uid.clone());
            OperatorError::Failed(error.to_string())
        })
    }

    fn progress(&mut self) -> Result<(), OperatorError> {
        match &mut self.event_time {
            Some(event_time) => {
                let progress = event_time.generator.progress(now_us());
                self.forward(progress)
            }
            None => Ok(()),
        }
    }

    /// A subtask whose first record is yet to come holds back those that were quicker, or its records would be late:
    /// the first poll may well give nothing, as with a rate that has to be earned.
    fn await_first_record(&mut self) {
        if let Some(event_time) = &mut self.event_time
            && self.reader.has_splits()
        {
            event_time.has_splits = true;
            event_time.generator.add_split(FIRST_SPLIT, now_us());
        }
    }

    /// A subtask that has had no split yet must not hold back those that have; nor one that has none left, where the next
    /// would be announced.
    fn idle_without_splits(&mut self) -> Result<(), OperatorError> {
        if let Some(event_time) = self.event_time.as_mut().filter(|event_time| event_time.has_splits)
            && self.reader.announces_splits()
        {
            let progress = event_time.generator.without_splits();
            return self.forward(progress);
        }
        let silent = self.event_time.as_mut().filter(|event_time| !event_time.has_splits && !event_time.said_idle);
        match silent {
            Some(event_time) => {
                event_time.said_idle = true;
                self.forward(Progress { watermark: None, idle: true })
            }
            None => Ok(()),
        }
    }

    fn forward(&mut self, progress: Progress) -> Result<(), OperatorError> {
        if let Some(watermark) = progress.watermark {
            self.metrics.watermark_us.set(watermark.0);
            self.dead_letters.broadcast(&StreamElement::Watermark(watermark))?;
        }
        if progress.idle {
            self.dead_letters.broadcast(&StreamElement::Idle)?;
        }
        self.core.progress(progress)
    }

    fn checkpoint(&mut self, barrier: StreamElement, is_at_end: bool) -> Result<(), OperatorError> {
        let (StreamElement::Barrier(Barrier { checkpoint, .. })
        | StreamElement::UnalignedBarrier(Barrier { checkpoint, .. })) = barrier
        else {
            unreachable!("a checkpoint begins with a barrier, not with {barrier:?}");
        };
        self.reader.checkpoint_begins(checkpoint);
        let splits = self.reader.snapshot().map_err(|error| self.failed(error))?;
        // A subtask that is idle or at its end holds back nothing, now or after a restore.
        let active = self
            .event_time
            .as_ref()
            .filter(|event_time| event_time.has_splits && !event_time.generator.is_idle() && !is_at_end);
        let watermark = active.map(|event_time| event_time.generator.current());
        let own = NodeCut { splits, watermark, ..NodeCut::of(self.uid.clone()) };
        self.dead_letters.broadcast(&barrier)?;
        self.core.cut(barrier, Some(own))
    }

    fn failed(&mut self, error: ConnectorError) -> OperatorError {
        self.core.failed_in = Some(self.uid.clone());
        of_connector(error)
    }
}
