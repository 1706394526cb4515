//! The tasks of one attempt on one worker: what the node's threads do, a step at a time.

use crate::bugs::Bug;
use crate::job::{Job, Row, aggregate_uid, source_uid};
use crate::messages::{SplitPosition, TaskSnapshot};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use std::collections::VecDeque;
use weir_dataflow::alignment::{Action, Aligner, AlignmentMode, CancelCause};
use weir_dataflow::channels::InputChannels;
use weir_dataflow::in_flight::{Replay, ReplayStep};
use weir_dataflow::watermark::{Progress, WatermarkGenerator, WatermarkMerger, WatermarkStrategy};
use weir_dataflow::{Operator, OperatorContext, OperatorError, OperatorMetrics, PendingCommits};
use weir_model::{
    Barrier, ChannelInFlight, ChannelProgress, CheckpointId, CheckpointKind, CommitPermit, KeyGroup, StreamElement,
    SubtaskId, SubtaskInFlight, Watermark, hash,
};
use weir_state::{KeyedState, StateCut};

/// Batches on the way from one subtask to another before its writer waits.
pub(crate) const IN_FLIGHT: u32 = 3;

#[derive(Clone, Debug)]
pub(crate) enum Mail {
    Trigger { barrier: Barrier, is_unaligned: bool, hold: bool },
    TurnUnaligned(CheckpointId),
    Resume,
    CancelCheckpoint(CheckpointId),
    Commit(CommitPermit),
}

/// What a step comes to, in order.
pub(crate) enum Output {
    /// To one subtask of the aggregate.
    Element {
        target: u32,
        element: StreamElement,
    },
    /// A batch of this channel was taken.
    Taken {
        channel: u32,
    },
    /// The task has cut its part; what is keyed is still to be written.
    Cut {
        barrier: Barrier,
        snapshot: Box<TaskSnapshot>,
        keyed: Option<StateCut>,
        in_flight: Option<SubtaskInFlight>,
    },
    /// To be made visible, in order; then the checkpoint counts as committed here.
    Commit {
        permit: CommitPermit,
        transactions: Vec<String>,
    },
    /// The first phase of the sink.
    Prepared {
        transaction: String,
        rows: Vec<Row>,
    },
    Declined {
        checkpoint: CheckpointId,
        reason: String,
    },
    EndOfInput,
}

pub(crate) enum Task {
    Source(Box<SourceTask>),
    Aggregate(Box<AggregateTask>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Held { at_end: bool },
    AtEnd,
}

pub(crate) struct SourceTask {
    index: u32,
    parallelism: u32,
    job: Job,
    splits: Vec<SplitPosition>,
    next_split: usize,
    generator: WatermarkGenerator,
    restored_watermark: Option<Watermark>,
    phase: Phase,
    mail: VecDeque<Mail>,
    bug: Option<Bug>,
}

pub(crate) struct AggregateTask {
    index: u32,
    job: Job,
    operator: Box<dyn Operator>,
    state: KeyedState,
    metrics: OperatorMetrics,
    aligner: Aligner,
    watermarks: WatermarkMerger,
    inputs: InputChannels,
    /// What the restored checkpoint had in flight here; worked off before anything else.
    replay: Option<Replay>,
    cut_in_flight: Option<CutInFlight>,
    mail: VecDeque<Mail>,
    pending: PendingCommits<String>,
    /// Rows that the sink's writer was given since the last barrier.
    rows: Vec<Row>,
    /// What the sink's transactions are named by.
    attempt: String,
    transactions: u64,
    bug: Option<Bug>,
    lets_one_by: Option<usize>,
}

/// A cut of which some channels' barriers are yet to come.
struct CutInFlight {
    barrier: Barrier,
    snapshot: TaskSnapshot,
    keyed: StateCut,
    progress: Vec<ChannelProgress>,
    watermark: Watermark,
}

impl Task {
    pub(crate) fn id(&self) -> SubtaskId {
        match self {
            Task::Source(task) => SubtaskId { operator: source_uid(), index: task.index },
            Task::Aggregate(task) => SubtaskId { operator: aggregate_uid(), index: task.index },
        }
    }

