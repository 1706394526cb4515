//! One subtask's task after the other, from the graph and from what is restored.

use super::{DeployError, Surroundings, ThreadBody};
use crate::checkpoint_objects::CheckpointObjects;
use crate::exchange::AttemptExchange;
use crate::kept::Handover;
use crate::metrics::NodeMetrics;
use crate::restore::{OperatorRestore, RestoreState};
use crate::task::*;
use crate::task_clock;
use crate::worker::Deployment;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use weir_connectors::api::{CommitScope, CommitterContext, Guarantee, SinkContext, SinkWriter, SourceContext};
use weir_dataflow::PendingCommits;
use weir_dataflow::alignment::Aligner;
use weir_dataflow::channels::InputChannels;
use weir_dataflow::operator::OperatorMetrics;
use weir_dataflow::watermark::{WatermarkGenerator, WatermarkMerger, WatermarkStrategy};
use weir_model::graph::{Exchange, Node, NodeId, NodeKind, OperatorSpec, Port, StreamSchema};
use weir_model::{Fence, KeyGroupRange, OperatorUid, SubtaskId, SubtaskInFlight};
use weir_state::{KeyedState, KeyedStateHandle, StateConfig, StateError};

pub(super) struct Builder<'a> {
    pub(super) around: &'a Surroundings<'a>,
    pub(super) restore: Option<&'a RestoreState>,
    /// What sinks name their output by. The fence alone would come again where a job starts over, from a savepoint
    /// on another storage: its output would take the names of what stands there.
    attempt_name: String,
    /// By task and subtask; of those that are placed here.
    pub(super) gates: Vec<Vec<Option<Arc<Gate>>>>,
    pub(super) source_gates: Vec<Arc<Gate>>,
    pub(super) objects: Arc<CheckpointObjects>,
    pub(super) handover: Arc<Handover>,
    pub(super) leash: Arc<Leash>,
    pub(super) exchange: AttemptExchange,
    /// What old subtasks had in flight, read once for all that take a share of it.
    pub(super) in_flight: BTreeMap<(OperatorUid, u32), SubtaskInFlight>,
    /// The job takes unaligned checkpoints.
    is_unaligned: bool,
}

impl<'a> Builder<'a> {
    pub(super) fn new(around: &'a Surroundings<'a>, restore: Option<&'a RestoreState>) -> Self {
        let gates = (0..around.plan.tasks.len()).map(|task| {
            let (plan, channels) = (&around.plan.tasks[task], around.plan.channels(task));
            let inputs = || match plan.reads_in_order {
                true => InputChannels::new(channels).in_order(),
                false => InputChannels::new(channels),
            };
            let gate = |subtask| around.is_here(subtask).then(|| Gate::new(inputs()));
            (0..plan.parallelism).map(gate).collect::<Vec<_>>()
        });
        let gates: Vec<_> = gates.collect();
        let tasks = gates.iter().flatten().flatten().count();
        let Deployment { fence, worker, peers, .. } = around.deployment;
        let mut exchange =
            AttemptExchange::new(*fence, *worker, around.data.cloned(), peers.clone(), around.events.clone());
        for (task, gates) in gates.iter().enumerate() {
            for (subtask, gate) in
                gates.iter().enumerate().filter_map(|(subtask, gate)| Some((subtask, gate.as_ref()?)))
            {
                for channel in 0..around.plan.channels(task) {
                    exchange.listen(around.plan.channel_number(task, subtask, channel), Arc::clone(gate), channel);
                }
            }
        }
        let (folder, runtime) = (around.folder.clone(), around.runtime.clone());
        let objects = CheckpointObjects::new(folder, runtime, *fence, *worker, tasks, around.copies.cloned());
        let Fence { epoch, attempt } = fence;
        let attempt_name = format!("e{epoch}-a{attempt}-{:08x}", rand::random::<u32>());
        let handover = Arc::new(Handover::new(around.deployment.fence));
        let (objects, leash) = (Arc::new(objects), Arc::default());
        let policy = around.job.resource.spec.checkpoint.as_ref();
        Builder {
            around,
            restore,
            attempt_name,
            gates,
            source_gates: vec![],
            objects,
            handover,
            leash,
            exchange,
            in_flight: BTreeMap::new(),
            is_unaligned: policy.is_some_and(|policy| policy.aligned_timeout().is_some()),
        }
    }

