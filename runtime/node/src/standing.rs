//! What stands of the attempt that runs on a worker: what a coordinator has to know of it that was not there when the
//! worker said it.
//!
//! Events of tasks pass here on their way to the coordinator. What they say for good (a source has come to its end, a
//! task has failed) is kept, and is told again to the coordinator that takes the attempt over. From then on the
//! attempt has another fence: tasks go on under the one with which they began, and their events get the new one here.
//! Both happen under one lock, so that each event is either in what the new coordinator is told, or sent to it.

use crate::task::{TaskEvent, TaskEventKind};
use crate::worker::{EventSink, WorkerEvent};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_coordinator::{Adopted, RunningAttempt};
use weir_model::{CheckpointId, Fence, SubtaskId, WorkerId};

/// Of one worker process.
#[derive(Default)]
pub(crate) struct Standing(Mutex<Option<Record>>);

struct Record {
    /// With which the tasks began, and which their events carry.
    inner: Fence,
    /// By which the coordinator knows the attempt.
    outer: Fence,
    opening: u64,
    own: WorkerId,
    slots: Vec<WorkerId>,
    parallelism: u32,
    /// Why it cannot be gone on with.
    failure: Option<String>,
    ended: BTreeSet<SubtaskId>,
    under_way: BTreeSet<CheckpointId>,
    highest: Option<CheckpointId>,
}

impl Standing {
    /// Tasks are about to run.
    pub(crate) fn begin(&self, running: RunningAttempt) {
        let RunningAttempt { fence, opening, slots, own, parallelism } = running;
        *self.lock() = Some(Record {
            inner: fence,
            outer: fence,
            opening,
            own,
            slots,
            parallelism,
            failure: None,
            ended: BTreeSet::new(),
            under_way: BTreeSet::new(),
            highest: None,
        });
    }

    /// Nothing runs any more, or ends.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    /// What runs here, if a coordinator could go on with it.
    pub(crate) fn running(&self) -> Option<RunningAttempt> {
        let standing = self.lock();
        let record = standing.as_ref().filter(|record| record.failure.is_none())?;
        Some(RunningAttempt {
            fence: record.outer,
            opening: record.opening,
            slots: record.slots.clone(),
            own: record.own,
            parallelism: record.parallelism,
        })
    }

    pub(crate) fn triggered(&self, checkpoint: CheckpointId) {
        if let Some(record) = &mut *self.lock() {
            record.under_way.insert(checkpoint);
            record.highest = record.highest.max(Some(checkpoint));
        }
    }

    pub(crate) fn given_up(&self, checkpoint: CheckpointId) {
        if let Some(record) = &mut *self.lock() {
            record.under_way.remove(&checkpoint);
        }
    }

    pub(crate) fn confirmed(&self, checkpoint: CheckpointId) {
        if let Some(record) = &mut *self.lock() {
            record.under_way = record.under_way.split_off(&checkpoint.next());
        }
    }

    /// Another coordinator goes on with the attempt: events carry its fence from here on. `events`: where to.
    pub(crate) fn adopt(&self, from: Fence, fence: Fence, opening: u64, events: &EventSink) {
        let mut standing = self.lock();
        let result = match &mut *standing {
            Some(Record { failure: Some(reason), .. }) => Err(reason.clone()),
            Some(record) if record.outer == from => {
                (record.outer, record.opening) = (fence, opening);
                Ok(Adopted {
                    ended: record.ended.iter().cloned().collect(),
                    under_way: record.under_way.iter().copied().collect(),
                    highest: record.highest,
                })
            }
            _ => Err("the attempt does not run here any more".to_owned()),
        };
        events.send(WorkerEvent::Adopted { fence, result });
    }

