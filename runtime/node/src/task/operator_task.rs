//! The thread of a task that reads channels: alignment, watermarks, and the chain behind them.

use super::*;
use crate::kept::Handover;
use crate::metrics::NodeMetrics;
use crate::task_clock::Spell;
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_connectors::api::Committable;
use weir_dataflow::PendingCommits;
use weir_dataflow::alignment::{Action, Aligner, CancelCause};
use weir_dataflow::channels::IN_FLIGHT_LIMIT_BYTES;
use weir_dataflow::in_flight::{Replay, ReplayStep};
use weir_dataflow::operator::OperatorError;
use weir_dataflow::watermark::{Progress, WatermarkMerger};
use weir_model::{
    Barrier, ChannelInFlight, ChannelProgress, CheckpointId, CheckpointKind, StreamElement, SubtaskInFlight, Watermark,
};

/// The chain of one task with everything around it that source tasks and operator tasks share.
pub(crate) struct TaskCore {
    pub(crate) nodes: Vec<ChainNode>,
    /// The last of the nodes, until `open`.
    pub(crate) sink: Option<SinkToOpen>,
    pub(crate) outputs: Outputs,
    pub(crate) gate: Arc<Gate>,
    /// Where the task counts: those of its first node.
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) arrivals: Arrivals,
    pub(crate) reporter: Reporter,
    pub(crate) snapshots: SnapshotHandle,
    pub(crate) pending: PendingCommits<Committable>,
    pub(crate) commits: Option<CommitThread>,
    pub(crate) failed_in: Option<weir_model::OperatorUid>,
    /// Takes the state of a task that ends with nothing written since its last cut.
    pub(crate) handover: Arc<Handover>,
    /// The checkpoint of the last cut, while that is so.
    pub(crate) unchanged_since: Option<CheckpointId>,
    /// What the restored checkpoint had in flight, to be worked off before anything new.
    pub(crate) replays: Vec<NodeReplay>,
}

/// Of one node of a chain.
pub(crate) struct NodeReplay {
    /// Where in the chain.
    pub(crate) position: usize,
    pub(crate) replay: Replay,
}

/// Why a task's loop ended.
pub(crate) enum TaskEnd {
    Finished,
    Cancelled,
}

impl TaskCore {
    /// Opens what must not be open before every sink of the job is settled.
    pub(crate) fn open(&mut self) -> Result<(), OperatorError> {
        let Some(SinkToOpen { uid, metrics, open }) = self.sink.take() else { return Ok(()) };
        let writer = open().map_err(|error| {
            self.failed_in = Some(uid.clone());
            of_connector(error)
        })?;
        self.nodes.push(ChainNode { uid, metrics, kind: ChainNodeKind::Sink(writer) });
        Ok(())
    }

