//! What workers and their coordinator say to each other: the words of the node's protocol.

use crate::world::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use weir_coordinator::{Adopted, DeployFailure, RunningAttempt, WorkerOrder};
use weir_model::{CheckpointId, Fence, SubtaskId, Watermark, WorkerId};
use weir_snapshot::{CheckpointManifest, ObjectRef};
use weir_state::{KeyedStateHandle, SegmentRef};

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Register { slots: u32, running: Option<RunningAttempt> },
    Registered { worker: WorkerId },
    Prepare(Arc<Deployment>),
    Order(WorkerOrder),
    Word(WorkerWord),
    Goodbye,
}

/// An attempt, as one worker has to know it.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) fence: Fence,
    pub(crate) parallelism: u32,
    /// The worker of each slot: subtask i of every task is in slot i.
    pub(crate) slots: Vec<WorkerId>,
    pub(crate) peers: BTreeMap<WorkerId, Pid>,
    pub(crate) restore: Option<RestoreFrom>,
}

#[derive(Clone, Debug)]
pub(crate) enum RestoreFrom {
    Checkpoint(Arc<CheckpointManifest>),
    Savepoint(String),
}

/// What a worker tells its coordinator.
#[derive(Clone, Debug)]
pub(crate) enum WorkerWord {
    Prepared {
        fence: Fence,
        result: Result<(), DeployFailure>,
    },
    Acknowledged {
        fence: Fence,
        checkpoint: CheckpointId,
        object: Option<ObjectRef>,
        snapshots: Vec<(SubtaskId, TaskSnapshot)>,
    },
    Declined {
        fence: Fence,
        checkpoint: CheckpointId,
        task: SubtaskId,
        reason: String,
    },
    EndOfInput {
        fence: Fence,
        task: SubtaskId,
    },
    Committed {
        fence: Fence,
        checkpoint: CheckpointId,
        task: SubtaskId,
    },
    TaskFailed {
        fence: Fence,
        task: SubtaskId,
        reason: String,
        is_fatal: bool,
    },
    AttemptFailed {
        fence: Fence,
        reason: String,
    },
    Stopped {
        fence: Fence,
    },
    Adopted {
        fence: Fence,
        result: Result<Adopted, String>,
    },
}

/// What one task keeps for a checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskSnapshot {
    pub(crate) splits: Vec<SplitPosition>,
    pub(crate) watermark: Option<Watermark>,
    pub(crate) keyed: Option<KeyedStateHandle>,
    /// What an unaligned barrier overtook, as `weir_snapshot::in_flight` writes it.
    pub(crate) in_flight: Option<SegmentRef>,
    /// Transactions that the checkpoint makes visible.
    pub(crate) transactions: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SplitPosition {
    pub(crate) split: u32,
    /// Records read.
    pub(crate) position: u64,
}

impl Message {
    /// Whether a copy may arrive later, as from a sender that was not sure.
    pub(crate) fn may_come_twice(&self) -> bool {
        !matches!(
            self,
            Message::Register { .. }
                | Message::Registered { .. }
                | Message::Order(WorkerOrder::Adopt { .. })
                | Message::Goodbye
        )
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Prepare(deployment) => {
                let Deployment { fence, slots, restore, .. } = &**deployment;
                let from = match restore {
                    None => "nothing".to_owned(),
                    Some(RestoreFrom::Checkpoint(manifest)) => format!("checkpoint {}", manifest.checkpoint),
                    Some(RestoreFrom::Savepoint(folder)) => folder.clone(),
                };
                write!(f, "Prepare {} in slots {slots:?} from {from}", fence_name(*fence))
            }
            Message::Word(WorkerWord::Acknowledged { fence, checkpoint, snapshots, .. }) => {
                write!(f, "Acknowledged {} checkpoint {checkpoint} by {} tasks", fence_name(*fence), snapshots.len())
            }
            Message::Word(word) => write!(f, "{word:?}"),
            Message::Order(order) => write!(f, "{order:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

pub(crate) fn fence_name(fence: Fence) -> String {
    format!("e{}-a{}", fence.epoch, fence.attempt)
}