    pub(crate) fn mail(&mut self, mail: Mail) {
        match self {
            Task::Source(task) => task.mail.push_back(mail),
            Task::Aggregate(task) => {
                if let Mail::TurnUnaligned(checkpoint) = mail {
                    task.inputs.turn_unaligned(checkpoint);
                }
                task.mail.push_back(mail);
            }
        }
    }
}

impl SourceTask {
    pub(crate) fn new(
        index: u32,
        parallelism: u32,
        job: &Job,
        restored: &[SplitPosition],
        restored_watermark: Option<Watermark>,
        bug: Option<Bug>,
    ) -> Self {
        let position =
            |split: u32| restored.iter().find(|found| found.split == split).map_or(0, |found| found.position);
        let own = (0..job.splits).filter(|split| split % parallelism == index);
        let splits: Vec<_> = own.map(|split| SplitPosition { split, position: position(split) }).collect();
        let strategy =
            WatermarkStrategy { column: "time".to_owned(), max_out_of_orderness_us: 0, idle_timeout_us: None };
        let mut generator = WatermarkGenerator::new(strategy);
        for split in splits.iter().filter(|split| split.position < job.records_per_split) {
            generator.add_split(split.split, 0);
        }
        SourceTask {
            index,
            parallelism,
            job: job.clone(),
            splits,
            next_split: 0,
            generator,
            restored_watermark,
            phase: Phase::Reading,
            mail: VecDeque::new(),
            bug,
        }
    }

    pub(crate) fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.phase == Phase::Reading
    }

    /// Takes one message, or else reads a batch if it may.
    pub(crate) fn step(&mut self, records: u64, may_read: bool) -> Result<Vec<Output>, OperatorError> {
        let mut out = vec![];
        if let Some(watermark) = self.restored_watermark.take() {
            let progress = self.generator.resume_from(watermark);
            self.forward(progress, &mut out);
        }
        match self.mail.pop_front() {
            Some(Mail::Trigger { barrier, is_unaligned, hold }) => {
                self.cut(barrier, is_unaligned, &mut out);
                if hold {
                    let at_end = matches!(self.phase, Phase::AtEnd | Phase::Held { at_end: true });
                    self.phase = Phase::Held { at_end };
                }
            }
            Some(Mail::Resume) => {
                if let Phase::Held { at_end } = self.phase {
                    self.phase = if at_end { Phase::AtEnd } else { Phase::Reading };
                }
            }
            Some(Mail::CancelCheckpoint(checkpoint)) => {
                self.broadcast(&StreamElement::CancelBarrier(checkpoint), &mut out);
            }
            Some(Mail::Commit(permit)) => out.push(Output::Commit { permit, transactions: vec![] }),
            // It has sent its barrier.
            Some(Mail::TurnUnaligned(_)) => {}
            None if may_read && self.phase == Phase::Reading => self.read(records, &mut out)?,
            None => {}
        }
        Ok(out)
    }

    fn read(&mut self, records: u64, out: &mut Vec<Output>) -> Result<(), OperatorError> {
        let end = self.job.records_per_split;
        let open = |at: &usize| self.splits[*at].position < end;
        let count = self.splits.len();
        let Some(at) = (0..count).map(|step| (self.next_split + step) % count).find(open) else {
            self.forward(Progress { watermark: Some(Watermark::MAX), idle: false }, out);
            out.push(Output::EndOfInput);
            self.phase = Phase::AtEnd;
            return Ok(());
        };
        self.next_split = (at + 1) % count;
        let SplitPosition { split, position } = self.splits[at];
        let until = (position + records).min(end);
        let batch = self.job.batch(split, position, until);
        self.splits[at].position = until;
        self.emit(&batch, out)?;
        let observed = self.generator.on_batch(split, batch.column(2), 0);
        observed.map_err(|error| OperatorError::Failed(error.to_string()))?;
        if until == end {
            self.generator.on_split_finished(split);
        }
        let progress = self.generator.progress(0);
        self.forward(progress, out);
        Ok(())
    }

