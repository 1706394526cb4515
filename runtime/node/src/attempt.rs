//! Starting all tasks of a job: from the graph, and from what a checkpoint holds, to running threads.

use crate::backends::Backends;
use crate::checkpoint_objects::CheckpointObjects;
use crate::exchange::{AttemptExchange, DataServer};
use crate::job::Job;
use crate::kept::{Handover, KeptStates};
use crate::local_copies::LocalCopies;
use crate::metrics::NodeMetrics;
use crate::physical::PhysicalPlan;
use crate::restore::{OperatorRestore, RestoreState};
use crate::status::NodeStatus;
use crate::task::*;
use crate::task_clock;
use crate::worker::{Deployment, EventSink};
use arrow::datatypes::{Schema, SchemaRef};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use weir_connectors::api::{
    CommitterContext, ConnectorError, Guarantee, SinkContext, SinkWriter, SourceContext, dead_letter_schema,
};
use weir_dataflow::PendingCommits;
use weir_dataflow::alignment::Aligner;
use weir_dataflow::in_flight::{InputDivision, Replay, Taker, share};
use weir_dataflow::operator::OperatorMetrics;
use weir_dataflow::watermark::{WatermarkGenerator, WatermarkMerger, WatermarkStrategy};
use weir_model::graph::{Edge, Exchange, Node, NodeId, NodeKind, OperatorSpec, Port, StreamSchema};
use weir_model::{
    CheckpointId, CommitPermit, Durable, Fence, InFlightElement, KeyGroupRange, OperatorUid, SubtaskId,
    SubtaskInFlight, Watermark,
};
use weir_snapshot::JobFolder;
use weir_state::{KeyedState, KeyedStateHandle, SegmentSource, StateConfig, StateError};

/// What a task's thread runs.
type ThreadBody = Box<dyn FnOnce() + Send>;

/// The running tasks of one attempt on one worker.
pub(crate) struct Attempt {
    pub(crate) objects: Arc<CheckpointObjects>,
    pub(crate) handover: Arc<Handover>,
    pub(crate) leash: Arc<Leash>,
    exchange: AttemptExchange,
    gates: Vec<Arc<Gate>>,
    source_gates: Vec<Arc<Gate>>,
    threads: Vec<JoinHandle<()>>,
}

impl Attempt {
    pub(crate) fn send_all(&self, mail: &Mail) {
        self.gates.iter().for_each(|gate| gate.send(mail.clone()));
    }

    pub(crate) fn send_sources(&self, mail: &Mail) {
        self.source_gates.iter().for_each(|gate| gate.send(mail.clone()));
    }

    /// Lets every task end where it stands.
    pub(crate) fn cancel(&self) {
        self.objects.close();
        self.leash.end();
        self.exchange.close();
        self.gates.iter().for_each(|gate| gate.cancel());
    }

    /// Waits for all threads.
    pub(crate) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic was reported by the thread itself.
            thread.join().ok();
        }
    }
}

/// Tasks that are made, and don't run yet.
pub(crate) struct Prepared {
    attempt: Attempt,
    bodies: Vec<(Reporter, ThreadBody)>,
}

impl Prepared {
    pub(crate) fn start(self) -> Attempt {
        let Prepared { mut attempt, bodies } = self;
        attempt.exchange.connect();
        for (reporter, body) in bodies {
            match std::thread::Builder::new().name(reporter.task.to_string()).spawn(body) {
                Ok(thread) => attempt.threads.push(thread),
                Err(error) => {
                    let reason = format!("cannot start a thread: {error}");
                    let failure = TaskFailure { node: None, reason, is_fatal: false, is_of_data: false };
                    reporter.report(TaskEventKind::Failed(failure));
                }
            }
        }
        attempt
    }
}

/// Why an attempt could not be started.
#[derive(Debug)]
pub(crate) struct DeployError {
    pub(crate) reason: String,
    /// Another try would fail the same way.
    pub(crate) is_fatal: bool,
}

