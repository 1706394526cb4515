//! The second phase of a sink's commits, in a thread beside the task, so that a slow commit doesn't hold up records.

use super::{Reporter, TaskEventKind, TaskFailure};
use crate::failpoint::failpoint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use weir_connectors::api::{Committable, Committer, ConnectorError};
use weir_model::{CheckpointId, CommitPermit, Fence, OperatorUid};

/// Tries of one commit before the attempt fails (and the restore tries again).
const COMMIT_TRIES: u32 = 8;
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Hands commits to the committer's thread. Dropping it lets the thread end after what it has been given.
pub(crate) struct CommitThread {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    /// The checkpoint up to which everything asked for is visible; 0: none.
    committed: Arc<AtomicU64>,
}

struct Request {
    permit: CommitPermit,
    committables: Vec<Committable>,
    settled_before: CheckpointId,
}

impl CommitThread {
    pub(crate) fn start(
        job: String,
        uid: OperatorUid,
        committer: Box<dyn Committer>,
        reporter: Reporter,
    ) -> std::io::Result<Self> {
        let (requests, received) = channel();
        let committed = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&committed);
        let thread = std::thread::Builder::new().name(format!("commit {uid}")).spawn(move || {
            let Fence { epoch, attempt } = reporter.fence;
            let task = reporter.task.to_string();
            let span = tracing::error_span!("commit", job, epoch = epoch.0, attempt = attempt.0, task);
            span.in_scope(|| run(uid, committer, received, &of_thread, reporter));
        })?;
        Ok(CommitThread { requests: Some(requests), thread: Some(thread), committed })
    }

    /// `settled_before`: as a committer is told (`Committer::settled_before`).
    pub(crate) fn commit(&self, permit: CommitPermit, committables: Vec<Committable>, settled_before: CheckpointId) {
        if let Some(requests) = &self.requests {
            // The thread only ends before us after it has reported a failure.
            requests.send(Request { permit, committables, settled_before }).ok();
        }
    }
}

impl CommitThread {
    /// The checkpoint up to which all commits are done.
    pub(crate) fn committed(&self) -> Option<CheckpointId> {
        let committed = self.committed.load(Ordering::Acquire);
        (committed > 0).then_some(CheckpointId(committed))
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
    received: Receiver<Request>,
    committed: &AtomicU64,
    reporter: Reporter,
) {
    for Request { permit, committables, settled_before } in received {
        committer.settled_before(settled_before);
        let result = if committables.is_empty() {
            Ok(())
        } else {
            failpoint("mid-commit");
            commit_with_retries(&mut *committer, permit, &committables)
        };
        match result {
            Ok(()) => {
                committed.store(permit.checkpoint().0, Ordering::Release);
                reporter.report(TaskEventKind::Committed { checkpoint: permit.checkpoint() });
            }
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
