//! The second phase of sinks that have one committer for all subtasks, beside the coordinator: it commits what the manifest
//! holds, and only then do tasks hear that the checkpoint is complete. Until they do they keep their committables, so that
//! every later manifest holds what has not been committed.

use crate::control::ControlEvent;
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::task::commit_with_retries;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use weir_connectors::api::{CommitScope, Committable, Committer, CommitterContext, ConnectorError, Sink};
use weir_model::graph::NodeKind;
use weir_model::{CheckpointId, CommitPermit, Epoch, OperatorUid, SubtaskId, WorkerId};
use weir_snapshot::CheckpointManifest;

/// By sink: what one checkpoint holds for its commit.
pub(crate) type OfSinks = BTreeMap<OperatorUid, Vec<Committable>>;

/// How such a commit ended.
pub(crate) struct SinksCommitted {
    pub(crate) permit: CommitPermit,
    /// Who is to hear of it.
    pub(crate) workers: Vec<WorkerId>,
    pub(crate) result: Result<(), CommitFailure>,
}

pub(crate) struct CommitFailure {
    /// One of the sink's.
    pub(crate) task: SubtaskId,
    pub(crate) reason: String,
    pub(crate) is_fatal: bool,
}

pub(crate) struct SinkCommits {
    requests: Sender<(CommitPermit, Vec<WorkerId>, OfSinks)>,
    /// Of checkpoints whose commit was not asked for yet.
    prepared: BTreeMap<CheckpointId, OfSinks>,
}

impl SinkCommits {
    /// None: the job has no such sink.
    pub(crate) fn start(job: &Job, epoch: Epoch, events: Sender<ControlEvent>) -> std::io::Result<Option<Self>> {
        let sinks: BTreeMap<OperatorUid, Committing> = scoped(job)
            .map(|(uid, name, sink)| {
                let context = CommitterContext { name, job_uid: job.uid.clone(), epoch };
                (uid, Committing { sink, context, committer: None })
            })
            .collect();
        if sinks.is_empty() {
            return Ok(None);
        }
        let (requests, received) = channel();
        let mut sinks = sinks;
        let span = tracing::error_span!("commit", job = %job.name, epoch = epoch.0);
        std::thread::Builder::new().name("commit".to_owned()).spawn(move || {
            let _around = span.entered();
            for (permit, workers, prepared) in received {
                let result = commit(&mut sinks, permit, &prepared);
                if events.send(ControlEvent::SinksCommitted(SinksCommitted { permit, workers, result })).is_err() {
                    return;
                }
            }
        })?;
        Ok(Some(SinkCommits { requests, prepared: BTreeMap::new() }))
    }

    /// The checkpoint stands in the log.
    pub(crate) fn prepared(&mut self, checkpoint: CheckpointId, of_sinks: OfSinks) {
        self.prepared.insert(checkpoint, of_sinks);
    }

    /// Commits, and lets the control loop know. What earlier checkpoints held is in this one too, or was committed.
    pub(crate) fn commit(&mut self, permit: CommitPermit, workers: Vec<WorkerId>) {
        let of_sinks = self.prepared.remove(&permit.checkpoint()).unwrap_or_default();
        self.prepared.retain(|checkpoint, _| *checkpoint > permit.checkpoint());
        // The thread ends with the control loop only.
        self.requests.send((permit, workers, of_sinks)).ok();
    }
}

/// What a manifest holds for the sinks that commit so.
pub(crate) fn of_sinks(job: &Job, manifest: &CheckpointManifest) -> Result<OfSinks, String> {
    let mut found = OfSinks::new();
    for (uid, _, _) in scoped(job) {
        let operator = manifest.operators.iter().find(|operator| operator.uid == uid);
        let Some(operator) = operator else { continue };
        let restored = crate::restore::operator_restore(&operator.subtasks)
            .map_err(|error| format!("checkpoint {}, sink `{uid}`: {error}", manifest.checkpoint))?;
        found.insert(uid, restored.committables);
    }
    Ok(found)
}

fn scoped(job: &Job) -> impl Iterator<Item = (OperatorUid, String, Arc<dyn Sink>)> {
    job.graph.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Sink)).filter_map(|node| {
        let sink = job.sinks.get(&node.step)?;
        (sink.commit_scope() == CommitScope::Sink).then(|| (node.uid.clone(), node.step.clone(), Arc::clone(sink)))
    })
}

struct Committing {
    sink: Arc<dyn Sink>,
    context: CommitterContext,
    /// Made for the first commit.
    committer: Option<Box<dyn Committer>>,
}

impl Committing {
    fn commit(&mut self, permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        let committer = match &mut self.committer {
            Some(committer) => committer,
            none => match self.sink.committer(self.context.clone())? {
                Some(committer) => none.insert(committer),
                None => return Ok(()),
            },
        };
        commit_with_retries(&mut **committer, permit, committables)
    }
}

fn commit(
    sinks: &mut BTreeMap<OperatorUid, Committing>,
    permit: CommitPermit,
    prepared: &OfSinks,
) -> Result<(), CommitFailure> {
    for (uid, committables) in prepared.iter().filter(|(_, committables)| !committables.is_empty()) {
        let Some(sink) = sinks.get_mut(uid) else { continue };
        failpoint("mid-commit");
        sink.commit(permit, committables).map_err(|error| CommitFailure {
            task: SubtaskId { operator: uid.clone(), index: 0 },
            reason: format!("commit of checkpoint {}: {error}", permit.checkpoint()),
            is_fatal: matches!(error, ConnectorError::Permanent(_)),
        })?;
    }
    Ok(())
}
