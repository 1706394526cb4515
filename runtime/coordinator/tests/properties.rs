//! Arbitrary worlds around the coordinator: tasks that acknowledge, fail, commit in any order, storage that answers
//! when it likes, users who ask for anything. What must never happen doesn't, and everything comes to an end.

#![allow(clippy::disallowed_methods, reason = "the tests play the commit log, which attests")]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use weir_coordinator::*;
use weir_model::{CheckpointId, CheckpointKind, Durable, Epoch, Fence, OperatorUid, SubtaskId};

const MIN_PAUSE_MS: u64 = 70;
const TIMEOUT_MS: u64 = 400;
const ALIGNED_MS: u64 = 150;

fn config(max_concurrent: u32) -> Config {
    Config {
        checkpoints: Some(CheckpointConfig {
            interval_ms: 100,
            min_pause_ms: MIN_PAUSE_MS,
            max_concurrent,
            mode: CheckpointMode::ExactlyOnce,
            aligned_timeout_ms: (max_concurrent == 1).then_some(ALIGNED_MS),
        }),
        timeout_ms: TIMEOUT_MS,
        tolerable_failures: 2,
        restart: RestartStrategy::FixedDelay { attempts: 4, delay_ms: 30 },
    }
}

fn tasks() -> Vec<SubtaskId> {
    ["source", "window", "sink"].map(|name| SubtaskId { operator: OperatorUid::new(name), index: 0 }).to_vec()
}

/// One step of the world; the numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Pass { ms: u64 },
    Acknowledge { pick: usize, task: usize },
    AcknowledgeAll { pick: usize },
    Stale { attempts_ago: u32, pick: usize, task: usize },
    Decline { pick: usize, task: usize },
    StorageAnswers { is_good: bool },
    Fenced,
    Commit { task: usize },
    Deploy { is_good: bool },
    TaskFails { task: usize },
    TasksEnd,
    EndOfInput,
    Savepoint { stop: bool },
    SavepointWritten { is_good: bool },
    Drain,
    Rescale { parallelism: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..150).prop_map(|ms| Step::Pass { ms }),
        6 => (any::<usize>(), any::<usize>()).prop_map(|(pick, task)| Step::Acknowledge { pick, task }),
        5 => any::<usize>().prop_map(|pick| Step::AcknowledgeAll { pick }),
        2 => (0u32..3, any::<usize>(), any::<usize>())
            .prop_map(|(attempts_ago, pick, task)| Step::Stale { attempts_ago, pick, task }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(pick, task)| Step::Decline { pick, task }),
        6 => prop::bool::weighted(0.8).prop_map(|is_good| Step::StorageAnswers { is_good }),
        6 => any::<usize>().prop_map(|task| Step::Commit { task }),
        4 => prop::bool::weighted(0.9).prop_map(|is_good| Step::Deploy { is_good }),
        1 => any::<usize>().prop_map(|task| Step::TaskFails { task }),
        4 => Just(Step::TasksEnd),
        1 => Just(Step::EndOfInput),
        2 => prop::bool::weighted(0.3).prop_map(|stop| Step::Savepoint { stop }),
        2 => (1u32..9).prop_map(|parallelism| Step::Rescale { parallelism }),
        3 => prop::bool::weighted(0.7).prop_map(|is_good| Step::SavepointWritten { is_good }),
        1 => prop::bool::weighted(0.1).prop_map(|fenced| if fenced { Step::Fenced } else { Step::Pass { ms: 1 } }),
        1 => prop::bool::weighted(0.2).prop_map(|drain| if drain { Step::Drain } else { Step::Pass { ms: 1 } }),
    ]
}

