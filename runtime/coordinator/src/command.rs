//! What the node is to do.

use crate::RequestId;
use weir_model::{CheckpointId, CheckpointKind, CommitPermit, Fence, SubtaskId};

#[derive(Clone, Debug)]
pub enum Command<P> {
    /// Start all tasks from the latest checkpoint in the log (or from where the job is to begin, if it has none).
    /// `parallelism`: what the job was rescaled to; none where its own spec says.
    Deploy {
        fence: Fence,
        parallelism: Option<u32>,
    },
    /// Let these sources send the barrier. `hold`: and no record behind it until `Resume`.
    Trigger {
        fence: Fence,
        checkpoint: CheckpointId,
        kind: CheckpointKind,
        /// Its barriers overtake rows.
        is_unaligned: bool,
        sources: Vec<SubtaskId>,
        hold: bool,
    },
    /// Tell every task: the checkpoint began aligned, and from here on its barriers overtake rows.
    TurnUnaligned {
        fence: Fence,
        checkpoint: CheckpointId,
    },
    /// Tell every task, and drop what was written for the checkpoint.
    CancelCheckpoint {
        fence: Fence,
        checkpoint: CheckpointId,
        reason: String,
    },
    /// Put the object and append the manifest to the log; answer with `Appended`, `AppendFailed` or `Fenced`.
    Complete(Acknowledged<P>),
    /// Tell these tasks that the checkpoint is complete.
    Commit {
        permit: CommitPermit,
        tasks: Vec<SubtaskId>,
    },
    /// Sources that hold go on.
    Resume {
        fence: Fence,
    },
    /// Write the completed checkpoint as a savepoint; answer with `SavepointWritten`.
    WriteSavepoint {
        request: RequestId,
        checkpoint: CheckpointId,
    },
    AnswerSavepoint {
        request: RequestId,
        result: Result<String, String>,
    },
    /// May come twice for one request: that it was accepted, and how it ended.
    AnswerRescale {
        request: RequestId,
        answer: RescaleAnswer,
    },
    /// Remove checkpoints beyond what the retention keeps.
    Retain,
    /// Let the tasks end in order: all is done and committed.
    Finish {
        fence: Fence,
    },
    /// End the tasks as they are.
    StopTasks {
        fence: Fence,
    },
    /// The job is over; no command follows.
    Close {
        outcome: Outcome,
    },
}

/// A checkpoint of which every task has said what it keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Acknowledged<P> {
    pub fence: Fence,
    pub checkpoint: CheckpointId,
    pub kind: CheckpointKind,
    /// Its barriers overtook rows, from the start or after a while.
    pub is_unaligned: bool,
    pub triggered_ms: u64,
    pub parts: Vec<(SubtaskId, P)>,
}

/// What becomes of a request for a rescale: `Refused`, or `Accepted` and later `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescaleAnswer {
    /// Nothing was changed.
    Refused { reason: String },
    /// It has begun, or begins with the next attempt.
    Accepted,
    /// All tasks run at the new parallelism.
    Done {
        parallelism: u32,
        /// From the request on.
        duration_ms: u64,
    },
    /// The job goes on as it was, or has ended.
    Failed { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All sources ended, and everything is committed.
    Finished,
    /// Stopped on request. `savepoint`: where it was written, if one was asked for.
    Stopped {
        savepoint: Option<String>,
    },
    Cancelled,
    Failed {
        reason: String,
    },
    /// Another coordinator has the job.
    Fenced {
        by: String,
    },
}
