//! The second phase of a sink's commits, in a thread beside the task, so that a slow commit doesn't hold up records.

use super::{Reporter, TaskEventKind, TaskFailure};
use crate::failpoint::failpoint;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use weir_connectors::api::{Committable, Committer, ConnectorError};
use weir_model::{CheckpointId, CommitPermit, Fence, OperatorUid};

/// Tries of one commit before the attempt fails (and the restore tries again).
const COMMIT_TRIES: u32 = 8;
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// What one sink subtask has prepared and not yet committed, by the checkpoint that first holds it.
#[derive(Default)]
pub(crate) struct PendingCommits {
    by_checkpoint: BTreeMap<CheckpointId, Vec<Committable>>,
}

impl PendingCommits {
    /// Adds what `checkpoint` prepared, and returns all that it must hold: what an aborted checkpoint prepared
    /// is still pending, and belongs to the next.
    pub(crate) fn prepared(&mut self, checkpoint: CheckpointId, committables: Vec<Committable>) -> Vec<Committable> {
        if !committables.is_empty() {
            self.by_checkpoint.entry(checkpoint).or_default().extend(committables);
        }
        self.by_checkpoint.values().flatten().cloned().collect()
    }

    /// Takes out what the durable `checkpoint` makes visible.
    pub(crate) fn take_up_to(&mut self, checkpoint: CheckpointId) -> Vec<Committable> {
        let later = self.by_checkpoint.split_off(&checkpoint.next());
        std::mem::replace(&mut self.by_checkpoint, later).into_values().flatten().collect()
    }
}

/// Hands commits to the committer's thread. Dropping it lets the thread end after what it has been given.
pub(crate) struct CommitThread {
    requests: Option<Sender<(CommitPermit, Vec<Committable>)>>,
    thread: Option<JoinHandle<()>>,
}

impl CommitThread {
    pub(crate) fn start(
        job: String,
        uid: OperatorUid,
        committer: Box<dyn Committer>,
        reporter: Reporter,
    ) -> std::io::Result<Self> {
        let (requests, received) = channel();
        let thread = std::thread::Builder::new().name(format!("commit {uid}")).spawn(move || {
            let Fence { epoch, attempt } = reporter.fence;
            let task = reporter.task.to_string();
            let span = tracing::error_span!("commit", job, epoch = epoch.0, attempt = attempt.0, task);
            span.in_scope(|| run(uid, committer, received, reporter));
        })?;
        Ok(CommitThread { requests: Some(requests), thread: Some(thread) })
    }

    pub(crate) fn commit(&self, permit: CommitPermit, committables: Vec<Committable>) {
        if let Some(requests) = &self.requests {
            // The thread only ends before us after it has reported a failure.
            requests.send((permit, committables)).ok();
        }
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn run(
    uid: OperatorUid,
    mut committer: Box<dyn Committer>,
    received: Receiver<(CommitPermit, Vec<Committable>)>,
    reporter: Reporter,
) {
    for (permit, committables) in received {
        let result = if committables.is_empty() {
            Ok(())
        } else {
            failpoint("mid-commit");
            commit_with_retries(&mut *committer, permit, &committables)
        };
        match result {
            Ok(()) => reporter.report(TaskEventKind::Committed { checkpoint: permit.checkpoint() }),
            Err(error) => {
                let is_fatal = matches!(error, ConnectorError::Permanent(_));
                let reason = format!("commit of checkpoint {}: {error}", permit.checkpoint());
                return reporter.report(TaskEventKind::Failed(TaskFailure {
                    node: Some(uid),
                    reason,
                    is_fatal,
                    is_of_data: false,
                }));
            }
        }
    }
}

/// Commits, waiting longer after each failure that may pass.
pub(crate) fn commit_with_retries(
    committer: &mut dyn Committer,
    permit: CommitPermit,
    committables: &[Committable],
) -> Result<(), ConnectorError> {
    let mut pause = FIRST_RETRY;
    for _ in 1..COMMIT_TRIES {
        match committer.commit(permit, committables) {
            Err(ConnectorError::Transient(reason)) => {
                tracing::warn!(checkpoint = permit.checkpoint().0, %reason, "commit failed, trying again");
                std::thread::sleep(pause);
                pause *= 2;
            }
            done => return done,
        }
    }
    committer.commit(permit, committables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committables(names: &[&str]) -> Vec<Committable> {
        names.iter().map(|name| Committable((*name).into())).collect()
    }

    #[test]
    fn what_an_aborted_checkpoint_prepared_belongs_to_the_next() {
        let mut pending = PendingCommits::default();
        assert_eq!(pending.prepared(CheckpointId(1), committables(&["a"])), committables(&["a"]));
        // 1 is aborted: nothing takes it. 2 holds both.
        assert_eq!(pending.prepared(CheckpointId(2), committables(&["b"])), committables(&["a", "b"]));
        assert_eq!(pending.prepared(CheckpointId(3), committables(&["c"])), committables(&["a", "b", "c"]));
        assert_eq!(pending.take_up_to(CheckpointId(2)), committables(&["a", "b"]));
        assert_eq!(pending.prepared(CheckpointId(4), committables(&[])), committables(&["c"]));
        assert_eq!(pending.take_up_to(CheckpointId(4)), committables(&["c"]));
    }
}