/// The node as the coordinator sees it, and the checkers.
struct World {
    coordinator: Coordinator<SubtaskId>,
    max_concurrent: usize,
    now_ms: u64,
    deploying: Option<Fence>,
    running: Option<Fence>,
    ending: Option<Fence>,
    /// Triggered and neither completed nor cancelled: the trigger's time.
    open: BTreeMap<CheckpointId, u64>,
    acknowledged: BTreeMap<CheckpointId, BTreeSet<SubtaskId>>,
    appending: Vec<CheckpointId>,
    completed: BTreeSet<CheckpointId>,
    durable: BTreeSet<CheckpointId>,
    to_commit: Vec<(CheckpointId, SubtaskId)>,
    last_triggered: CheckpointId,
    last_turned: CheckpointId,
    last_end_ms: Option<u64>,
    next_request: u64,
    unanswered: BTreeSet<RequestId>,
    asked: BTreeMap<RequestId, u32>,
    writing: Vec<RequestId>,
    must_commit: BTreeSet<SubtaskId>,
    /// That of the attempt deployed last.
    parallelism: Option<u32>,
    /// Checkpoints after which the parallelism changes, and to what.
    rescales: BTreeMap<CheckpointId, u32>,
    /// What the last accepted request was for.
    wanted: Option<u32>,
    closed: Option<Outcome>,
}

impl World {
    fn new(max_concurrent: u32) -> Self {
        let coordinator = Coordinator::new(config(max_concurrent), Epoch(1), CheckpointId(1));
        let mut world = World {
            coordinator,
            max_concurrent: max_concurrent as usize,
            now_ms: 0,
            deploying: None,
            running: None,
            ending: None,
            open: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            appending: vec![],
            completed: BTreeSet::new(),
            durable: BTreeSet::new(),
            to_commit: vec![],
            last_triggered: CheckpointId(0),
            last_turned: CheckpointId(0),
            last_end_ms: None,
            next_request: 0,
            unanswered: BTreeSet::new(),
            asked: BTreeMap::new(),
            writing: vec![],
            must_commit: BTreeSet::new(),
            parallelism: None,
            rescales: BTreeMap::new(),
            wanted: None,
            closed: None,
        };
        let commands = world.coordinator.start();
        world.carry_out(commands);
        world
    }

    fn on(&mut self, event: Event<SubtaskId>) {
        let commands = self.coordinator.on(event, self.now_ms);
        self.carry_out(commands);
    }

    fn carry_out(&mut self, commands: Vec<Command<SubtaskId>>) {
        for command in commands {
            assert!(self.closed.is_none(), "a command after the job was closed: {command:?}");
            self.obey(command);
        }
        assert!(self.open.len() <= self.max_concurrent, "too many at a time: {:?}", self.open);
    }

