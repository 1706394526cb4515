//! What reaches the control loop: events of tasks and of the storage side, and requests from outside.

use crate::attempt::{Attempt, DeployError};
use crate::task::TaskEvent;
use std::sync::mpsc::Sender;
use weir_coordinator::{RequestId, StopMode};
use weir_model::{CheckpointId, Durable, Fence};

pub(crate) enum ControlEvent {
    Task(TaskEvent),
    Deployed {
        fence: Fence,
        attempt: Result<Attempt, DeployError>,
        restored_from: Option<String>,
    },
    /// The checkpoint stands in the log; bytes written for it, and bytes that a restore reads.
    Appended {
        checkpoint: Durable<CheckpointId>,
        new_bytes: u64,
        full_bytes: u64,
    },
    AppendFailed {
        checkpoint: CheckpointId,
        reason: String,
    },
    Fenced {
        by: String,
    },
    SavepointWritten {
        request: RequestId,
        result: Result<String, String>,
    },
    Stopped {
        fence: Fence,
    },
    Request(Request),
    Closed,
}

/// What a user asks of a running job.
pub enum Request {
    /// `folder`: where to; by default beside the checkpoints. The answer is the savepoint's address.
    Savepoint {
        folder: Option<String>,
        stop: bool,
        answer: Sender<Result<String, String>>,
    },
    Stop(StopMode),
}
