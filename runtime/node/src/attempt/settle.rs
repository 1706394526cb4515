//! Sinks, before anything runs: what the restored checkpoint completed is made visible, and what came later removed.

use super::DeployError;
use crate::job::Job;
use crate::restore::{OperatorRestore, RestoreState};
use crate::task::*;
use weir_connectors::api::CommitterContext;
use weir_model::graph::{Node, NodeKind};
use weir_model::{CheckpointId, CommitPermit, Durable, Fence};

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
                commit_with_retries(&mut *committer, permit, &restored.committables).map_err(|error| {
                    let what = format_args!("commit of the restored checkpoint {}", permit.checkpoint());
                    DeployError::connector(&node.uid, error.during(what))
                })?;
            }
            let writers = restored.writers.iter().map(|(_, writer)| writer.clone()).collect();
            (restored.committables.clone(), writers)
        }
    };
    committer.abort_others(&committables, &writers).map_err(|error| DeployError::connector(&node.uid, error))
}
