//! An attempt over the workers of a job, pure: who must be told what, and when all are where the attempt needs them.
//!
//! The coordinator speaks of one attempt; a job has many workers, which come, make their tasks, end them, and are
//! lost. All have made theirs before the first record flows: what can fail fails before.
//!
//! Sinks are settled (what the restore point completed is committed, what came later removed) when every worker has
//! read and verified its state, and before any of them opens a writer: of a restore point that cannot be read nothing
//! becomes visible, and nothing that an attempt writes can be taken for what an older one left.
//!
//! A coordinator that takes over may find the attempt of its predecessor still running: see `takeover`.
//!
//! ```text
//! Idle ─ begin ▶ Locating ─ located ▶ AwaitingSlots ─ slots ▶ Preparing ─ all prepared ▶ Settling ─ settled ▶ Running
//!   ▲               │                       │                     │                         │                    │
//!   └──── ended ────┴───────────────────────┴──── stop, finish ───┴───────▶ Ending ◀────────┴────────────────────┘
//! ```

mod takeover;
#[cfg(test)]
mod tests;

pub use takeover::{LeftRunning, RunningAttempt};

use crate::placement::{Placement, Shortage};
use std::collections::{BTreeMap, BTreeSet};
use weir_model::{AttemptNumber, Fence, WorkerId};

/// How long an attempt waits for workers before it fails (and the restart strategy decides). Flink:
/// `slot.request.timeout`, 5 min.
const SLOTS_TIMEOUT_MS: u64 = 300_000;
/// How long it waits for the rest of the workers it was promised, once there are slots enough.
const PROMISED_GRACE_MS: u64 = 10_000;
/// The same after a failure, where the job stands still meanwhile: a worker that died may take long to come back.
const RESTART_GRACE_MS: u64 = 1_000;

/// Of each coordinator.
const FIRST_ATTEMPT: AttemptNumber = AttemptNumber(1);

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutStep {
    /// Find what the attempt starts from.
    Locate { fence: Fence },
    /// Let the workers go on with the attempt that runs on them, under another fence. Answered by `adopted`.
    Adopt { fence: Fence, from: Fence, workers: Vec<WorkerId> },
    /// They do, all of them. The attempt is deployed.
    Adopted { fence: Fence, workers: Vec<WorkerId> },
    /// An attempt that runs there is nobody's any more: let its tasks end.
    Dismiss { worker: WorkerId, fence: Fence },
    /// Let the placement's workers make their tasks.
    Prepare { fence: Fence, placement: Placement },
    /// All are made, with the state that they start from: let sinks stand exactly at the restore point.
    Settle { fence: Fence },
    /// Let records flow. The attempt is deployed.
    Start { fence: Fence, workers: Vec<WorkerId> },
    /// Let the tasks end in order.
    Finish { fence: Fence, workers: Vec<WorkerId> },
    /// Let them end as they are.
    Stop { fence: Fence, workers: Vec<WorkerId> },
    /// The attempt could not be deployed. Workers that had been told of it are told to stop, too.
    NotDeployed { fence: Fence, reason: String, is_fatal: bool },
    /// It ran, and one of its workers is gone.
    Lost { fence: Fence, reason: String },
    /// None of its tasks runs any more.
    Ended { fence: Fence },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Returning { fence: Fence, left_running: LeftRunning, since_ms: u64 },
    Adopting { fence: Fence, placement: Placement, awaited: BTreeSet<WorkerId> },
    Locating { fence: Fence, is_stopping: bool },
    AwaitingSlots { fence: Fence, since_ms: u64 },
    Preparing { fence: Fence, placement: Placement, awaited: BTreeSet<WorkerId> },
    Settling { fence: Fence, placement: Placement },
    Running { fence: Fence, placement: Placement },
    Ending { fence: Fence, awaited: BTreeSet<WorkerId> },
}

/// The workers of one job, and the attempt that runs on them.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Subtasks of the widest task: the slots an attempt needs.
    slots_needed: u32,
    /// Of the steps that have none of their own. One that runs with another was rescaled: it may need as many slots.
    parallelism: u32,
    /// Workers that somebody promised to start: worth a short wait, so that none stays idle.
    promised_workers: usize,
    workers: BTreeMap<WorkerId, RegisteredWorker>,
    /// Those that are about to go: nothing is placed on them where the others have slots enough.
    leaving: BTreeSet<WorkerId>,
    /// Objects with state that the subtasks of each slot start from.
    wanted: Vec<ObjectBytes>,
    state: State,
}