impl DeployError {
    fn fatal(reason: impl Into<String>) -> Self {
        DeployError { reason: reason.into(), is_fatal: true }
    }

    fn connector(uid: &OperatorUid, error: ConnectorError) -> Self {
        let is_fatal = matches!(error, ConnectorError::Permanent(_));
        DeployError { reason: format!("{uid}: {error}"), is_fatal }
    }
}

/// What tasks need from the worker around them.
pub(crate) struct Surroundings<'a> {
    pub(crate) job: &'a Job,
    pub(crate) plan: &'a PhysicalPlan,
    pub(crate) deployment: &'a Deployment,
    pub(crate) folder: &'a JobFolder,
    pub(crate) runtime: &'a tokio::runtime::Handle,
    pub(crate) events: EventSink,
    pub(crate) snapshots: &'a SnapshotPool,
    /// Where other workers reach this one, if there are any.
    pub(crate) data: Option<&'a Arc<DataServer>>,
    pub(crate) segments: &'a dyn SegmentSource,
    pub(crate) backends: &'a Backends,
    pub(crate) copies: Option<&'a Arc<LocalCopies>>,
    /// What the attempt before has left here.
    pub(crate) kept: &'a KeptStates,
}

impl Surroundings<'_> {
    fn is_here(&self, subtask: usize) -> bool {
        self.deployment.slots[subtask] == self.deployment.worker
    }
}

/// Makes every task that is placed on this worker. No thread runs yet: everything that can fail is done first.
pub(crate) fn prepare(around: &Surroundings<'_>, restore: Option<&RestoreState>) -> Result<Prepared, DeployError> {
    let mut builder = Builder::new(around, restore);
    let mut bodies = vec![];
    for task in 0..around.plan.tasks.len() {
        for subtask in (0..around.plan.tasks[task].parallelism).filter(|subtask| around.is_here(*subtask)) {
            bodies.push(builder.thread(task, subtask)?);
        }
    }
    let Builder { gates, source_gates, objects, handover, leash, mut exchange, .. } = builder;
    exchange.open();
    let gates = gates.into_iter().flatten().flatten().collect();
    let attempt = Attempt { objects, handover, leash, exchange, gates, source_gates, threads: vec![] };
    Ok(Prepared { attempt, bodies })
}

/// Makes visible what the restored checkpoint completed, and removes what later ones prepared. Every worker has read its
/// state by then, and none has opened a writer: of a checkpoint that cannot be read nothing becomes visible, and what
/// writers prepare from here on is not mistaken for what has to go.
pub(crate) fn settle_sinks(
    job: &Job,
    fence: Fence,
    restore: Option<&(Durable<CheckpointId>, RestoreState)>,
) -> Result<(), DeployError> {
    let mut sinks = job.graph.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Sink));
    sinks.try_for_each(|node| settle_sink(job, fence, node, restore))
}

/// Whether the restore point is one of this job, as far as that can be said before its states are read.
pub(crate) fn check_fit(
    job: &Job,
    max_parallelism: u32,
    operators: &BTreeMap<OperatorUid, OperatorRestore>,
) -> Result<(), DeployError> {
    refuse_other_max_parallelism(job, max_parallelism)?;
    refuse_unmatched(job, operators)
}

/// Key groups are what state is divided by: with another number of them, keys belong elsewhere.
fn refuse_other_max_parallelism(job: &Job, was: u32) -> Result<(), DeployError> {
    let is = job.graph.max_parallelism;
    if was == is {
        return Ok(());
    }
    Err(DeployError::fatal(format!(
        "the restore point was taken with maxParallelism {was}, and the job has {is}: state cannot be divided anew. Set \
         `maxParallelism: {was}`, or start empty with `--from none`"
    )))
}