    /// By key group, as the node's exchange does.
    fn emit(&self, batch: &RecordBatch, out: &mut Vec<Output>) -> Result<(), OperatorError> {
        let keys: Vec<ArrayRef> = vec![batch.column(0).clone()];
        let mut hashes = vec![];
        hash::hash_rows(&keys, batch.num_rows(), &mut hashes)
            .map_err(|error| OperatorError::Failed(error.to_string()))?;
        let max_parallelism = self.job.max_parallelism;
        for target in 0..self.parallelism {
            let is_its = |hash: &u64| {
                KeyGroup::of_hash(*hash, max_parallelism).subtask(self.parallelism, max_parallelism) == target
            };
            let rows = hashes.iter().zip(0u32..).filter(|(hash, _)| is_its(hash)).map(|(_, row)| row);
            let rows = UInt32Array::from_iter_values(rows);
            if !rows.is_empty() {
                let part = take_record_batch(batch, &rows)?;
                out.push(Output::Element { target, element: StreamElement::Batch(part) });
            }
        }
        Ok(())
    }

    fn cut(&mut self, barrier: Barrier, is_unaligned: bool, out: &mut Vec<Output>) {
        let mut splits = self.splits.clone();
        if self.bug == Some(Bug::PositionOneTooHigh)
            && let Some(first) = splits.iter_mut().find(|split| split.position < self.job.records_per_split)
        {
            first.position += 1;
        }
        let is_at_end = matches!(self.phase, Phase::AtEnd | Phase::Held { at_end: true });
        let is_active = !splits.is_empty() && !is_at_end;
        let watermark = is_active.then(|| self.generator.current());
        let element =
            if is_unaligned { StreamElement::UnalignedBarrier(barrier) } else { StreamElement::Barrier(barrier) };
        self.broadcast(&element, out);
        let snapshot = Box::new(TaskSnapshot { splits, watermark, ..TaskSnapshot::default() });
        out.push(Output::Cut { barrier, snapshot, keyed: None, in_flight: None });
    }

    fn forward(&self, progress: Progress, out: &mut Vec<Output>) {
        if let Some(watermark) = progress.watermark {
            self.broadcast(&StreamElement::Watermark(watermark), out);
        }
        if progress.idle {
            self.broadcast(&StreamElement::Idle, out);
        }
    }

    fn broadcast(&self, element: &StreamElement, out: &mut Vec<Output>) {
        out.extend((0..self.parallelism).map(|target| Output::Element { target, element: element.clone() }));
    }
}

impl AggregateTask {
    pub(crate) fn new(
        index: u32,
        parallelism: u32,
        job: &Job,
        mut state: KeyedState,
        in_flight: Vec<SubtaskInFlight>,
        attempt: String,
        bug: Option<Bug>,
    ) -> Result<Self, OperatorError> {
        let operator = job.operator(&mut state)?;
        let channels = parallelism as usize;
        Ok(AggregateTask {
            index,
            job: job.clone(),
            operator,
            state,
            metrics: OperatorMetrics::default(),
            aligner: Aligner::new(channels, job.alignment),
            watermarks: WatermarkMerger::new(channels),
            inputs: InputChannels::new(channels),
            replay: Some(Replay::new(in_flight)),
            cut_in_flight: None,
            mail: VecDeque::new(),
            pending: PendingCommits::default(),
            rows: vec![],
            attempt,
            transactions: 0,
            bug,
            lets_one_by: None,
        })
    }

    pub(crate) fn push(&mut self, channel: u32, element: StreamElement) {
        self.inputs.arrive(channel as usize, element, 0);
    }

    pub(crate) fn has_work(&self) -> bool {
        self.replay.is_some() || !self.mail.is_empty() || self.inputs.is_readable()
    }

    /// Works off what was in flight; or takes one message or one element.
    pub(crate) fn step(&mut self) -> Result<Vec<Output>, OperatorError> {
        let mut out = vec![];
        if let Some(replay) = self.replay.take() {
            self.replay(replay)?;
            return Ok(out);
        }
        match self.mail.pop_front() {
            Some(Mail::Commit(permit)) => {
                self.state.confirm(permit.checkpoint());
                let transactions = self.pending.commit_up_to(permit.checkpoint());
                if self.bug == Some(Bug::ForgetsWhatIsBeingCommitted) {
                    self.pending.committed(permit.checkpoint());
                }
                out.push(Output::Commit { permit, transactions });
            }
            Some(Mail::CancelCheckpoint(checkpoint)) => {
                let actions = self.aligner.cancel(checkpoint);
                self.align(actions, &mut out)?;
            }
            Some(Mail::TurnUnaligned(checkpoint)) => {
                let actions = self.aligner.turn_unaligned(checkpoint);
                self.align(actions, &mut out)?;
            }
            Some(Mail::Trigger { .. } | Mail::Resume) => {}
            None => {
                if let Some((channel, element)) = self.take() {
                    if matches!(element, StreamElement::Batch(_)) {
                        out.push(Output::Taken { channel: channel as u32 });
                    }
                    self.element(channel, element, &mut out)?;
                }
            }
        }
        Ok(out)
    }