    pub(crate) fn downstream(&mut self) -> Downstream<'_> {
        self.unchanged_since = None;
        Downstream { nodes: &mut self.nodes, outputs: &mut self.outputs, failed_in: &mut self.failed_in }
    }

    /// Processes what the restored checkpoint had in flight: first what was furthest on its way. Returns where event
    /// time at the head of the chain is then, if anything was said about it.
    pub(crate) fn replay(&mut self) -> Result<Option<Watermark>, OperatorError> {
        let mut at_head = None;
        let mut replays = std::mem::take(&mut self.replays);
        replays.sort_by_key(|replay| std::cmp::Reverse(replay.position));
        for NodeReplay { position, mut replay } in replays {
            while let Some(step) = replay.next_step() {
                if self.gate.is_cancelled() {
                    return Err(OperatorError::Cancelled);
                }
                // A barrier that comes now waits until all of this is done.
                self.gate.put_off_urgent();
                let mut downstream = Downstream {
                    nodes: &mut self.nodes[position..],
                    outputs: &mut self.outputs,
                    failed_in: &mut self.failed_in,
                };
                match step {
                    ReplayStep::Batch { input, batch } => downstream.process(input, batch)?,
                    ReplayStep::Watermark(watermark) => downstream.watermark(watermark)?,
                }
            }
            if position == 0 && replay.watermark() > Watermark::MIN {
                at_head = Some(replay.watermark());
            }
        }
        Ok(at_head)
    }

    /// Cuts every node of the chain, sends the barrier on, and lets the cut be written in the background.
    /// `source` is the part of a source that drives this chain.
    pub(crate) fn cut(&mut self, barrier: StreamElement, source: Option<NodeCut>) -> Result<(), OperatorError> {
        let (StreamElement::Barrier(Barrier { checkpoint, .. })
        | StreamElement::UnalignedBarrier(Barrier { checkpoint, .. })) = barrier
        else {
            unreachable!("a cut is made at a barrier, not at {barrier:?}");
        };
        let mut cuts: Vec<NodeCut> = source.into_iter().collect();
        let (nodes, figures) = self.cut_nodes(checkpoint)?;
        cuts.extend(nodes);
        self.outputs.broadcast(&barrier)?;
        self.snapshots.write(checkpoint, cuts, figures, self.reporter.clone());
        Ok(())
    }

    fn cut_nodes(&mut self, checkpoint: CheckpointId) -> Result<(Vec<NodeCut>, EndedCut), OperatorError> {
        let begun = self.arrivals.cut_begins(checkpoint);
        if let Some(committed) = self.commits.as_ref().and_then(CommitThread::committed) {
            self.pending.committed(committed);
        }
        let mut cuts = vec![];
        self.unchanged_since = Some(checkpoint);
        for node in &mut self.nodes {
            let mut cut = NodeCut::of(node.uid.clone());
            match &mut node.kind {
                ChainNodeKind::Operator { state, .. } => {
                    cut.keyed = Some(state.cut(checkpoint)?);
                }
                ChainNodeKind::Sink(writer) => {
                    let mut prepared = writer.pre_commit(checkpoint).map_err(|error| {
                        self.failed_in.get_or_insert_with(|| node.uid.clone());
                        of_connector(error.during(format_args!("pre-commit of checkpoint {checkpoint}")))
                    })?;
                    prepared.committables = self.pending.prepared(checkpoint, prepared.committables);
                    cut.sink = Some(prepared);
                }
            }
            cuts.push(cut);
        }
        let figures = begun.ended(Arc::clone(&self.metrics));
        self.metrics.task.barrier_cut.set(checkpoint.0);
        Ok((cuts, figures))
    }

    /// A barrier has come to this task; others of the checkpoint may have come before.
    pub(crate) fn barrier_arrived(&mut self, checkpoint: CheckpointId) {
        self.arrivals.arrived(checkpoint);
        self.metrics.task.barrier_seen.set(checkpoint.0);
    }

    /// The mail that every task understands. `Some`: the task ends.
    pub(crate) fn mail(&mut self, mail: Mail) -> Option<TaskEnd> {
        match mail {
            Mail::Commit { permit, ended: _ } => self.commit(permit),
            Mail::Finish => return Some(TaskEnd::Finished),
            Mail::Trigger { .. } | Mail::TurnUnaligned(_) | Mail::Resume | Mail::CancelCheckpoint(_) => {}
        }
        None
    }

    fn commit(&mut self, permit: weir_model::CommitPermit) {
        for node in &mut self.nodes {
            if let ChainNodeKind::Operator { state, .. } = &mut node.kind {
                state.confirm(permit.checkpoint());
            }
        }
        let committables = self.pending.commit_up_to(permit.checkpoint());
        let settled_before = self.pending.settled_before(permit.checkpoint());
        match &self.commits {
            Some(commits) => commits.commit(permit, committables, settled_before),
            None => {
                self.pending.committed(permit.checkpoint());
                self.reporter.report(TaskEventKind::Committed { checkpoint: permit.checkpoint() });
            }
        }
    }

    /// When the loop must wake up for processing-time timers.
    pub(crate) fn timer_deadline(&self) -> Option<Instant> {
        let due_us = next_processing_time_us(&self.nodes)?;
        let wait_us = (due_us - now_us()).max(0) as u64;
        Some(Instant::now() + Duration::from_micros(wait_us))
    }

    pub(crate) fn fire_timers(&mut self) -> Result<(), OperatorError> {
        self.downstream().processing_time(now_us())
    }

    /// Passes a change of event time through the chain and on.
    pub(crate) fn progress(&mut self, progress: Progress) -> Result<(), OperatorError> {
        if let Some(watermark) = progress.watermark {
            self.downstream().watermark(watermark)?;
        }
        if progress.idle {
            self.outputs.broadcast(&StreamElement::Idle)?;
        }
        Ok(())
    }

    /// Lets go of what sinks have open, and says how the task ended.
    pub(crate) fn end(mut self, result: Result<TaskEnd, OperatorError>) {
        // Commits that were asked for are carried out before the thread is gone.
        self.commits = None;
        if !matches!(result, Ok(TaskEnd::Finished)) {
            for node in &mut self.nodes {
                if let ChainNodeKind::Sink(writer) = &mut node.kind {
                    writer.abort();
                }
            }
        }
        if let (Ok(TaskEnd::Cancelled), Some(checkpoint)) = (&result, self.unchanged_since) {
            for node in self.nodes {
                if let ChainNodeKind::Operator { state, .. } = node.kind {
                    self.handover.leave(node.uid, checkpoint, *state);
                }
            }
        }
        self.reporter.report(match result {
            Ok(_) | Err(OperatorError::Cancelled) => TaskEventKind::Ended,
            Err(error) => TaskEventKind::Failed(TaskFailure {
                node: self.failed_in.take(),
                reason: error.to_string(),
                is_fatal: matches!(error, OperatorError::Refused(_)),
                is_of_data: !matches!(error, OperatorError::Outside(_) | OperatorError::Refused(_)),
            }),
        });
    }
}

