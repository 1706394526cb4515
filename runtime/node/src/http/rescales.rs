//! Rescales that were asked for, and how each ended. Asking again for the same parallelism is no second rescale: the
//! job runs with it already, or is on its way there.

use super::Shared;
use super::problem::{Answer, Failure};
use crate::control::Request;
use std::collections::VecDeque;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use weir_api::view::{RescaleRequest, RescaleState, RescaleView};
use weir_coordinator::RescaleAnswer;

/// Rescales that are remembered.
const REMEMBERED: usize = 32;
/// Those that may wait for their end.
const IN_PROGRESS: usize = 8;

pub(super) struct Rescales {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    records: VecDeque<RescaleView>,
}

impl Default for Rescales {
    fn default() -> Self {
        Rescales { state: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Rescales {
    /// Waits at most so long for its end. None: there is no such rescale.
    pub(super) async fn ended(&self, id: u64, at_most: Duration) -> Option<RescaleView> {
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            let view = self.lock().records.iter().find(|record| record.id == id).cloned()?;
            if view.state != RescaleState::InProgress || tokio::time::Instant::now() >= deadline {
                return Some(view);
            }
            tokio::time::timeout_at(deadline, changed.changed()).await.ok();
        }
    }

    /// The last one that was asked for, if it is on its way to this parallelism.
    fn under_way(&self, parallelism: u32) -> Option<RescaleView> {
        let last = self.lock().records.back().cloned();
        last.filter(|last| last.state == RescaleState::InProgress && last.parallelism == parallelism)
    }

    fn begin(&self, parallelism: u32) -> Answer<u64> {
        let mut state = self.lock();
        let in_progress = state.records.iter().filter(|record| record.state == RescaleState::InProgress).count();
        if in_progress >= IN_PROGRESS {
            return Err(Failure::too_many(format!("{in_progress} rescales are in progress; wait for one of them")));
        }
        let ended = |record: &RescaleView| record.state != RescaleState::InProgress;
        if state.records.len() >= REMEMBERED
            && let Some(oldest) = state.records.iter().position(ended)
        {
            state.records.remove(oldest);
        }
        let id = state.next_id;
        state.next_id += 1;
        let view = RescaleView { id, parallelism, state: RescaleState::InProgress, duration_ms: None, failure: None };
        state.records.push_back(view);
        Ok(id)
    }

    fn forget(&self, id: u64) {
        self.lock().records.retain(|record| record.id != id);
        self.changed.send_replace(());
    }

    fn end(&self, id: u64, result: Result<u64, String>) {
        if let Some(record) = self.lock().records.iter_mut().find(|record| record.id == id) {
            match result {
                Ok(duration_ms) => {
                    record.state = RescaleState::Completed;
                    record.duration_ms = Some(duration_ms);
                }
                Err(reason) => {
                    record.state = RescaleState::Failed;
                    record.failure = Some(reason);
                }
            }
        }
        self.changed.send_replace(());
    }

    fn give_up(&self, id: u64) {
        let is_open = |record: &RescaleView| record.id == id && record.state == RescaleState::InProgress;
        if self.lock().records.iter().any(is_open) {
            self.end(id, Err("the job ended before it was rescaled".to_owned()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns as soon as the job has accepted it, or refused.
pub(super) async fn trigger(shared: &Arc<Shared>, request: RescaleRequest) -> Answer<RescaleView> {
    let RescaleRequest { parallelism, leaving } = request;
    if let Some(under_way) = shared.rescales.under_way(parallelism) {
        return Ok(under_way);
    }
    let id = shared.rescales.begin(parallelism)?;
    let (answer, answers) = channel();
    if !shared.requests.send(Request::Rescale { parallelism, leaving, answer }) {
        shared.rescales.forget(id);
        return Err(Failure::ended());
    }
    let (decided, decision) = oneshot::channel();
    let waiting = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("rescale answer".to_owned()).spawn(move || {
        let mut decided = Some(decided);
        for answer in answers {
            let is_refused = match answer {
                RescaleAnswer::Accepted => None,
                RescaleAnswer::Refused { reason } => Some(reason),
                RescaleAnswer::Done { duration_ms, .. } => {
                    waiting.rescales.end(id, Ok(duration_ms));
                    None
                }
                RescaleAnswer::Failed { reason } => {
                    waiting.rescales.end(id, Err(reason));
                    None
                }
            };
            if let Some(decided) = decided.take() {
                // Who asked may have gone.
                decided.send(is_refused).ok();
            }
        }
        // The job has ended without another word; of what has ended before, this says nothing new.
        waiting.rescales.give_up(id);
    });
    if thread.is_err() {
        shared.rescales.forget(id);
        return Err(Failure::unavailable("the end of the rescale cannot be waited for: no thread"));
    }
    match decision.await {
        Ok(Some(reason)) => {
            shared.rescales.forget(id);
            Err(Failure::conflict(reason))
        }
        Ok(None) => shared.rescales.ended(id, Duration::ZERO).await.ok_or_else(Failure::ended),
        Err(_) => Err(Failure::ended()),
    }
}
