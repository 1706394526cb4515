//! Tasks: the threads in which sources, chains of operators and sinks run.

mod arrivals;
mod chain;
mod commit;
mod gate;
mod leash;
mod mail;
mod operator_task;
mod output;
mod pace;
mod snapshot;
mod source_task;
mod writer;

pub(crate) use arrivals::*;
pub(crate) use chain::*;
pub(crate) use commit::*;
pub(crate) use gate::*;
pub(crate) use leash::*;
pub(crate) use mail::*;
pub(crate) use operator_task::*;
pub(crate) use output::*;
pub(crate) use pace::*;
pub(crate) use snapshot::*;
pub(crate) use source_task::*;
pub(crate) use writer::*;

use crate::worker::{EventSink, WorkerEvent};
use weir_model::{CheckpointId, Fence, OperatorUid, SubtaskId};

/// What a task tells the coordinator's side. Each event carries the fence of the attempt it belongs to.
#[derive(Debug)]
pub(crate) struct TaskEvent {
    pub(crate) fence: Fence,
    pub(crate) task: SubtaskId,
    pub(crate) kind: TaskEventKind,
}

#[derive(Debug)]
pub(crate) enum TaskEventKind {
    /// This task could not take its part of the checkpoint; the task itself goes on.
    Declined {
        checkpoint: CheckpointId,
        reason: String,
    },
    /// The source has come to its end.
    EndOfInput,
    /// This task's sink (if it has one) has committed up to the checkpoint.
    Committed {
        checkpoint: CheckpointId,
    },
    Failed(TaskFailure),
    /// The thread has ended in order.
    Ended,
}

#[derive(Debug)]
pub(crate) struct TaskFailure {
    /// The node that failed, where it is known.
    pub(crate) node: Option<OperatorUid>,
    pub(crate) reason: String,
    /// No restart can help: a commit that can never succeed, a topic that isn't there.
    pub(crate) is_fatal: bool,
    /// The data fails it, so that it will again; nothing outside was away.
    pub(crate) is_of_data: bool,
}

/// A task's line to the coordinator's side. Once that is gone, nobody needs to hear anything.
#[derive(Clone)]
pub(crate) struct Reporter {
    pub(crate) fence: Fence,
    pub(crate) task: SubtaskId,
    pub(crate) events: EventSink,
}

impl Reporter {
    pub(crate) fn report(&self, kind: TaskEventKind) {
        let event = TaskEvent { fence: self.fence, task: self.task.clone(), kind };
        self.events.send(WorkerEvent::Task(event));
    }
}