/// A task that reads from other tasks.
pub(crate) struct OperatorTask {
    pub(crate) core: TaskCore,
    pub(crate) aligner: Aligner,
    pub(crate) watermarks: WatermarkMerger,
    /// The input of the chain's first node to which each channel belongs, and the subtask that writes into it.
    pub(crate) channels: Vec<ChannelOrigin>,
    /// The job takes unaligned checkpoints: where event time is becomes part of them.
    pub(crate) keeps_event_time: bool,
    /// How much this task takes at a time, and how much may wait for it.
    pub(crate) pace: Pace,
    pub(crate) room: Room,
    pub(crate) in_flight: Option<CutInFlight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelOrigin {
    pub(crate) input: usize,
    pub(crate) from: u32,
}

/// A cut of which some channels' barriers are yet to come.
pub(crate) struct CutInFlight {
    checkpoint: CheckpointId,
    nodes: Vec<NodeCut>,
    figures: EndedCut,
    progress: Vec<ChannelProgress>,
    watermark: Watermark,
}

impl OperatorTask {
    pub(crate) fn run(mut self) {
        let result = self.process();
        self.core.end(result);
    }

    fn process(&mut self) -> Result<TaskEnd, OperatorError> {
        self.core.open()?;
        if let Some(watermark) = self.core.replay()? {
            // The chain has heard of it.
            self.watermarks.resume_from(watermark);
        }
        loop {
            let deadline = self.core.timer_deadline();
            match self.core.gate.next(deadline, self.pace.at_most()) {
                Event::Cancelled => return Ok(TaskEnd::Cancelled),
                Event::TimedOut => {}
                // In order, a checkpoint that turns goes on being aligned.
                Event::Mail(Mail::TurnUnaligned(_)) if self.core.gate.is_in_order() => {}
                Event::Mail(Mail::TurnUnaligned(checkpoint)) => {
                    let actions = self.aligner.turn_unaligned(checkpoint);
                    self.align(actions)?;
                }
                Event::Mail(Mail::CancelCheckpoint(checkpoint)) => {
                    let actions = self.aligner.cancel(checkpoint);
                    self.align(actions)?;
                }
                Event::Mail(mail) => {
                    if let Some(end) = self.core.mail(mail) {
                        return Ok(end);
                    }
                }
                Event::Element(channel, element, bytes) => self.element(channel, element, bytes)?,
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.core.fire_timers()?;
            }
        }
    }

    fn batch(&mut self, channel: usize, batch: RecordBatch, bytes: usize) -> Result<(), OperatorError> {
        let (batch, bytes) = self.filled_up(channel, batch, bytes)?;
        let ChannelOrigin { input, .. } = self.channels[channel];
        let spell = Spell::begin();
        self.core.downstream().process(input, batch)?;
        self.pace.worked(bytes, spell.end());
        if let Some(bytes) = self.room.worked(&self.pace) {
            self.core.gate.limit(bytes);
        }
        Ok(())
    }

    /// The batch with those behind it, where each by itself would be too small.
    fn filled_up(
        &self,
        channel: usize,
        batch: RecordBatch,
        bytes: usize,
    ) -> Result<(RecordBatch, usize), OperatorError> {
        let at_least = self.pace.at_least();
        if bytes >= at_least {
            return Ok((batch, bytes));
        }
        let (mut batches, mut sum) = (vec![batch], bytes);
        while sum < at_least
            && let Some((batch, bytes)) = self.core.gate.next_batch_of(channel, self.pace.at_most() - sum)
        {
            batches.push(batch);
            sum += bytes;
        }
        Ok((concat_batches(batches[0].schema_ref(), &batches)?, sum))
    }

