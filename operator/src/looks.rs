//! Looks at objects, many at the same time, each object by one: the clock and the tasks around a [`Queue`].

use std::future::pending;
use std::hash::Hash;
use std::panic::resume_unwind;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::runtime::watcher;
use tokio::task::JoinSet;

use crate::queue::{Queue, Turn, Urgency};

/// When an object is looked at again if no event comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    pub after: Duration,
    pub urgency: Urgency,
}

impl Again {
    /// The next step of what was begun.
    pub fn next_step(after: Duration) -> Self {
        Again { after, urgency: Urgency::Change }
    }

    pub fn by_the_clock(after: Duration) -> Self {
        Again { after, urgency: Urgency::Routine }
    }
}

/// Looks at whatever the events name, and again when its look says so, until the events end. They are read from the
/// start, as they fill the stores that `listed` waits for; no look begins before that.
///
/// Each look is a task of its own: one that computes keeps no other one waiting. `None`: the object is gone.
pub async fn run<K, L>(
    events: impl Stream<Item = Result<(K, Urgency), watcher::Error>>,
    listed: impl Future<Output = ()>,
    slots: usize,
    look: impl Fn(Turn<K>) -> L,
) where
    K: Clone + Eq + Hash + Send + 'static,
    L: Future<Output = Option<Again>> + Send + 'static,
{
    let (mut events, mut listed, mut is_listed) = (pin!(events), pin!(listed), false);
    let mut queue: Queue<K> = Queue::new(slots);
    let mut looks = JoinSet::new();
    loop {
        while is_listed && let Some(turn) = queue.next(Instant::now()) {
            let (key, looked) = (turn.key.clone(), look(turn));
            looks.spawn(async move { (key, looked.await) });
        }
        let due = queue.next_due().filter(|_| is_listed);
        tokio::select! {
            event = events.next() => match event {
                Some(Ok((key, urgency))) => queue.ask(key, urgency, Instant::now()),
                // It watches anew, after a while.
                Some(Err(error)) => tracing::debug!(%error, "a watch was interrupted"),
                None => return,
            },
            Some(ended) = looks.join_next() => match ended {
                Ok((key, again)) => {
                    if let Some(Again { after, urgency }) = again {
                        queue.ask(key.clone(), urgency, Instant::now() + after);
                    }
                    queue.done(&key);
                }
                // A broken invariant: the process starts anew. Nobody cancels a look.
                Err(error) => resume_unwind(error.into_panic()),
            },
            () = sleep_until(due) => {}
            () = &mut listed, if !is_listed => is_listed = true,
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use futures::channel::mpsc;
    use tokio::sync::Notify;

    use super::*;

    /// While as many looks as may be hang that are due by the clock, a change is looked at; and what changes during a look
    /// is looked at once more.
    #[tokio::test]
    async fn changes_are_looked_at_while_others_hang() {
        let (events, received) = mpsc::unbounded();
        let (looked, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let (release, listed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let counts = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
        let look = {
            let release = Arc::clone(&release);
            move |turn: Turn<String>| {
                let (looked, release, counts) = (looked.clone(), Arc::clone(&release), Arc::clone(&counts));
                async move {
                    let count = {
                        let mut counts = counts.lock().unwrap();
                        let count = counts.entry(turn.key.clone()).or_default();
                        *count += 1;
                        *count
                    };
                    looked.send(format!("{} {count}", turn.key)).unwrap();
                    if turn.key.starts_with("slow") {
                        release.notified().await;
                    }
                    (turn.key == "twice" && count == 1).then(|| Again::next_step(Duration::from_millis(1)))
                }
            }
        };
        let wait = Arc::clone(&listed);
        let running = tokio::spawn(run(received, async move { wait.notified().await }, 4, look));
        let send = |key: &str, urgency| events.unbounded_send(Ok((key.to_owned(), urgency))).unwrap();
        ["slow-a", "slow-b", "slow-c", "slow-d"].iter().for_each(|key| send(key, Urgency::Routine));
        listed.notify_one();
        let mut all = vec![];
        while all.len() < 3 {
            all.push(seen.recv().await.unwrap());
        }
        all.sort();
        assert_eq!(all, ["slow-a 1", "slow-b 1", "slow-c 1"]);
        send("twice", Urgency::Change);
        assert_eq!(seen.recv().await.unwrap(), "twice 1");
        assert_eq!(seen.recv().await.unwrap(), "twice 2");
        send("slow-a", Urgency::Change);
        send("other", Urgency::Change);
        assert_eq!(seen.recv().await.unwrap(), "other 1", "nobody looks at slow-a twice at the same time");
        release.notify_waiters();
        let mut all = vec![seen.recv().await.unwrap(), seen.recv().await.unwrap()];
        all.sort();
        assert_eq!(all, ["slow-a 2", "slow-d 1"]);
        drop(events);
        running.await.unwrap();
    }
}
