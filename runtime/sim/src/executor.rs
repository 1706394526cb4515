//! Runs futures in the simulator's one thread. A future is polled when something it waits for has come, in the order
//! in which that happened; nothing else wakes anything.

use crate::world::Pid;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

#[derive(Default)]
pub(crate) struct Executor {
    tasks: BTreeMap<u64, Task>,
    next: u64,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

struct Task {
    /// Dies with it.
    process: Pid,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.task);
    }
}

impl Executor {
    pub(crate) fn spawn(&mut self, process: Pid, future: impl Future<Output = ()> + 'static) {
        let task = self.next;
        self.next += 1;
        self.tasks.insert(task, Task { process, future: Box::pin(future) });
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    }

    /// Everything that the process was doing ends where it stands.
    pub(crate) fn kill(&mut self, process: Pid) {
        self.tasks.retain(|_, task| task.process != process);
    }

    /// Polls what can go on, until nothing can. Processes that are `paused` keep their turn for later.
    pub(crate) fn run(&mut self, is_paused: impl Fn(Pid) -> bool) {
        let mut kept = vec![];
        loop {
            let next = self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(id) = next else { break };
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            if is_paused(task.process) {
                kept.push(id);
                continue;
            }
            let waker = Waker::from(Arc::new(TaskWaker { task: id, ready: Arc::clone(&self.ready) }));
            if let Poll::Ready(()) = task.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.tasks.remove(&id);
            }
        }
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
    }
}