    fn element(&mut self, channel: usize, element: StreamElement, bytes: usize) -> Result<(), OperatorError> {
        match element {
            StreamElement::Batch(batch) => self.batch(channel, batch, bytes),
            StreamElement::Watermark(watermark) => {
                let progress = self.watermarks.on_watermark(channel, watermark);
                self.core.progress(progress)
            }
            StreamElement::Idle => {
                let progress = self.watermarks.on_idle(channel);
                self.core.progress(progress)
            }
            StreamElement::Barrier(barrier) => {
                self.core.barrier_arrived(barrier.checkpoint);
                let actions = self.aligner.on_barrier(channel, barrier);
                self.align(actions)
            }
            StreamElement::UnalignedBarrier(barrier) => {
                self.core.barrier_arrived(barrier.checkpoint);
                let actions = self.aligner.on_unaligned_barrier(channel, barrier);
                self.align(actions)
            }
            StreamElement::CancelBarrier(checkpoint) => {
                let actions = self.aligner.on_cancel(channel, checkpoint);
                self.align(actions)
            }
            StreamElement::End => {
                let actions = self.aligner.on_end(channel);
                self.align(actions)?;
                let progress = self.watermarks.on_end(channel);
                self.core.progress(progress)
            }
        }
    }

    fn align(&mut self, actions: Vec<Action>) -> Result<(), OperatorError> {
        for action in actions {
            match action {
                Action::Block(channel) => self.core.gate.block(channel),
                Action::UnblockAll => self.core.gate.unblock_all(),
                Action::Snapshot(barrier) => self.snapshot(barrier)?,
                Action::SnapshotInFlight { barrier, channels } => self.snapshot_in_flight(barrier, &channels)?,
                Action::InFlightComplete(checkpoint) => self.in_flight_complete(checkpoint),
                Action::ForwardCancel { checkpoint, cause } => self.given_up(checkpoint, cause)?,
                Action::AllEnded => {}
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, barrier: Barrier) -> Result<(), OperatorError> {
        let (mut nodes, figures) = self.core.cut_nodes(barrier.checkpoint)?;
        if self.keeps_event_time && barrier.kind == CheckpointKind::Checkpoint {
            nodes[0].watermark = event_time(self.watermarks.current());
        }
        let overtakes_elsewhere = self.core.gate.is_turned(barrier.checkpoint);
        self.core.outputs.broadcast(&match overtakes_elsewhere {
            true => StreamElement::UnalignedBarrier(barrier),
            false => StreamElement::Barrier(barrier),
        })?;
        self.core.snapshots.write(barrier.checkpoint, nodes, figures, self.core.reporter.clone());
        Ok(())
    }

    fn snapshot_in_flight(&mut self, barrier: Barrier, channels: &[usize]) -> Result<(), OperatorError> {
        let checkpoint = barrier.checkpoint;
        self.core.gate.keep_in_flight(checkpoint, channels);
        let (nodes, figures) = self.core.cut_nodes(checkpoint)?;
        self.core.outputs.broadcast(&StreamElement::UnalignedBarrier(barrier))?;
        let (progress, watermark) = (self.watermarks.channels().to_vec(), self.watermarks.current());
        self.in_flight = Some(CutInFlight { checkpoint, nodes, figures, progress, watermark });
        Ok(())
    }

    fn in_flight_complete(&mut self, checkpoint: CheckpointId) {
        let Some(cut) = self.in_flight.take_if(|cut| cut.checkpoint == checkpoint) else { return };
        let CutInFlight { checkpoint, mut nodes, figures, progress, watermark } = cut;
        let Some(elements) = self.core.gate.take_in_flight(checkpoint) else {
            let reason = format!("more than {} MiB are in flight before it", IN_FLIGHT_LIMIT_BYTES >> 20);
            return self.core.reporter.report(TaskEventKind::Declined { checkpoint, reason });
        };
        let channels = elements.into_iter().zip(progress).zip(&self.channels);
        let channels = channels.map(|((elements, progress), ChannelOrigin { input, from })| ChannelInFlight {
            input: *input,
            from: *from,
            progress,
            elements,
        });
        let in_flight = SubtaskInFlight { watermark, channels: channels.collect() };
        nodes[0].watermark = event_time(watermark);
        nodes[0].in_flight = (in_flight.rows() > 0).then_some(in_flight);
        self.core.snapshots.write(checkpoint, nodes, figures, self.core.reporter.clone());
    }

    fn given_up(&mut self, checkpoint: CheckpointId, cause: CancelCause) -> Result<(), OperatorError> {
        self.core.gate.drop_in_flight(checkpoint);
        self.in_flight.take_if(|cut| cut.checkpoint == checkpoint);
        let reason = match cause {
            CancelCause::Cancelled => None,
            CancelCause::Overtaken { channel } => Some(format!("input channel {channel} skipped its barrier")),
            CancelCause::TooMany => Some("too many checkpoints are under way".to_owned()),
        };
        if let Some(reason) = reason {
            self.core.reporter.report(TaskEventKind::Declined { checkpoint, reason });
        }
        self.core.outputs.broadcast(&StreamElement::CancelBarrier(checkpoint))
    }
}

/// What a checkpoint says of event time.
fn event_time(watermark: Watermark) -> Option<Watermark> {
    (watermark > Watermark::MIN).then_some(watermark)
}