    fn replay(&mut self, mut replay: Replay) -> Result<(), OperatorError> {
        while let Some(step) = replay.next_step() {
            match step {
                ReplayStep::Batch { input: _, batch } => self.process(batch)?,
                ReplayStep::Watermark(watermark) => self.advance(watermark)?,
            }
        }
        if replay.watermark() > Watermark::MIN {
            self.watermarks.resume_from(replay.watermark());
        }
        Ok(())
    }

    fn take(&mut self) -> Option<(usize, StreamElement)> {
        if let Some(urgent) = self.inputs.next_urgent() {
            return Some(urgent);
        }
        let (channel, element, _) = self.inputs.next_waiting(usize::MAX)?;
        if self.lets_one_by == Some(channel) {
            self.inputs.block(channel);
            self.lets_one_by = None;
        }
        Some((channel, element))
    }

    fn element(&mut self, channel: usize, element: StreamElement, out: &mut Vec<Output>) -> Result<(), OperatorError> {
        match element {
            StreamElement::Batch(batch) => self.process(batch),
            StreamElement::Watermark(watermark) => {
                let progress = self.watermarks.on_watermark(channel, watermark);
                self.progress(progress)
            }
            StreamElement::Idle => {
                let progress = self.watermarks.on_idle(channel);
                self.progress(progress)
            }
            StreamElement::Barrier(barrier) => {
                let actions = self.aligner.on_barrier(channel, barrier);
                self.align(actions, out)
            }
            StreamElement::UnalignedBarrier(barrier) => {
                let actions = self.aligner.on_unaligned_barrier(channel, barrier);
                self.align(actions, out)
            }
            StreamElement::CancelBarrier(checkpoint) => {
                let actions = self.aligner.on_cancel(channel, checkpoint);
                self.align(actions, out)
            }
            StreamElement::End => {
                let actions = self.aligner.on_end(channel);
                self.align(actions, out)?;
                let progress = self.watermarks.on_end(channel);
                self.progress(progress)
            }
        }
    }

    fn process(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        let mut emitted: Vec<RecordBatch> = vec![];
        let mut context = OperatorContext { state: &mut self.state, processing_time_us: 0, metrics: &mut self.metrics };
        self.operator.process(0, batch, &mut context, &mut emitted)?;
        self.write(&emitted)
    }

    fn progress(&mut self, progress: Progress) -> Result<(), OperatorError> {
        progress.watermark.map_or(Ok(()), |watermark| self.advance(watermark))
    }

    fn advance(&mut self, watermark: Watermark) -> Result<(), OperatorError> {
        let mut emitted: Vec<RecordBatch> = vec![];
        let mut context = OperatorContext { state: &mut self.state, processing_time_us: 0, metrics: &mut self.metrics };
        self.operator.on_watermark(watermark, &mut context, &mut emitted)?;
        if watermark == Watermark::MAX {
            self.operator.on_end(&mut context, &mut emitted)?;
        }
        self.write(&emitted)
    }

    fn write(&mut self, emitted: &[RecordBatch]) -> Result<(), OperatorError> {
        // Without alignment a record may come again when its window has passed.
        if self.metrics.late_records_dropped > 0 && self.job.alignment == AlignmentMode::ExactlyOnce {
            return Err(OperatorError::Failed("a record came late, and none can be".to_owned()));
        }
        self.rows.extend(emitted.iter().flat_map(|batch| self.job.rows(batch)));
        self.state.between_batches(0).map_err(OperatorError::from)
    }