/// Bytes by the name of the object that they stand in.
pub type ObjectBytes = BTreeMap<String, u64>;

/// A worker that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisteredWorker {
    /// How many subtasks of one task it takes.
    pub slots: u32,
    /// What it has on its disk.
    pub held: ObjectBytes,
    /// What it went on with while it had no coordinator.
    pub running: Option<RunningAttempt>,
}

impl Rollout {
    pub fn new(slots_needed: u32, promised_workers: usize) -> Self {
        Rollout {
            slots_needed,
            parallelism: slots_needed,
            promised_workers,
            workers: BTreeMap::new(),
            leaving: BTreeSet::new(),
            wanted: vec![],
            state: State::Idle,
        }
    }

    /// These workers, and no others, are about to go.
    pub fn leave(&mut self, workers: BTreeSet<WorkerId>) {
        self.leaving = workers;
    }

    /// What attempts need that begin from here on, and at which parallelism they are.
    pub fn needs(&mut self, slots: u32, parallelism: u32) {
        (self.slots_needed, self.parallelism) = (slots, parallelism);
    }

    /// What is missing for so many slots.
    pub fn shortage(&self, need: u32) -> Option<Shortage> {
        let have = self.slots_there();
        (have < need).then_some(Shortage { have, need })
    }

    /// Workers that are there, with their slots.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, u32)> + '_ {
        self.workers.iter().map(|(worker, registered)| (*worker, registered.slots))
    }

    /// Where the subtasks of the attempt run, once they are placed.
    pub fn placement(&self) -> Option<&Placement> {
        match &self.state {
            State::Adopting { placement, .. }
            | State::Preparing { placement, .. }
            | State::Settling { placement, .. }
            | State::Running { placement, .. } => Some(placement),
            _ => None,
        }
    }

    /// For people: what the attempt waits for.
    pub fn waits_for(&self) -> Option<String> {
        match &self.state {
            State::AwaitingSlots { .. } => {
                let have = self.slots_there();
                Some(format!("{have} of {} slots; more workers are needed", self.slots_needed))
            }
            State::Returning { .. } => Some("the workers of the attempt that was running to come back".to_owned()),
            _ => None,
        }
    }

    pub fn next_wake_ms(&self) -> Option<u64> {
        if let State::Returning { since_ms, .. } = self.state {
            return Some(self.returned_by_ms(since_ms));
        }
        let State::AwaitingSlots { fence, since_ms } = self.state else { return None };
        Some(since_ms + if self.has_slots() { promised_grace_ms(fence) } else { SLOTS_TIMEOUT_MS })
    }

    /// The attempt begins: with what the coordinator before this one left running, if that may be gone on with; else,
    /// what to start from is looked up.
    pub fn begin(&mut self, fence: Fence, left_running: Option<LeftRunning>, now_ms: u64) -> Vec<RolloutStep> {
        match left_running {
            Some(left_running) => {
                self.state = State::Returning { fence, left_running, since_ms: now_ms };
                self.await_return(now_ms)
            }
            None => self.locate(fence),
        }
    }

    fn locate(&mut self, fence: Fence) -> Vec<RolloutStep> {
        self.state = State::Locating { fence, is_stopping: false };
        let mut steps = self.dismiss_all();
        steps.push(RolloutStep::Locate { fence });
        steps
    }

    /// What it starts from is known, and (by slot) in what objects it stands.
    pub fn located(&mut self, fence: Fence, wanted: Vec<ObjectBytes>, now_ms: u64) -> Vec<RolloutStep> {
        match self.state {
            State::Locating { fence: own, is_stopping: true } if own == fence => self.ended(fence),
            State::Locating { fence: own, is_stopping: false } if own == fence => {
                self.wanted = wanted;
                self.state = State::AwaitingSlots { fence, since_ms: now_ms };
                self.place(now_ms)
            }
            _ => vec![],
        }
    }

    pub fn not_located(&mut self, fence: Fence, reason: String, is_fatal: bool) -> Vec<RolloutStep> {
        match self.state {
            State::Locating { fence: own, is_stopping: true } if own == fence => self.ended(fence),
            State::Locating { fence: own, .. } if own == fence => self.not_deployed(fence, reason, is_fatal),
            _ => vec![],
        }
    }

    pub fn registered(&mut self, worker: WorkerId, registered: RegisteredWorker, now_ms: u64) -> Vec<RolloutStep> {
        self.workers.insert(worker, registered);
        if matches!(self.state, State::Returning { .. }) {
            return self.await_return(now_ms);
        }
        // Whatever it runs is not this attempt: that has all its workers, or has not begun.
        let mut steps = self.dismiss_all();
        steps.extend(self.place(now_ms));
        steps
    }

    /// The worker has written an object, and keeps a copy.
    pub fn holds(&mut self, worker: WorkerId, object: String, bytes: u64) {
        if let Some(registered) = self.workers.get_mut(&worker) {
            registered.held.insert(object, bytes);
        }
    }

    /// Of what is kept on disks, only these objects are of use.
    pub fn retain_held(&mut self, is_needed: impl Fn(&str) -> bool) {
        self.workers.values_mut().for_each(|registered| registered.held.retain(|object, _| is_needed(object)));
    }

    pub fn tick(&mut self, now_ms: u64) -> Vec<RolloutStep> {
        match self.state {
            State::Returning { .. } => self.await_return(now_ms),
            _ => self.place(now_ms),
        }
    }

    pub fn lost(&mut self, worker: WorkerId, reason: &str) -> Vec<RolloutStep> {
        self.leaving.remove(&worker);
        if self.workers.remove(&worker).is_none() {
            return vec![];
        }
        let reason = || format!("worker {worker} is lost: {reason}");
        match &mut self.state {
            State::Adopting { fence, placement, .. }
            | State::Preparing { fence, placement, .. }
            | State::Settling { fence, placement }
                if placement.workers().any(|own| own == worker) =>
            {
                let fence = *fence;
                self.not_deployed(fence, reason(), false)
            }
            State::Running { fence, placement } if placement.workers().any(|own| own == worker) => {
                vec![RolloutStep::Lost { fence: *fence, reason: reason() }]
            }
            State::Ending { .. } => self.has_ended(worker),
            _ => vec![],
        }
    }

    /// The worker has made its tasks.
    pub fn prepared(&mut self, fence: Fence, worker: WorkerId) -> Vec<RolloutStep> {
        let State::Preparing { fence: own, awaited, placement } = &mut self.state else { return vec![] };
        if *own != fence || !awaited.remove(&worker) || !awaited.is_empty() {
            return vec![];
        }
        let placement = placement.clone();
        self.state = State::Settling { fence, placement };
        vec![RolloutStep::Settle { fence }]
    }

    pub fn not_prepared(&mut self, fence: Fence, reason: String, is_fatal: bool) -> Vec<RolloutStep> {
        match &self.state {
            State::Preparing { fence: own, .. } if *own == fence => self.not_deployed(fence, reason, is_fatal),
            _ => vec![],
        }
    }

    /// Sinks stand at the restore point.
    pub fn settled(&mut self, fence: Fence) -> Vec<RolloutStep> {
        let State::Settling { fence: own, placement } = &self.state else { return vec![] };
        if *own != fence {
            return vec![];
        }
        let placement = placement.clone();
        let workers = placement.workers().collect();
        self.state = State::Running { fence, placement };
        vec![RolloutStep::Start { fence, workers }]
    }

    pub fn not_settled(&mut self, fence: Fence, reason: String, is_fatal: bool) -> Vec<RolloutStep> {
        match &self.state {
            State::Settling { fence: own, .. } if *own == fence => self.not_deployed(fence, reason, is_fatal),
            _ => vec![],
        }
    }

    pub fn finish(&mut self, fence: Fence) -> Vec<RolloutStep> {
        self.end(fence, |fence, workers| RolloutStep::Finish { fence, workers })
    }

    pub fn stop(&mut self, fence: Fence) -> Vec<RolloutStep> {
        match &mut self.state {
            State::Locating { fence: own, is_stopping } if *own == fence => {
                *is_stopping = true;
                vec![]
            }
            State::AwaitingSlots { fence: own, .. } if *own == fence => self.ended(fence),
            State::Returning { fence: own, .. } if *own == fence => {
                let mut steps = self.dismiss_all();
                steps.extend(self.ended(fence));
                steps
            }
            // It had been asked to finish, and is asked to stop: that ends it sooner, with the same word.
            State::Ending { fence: own, awaited } if *own == fence => {
                vec![RolloutStep::Stop { fence, workers: awaited.iter().copied().collect() }]
            }
            _ => self.end(fence, |fence, workers| RolloutStep::Stop { fence, workers }),
        }
    }

    /// None of the attempt's tasks runs on the worker any more.
    pub fn stopped(&mut self, fence: Fence, worker: WorkerId) -> Vec<RolloutStep> {
        match self.state {
            State::Ending { fence: own, .. } if own == fence => self.has_ended(worker),
            _ => vec![],
        }
    }

    fn has_slots(&self) -> bool {
        self.shortage(self.slots_needed).is_none()
    }

    fn slots_there(&self) -> u32 {
        self.workers.values().fold(0, |sum: u32, registered| sum.saturating_add(registered.slots))
    }

    /// Of what the slot's subtasks start from, what the worker has on its disk.
    fn held_bytes(&self, worker: WorkerId, slot: u32) -> u64 {
        let Some((wanted, registered)) = self.wanted.get(slot as usize).zip(self.workers.get(&worker)) else {
            return 0;
        };
        let held = wanted.iter().map(|(object, bytes)| registered.held.get(object).map_or(0, |held| *held.min(bytes)));
        held.fold(0, u64::saturating_add)
    }

    fn place(&mut self, now_ms: u64) -> Vec<RolloutStep> {
        let State::AwaitingSlots { fence, since_ms } = self.state else { return vec![] };
        let waited_ms = now_ms.saturating_sub(since_ms);
        let staying: Vec<_> = self.workers().filter(|(worker, _)| !self.leaving.contains(worker)).collect();
        let slots = staying.iter().fold(0, |sum: u32, (_, slots)| sum.saturating_add(*slots));
        let is_enough = slots >= self.slots_needed;
        let workers: Vec<_> = if is_enough { staying } else { self.workers().collect() };
        // Who leaves is not waited for, and was promised.
        let promised = self.promised_workers.saturating_sub(if is_enough { self.leaving.len() } else { 0 });
        match Placement::of(&workers, self.slots_needed, |worker, slot| self.held_bytes(worker, slot)) {
            Ok(_) if workers.len() < promised && waited_ms < promised_grace_ms(fence) => vec![],
            Ok(placement) => {
                let awaited = placement.workers().collect();
                self.state = State::Preparing { fence, placement: placement.clone(), awaited };
                vec![RolloutStep::Prepare { fence, placement }]
            }
            Err(shortage) if waited_ms >= SLOTS_TIMEOUT_MS => {
                let reason = format!("{shortage}; waited {} s for more workers", SLOTS_TIMEOUT_MS / 1000);
                self.not_deployed(fence, reason, false)
            }
            Err(_) => vec![],
        }
    }

    fn not_deployed(&mut self, fence: Fence, reason: String, is_fatal: bool) -> Vec<RolloutStep> {
        let mut steps = vec![];
        if let State::Adopting { placement, .. }
        | State::Preparing { placement, .. }
        | State::Settling { placement, .. } = &self.state
        {
            let there = placement.workers().filter(|worker| self.workers.contains_key(worker));
            steps.push(RolloutStep::Stop { fence, workers: there.collect() });
        }
        self.state = State::Idle;
        steps.push(RolloutStep::NotDeployed { fence, reason, is_fatal });
        steps
    }

    fn end(&mut self, fence: Fence, step: impl Fn(Fence, Vec<WorkerId>) -> RolloutStep) -> Vec<RolloutStep> {
        let placement = match &self.state {
            State::Adopting { fence: own, placement, .. }
            | State::Preparing { fence: own, placement, .. }
            | State::Settling { fence: own, placement }
            | State::Running { fence: own, placement }
                if *own == fence =>
            {
                placement
            }
            _ => return vec![],
        };
        let awaited: BTreeSet<WorkerId> =
            placement.workers().filter(|worker| self.workers.contains_key(worker)).collect();
        if awaited.is_empty() {
            return self.ended(fence);
        }
        let workers = awaited.iter().copied().collect();
        self.state = State::Ending { fence, awaited };
        vec![step(fence, workers)]
    }

    fn has_ended(&mut self, worker: WorkerId) -> Vec<RolloutStep> {
        let State::Ending { fence, awaited } = &mut self.state else { return vec![] };
        let fence = *fence;
        if awaited.remove(&worker) && awaited.is_empty() { self.ended(fence) } else { vec![] }
    }

    fn ended(&mut self, fence: Fence) -> Vec<RolloutStep> {
        self.state = State::Idle;
        vec![RolloutStep::Ended { fence }]
    }
}

fn promised_grace_ms(fence: Fence) -> u64 {
    if fence.attempt > FIRST_ATTEMPT { RESTART_GRACE_MS } else { PROMISED_GRACE_MS }
}