/// State that no operator of this job would take is refused: it would be lost with the next checkpoint.
fn refuse_unmatched(job: &Job, operators: &BTreeMap<OperatorUid, OperatorRestore>) -> Result<(), DeployError> {
    if job.resource.spec.allow_non_restored_state() {
        return Ok(());
    }
    let has_state = |restored: &OperatorRestore| {
        let has_keyed = !restored.keyed.is_empty() || restored.saved.is_some();
        has_keyed || !restored.in_flight.is_empty() || !restored.splits.is_empty() || !restored.committables.is_empty()
    };
    let known = |uid: &OperatorUid| job.graph.nodes.iter().any(|node| node.uid == *uid);
    let unmatched = operators.iter().filter(|(uid, restored)| has_state(restored) && !known(uid));
    let names: Vec<String> = unmatched.map(|(uid, _)| format!("`{uid}`")).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(DeployError::fatal(format!(
        "the restore point holds state of {}, which this job doesn't have: was a step renamed or removed? Give it its \
         old name, or set `upgrade.allowNonRestoredState: true` to let that state go",
        names.join(", ")
    )))
}

fn settle_sink(
    job: &Job,
    fence: Fence,
    node: &Node,
    restore: Option<&(Durable<CheckpointId>, RestoreState)>,
) -> Result<(), DeployError> {
    let sink = &job.sinks[&node.step];
    let context = CommitterContext { name: node.step.clone(), job_uid: job.uid.clone(), epoch: fence.epoch };
    let committer = sink.committer(context).map_err(|error| DeployError::connector(&node.uid, error))?;
    let Some(mut committer) = committer else { return Ok(()) };
    let (committables, writers) = match restore {
        None => (vec![], vec![]),
        Some((checkpoint, restore)) => {
            let empty = OperatorRestore::default();
            let restored = restore.operators.get(&node.uid).unwrap_or(&empty);
            let permit = CommitPermit::for_durable(checkpoint, fence);
            if !restored.committables.is_empty() {
                commit_with_retries(&mut *committer, permit, &restored.committables).map_err(|error| DeployError {
                    is_fatal: matches!(error, ConnectorError::Permanent(_)),
                    reason: format!("{}: commit of the restored checkpoint {}: {error}", node.uid, permit.checkpoint()),
                })?;
            }
            let writers = restored.writers.iter().map(|(_, writer)| writer.clone()).collect();
            (restored.committables.clone(), writers)
        }
    };
    committer.abort_others(&committables, &writers).map_err(|error| DeployError::connector(&node.uid, error))
}

struct Builder<'a> {
    around: &'a Surroundings<'a>,
    restore: Option<&'a RestoreState>,
    /// What sinks name their output by. The fence alone would come again where a job starts over, from a savepoint
    /// on another storage: its output would take the names of what stands there.
    attempt_name: String,
    /// By task and subtask; of those that are placed here.
    gates: Vec<Vec<Option<Arc<Gate>>>>,
    source_gates: Vec<Arc<Gate>>,
    objects: Arc<CheckpointObjects>,
    handover: Arc<Handover>,
    leash: Arc<Leash>,
    exchange: AttemptExchange,
    /// What old subtasks had in flight, read once for all that take a share of it.
    in_flight: BTreeMap<(OperatorUid, u32), SubtaskInFlight>,
    /// The job takes unaligned checkpoints.
    is_unaligned: bool,
}