    fn align(&mut self, actions: Vec<Action>, out: &mut Vec<Output>) -> Result<(), OperatorError> {
        for action in actions {
            match action {
                Action::Block(channel) if self.bug == Some(Bug::BarrierLetsOneBy) => self.lets_one_by = Some(channel),
                Action::Block(channel) => self.inputs.block(channel),
                Action::UnblockAll => {
                    self.inputs.unblock_all();
                    self.lets_one_by = None;
                }
                Action::Snapshot(barrier) => self.cut(barrier, out)?,
                Action::SnapshotInFlight { barrier, channels } => self.cut_in_flight(barrier, &channels, out)?,
                Action::InFlightComplete(checkpoint) => self.in_flight_complete(checkpoint, out),
                Action::ForwardCancel { checkpoint, cause } => {
                    self.inputs.drop_in_flight(checkpoint);
                    self.cut_in_flight.take_if(|cut| cut.barrier.checkpoint == checkpoint);
                    let reason = match cause {
                        CancelCause::Cancelled => continue,
                        CancelCause::Overtaken { channel } => format!("input channel {channel} skipped its barrier"),
                        CancelCause::TooMany => "too many checkpoints are under way".to_owned(),
                    };
                    out.push(Output::Declined { checkpoint, reason });
                }
                Action::AllEnded => {}
            }
        }
        Ok(())
    }

    fn cut(&mut self, barrier: Barrier, out: &mut Vec<Output>) -> Result<(), OperatorError> {
        let (mut snapshot, keyed) = self.cut_parts(barrier, out)?;
        if self.job.is_unaligned && barrier.kind == CheckpointKind::Checkpoint {
            snapshot.watermark = event_time(self.watermarks.current());
        }
        out.push(Output::Cut { barrier, snapshot: Box::new(snapshot), keyed: Some(keyed), in_flight: None });
        Ok(())
    }

    fn cut_in_flight(
        &mut self,
        barrier: Barrier,
        channels: &[usize],
        out: &mut Vec<Output>,
    ) -> Result<(), OperatorError> {
        self.inputs.keep_in_flight(barrier.checkpoint, channels);
        let (snapshot, keyed) = self.cut_parts(barrier, out)?;
        let (progress, watermark) = (self.watermarks.channels().to_vec(), self.watermarks.current());
        self.cut_in_flight = Some(CutInFlight { barrier, snapshot, keyed, progress, watermark });
        Ok(())
    }

    fn in_flight_complete(&mut self, checkpoint: CheckpointId, out: &mut Vec<Output>) {
        let Some(cut) = self.cut_in_flight.take_if(|cut| cut.barrier.checkpoint == checkpoint) else { return };
        let CutInFlight { barrier, mut snapshot, keyed, progress, watermark } = cut;
        let Some(elements) = self.inputs.take_in_flight(checkpoint) else {
            return out.push(Output::Declined { checkpoint, reason: "too much is in flight".to_owned() });
        };
        let channels = elements.into_iter().zip(progress).zip(0u32..);
        let channels =
            channels.map(|((elements, progress), from)| ChannelInFlight { input: 0, from, progress, elements });
        let in_flight = SubtaskInFlight { watermark, channels: channels.collect() };
        snapshot.watermark = event_time(watermark);
        let is_kept = in_flight.rows() > 0 && self.bug != Some(Bug::ForgetsInFlight);
        let in_flight = is_kept.then_some(in_flight);
        out.push(Output::Cut { barrier, snapshot: Box::new(snapshot), keyed: Some(keyed), in_flight });
    }

    fn cut_parts(
        &mut self,
        barrier: Barrier,
        out: &mut Vec<Output>,
    ) -> Result<(TaskSnapshot, StateCut), OperatorError> {
        let keyed = self.state.cut(barrier.checkpoint)?;
        let mut prepared = vec![];
        if !self.rows.is_empty() {
            self.transactions += 1;
            let transaction = format!("{}-{}-{}", self.attempt, self.index, self.transactions);
            out.push(Output::Prepared { transaction: transaction.clone(), rows: std::mem::take(&mut self.rows) });
            prepared.push(transaction);
        }
        let all = self.pending.prepared(barrier.checkpoint, prepared.clone());
        let transactions = Some(if self.bug == Some(Bug::ForgetsAborted) { prepared } else { all });
        Ok((TaskSnapshot { transactions, ..TaskSnapshot::default() }, keyed))
    }

    /// The commit thread has come so far.
    pub(crate) fn committed(&mut self, checkpoint: CheckpointId) {
        self.pending.committed(checkpoint);
    }
}

/// What a checkpoint says of event time.
fn event_time(watermark: Watermark) -> Option<Watermark> {
    (watermark > Watermark::MIN).then_some(watermark)
}
