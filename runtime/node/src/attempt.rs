//! Starting all tasks of a job: from the graph, and from what a checkpoint holds, to running threads.

mod builder;
mod fit;
mod outputs;
mod replays;
mod settle;

pub(crate) use fit::check_fit;
pub(crate) use settle::settle_sinks;

use crate::backends::Backends;
use crate::checkpoint_objects::CheckpointObjects;
use crate::exchange::{AttemptExchange, DataServer};
use crate::job::Job;
use crate::kept::{Handover, KeptStates};
use crate::local_copies::LocalCopies;
use crate::metrics::NodeMetrics;
use crate::physical::PhysicalPlan;
use crate::restore::RestoreState;
use crate::status::NodeStatus;
use crate::task::*;
use crate::worker::{Deployment, EventSink};
use builder::Builder;
use std::sync::Arc;
use std::thread::JoinHandle;
use weir_connectors::api::ConnectorError;
use weir_model::OperatorUid;
use weir_model::graph::{Node, NodeKind};
use weir_snapshot::JobFolder;
use weir_state::SegmentSource;

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
