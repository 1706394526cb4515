//! What happens to a job. Every event carries the time at which it came in.

use weir_model::{CheckpointId, Durable, Fence, SubtaskId};

/// A user's request for a savepoint or a rescale, until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Now, without another checkpoint.
    Cancel,
    /// After a checkpoint behind which no record is read, so that a new start repeats nothing.
    Drain,
}

/// `P`: what a task keeps for a checkpoint; the coordinator only passes it on.
#[derive(Clone, Debug)]
pub enum Event<P> {
    /// Time has passed.
    Tick,
    /// All tasks of the attempt run. Sources get barriers; all tasks acknowledge.
    Deployed {
        fence: Fence,
        tasks: Vec<SubtaskId>,
        sources: Vec<SubtaskId>,
    },
    /// As `Deployed`, of an attempt that another coordinator had begun. `next_checkpoint`: above every one that its tasks
    /// have heard of.
    Adopted {
        fence: Fence,
        tasks: Vec<SubtaskId>,
        sources: Vec<SubtaskId>,
        next_checkpoint: CheckpointId,
    },
    /// The attempt could not be started. `is_fatal`: nor could another (state that doesn't fit).
    DeployFailed {
        fence: Fence,
        reason: String,
        is_fatal: bool,
        random: f64,
    },
    Acknowledged {
        fence: Fence,
        checkpoint: CheckpointId,
        task: SubtaskId,
        payload: P,
    },
    /// The task could not take its part.
    Declined {
        fence: Fence,
        checkpoint: CheckpointId,
        task: SubtaskId,
        reason: String,
    },
    /// The source has sent all its records.
    EndOfInput {
        fence: Fence,
        task: SubtaskId,
    },
    /// The checkpoint stands in the commit log.
    Appended {
        checkpoint: Durable<CheckpointId>,
    },
    /// It does not, and never will.
    AppendFailed {
        checkpoint: CheckpointId,
        reason: String,
    },
    /// A higher epoch is in the log: this coordinator is no more.
    Fenced {
        by: String,
    },
    /// The task's sink has committed the checkpoint and all before it.
    Committed {
        fence: Fence,
        checkpoint: CheckpointId,
        task: SubtaskId,
    },
    /// `random`: uniform in [0, 1), for the jitter of the restart's delay.
    TaskFailed {
        fence: Fence,
        task: SubtaskId,
        reason: String,
        is_fatal: bool,
        /// The data itself fails it, so that the same record will again: nothing outside was away.
        is_of_data: bool,
        random: f64,
    },
    /// The attempt lost what several tasks need: a worker.
    AttemptFailed {
        fence: Fence,
        reason: String,
        random: f64,
    },
    /// Every thread of the attempt has ended.
    Stopped {
        fence: Fence,
    },
    SavepointRequested {
        request: RequestId,
        stop: bool,
    },
    SavepointWritten {
        request: RequestId,
        result: Result<String, String>,
    },
    StopRequested {
        mode: StopMode,
    },
    /// To a parallelism that the job can have, and that its workers have slots for.
    RescaleRequested {
        request: RequestId,
        parallelism: u32,
    },
}
