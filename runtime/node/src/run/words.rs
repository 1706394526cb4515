//! Between the words of this process and those of the job's control.

use crate::attempt::DeployError;
use crate::ended_splits::EndedSplits;
use crate::job::Job;
use crate::physical::PhysicalPlan;
use crate::start::LeftRunning;
use crate::task::{TaskEvent, TaskEventKind, TaskSnapshot};
use crate::worker::WorkerCommand;
use std::sync::Arc;
use weir_coordinator::{AttemptShape, DeployFailure, Event, Inherited, ObjectBytes, WorkerOrder};
use weir_snapshot::log::Began;

/// The tasks of an attempt with the job's parallelism.
pub(super) fn shape(job: &Job, wanted: Vec<ObjectBytes>) -> AttemptShape {
    let plan = PhysicalPlan::of(&job.graph);
    let (tasks, sources) = plan.subtasks(&job.graph);
    AttemptShape { tasks, sources, parallelism: job.parallelism(), slots: plan.slots(), wanted }
}

pub(super) fn inherited(job: &Job, left: LeftRunning) -> Inherited {
    let LeftRunning { began, stands_on, oldest, opening } = left;
    let left_running = match began {
        Began::Under(opening) => weir_coordinator::LeftRunning::Under(opening),
        Began::As(fence) => weir_coordinator::LeftRunning::As(fence),
    };
    Inherited { left_running, shape: shape(job, vec![]), stands_on, oldest, opening }
}

pub(super) fn deploy_failure(error: DeployError) -> DeployFailure {
    let DeployError { reason, is_fatal } = error;
    DeployFailure { reason, is_fatal }
}

/// `ended`: by the last checkpoint.
pub(super) fn worker_command(order: &WorkerOrder, ended: &Arc<EndedSplits>) -> WorkerCommand {
    match *order {
        WorkerOrder::Start { fence, opening } => WorkerCommand::Start { fence, opening },
        WorkerOrder::Adopt { from, fence, opening } => WorkerCommand::Adopt { from, fence, opening },
        WorkerOrder::Trigger { fence, barrier, is_unaligned, hold } => {
            WorkerCommand::Trigger { fence, barrier, is_unaligned, hold }
        }
        WorkerOrder::TurnUnaligned { fence, checkpoint } => WorkerCommand::TurnUnaligned { fence, checkpoint },
        WorkerOrder::CancelCheckpoint { fence, checkpoint } => WorkerCommand::CancelCheckpoint { fence, checkpoint },
        WorkerOrder::Commit(permit) => WorkerCommand::Commit { permit, ended: Arc::clone(ended) },
        WorkerOrder::Resume { fence } => WorkerCommand::Resume { fence },
        WorkerOrder::Finish { fence } => WorkerCommand::Finish { fence },
        WorkerOrder::Stop { fence } => WorkerCommand::Stop { fence },
    }
}

pub(super) fn task_event(event: TaskEvent) -> Option<Event<TaskSnapshot>> {
    let TaskEvent { fence, task, kind } = event;
    Some(match kind {
        TaskEventKind::Declined { checkpoint, reason } => Event::Declined { fence, checkpoint, task, reason },
        TaskEventKind::EndOfInput => Event::EndOfInput { fence, task },
        TaskEventKind::Committed { checkpoint } => Event::Committed { fence, checkpoint, task },
        TaskEventKind::Failed(failure) => {
            let reason = match &failure.node {
                Some(node) if *node != task.operator => format!("{node}: {}", failure.reason),
                _ => failure.reason,
            };
            let (is_fatal, is_of_data) = (failure.is_fatal, failure.is_of_data);
            Event::TaskFailed { fence, task, reason, is_fatal, is_of_data, random: rand::random() }
        }
        // The join of all threads says it for all.
        TaskEventKind::Ended => return None,
    })
}