impl<'a> Builder<'a> {
    fn new(around: &'a Surroundings<'a>, restore: Option<&'a RestoreState>) -> Self {
        let gates = (0..around.plan.tasks.len()).map(|task| {
            let channels = around.plan.channels(task);
            let gate = |subtask| around.is_here(subtask).then(|| Gate::new(channels));
            (0..around.plan.tasks[task].parallelism).map(gate).collect::<Vec<_>>()
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
    fn gate(&self, task: usize, subtask: usize) -> Arc<Gate> {
        let gate = self.gates[task][subtask].as_ref();
        Arc::clone(gate.unwrap_or_else(|| panic!("subtask {subtask} of task {task} runs on another worker")))
    }

    /// The body of one subtask's thread.
    fn thread(&mut self, task: usize, subtask: usize) -> Result<(Reporter, ThreadBody), DeployError> {
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
            room: Room::new(CHANNEL_BYTES),
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
            batch_size: BatchSize::new(),
        })
    }

    /// What of the restored checkpoint's rows in flight each node of a chain takes.
    fn replays(&mut self, chained: &[NodeId], subtask: u32) -> Result<Vec<NodeReplay>, DeployError> {
        let mut replays = vec![];
        for (position, id) in chained.iter().enumerate() {
            let node = self.around.job.graph.node(*id);
            let Some(restored) = self.restored(&node.uid) else { continue };
            let stays = restored.parallelism == node.parallelism;
            let old: Vec<u32> = if stays { vec![subtask] } else { (0..restored.parallelism).collect() };
            let parallelism = restored.parallelism;
            let waiting: Vec<_> = old
                .into_iter()
                .map(|old| {
                    let watermark = restored.watermarks.get(&old).copied().unwrap_or(Watermark::MIN);
                    (old, watermark, restored.in_flight.get(&old).cloned())
                })
                .collect();
            let mut in_flight = vec![];
            for (old, watermark, handle) in waiting {
                let Some(handle) = handle else {
                    in_flight.push(SubtaskInFlight { watermark, channels: vec![] });
                    continue;
                };
                let all = self.in_flight(node, old, &handle)?;
                let max_parallelism = self.around.job.graph.max_parallelism;
                let taker = Taker { subtask, parallelism: node.parallelism, max_parallelism };
                let divisions: Vec<_> = node.inputs.iter().map(division).collect();
                let own = share(&all, old, parallelism, taker, &divisions);
                in_flight.push(own.map_err(|error| DeployError::fatal(format!("{}: {error}", node.uid)))?);
            }
            replays.push(NodeReplay { position, replay: Replay::new(in_flight) });
        }
        Ok(replays)
    }

    /// What the old subtask of a node had in flight.
    fn in_flight(&mut self, node: &Node, old: u32, handle: &InFlightHandle) -> Result<SubtaskInFlight, DeployError> {
        let key = (node.uid.clone(), old);
        if let Some(known) = self.in_flight.get(&key) {
            return Ok(known.clone());
        }
        let failed = |reason: &dyn std::fmt::Display| {
            DeployError::fatal(format!("{}: the rows in flight of the restored checkpoint: {reason}", node.uid))
        };
        let bytes = self.around.segments.read(&handle.segment).map_err(|error| failed(&error))?;
        let read = weir_snapshot::in_flight::decode(&bytes).map_err(|error| failed(&error))?;
        let inputs: Vec<_> = node.inputs.iter().map(|edge| self.fields(edge.from, edge.port)).collect();
        for channel in &read.channels {
            let is_other = |element: &InFlightElement| match element {
                InFlightElement::Batch(batch) => {
                    inputs.get(channel.input).is_none_or(|fields| !alike(fields, &batch.schema()))
                }
                InFlightElement::Watermark(_) | InFlightElement::Idle => false,
            };
            if channel.elements.iter().any(is_other) {
                return Err(failed(
                    &"their columns are not those that the step reads in this version of the job. Start it from a \
                      savepoint, which has nothing in flight, or from a checkpoint that is not unaligned",
                ));
            }
        }
        self.in_flight.insert(key, read.clone());
        Ok(read)
    }

    /// What a node sends.
    fn fields(&self, from: NodeId, port: Port) -> SchemaRef {
        match port {
            Port::Main => self.around.job.graph.node(from).schema.fields.clone(),
            Port::DeadLetter => dead_letter_schema(),
        }
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

    /// The way into a channel of a reading subtask, wherever that runs. `task` and `subtask`: who writes.
    fn writer(
        &mut self,
        (task, subtask): (usize, usize),
        reader: usize,
        target: usize,
        channel: usize,
        port: Port,
    ) -> Result<ChannelWriter, DeployError> {
        let urgent = self.gate(task, subtask).urgent();
        if self.around.is_here(target) {
            return Ok(ChannelWriter::local(self.gate(reader, target), channel, urgent));
        }
        let worker = self.around.deployment.slots[target];
        let number = self.around.plan.channel_number(reader, target, channel);
        let nodes = &self.around.plan.tasks[task].nodes;
        let from = match port {
            Port::Main => nodes[nodes.len() - 1],
            Port::DeadLetter => nodes[0],
        };
        let uid = &self.around.job.graph.node(from).uid;
        let channel = self.exchange.to(worker).channel(number, &self.fields(from, port), urgent);
        let channel = channel.map_err(|error| DeployError::fatal(format!("{uid}: {error}")))?;
        Ok(ChannelWriter::Remote(channel))
    }

    fn outputs(&mut self, task: usize, subtask: usize, port: Port) -> Result<Outputs, DeployError> {
        let plan = self.around.plan;
        let mut outputs = Outputs::default();
        for (reader, input) in plan.readers(task) {
            let edge = &plan.tasks[reader].inputs[input];
            if edge.port != port {
                continue;
            }
            let base = plan.channel_bases(reader)[input];
            let readers = plan.tasks[reader].parallelism;
            let (writers, partitioner) = match &edge.exchange {
                Exchange::Forward => {
                    (vec![self.writer((task, subtask), reader, subtask, base, port)?], Partitioner::Forward)
                }
                exchange => {
                    let writers: Vec<_> = (0..readers)
                        .map(|target| self.writer((task, subtask), reader, target, base + subtask, port))
                        .collect::<Result<_, _>>()?;
                    let partitioner = match exchange {
                        Exchange::Hash { key_columns } => Partitioner::Hash(HashPartitioner::new(
                            key_columns.clone(),
                            self.around.job.graph.max_parallelism,
                            writers.len(),
                            self.metrics(plan.tasks[task].nodes[0], subtask),
                            plan.tasks[reader].nodes[0].0 as u32,
                        )),
                        Exchange::Forward | Exchange::Rebalance => Partitioner::Rebalance { next: subtask },
                    };
                    (writers, partitioner)
                }
            };
            outputs.edges.push(OutputEdge { writers, partitioner });
        }
        Ok(outputs)
    }

    fn metrics(&self, node: NodeId, subtask: usize) -> Arc<NodeMetrics> {
        Arc::clone(&self.around.deployment.nodes[node.0].subtasks[subtask])
    }

    fn restored(&self, uid: &OperatorUid) -> Option<&OperatorRestore> {
        self.restore.and_then(|restore| restore.operators.get(uid))
    }
}

/// Who takes the rows of an input.
fn division(edge: &Edge) -> InputDivision {
    match &edge.key_columns {
        Some(key_columns) => InputDivision::Keyed { key_columns: key_columns.clone() },
        None => InputDivision::Any,
    }
}

/// Whether batches of one schema can be read as of the other.
fn alike(one: &Schema, other: &Schema) -> bool {
    let columns = |schema: &Schema| {
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect::<Vec<_>>()
    };
    columns(one) == columns(other)
}

/// A node of an attempt that begins: nothing is counted yet.
pub(crate) fn node_status(node: &Node) -> NodeStatus {
    NodeStatus {
        uid: node.uid.to_string(),
        step: node.step.clone(),
        is_source: matches!(node.kind, NodeKind::Source),
        is_sink: matches!(node.kind, NodeKind::Sink),
        has_event_time: !node.schema.time_columns.is_empty(),
        subtasks: (0..node.parallelism).map(|_| Arc::new(NodeMetrics::default())).collect(),
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