    /// # Panics
    /// If the subtask is placed on another worker.
    pub(super) fn gate(&self, task: usize, subtask: usize) -> Arc<Gate> {
        let gate = self.gates[task][subtask].as_ref();
        Arc::clone(gate.unwrap_or_else(|| panic!("subtask {subtask} of task {task} runs on another worker")))
    }

    /// The body of one subtask's thread.
    pub(super) fn thread(&mut self, task: usize, subtask: usize) -> Result<(Reporter, ThreadBody), DeployError> {
        let graph = &self.around.job.graph;
        let plan = &self.around.plan.tasks[task];
        let head = graph.node(plan.nodes[0]);
        let id = SubtaskId { operator: head.uid.clone(), index: subtask as u32 };
        let reporter = Reporter { fence: self.around.deployment.fence, task: id, events: self.around.events.clone() };
        let is_source = self.around.plan.is_source(graph, task);
        let chained = if is_source { &plan.nodes[1..] } else { &plan.nodes[..] };
        let (operators, sink) = self.split_sink(chained);
        let nodes = operators.iter().map(|node| self.operator_node(*node, subtask)).collect::<Result<Vec<_>, _>>()?;
        let outputs = self.outputs(task, subtask, Port::Main)?;
        let dead_letters = self.outputs(task, subtask, Port::DeadLetter)?;
        let gate = self.gate(task, subtask);
        gate.wakes([&outputs, &dead_letters].into_iter().flat_map(|outputs| outputs.writers().cloned()).collect());
        let core = TaskCore {
            nodes,
            sink: sink.map(|node| self.sink_to_open(node, subtask)),
            outputs,
            gate,
            metrics: self.metrics(plan.nodes[0], subtask),
            arrivals: Arrivals::default(),
            reporter: reporter.clone(),
            snapshots: self.around.snapshots.handle(Arc::clone(&self.objects)),
            pending: PendingCommits::default(),
            commits: self.commit_thread(chained, &reporter)?,
            failed_in: None,
            handover: Arc::clone(&self.handover),
            unchanged_since: None,
            replays: self.replays(chained, subtask as u32)?,
        };
        if is_source {
            self.source_gates.push(self.gate(task, subtask));
            let source = self.source_task(task, subtask, core, dead_letters)?;
            let own = Arc::clone(&source.core.metrics);
            return Ok((reporter.clone(), guarded(reporter, own, self.span(task, subtask), move || source.run())));
        }
        let bases = self.around.plan.channel_bases(task);
        let channels = bases.last().copied().unwrap_or(0);
        let origins = bases.windows(2).enumerate().flat_map(|(input, base)| {
            let count = (base[1] - base[0]) as u32;
            // The one channel of a forward exchange comes from the subtask of the same number.
            let is_forward = plan.inputs[input].exchange == Exchange::Forward;
            (0..count).map(move |from| ChannelOrigin { input, from: if is_forward { subtask as u32 } else { from } })
        });
        let operator = OperatorTask {
            core,
            aligner: Aligner::new(channels, self.around.deployment.mode),
            watermarks: WatermarkMerger::new(channels),
            channels: origins.collect(),
            keeps_event_time: self.is_unaligned,
            pace: Pace::of_reader(),
            room: Room::new(channels, CHANNEL_BYTES),
            in_flight: None,
        };
        let own = Arc::clone(&operator.core.metrics);
        Ok((reporter.clone(), guarded(reporter, own, self.span(task, subtask), move || operator.run())))
    }

    /// What every line of the log says of a task.
    fn span(&self, task: usize, subtask: usize) -> tracing::Span {
        let Deployment { fence: Fence { epoch, attempt }, worker, .. } = self.around.deployment;
        let job = &self.around.job.name;
        let task = &self.around.job.graph.node(self.around.plan.tasks[task].nodes[0]).uid;
        tracing::error_span!("task", %job, epoch = epoch.0, attempt = attempt.0, worker = worker.0, %task, subtask)
    }