    /// Notes what an event says for good, and sends it under the attempt's present fence.
    fn pass(&self, event: WorkerEvent, events: &EventSink) {
        let mut standing = self.lock();
        if let Some(record) = &mut *standing {
            events.send(record.pass(event));
        } else {
            events.send(event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events' way past the standing.
pub(crate) fn noted(standing: &Arc<Standing>, events: EventSink) -> EventSink {
    let standing = Arc::clone(standing);
    EventSink::new(move |event| standing.pass(event, &events))
}

impl Record {
    fn pass(&mut self, event: WorkerEvent) -> WorkerEvent {
        let (inner, outer) = (self.inner, self.outer);
        let today = |fence: Fence| if fence == inner { outer } else { fence };
        match event {
            WorkerEvent::Task(TaskEvent { fence, task, kind }) => {
                if fence == inner {
                    match &kind {
                        TaskEventKind::EndOfInput => {
                            self.ended.insert(task.clone());
                        }
                        TaskEventKind::Failed(failure) => self.fail(&format!("{task}: {}", failure.reason)),
                        TaskEventKind::Declined { .. } | TaskEventKind::Committed { .. } | TaskEventKind::Ended => {}
                    }
                }
                WorkerEvent::Task(TaskEvent { fence: today(fence), task, kind })
            }
            WorkerEvent::AttemptFailed { fence, reason } => {
                if fence == inner {
                    self.fail(&reason);
                }
                WorkerEvent::AttemptFailed { fence: today(fence), reason }
            }
            WorkerEvent::Acknowledged { fence, checkpoint, object, snapshots, figures } => {
                WorkerEvent::Acknowledged { fence: today(fence), checkpoint, object, snapshots, figures }
            }
            WorkerEvent::Metrics { fence, subtasks } => WorkerEvent::Metrics { fence: today(fence), subtasks },
            // The worker itself says these, of the fence that it was told.
            event @ (WorkerEvent::Prepared { .. } | WorkerEvent::Stopped { .. } | WorkerEvent::Adopted { .. }) => event,
        }
    }

    fn fail(&mut self, reason: &str) {
        self.failure.get_or_insert_with(|| reason.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::{AttemptNumber, Epoch, OperatorUid};

    const OLD: Fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(2) };
    const NEW: Fence = Fence { epoch: Epoch(2), attempt: AttemptNumber(1) };

    fn source(index: u32) -> SubtaskId {
        SubtaskId { operator: OperatorUid::new("source"), index }
    }

    /// The standing of an attempt that runs, its tasks' way to the coordinator, and what that hears.
    fn running() -> (Arc<Standing>, EventSink, EventSink, Arc<Mutex<Vec<String>>>) {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ear = Arc::clone(&heard);
        let events = EventSink::new(move |event| ear.lock().unwrap().push(format!("{event:?}")));
        let standing = Arc::new(Standing::default());
        let slots = vec![WorkerId(3), WorkerId(4)];
        standing.begin(RunningAttempt { fence: OLD, opening: 7, slots, own: WorkerId(3), parallelism: 2 });
        (Arc::clone(&standing), noted(&standing, events.clone()), events, heard)
    }

    fn ended(index: u32) -> WorkerEvent {
        WorkerEvent::Task(TaskEvent { fence: OLD, task: source(index), kind: TaskEventKind::EndOfInput })
    }

    #[test]
    fn what_was_said_to_nobody_is_told_to_the_next_coordinator() {
        let (standing, tasks, events, heard) = running();
        tasks.send(ended(0));
        for checkpoint in 4..=7 {
            standing.triggered(CheckpointId(checkpoint));
        }
        standing.confirmed(CheckpointId(4));
        standing.given_up(CheckpointId(7));
        heard.lock().unwrap().clear();
        standing.adopt(OLD, NEW, 9, &events);
        tasks.send(ended(1));
        let adopted = Adopted {
            ended: vec![source(0)],
            under_way: vec![CheckpointId(5), CheckpointId(6)],
            highest: Some(CheckpointId(7)),
        };
        let expected = [
            WorkerEvent::Adopted { fence: NEW, result: Ok(adopted) },
            WorkerEvent::Task(TaskEvent { fence: NEW, task: source(1), kind: TaskEventKind::EndOfInput }),
        ];
        assert_eq!(*heard.lock().unwrap(), expected.map(|event| format!("{event:?}")));
        let slots = vec![WorkerId(3), WorkerId(4)];
        let running = RunningAttempt { fence: NEW, opening: 9, slots, own: WorkerId(3), parallelism: 2 };
        assert_eq!(standing.running(), Some(running));
    }

    #[test]
    fn what_has_failed_or_ended_is_not_gone_on_with() {
        let (standing, tasks, events, heard) = running();
        tasks.send(WorkerEvent::AttemptFailed { fence: NEW, reason: "of another attempt".to_owned() });
        assert!(standing.running().is_some());
        tasks.send(WorkerEvent::AttemptFailed { fence: OLD, reason: "a connection is lost".to_owned() });
        assert_eq!(standing.running(), None);
        standing.adopt(OLD, NEW, 9, &events);
        assert!(heard.lock().unwrap().last().unwrap().contains("a connection is lost"));

        let (standing, _, events, heard) = running();
        standing.end();
        assert_eq!(standing.running(), None);
        standing.adopt(OLD, NEW, 9, &events);
        assert!(heard.lock().unwrap().last().unwrap().contains("Err"));
    }
}
