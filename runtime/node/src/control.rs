//! What reaches the control loop: events of tasks and of the storage side, and requests from outside.

use crate::attempt::DeployError;
use crate::ended_splits::EndedSplits;
use crate::local_copies::Held;
use crate::sink_commits::{OfSinks, SinksCommitted};
use crate::worker::{RestoreFrom, WorkerCommand, WorkerEvent};
use std::collections::BTreeSet;
use std::sync::mpsc::Sender;
use weir_coordinator::{ObjectBytes, RequestId, RescaleAnswer, RunningAttempt, StopMode};
use weir_model::{CheckpointId, Durable, Fence, WorkerId};
use weir_snapshot::LogError;

pub(crate) enum ControlEvent {
    /// A worker has come. `slots`: how many subtasks of one task it takes.
    WorkerRegistered {
        worker: WorkerId,
        slots: u32,
        /// Where other workers reach it; none where there are no others.
        data_address: Option<String>,
        /// What it has on its disk of a job's checkpoints.
        held: Held,
        /// What it went on with while it had no coordinator.
        running: Option<RunningAttempt>,
        link: WorkerLink,
    },
    WorkerLost {
        worker: WorkerId,
        reason: String,
    },
    Worker {
        worker: WorkerId,
        event: WorkerEvent,
    },
    /// What the attempt starts from is there, as far as that can be said before its state is read.
    Located {
        fence: Fence,
        result: Result<StartPoint, DeployError>,
    },
    /// What sinks had prepared for the restore point is committed, what came after it is gone. With the number of the
    /// log's entry under which that was done.
    Settled {
        fence: Fence,
        result: Result<u64, DeployError>,
    },
    /// The checkpoint stands in the log; bytes written for it, and bytes that a restore reads.
    Appended {
        checkpoint: Durable<CheckpointId>,
        new_bytes: u64,
        full_bytes: u64,
        /// Of both, what was in flight at the barriers.
        in_flight_bytes: u64,
        /// What a restore from it reads.
        objects: BTreeSet<String>,
        /// What it holds for the sinks that have one committer for all subtasks.
        of_sinks: OfSinks,
        ended: EndedSplits,
    },
    /// What those had prepared is visible, or not.
    SinksCommitted(SinksCommitted),
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
    Request(Request),
    Closed {
        /// Another coordinator turned out to have the job.
        fenced_by: Option<String>,
    },
}

/// What the attempt starts from, and the same in words; empty for one that starts with nothing.
#[derive(Default)]
pub(crate) struct StartPoint {
    pub(crate) restore: Option<RestoreFrom>,
    pub(crate) words: Option<String>,
    /// By slot: the objects with the state of its subtasks, and how many bytes of it are in each.
    pub(crate) wanted: Vec<ObjectBytes>,
}

/// The way of commands to a worker. That it is gone is told by `WorkerLost`.
pub(crate) type WorkerLink = Box<dyn Fn(WorkerCommand) + Send>;

/// What a user asks of a running job.
pub enum Request {
    /// `folder`: where to; by default beside the checkpoints. The answer is the savepoint's address.
    Savepoint {
        folder: Option<String>,
        stop: bool,
        answer: Sender<Result<String, String>>,
    },
    Stop(StopMode),
    /// Keeps a checkpoint beyond retention, or no longer.
    Pin {
        checkpoint: CheckpointId,
        is_pinned: bool,
        /// Gone without a word where the job ends before.
        answer: tokio::sync::oneshot::Sender<Result<(), LogError>>,
    },
    /// `answer` hears that it was accepted, and then how it ended; or that it was refused.
    Rescale {
        parallelism: u32,
        /// Data addresses of workers that are to go.
        leaving: Vec<String>,
        answer: Sender<RescaleAnswer>,
    },
}