    fn source_task(
        &mut self,
        task: usize,
        subtask: usize,
        core: TaskCore,
        dead_letters: Outputs,
    ) -> Result<SourceTask, DeployError> {
        let node = self.around.job.graph.node(self.around.plan.tasks[task].nodes[0]);
        let context = SourceContext {
            name: node.step.clone(),
            job_uid: self.around.job.uid.clone(),
            subtask: subtask as u32,
            parallelism: self.around.plan.tasks[task].parallelism as u32,
        };
        let splits = self.restored(&node.uid).map_or(vec![], |restored| restored.splits.clone());
        let source = &self.around.job.sources[&node.step];
        let reader = source.reader(context, splits).map_err(|error| DeployError::connector(&node.uid, error))?;
        Ok(SourceTask {
            core,
            uid: node.uid.clone(),
            metrics: self.metrics(self.around.plan.tasks[task].nodes[0], subtask),
            reader,
            event_time: self.event_time(node),
            restored_watermark: self.restored(&node.uid).and_then(|restored| restored.watermark),
            dead_letters,
            pace: Pace::of_source(),
            lags_due: std::time::Instant::now(),
        })
    }

    fn event_time(&self, node: &Node) -> Option<EventTime> {
        let sources = &self.around.job.resource.spec.pipeline.sources;
        let watermark = sources.iter().find(|source| source.name == node.step)?.watermark.as_ref()?;
        let column = node.schema.fields.index_of(&watermark.column).ok()?;
        let strategy = WatermarkStrategy {
            column: watermark.column.clone(),
            max_out_of_orderness_us: watermark.max_out_of_orderness().as_micros() as i64,
            idle_timeout_us: watermark.idle_timeout().map(|timeout| timeout.as_micros() as i64),
        };
        Some(EventTime::new(WatermarkGenerator::new(strategy), column))
    }

