//! Sinks: writers, and the two phases of a commit.

use super::{ConnectorError, Probe, ProbeContext};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use weir_model::{AttemptNumber, CheckpointId, CommitPermit, Epoch, UpdateBeforeUse};

/// A configured sink, shared by its subtasks.
pub trait Sink: Send + Sync {
    /// Checks that the sink can take rows of this schema with the asked-for guarantee; called at plan time.
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError>;

    fn guarantee(&self) -> Guarantee;

    /// What the sink does with update-before rows (`-U`).
    fn update_before_use(&self) -> UpdateBeforeUse {
        UpdateBeforeUse::All
    }

    /// The writer of one subtask. `restored` is what this sink's writers (all of them, at the old parallelism)
    /// returned as `SinkSnapshot::writer` for the restored checkpoint, each with its old subtask index.
    fn writer(
        &self,
        context: SinkContext,
        restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError>;

    /// For whose committables a committer is called.
    fn commit_scope(&self) -> CommitScope {
        CommitScope::Subtask
    }

    /// The second phase. `None` for sinks that have none (print, blackhole, upserts).
    fn committer(&self, context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError>;

    /// Connects, and checks what the spec can't tell: that what is named is there, allowed, and takes what it would get.
    /// Changes nothing. `weir plan` asks for it; `weir validate` and a start don't. An error: it could not be asked.
    fn probe(&self, _context: &ProbeContext) -> Result<Probe, ConnectorError> {
        Ok(Probe::default())
    }
}

/// What a reader of the sink may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    AtMostOnce,
    AtLeastOnce,
    /// Repeating a write changes nothing (upsert by key).
    Idempotent,
    ExactlyOnce,
}

/// Whose committables of a checkpoint are committed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitScope {
    /// Those of each subtask, by itself and where it runs.
    Subtask,
    /// Those of all subtasks, by one committer beside the coordinator: for what takes one commit at a time.
    Sink,
}

#[derive(Clone, Debug)]
pub struct SinkContext {
    /// The step's name.
    pub name: String,
    /// The job's UID: what tells this job's pending output from another's.
    pub job_uid: String,
    pub subtask: u32,
    pub parallelism: u32,
    /// Unique to this attempt, for names that must not collide with what an earlier attempt left.
    pub attempt: String,
    /// Of the coordinator that the attempt is of: see `CommitterContext`.
    pub epoch: Epoch,
    /// Counted within the epoch, for names that may come again once nobody of an earlier attempt can be left.
    pub attempt_number: AttemptNumber,
    pub input: SchemaRef,
}

/// Whose pending output the committer commits, and may remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitterContext {
    /// The step's name.
    pub name: String,
    /// The job's UID.
    pub job_uid: String,
    /// Of the coordinator that commits and aborts. One that was paused, and doesn't know yet that another has the job,
    /// must not abort what that one's sinks have prepared: what is of a later epoch is left alone.
    pub epoch: Epoch,
}

pub trait SinkWriter: Send {
    /// The batch's schema is `SinkContext::input`, the change kind last if the stream is updating.
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError>;

    /// The first phase: makes everything written so far durable outside, invisible to readers, and returns what
    /// a committer needs to make it visible, also from another process after a crash. At-least-once sinks flush here.
    /// Each committable is returned once: should the checkpoint fail, the driver carries it into the next.
    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError>;

    /// No record follows: the next `pre_commit` is the last, and nothing may be held back from it.
    fn end_of_input(&mut self) {}

    /// The attempt ends without another checkpoint: let go of what is open; nothing more becomes visible.
    fn abort(&mut self) {}
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkSnapshot {
    /// Becomes visible by this checkpoint's commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub committables: Vec<Committable>,
    /// The writer's own state (a file that goes on over the checkpoint, and its valid length).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<serde_json::Value>,
}

/// What the second phase needs, as the sink itself writes and reads it; stands in the checkpoint's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Committable(pub serde_json::Value);

pub trait Committer: Send {
    /// Makes the committables visible. Idempotent: called again after a crash for what the restored manifest holds,
    /// and what is already visible is a success. A `Permanent` error stops the job and names what can't be committed.
    fn commit(&mut self, permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError>;

    /// What it committed for checkpoints before this one stands in no checkpoint that the job goes on from: nobody commits
    /// it again.
    fn settled_before(&mut self, _checkpoint: CheckpointId) {}

    /// After a restore, before any new record: removes what writers of this job prepared that does not belong to
    /// the restored checkpoint: neither in `committed` (already committed again by now) nor in `writers` (their restored state).
    /// Nor may it touch what is of a later epoch than the committer's (see `CommitterContext`).
    fn abort_others(&mut self, committed: &[Committable], writers: &[serde_json::Value]) -> Result<(), ConnectorError>;
}