    fn obey(&mut self, command: Command<SubtaskId>) {
        match command {
            Command::Deploy { fence, parallelism } => {
                let mut newest = self.rescales.iter().rev();
                if let Some((checkpoint, rescaled)) = newest.find(|(checkpoint, _)| self.durable.contains(checkpoint)) {
                    assert!(parallelism.is_some(), "{checkpoint} rescaled the job to {rescaled}");
                }
                self.parallelism = parallelism;
                assert!(self.running.is_none() && self.ending.is_none(), "two attempts at a time");
                assert!(self.appending.is_empty(), "it isn't known from which checkpoint to start");
                self.deploying = Some(fence);
                self.to_commit.clear();
            }
            Command::Trigger { fence, checkpoint, kind, hold, .. } => {
                assert_eq!(Some(fence), self.running);
                assert!(checkpoint > self.last_triggered, "checkpoint {checkpoint} a second time");
                let is_rescale = kind == CheckpointKind::Checkpoint && hold;
                if is_rescale {
                    assert!(self.open.is_empty(), "it comes after all others");
                    self.rescales.insert(checkpoint, self.wanted.expect("somebody asked for it"));
                }
                if kind == CheckpointKind::Checkpoint
                    && !self.coordinator.is_rescaling()
                    && let Some(end_ms) = self.last_end_ms
                {
                    assert!(self.now_ms >= end_ms + MIN_PAUSE_MS, "no pause after the checkpoint before");
                }
                self.last_triggered = checkpoint;
                self.open.insert(checkpoint, self.now_ms);
            }
            Command::TurnUnaligned { fence, checkpoint } => {
                assert_eq!(Some(fence), self.running);
                assert!(checkpoint > self.last_turned, "checkpoint {checkpoint} turned a second time");
                assert!(self.now_ms >= self.open[&checkpoint] + ALIGNED_MS, "too early");
                self.last_turned = checkpoint;
            }
            Command::CancelCheckpoint { checkpoint, .. } => {
                assert!(!self.durable.contains(&checkpoint), "{checkpoint} is complete");
                self.open.remove(&checkpoint);
                self.last_end_ms = Some(self.now_ms);
            }
            Command::Complete(Acknowledged { checkpoint, parts, .. }) => {
                assert!(self.completed.insert(checkpoint), "{checkpoint} completed twice");
                let all = parts.iter().map(|(task, _)| task.clone()).collect::<BTreeSet<_>>();
                assert_eq!(all, tasks().into_iter().collect(), "{checkpoint} completed without all tasks");
                assert!(parts.iter().all(|(task, payload)| task == payload));
                assert_eq!(self.acknowledged.get(&checkpoint), Some(&all), "by tasks of this attempt");
                self.appending.push(checkpoint);
            }
            Command::Commit { permit, tasks } => {
                assert!(self.durable.contains(&permit.checkpoint()), "commit before it is durable");
                let is_rescale = self.rescales.contains_key(&permit.checkpoint());
                assert!(!is_rescale, "the next attempt commits it before a record flows");
                assert_eq!(Some(permit.fence()), self.running);
                self.must_commit.extend(tasks.iter().cloned());
                self.to_commit.extend(tasks.into_iter().map(|task| (permit.checkpoint(), task)));
            }
            Command::Resume { fence } => assert_eq!(Some(fence), self.running),
            Command::WriteSavepoint { request, checkpoint } => {
                assert!(self.durable.contains(&checkpoint));
                self.writing.push(request);
            }
            Command::AnswerSavepoint { request, .. } => {
                assert!(self.unanswered.remove(&request), "request {request:?} answered twice");
            }
            Command::AnswerRescale { request, answer } => {
                assert!(self.unanswered.contains(&request), "request {request:?} answered twice");
                match answer {
                    RescaleAnswer::Accepted => self.wanted = self.asked.get(&request).copied(),
                    RescaleAnswer::Done { parallelism, .. } => {
                        assert_eq!(self.asked.get(&request), Some(&parallelism));
                        assert_eq!(self.parallelism, Some(parallelism), "another parallelism was deployed");
                        assert!(self.running.is_some());
                        self.unanswered.remove(&request);
                    }
                    RescaleAnswer::Refused { .. } | RescaleAnswer::Failed { .. } => {
                        self.unanswered.remove(&request);
                    }
                }
            }
            Command::Retain => {}
            Command::Finish { fence } => {
                assert_eq!(self.running.take(), Some(fence));
                assert_eq!(self.must_commit, BTreeSet::new(), "it finishes with open commits");
                self.ending = Some(fence);
            }
            Command::StopTasks { fence } => {
                let attempt = self.running.take().or(self.deploying.take());
                assert_eq!(attempt, Some(fence), "there is nothing to stop");
                self.ending = Some(fence);
                self.must_commit.clear();
                self.acknowledged.clear();
            }
            Command::Close { outcome } => {
                let attempt = (self.deploying, self.running, self.ending);
                assert!(attempt == (None, None, None) || attempt.0.is_some() && outcome_of_deploy(&outcome));
                self.closed = Some(outcome);
            }
        }
    }