    /// A sink is read by nobody, so that it is the last of its chain.
    fn split_sink<'n>(&self, chained: &'n [NodeId]) -> (&'n [NodeId], Option<NodeId>) {
        match chained.split_last() {
            Some((last, operators)) if matches!(self.around.job.graph.node(*last).kind, NodeKind::Sink) => {
                (operators, Some(*last))
            }
            _ => (chained, None),
        }
    }

    fn operator_node(&self, id: NodeId, subtask: usize) -> Result<ChainNode, DeployError> {
        let node = self.around.job.graph.node(id);
        let kind = match &node.kind {
            NodeKind::Source => unreachable!("a source is the head of its task"),
            NodeKind::Sink => unreachable!("a sink is the last of its chain"),
            NodeKind::Operator(spec) => self.operator(node, spec, subtask as u32)?,
        };
        Ok(ChainNode { uid: node.uid.clone(), metrics: self.metrics(id, subtask), kind })
    }

    fn operator(&self, node: &Node, spec: &OperatorSpec, subtask: u32) -> Result<ChainNodeKind, DeployError> {
        let graph = &self.around.job.graph;
        let max_parallelism = graph.max_parallelism;
        let key_groups = KeyGroupRange::of_subtask(subtask, node.parallelism, max_parallelism);
        let config = StateConfig { key_groups, max_parallelism };
        let restored = self.restored(&node.uid).map_or(&[][..], |restored| &restored.keyed[..]);
        let meets = |handle: &&KeyedStateHandle| handle.key_groups.intersect(&key_groups).is_some();
        let restored: Vec<_> = restored.iter().filter(meets).cloned().collect();
        let failed = |error: &dyn std::fmt::Display| DeployError::fatal(format!("{}: {error}", node.uid));
        let name = format!("{}-{subtask}", node.uid);
        let mut kept = self.around.kept.of(&node.uid);
        let opened = self.around.backends.open(&name, config, &restored, &mut kept, self.around.segments);
        let mut state = opened.map_err(|error| DeployError {
            reason: format!("{}: {error}", node.uid),
            // A disk that is full now may not be so later.
            is_fatal: !matches!(error, StateError::ColdStore { .. }),
        })?;
        if let Some(saved) = self.restored(&node.uid).and_then(|restored| restored.saved.as_ref()) {
            // Before the operator is made: it reads its states while it opens.
            saved.fill(&mut state).map_err(|error| DeployError {
                reason: format!("{}: {error}", node.uid),
                is_fatal: !error.is_transient(),
            })?;
        }
        let inputs: Vec<StreamSchema> = node.inputs.iter().map(|edge| graph.node(edge.from).schema.clone()).collect();
        let registry = &*self.around.job.registry;
        let operator = weir_dataflow::factory::create(spec, &inputs, &node.schema, &mut state, registry)
            .map_err(|error| failed(&error))?;
        self.refuse_unmatched_states(node, &state)?;
        state.between_batches(now_us()).map_err(|error| failed(&error))?;
        Ok(ChainNodeKind::Operator { operator, state: Box::new(state), counts: OperatorMetrics::default() })
    }

    /// As `refuse_unmatched`, for the states within an operator.
    fn refuse_unmatched_states(&self, node: &Node, state: &KeyedState) -> Result<(), DeployError> {
        let names: Vec<String> = state.unmatched().map(|schema| format!("`{}`", schema.name)).collect();
        if names.is_empty() || self.around.job.resource.spec.allow_non_restored_state() {
            return Ok(());
        }
        Err(DeployError::fatal(format!(
            "{}: the restore point holds the state {}, which this version of the step doesn't have; set \
             `upgrade.allowNonRestoredState: true` to let it go",
            node.uid,
            names.join(", ")
        )))
    }

    fn sink_to_open(&self, id: NodeId, subtask: usize) -> SinkToOpen {
        let node = self.around.job.graph.node(id);
        let context = SinkContext {
            name: node.step.clone(),
            job_uid: self.around.job.uid.clone(),
            subtask: subtask as u32,
            parallelism: node.parallelism,
            attempt: self.attempt_name.clone(),
            epoch: self.around.deployment.fence.epoch,
            attempt_number: self.around.deployment.fence.attempt,
            input: node.schema.fields.clone(),
        };
        let writers = self.restored(&node.uid).map_or(vec![], |restored| restored.writers.clone());
        let sink = Arc::clone(&self.around.job.sinks[&node.step]);
        let leash = Arc::clone(&self.leash);
        // What nobody sees before a commit needs no leash.
        let leashed = move |writer, guarantee| match guarantee {
            Guarantee::ExactlyOnce => writer,
            Guarantee::AtMostOnce | Guarantee::AtLeastOnce | Guarantee::Idempotent => {
                Box::new(Leashed { writer, leash }) as Box<dyn SinkWriter>
            }
        };
        let open = Box::new(move || sink.writer(context, writers).map(|writer| leashed(writer, sink.guarantee())));
        SinkToOpen { uid: node.uid.clone(), metrics: self.metrics(id, subtask), open }
    }

    /// The thread that commits for the sink of a chain, if it has one that commits.
    fn commit_thread(&self, chained: &[NodeId], reporter: &Reporter) -> Result<Option<CommitThread>, DeployError> {
        let nodes = chained.iter().map(|id| self.around.job.graph.node(*id));
        let Some(node) = nodes.into_iter().find(|node| matches!(node.kind, NodeKind::Sink)) else { return Ok(None) };
        // Committed beside the coordinator, before this task hears of it.
        if self.around.job.sinks[&node.step].commit_scope() == CommitScope::Sink {
            return Ok(None);
        }
        let context = CommitterContext {
            name: node.step.clone(),
            job_uid: self.around.job.uid.clone(),
            epoch: self.around.deployment.fence.epoch,
        };
        let committer = self.around.job.sinks[&node.step].committer(context);
        let Some(committer) = committer.map_err(|error| DeployError::connector(&node.uid, error))? else {
            return Ok(None);
        };
        let thread = CommitThread::start(self.around.job.name.clone(), node.uid.clone(), committer, reporter.clone());
        thread.map(Some).map_err(|error| DeployError { reason: error.to_string(), is_fatal: false })
    }

    pub(super) fn metrics(&self, node: NodeId, subtask: usize) -> Arc<NodeMetrics> {
        Arc::clone(&self.around.deployment.nodes[node.0].subtasks[subtask])
    }

    pub(super) fn restored(&self, uid: &OperatorUid) -> Option<&OperatorRestore> {
        self.restore.and_then(|restore| restore.operators.get(uid))
    }
}

/// A panic in a task fails the attempt, as any failure does.
fn guarded(
    reporter: Reporter,
    own: Arc<NodeMetrics>,
    span: tracing::Span,
    body: impl FnOnce() + Send + 'static,
) -> ThreadBody {
    Box::new(move || {
        let _around = span.entered();
        task_clock::count_for(own);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            let reason = format!("a bug in Weir or in an operator: {message}");
            reporter.report(TaskEventKind::Failed(TaskFailure {
                node: None,
                reason,
                is_fatal: false,
                is_of_data: true,
            }));
        }
    })
}
