//! Going on with the attempt of a coordinator that is gone.
//!
//! Its workers hold on to what they run, and say so when they register at the next coordinator. That goes on with the
//! attempt if all of it is still there, and if it is the last whose sinks were settled: each settling is preceded by an
//! entry of the commit log (an opening), and a worker says under which one its attempt began. Was another one appended
//! since, then another attempt may have removed what this one's sinks prepared, and it must not be gone on with.
//! Why this keeps exactly once is in docs/adr/0012.
//!
//! ```text
//! Idle ── begin ─▶ Returning ── all are back ─▶ Adopting ── all adopted ─▶ Running
//!                      │                           │
//!                      └─ time, or a part is gone ─┴─▶ as any attempt: from the last checkpoint
//! ```

use super::{Rollout, RolloutStep, State};
use crate::placement::Placement;
use std::collections::{BTreeMap, BTreeSet};
use weir_model::{Fence, WorkerId};

/// How long workers that hold on are waited for. They look for their coordinator every second.
const RETURN_TIMEOUT_MS: u64 = 10_000;
/// The same when there are workers enough without those that are missing: they may not come at all.
const RETURN_GRACE_MS: u64 = 3_000;

/// What tells the attempt that may be gone on with from those before it: the commit log says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftRunning {
    /// Its sinks were settled under the opening with this number.
    Under(u64),
    /// It has completed checkpoints under this fence.
    As(Fence),
}

impl LeftRunning {
    fn is(&self, running: &RunningAttempt) -> bool {
        match self {
            LeftRunning::Under(opening) => running.opening == *opening,
            LeftRunning::As(fence) => running.fence == *fence,
        }
    }
}

/// What a worker went on with while it had no coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAttempt {
    pub fence: Fence,
    /// The number of the log's entry under which its sinks were settled.
    pub opening: u64,
    /// The worker of each slot, by the numbers that they had then.
    pub slots: Vec<WorkerId>,
    /// Which of them this one is.
    pub own: WorkerId,
    /// Of the steps that have none of their own: another one than the job's, if it was rescaled.
    pub parallelism: u32,
}

impl Rollout {
    /// Goes on with the attempt if all of it is there; starts anew when that is not to be hoped for.
    pub(super) fn await_return(&mut self, now_ms: u64) -> Vec<RolloutStep> {
        let State::Returning { fence, left_running, since_ms } = self.state else { return vec![] };
        if let Some((from, placement)) = self.returned(left_running) {
            let workers: Vec<WorkerId> = placement.workers().collect();
            let own: BTreeSet<WorkerId> = workers.iter().copied().collect();
            let mut steps: Vec<RolloutStep> = vec![];
            for (worker, registered) in &mut self.workers {
                let running = registered.running.take();
                if let Some(other) = running.filter(|_| !own.contains(worker)) {
                    steps.push(RolloutStep::Dismiss { worker: *worker, fence: other.fence });
                }
            }
            self.state = State::Adopting { fence, placement, awaited: own };
            steps.push(RolloutStep::Adopt { fence, from, workers });
            return steps;
        }
        let is_hopeless =
            self.has_slots() && !self.running().any(|(_, running)| left_running.is(running) && self.fits(running));
        if is_hopeless || now_ms >= self.returned_by_ms(since_ms) { self.locate(fence) } else { vec![] }
    }

    /// When the rest of the workers is not waited for any more.
    pub(super) fn returned_by_ms(&self, since_ms: u64) -> u64 {
        since_ms.saturating_add(if self.has_slots() { RETURN_GRACE_MS } else { RETURN_TIMEOUT_MS })
    }

    /// The worker goes on with its part under the new fence.
    pub fn adopted(&mut self, fence: Fence, worker: WorkerId) -> Vec<RolloutStep> {
        let State::Adopting { fence: own, awaited, placement } = &mut self.state else { return vec![] };
        if *own != fence || !awaited.remove(&worker) || !awaited.is_empty() {
            return vec![];
        }
        let placement = placement.clone();
        let workers = placement.workers().collect();
        self.state = State::Running { fence, placement };
        vec![RolloutStep::Adopted { fence, workers }]
    }

    /// Its part has failed, or ended, meanwhile.
    pub fn not_adopted(&mut self, fence: Fence, reason: String) -> Vec<RolloutStep> {
        match &self.state {
            State::Adopting { fence: own, .. } if *own == fence => self.not_deployed(fence, reason, false),
            _ => vec![],
        }
    }

    /// Lets every attempt end that some worker still runs of itself.
    pub(super) fn dismiss_all(&mut self) -> Vec<RolloutStep> {
        let running =
            self.workers.iter_mut().filter_map(|(worker, registered)| Some((*worker, registered.running.take()?)));
        running.map(|(worker, running)| RolloutStep::Dismiss { worker, fence: running.fence }).collect()
    }

    fn running(&self) -> impl Iterator<Item = (WorkerId, &RunningAttempt)> {
        self.workers.iter().filter_map(|(worker, registered)| Some((*worker, registered.running.as_ref()?)))
    }

    /// Whether it has the parallelism that the job is to have now. The slots alone don't tell: where the widest step has a
    /// parallelism of its own, a rescaled attempt has as many.
    fn fits(&self, running: &RunningAttempt) -> bool {
        running.parallelism == self.parallelism && running.slots.len() as u64 == u64::from(self.slots_needed)
    }

    /// The attempt, and where it runs by today's numbers, if each of its slots is there.
    fn returned(&self, left_running: LeftRunning) -> Option<(Fence, Placement)> {
        // There is one such attempt; should workers disagree, then the later one is it.
        let matching = || self.running().filter(move |(_, running)| left_running.is(running));
        let (_, last) = matching().max_by_key(|(_, running)| (running.fence.epoch, running.fence.attempt))?;
        let is_part = |running: &RunningAttempt| {
            let RunningAttempt { fence, slots, parallelism, .. } = running;
            (fence, slots, parallelism) == (&last.fence, &last.slots, &last.parallelism)
        };
        let parts = matching().filter(|(_, running)| is_part(running));
        let numbers: BTreeMap<WorkerId, WorkerId> = parts.map(|(worker, running)| (running.own, worker)).collect();
        if !self.fits(last) {
            return None;
        }
        let slots = last.slots.iter().map(|slot| numbers.get(slot).copied()).collect::<Option<Vec<_>>>()?;
        Some((last.fence, Placement::at(slots)))
    }
}