    fn step(&mut self, step: Step) {
        let fence = self.coordinator.fence();
        let names = tasks();
        let picked = |open: &BTreeMap<CheckpointId, u64>, pick: usize| {
            (!open.is_empty()).then(|| *open.keys().nth(pick % open.len()).unwrap())
        };
        match step {
            Step::Pass { ms } => self.pass(ms),
            Step::Acknowledge { pick, task } => {
                if let (Some(checkpoint), true) = (picked(&self.open, pick), self.running.is_some()) {
                    self.acknowledge(checkpoint, names[task % names.len()].clone());
                }
            }
            Step::AcknowledgeAll { pick } => {
                if let (Some(checkpoint), true) = (picked(&self.open, pick), self.running.is_some()) {
                    for task in names {
                        self.acknowledge(checkpoint, task);
                    }
                }
            }
            Step::Stale { attempts_ago, pick, task } => {
                let Some(attempt) = fence.attempt.0.checked_sub(attempts_ago + 1) else { return };
                let fence = Fence { attempt: weir_model::AttemptNumber(attempt), ..fence };
                let task = names[task % names.len()].clone();
                let checkpoint = picked(&self.open, pick).unwrap_or(CheckpointId(1));
                self.on(Event::Acknowledged { fence, checkpoint, task: task.clone(), payload: task.clone() });
                self.on(Event::Committed { fence, checkpoint: CheckpointId(u64::MAX), task: task.clone() });
                self.on(Event::EndOfInput { fence, task: task.clone() });
                self.on(Event::Declined { fence, checkpoint, task: task.clone(), reason: "stale".into() });
                self.on(Event::TaskFailed {
                    fence,
                    task,
                    reason: "stale".into(),
                    is_fatal: true,
                    is_of_data: false,
                    random: 0.5,
                });
                self.on(Event::Stopped { fence });
            }
            Step::Decline { pick, task } => {
                if let (Some(checkpoint), true) = (picked(&self.open, pick), self.running.is_some()) {
                    let task = names[task % names.len()].clone();
                    self.on(Event::Declined { fence, checkpoint, task, reason: "declined".into() });
                }
            }
            Step::StorageAnswers { is_good } => self.storage_answers(is_good),
            Step::Fenced => {
                if !self.appending.is_empty() {
                    self.appending.clear();
                    self.on(Event::Fenced { by: "epoch 2".into() });
                }
            }
            Step::Commit { task } => {
                if !self.to_commit.is_empty() && self.running.is_some() {
                    let (checkpoint, task) = self.to_commit[task % self.to_commit.len()].clone();
                    self.to_commit.retain(|(before, other)| *other != task || *before > checkpoint);
                    if !self.to_commit.iter().any(|(_, other)| *other == task) {
                        self.must_commit.remove(&task);
                    }
                    self.on(Event::Committed { fence, checkpoint, task });
                }
            }
            Step::Deploy { is_good } => self.deploy(is_good),
            Step::TaskFails { task } => {
                if self.running.is_some() {
                    let task = names[task % names.len()].clone();
                    self.on(Event::TaskFailed {
                        fence,
                        task,
                        reason: "boom".into(),
                        is_fatal: false,
                        is_of_data: false,
                        random: 0.5,
                    });
                }
            }
            Step::TasksEnd => {
                if let Some(fence) = self.ending.take() {
                    self.on(Event::Stopped { fence });
                }
            }
            Step::EndOfInput => {
                if self.running.is_some() {
                    self.on(Event::EndOfInput { fence, task: names[0].clone() });
                }
            }
            Step::Savepoint { stop } => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                if self.closed.is_none() {
                    self.unanswered.insert(request);
                    self.on(Event::SavepointRequested { request, stop });
                }
            }
            Step::SavepointWritten { is_good } => {
                if let Some(request) = self.writing.pop() {
                    let result = if is_good { Ok("/sp".to_owned()) } else { Err("no space".to_owned()) };
                    self.on(Event::SavepointWritten { request, result });
                }
            }
            Step::Rescale { parallelism } => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                if self.closed.is_none() {
                    self.unanswered.insert(request);
                    self.asked.insert(request, parallelism);
                    self.on(Event::RescaleRequested { request, parallelism });
                }
            }
            Step::Drain => self.on(Event::StopRequested { mode: StopMode::Drain }),
        }
    }

    /// Time passes, with a tick whenever the coordinator wants one.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        for _ in 0..1_000 {
            match self.coordinator.next_wake_ms().filter(|wake_ms| *wake_ms <= until_ms) {
                None => {
                    self.now_ms = until_ms;
                    let late = self.open.iter().filter(|(id, _)| !self.appending.contains(id));
                    let late = late.filter(|(_, triggered_ms)| **triggered_ms + TIMEOUT_MS <= until_ms);
                    assert!(self.running.is_none() || late.count() == 0, "a checkpoint outlives its timeout");
                    return;
                }
                Some(wake_ms) => {
                    self.now_ms = self.now_ms.max(wake_ms);
                    self.on(Event::Tick);
                }
            }
        }
        panic!("it asks to be woken again and again at {:?}", self.coordinator.next_wake_ms());
    }

    fn acknowledge(&mut self, checkpoint: CheckpointId, task: SubtaskId) {
        let fence = self.coordinator.fence();
        if self.open.contains_key(&checkpoint) {
            self.acknowledged.entry(checkpoint).or_default().insert(task.clone());
        }
        self.on(Event::Acknowledged { fence, checkpoint, task: task.clone(), payload: task });
    }

    fn storage_answers(&mut self, is_good: bool) {
        if self.appending.is_empty() {
            return;
        }
        let checkpoint = self.appending.remove(0);
        // The log takes checkpoints in order only.
        if is_good && self.durable.last().is_none_or(|last| *last < checkpoint) {
            self.durable.insert(checkpoint);
            self.open.remove(&checkpoint);
            self.last_end_ms = Some(self.now_ms);
            self.on(Event::Appended { checkpoint: Durable::attest(checkpoint) });
            let mut idle = self.open.keys().filter(|open| !self.appending.contains(open));
            assert!(idle.all(|open| *open > checkpoint), "an older one goes on: {:?}", self.open);
        } else {
            self.on(Event::AppendFailed { checkpoint, reason: "storage away".into() });
            assert!(!self.open.contains_key(&checkpoint));
        }
    }

    fn deploy(&mut self, is_good: bool) {
        let Some(fence) = self.deploying.take() else { return };
        if is_good {
            self.running = Some(fence);
            self.acknowledged.clear();
            self.must_commit.clear();
            let sources = tasks()[..1].to_vec();
            self.on(Event::Deployed { fence, tasks: tasks(), sources });
        } else {
            self.on(Event::DeployFailed { fence, reason: "no slot".into(), is_fatal: false, random: 0.5 });
        }
    }

    /// Everyone does their part from now on: the job must come to its end.
    fn come_to_an_end(&mut self) {
        self.on(Event::StopRequested { mode: StopMode::Cancel });
        for _ in 0..100 {
            self.storage_answers(true);
            self.step(Step::TasksEnd);
            self.pass(TIMEOUT_MS);
            if self.closed.is_some() {
                assert_eq!(self.unanswered, BTreeSet::new(), "requests without an answer");
                return;
            }
        }
        panic!("the job doesn't end: {:?}", self.coordinator.phase());
    }

    /// Everyone does their part, and the input ends: the job must finish by itself.
    fn finish(&mut self) {
        for _ in 0..400 {
            if self.closed.is_some() {
                return;
            }
            self.deploy(true);
            self.step(Step::EndOfInput);
            for checkpoint in self.open.keys().copied().collect::<Vec<_>>() {
                if self.running.is_some() {
                    tasks().into_iter().for_each(|task| self.acknowledge(checkpoint, task));
                }
            }
            self.storage_answers(true);
            while !self.to_commit.is_empty() && self.running.is_some() {
                self.step(Step::Commit { task: 0 });
            }
            self.step(Step::SavepointWritten { is_good: true });
            self.step(Step::TasksEnd);
            self.pass(50);
        }
        panic!("the job doesn't finish: {:?}", self.coordinator.phase());
    }
}

/// A job may be closed while an attempt that was never deployed was being given up.
fn outcome_of_deploy(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed { .. })
}

/// PROPTEST_CASES for a longer search.
fn search() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(search())]

    #[test]
    fn nothing_forbidden_happens_and_a_cancelled_job_ends(
        max_concurrent in 1u32..4,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new(max_concurrent);
        for step in steps {
            world.step(step);
        }
        world.come_to_an_end();
    }

    #[test]
    fn when_all_goes_well_in_the_end_the_job_finishes(
        max_concurrent in 1u32..4,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(max_concurrent);
        for step in steps {
            world.step(step);
        }
        world.finish();
        prop_assert!(world.unanswered.is_empty(), "requests without an answer: {:?}", world.unanswered);
    }
}
