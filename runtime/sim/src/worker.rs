//! A worker's process: it runs the subtasks that are placed on it, and writes what they keep for a checkpoint into
//! one object, as the node's worker does.

mod making;
mod standing;

use crate::bugs::Bug;
use crate::job::{JOB_UID, aggregate_uid};
use crate::messages::{Deployment, Message, TaskSnapshot, WorkerWord};
use crate::task::{IN_FLIGHT, Mail, Output, Task};
use crate::world::{ConnectionId, Input, Pid, World};
use making::Making;
use rand::Rng;
use standing::Standing;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use weir_coordinator::{Adopted, DeployFailure, WorkerOrder};
use weir_model::{CheckpointId, CommitPermit, Fence, StreamElement, SubtaskId, SubtaskInFlight, WorkerId};
use weir_snapshot::folder::worker_object_path;
use weir_snapshot::{JobFolder, ObjectRef, ObjectWriter, in_flight};
use weir_state::{SegmentRef, SegmentSink, StateCut, StateError};

pub(crate) enum WorkerInput {
    /// Look for the coordinator.
    Connect,
    Message {
        connection: ConnectionId,
        message: Message,
    },
    ConnectionLost {
        connection: ConnectionId,
        reason: &'static str,
    },
    /// The tasks are made, or cannot be.
    Restored {
        turn: u64,
        result: Result<Vec<Task>, DeployFailure>,
    },
    Data {
        fence: Fence,
        target: u32,
        channel: u32,
        element: StreamElement,
    },
    LinkBroken {
        fence: Fence,
        peer: Pid,
    },
    Step {
        fence: Fence,
        task: usize,
    },
    /// The pool of snapshot threads has come to this cut.
    WriteCut {
        fence: Fence,
        checkpoint: CheckpointId,
        task: usize,
        snapshot: Box<TaskSnapshot>,
        keyed: Option<StateCut>,
        in_flight: Option<SubtaskInFlight>,
    },
    Uploaded {
        fence: Fence,
        checkpoint: CheckpointId,
        result: Result<(Option<ObjectRef>, Snapshots), String>,
    },
    /// The commit thread has come to this transaction.
    CommitNext {
        fence: Fence,
        task: usize,
    },
}

type Snapshots = Vec<(SubtaskId, TaskSnapshot)>;

pub(crate) struct WorkerProcess {
    pid: Pid,
    slots: u32,
    connection: Option<ConnectionId>,
    worker: Option<WorkerId>,
    attempt: Option<Attempt>,
    /// The worker's thread makes tasks; what it is told meanwhile waits.
    preparing: Option<(u64, Arc<Deployment>)>,
    /// By this coordinator's word; an attempt is made once.
    last_prepared: Option<Fence>,
    turn: u64,
    waiting: VecDeque<Message>,
    /// Commits that were asked for are carried out, whatever becomes of their attempt.
    commits: BTreeMap<(Fence, usize), CommitThread>,
    /// Attempts that are ended and still commit; and by what fence the coordinator knows them.
    ending: BTreeMap<Fence, Fence>,
}

#[derive(Default)]
struct CommitThread {
    requests: VecDeque<(CommitPermit, VecDeque<String>)>,
    is_busy: bool,
}

struct Attempt {
    deployment: Arc<Deployment>,
    standing: Standing,
    is_started: bool,
    tasks: Vec<Task>,
    /// When the next step of each task is planned.
    planned_us: Vec<Option<u64>>,
    /// When each source may read again.
    next_read_us: Vec<u64>,
    /// When the last cut of each task is written, where state is in a store: that takes its cuts in their order.
    last_write_us: Vec<u64>,
    objects: BTreeMap<CheckpointId, OpenObject>,
    given_up: BTreeSet<CheckpointId>,
    has_failed: bool,
}

struct OpenObject {
    writer: ObjectWriter,
    upload: weir_snapshot::object::ObjectUpload,
    snapshots: Snapshots,
}

impl WorkerProcess {
    pub(crate) fn new(pid: Pid, slots: u32) -> Self {
        WorkerProcess {
            pid,
            slots,
            connection: None,
            worker: None,
            attempt: None,
            preparing: None,
            last_prepared: None,
            turn: 0,
            waiting: VecDeque::new(),
            commits: BTreeMap::new(),
            ending: BTreeMap::new(),
        }
    }

    pub(crate) fn on(&mut self, input: WorkerInput, world: &mut World) -> Result<(), String> {
        match input {
            WorkerInput::Connect => self.connect(world),
            WorkerInput::Message { connection, message } => {
                if self.connection == Some(connection) {
                    self.message(message, world);
                }
            }
            WorkerInput::ConnectionLost { connection, reason } => {
                if self.connection == Some(connection) {
                    let pid = self.pid;
                    world.note(|| format!("{pid} has lost its coordinator: {reason}"));
                    // It goes on with what it runs, and looks for the next.
                    (self.connection, self.worker, self.preparing) = (None, None, None);
                    self.attempt = self.attempt.take().filter(|attempt| attempt.is_started);
                    self.waiting.clear();
                    self.ending.clear();
                    let retry_us = world.random.random_range(100_000..1_000_000);
                    world.send_to_worker(self.pid, retry_us, WorkerInput::Connect);
                }
            }
            WorkerInput::Restored { turn, result } => self.restored(turn, result, world),
            WorkerInput::Data { fence, target, channel, element } => self.data(fence, target, channel, element, world),
            WorkerInput::LinkBroken { fence, peer } => {
                if self.running(fence).is_some() {
                    self.attempt_failed(fence, format!("the link to {peer} broke"), world);
                }
            }
            WorkerInput::Step { fence, task } => self.step(fence, task, world),
            WorkerInput::WriteCut { fence, checkpoint, task, snapshot, keyed, in_flight } => {
                self.write_cut(fence, checkpoint, task, (*snapshot, keyed, in_flight), world);
            }
            WorkerInput::Uploaded { fence, checkpoint, result } => self.uploaded(fence, checkpoint, result, world),
            WorkerInput::CommitNext { fence, task } => self.commit_next(fence, task, world),
        }
        Ok(())
    }

    fn connect(&mut self, world: &mut World) {
        if self.connection.is_some() {
            return;
        }
        match world.connect(self.pid) {
            Some(connection) => {
                self.connection = Some(connection);
                let running = self.attempt.as_ref().and_then(Attempt::running);
                world.send(connection, self.pid, Message::Register { slots: self.slots, running });
            }
            None => {
                let retry_us = world.random.random_range(100_000..1_000_000);
                world.send_to_worker(self.pid, retry_us, WorkerInput::Connect);
            }
        }
    }

    fn say(&mut self, word: WorkerWord, world: &mut World) {
        let word = match &mut self.attempt {
            Some(attempt) => attempt.pass(word),
            None => word,
        };
        if let Some(connection) = self.connection {
            world.send(connection, self.pid, Message::Word(word));
        }
    }

    fn message(&mut self, message: Message, world: &mut World) {
        if self.preparing.is_some() {
            self.waiting.push_back(message);
            return;
        }
        match message {
            Message::Registered { worker } => self.worker = Some(worker),
            Message::Prepare(deployment) => self.prepare(deployment, world),
            Message::Order(order) => self.order(order, world),
            Message::Goodbye => {
                (self.connection, self.worker, self.attempt) = (None, None, None);
                let retry_us = world.random.random_range(500_000..1_000_000);
                world.send_to_worker(self.pid, retry_us, WorkerInput::Connect);
            }
            other => unreachable!("{other} to a worker"),
        }
    }

    fn order(&mut self, order: WorkerOrder, world: &mut World) {
        match order {
            WorkerOrder::Start { fence, opening } => {
                let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.deployment.fence == fence) else {
                    return;
                };
                (attempt.is_started, attempt.standing.opening) = (true, opening);
                for task in 0..attempt.tasks.len() {
                    self.plan_step(fence, task, world);
                }
            }
            WorkerOrder::Adopt { from, fence, opening } => self.adopt(from, fence, opening, world),
            WorkerOrder::Trigger { fence, barrier, is_unaligned, hold } => {
                let Some((fence, attempt)) = self.ordered(fence) else { return };
                attempt.standing.under_way.insert(barrier.checkpoint);
                attempt.standing.highest = attempt.standing.highest.max(Some(barrier.checkpoint));
                self.mail(fence, true, &Mail::Trigger { barrier, is_unaligned, hold }, world);
            }
            WorkerOrder::TurnUnaligned { fence, checkpoint } => {
                let Some((fence, _)) = self.ordered(fence) else { return };
                self.mail(fence, false, &Mail::TurnUnaligned(checkpoint), world);
            }
            WorkerOrder::CancelCheckpoint { fence, checkpoint } => {
                let Some((fence, attempt)) = self.ordered(fence) else { return };
                attempt.objects.remove(&checkpoint);
                attempt.given_up.insert(checkpoint);
                attempt.standing.under_way.remove(&checkpoint);
                self.mail(fence, false, &Mail::CancelCheckpoint(checkpoint), world);
            }
            WorkerOrder::Commit(permit) => {
                let Some((fence, attempt)) = self.ordered(permit.fence()) else { return };
                attempt.standing.under_way = attempt.standing.under_way.split_off(&permit.checkpoint().next());
                self.mail(fence, false, &Mail::Commit(permit), world);
            }
            WorkerOrder::Resume { fence } => {
                let Some((fence, _)) = self.ordered(fence) else { return };
                self.mail(fence, true, &Mail::Resume, world);
            }
            WorkerOrder::Finish { fence: outer } | WorkerOrder::Stop { fence: outer } => {
                let ended = self.attempt.take_if(|attempt| attempt.standing.outer == outer);
                let fence = ended.map_or(outer, |attempt| attempt.deployment.fence);
                self.ending.insert(fence, outer);
                self.end_if_committed(fence, world);
            }
        }
    }

    /// The attempt has ended when its threads have, those that commit included.
    fn end_if_committed(&mut self, fence: Fence, world: &mut World) {
        let is_busy =
            |((own, _), thread): (&(Fence, usize), &CommitThread)| *own == fence && !thread.requests.is_empty();
        if !self.commits.iter().any(is_busy)
            && let Some(outer) = self.ending.remove(&fence)
        {
            self.say(WorkerWord::Stopped { fence: outer }, world);
        }
    }

    /// The attempt that runs, if the coordinator knows it by this fence; and that of its tasks.
    fn ordered(&mut self, outer: Fence) -> Option<(Fence, &mut Attempt)> {
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.is_started && attempt.standing.outer == outer)?;
        Some((attempt.deployment.fence, attempt))
    }

    /// Another coordinator goes on with what runs here.
    fn adopt(&mut self, from: Fence, fence: Fence, opening: u64, world: &mut World) {
        let result = match self.ordered(from) {
            None => Err("the attempt does not run here any more".to_owned()),
            Some((_, Attempt { standing, .. })) => match &standing.failure {
                Some(failure) => Err(failure.clone()),
                None => {
                    (standing.outer, standing.opening) = (fence, opening);
                    let (ended, under_way) = (standing.ended.iter().cloned(), standing.under_way.iter().copied());
                    let (ended, under_way) = (ended.collect(), under_way.collect());
                    Ok(Adopted { ended, under_way, highest: standing.highest })
                }
            },
        };
        self.say(WorkerWord::Adopted { fence, result }, world);
    }

    fn mail(&mut self, fence: Fence, only_sources: bool, mail: &Mail, world: &mut World) {
        let Some(attempt) = self.running(fence) else { return };
        let mut reached = vec![];
        for (number, task) in attempt.tasks.iter_mut().enumerate() {
            if !only_sources || matches!(task, Task::Source(_)) {
                task.mail(mail.clone());
                reached.push(number);
            }
        }
        for task in reached {
            self.plan_step(fence, task, world);
        }
    }

    /// The attempt, if it is this one and runs.
    fn running(&mut self, fence: Fence) -> Option<&mut Attempt> {
        self.attempt.as_mut().filter(|attempt| attempt.deployment.fence == fence && attempt.is_started)
    }

    // Making tasks.

    fn prepare(&mut self, deployment: Arc<Deployment>, world: &mut World) {
        // Said twice, or overtaken: what runs is not made again, and what has ended does not come back.
        if self.last_prepared.is_some_and(|last| deployment.fence <= last) {
            return;
        }
        self.last_prepared = Some(deployment.fence);
        // Of an older attempt that this worker was not told to end: nothing of it may run beside the new one.
        self.attempt = None;
        self.turn += 1;
        self.preparing = Some((self.turn, Arc::clone(&deployment)));
        let Some(worker) = self.worker else { return };
        let (post, storage, scenario) = (world.post(self.pid), world.storage.of(self.pid), world.scenario.clone());
        let (turn, bug) = (self.turn, world.bug);
        world.executor.spawn(self.pid, async move {
            let making = Making { deployment: &deployment, worker, storage: &storage, job: &scenario.job, bug };
            let result = making.tasks().await;
            post.send(Input::Worker(WorkerInput::Restored { turn, result }));
        });
    }

    fn restored(&mut self, turn: u64, result: Result<Vec<Task>, DeployFailure>, world: &mut World) {
        let Some((_, deployment)) = self.preparing.take_if(|(own, _)| *own == turn) else { return };
        let Some(worker) = self.worker else { return };
        let fence = deployment.fence;
        let result = result.map(|tasks| {
            self.attempt = Some(Attempt {
                standing: Standing::new(fence, worker),
                deployment,
                is_started: false,
                planned_us: vec![None; tasks.len()],
                next_read_us: vec![0; tasks.len()],
                last_write_us: vec![0; tasks.len()],
                tasks,
                objects: BTreeMap::new(),
                given_up: BTreeSet::new(),
                has_failed: false,
            });
        });
        self.say(WorkerWord::Prepared { fence, result }, world);
        while self.preparing.is_none()
            && let Some(message) = self.waiting.pop_front()
        {
            self.message(message, world);
        }
    }

    // Running them.

    fn data(&mut self, fence: Fence, target: u32, channel: u32, element: StreamElement, world: &mut World) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.deployment.fence == fence) else { return };
        let is_target = |task: &Task| task.id() == SubtaskId { operator: aggregate_uid(), index: target };
        let Some(number) = attempt.tasks.iter().position(is_target) else { return };
        if let Task::Aggregate(task) = &mut attempt.tasks[number] {
            task.push(channel, element);
        }
        self.plan_step(fence, number, world);
    }

    fn plan_step(&mut self, fence: Fence, task: usize, world: &mut World) {
        let now_us = world.now_us();
        let pid = self.pid;
        let Some(attempt) = self.running(fence) else { return };
        let due_us = match &attempt.tasks[task] {
            Task::Aggregate(own) if own.has_work() => now_us,
            Task::Source(own) if own.has_mail() => now_us,
            Task::Source(own) if own.is_reading() => attempt.next_read_us[task].max(now_us),
            _ => return,
        };
        if attempt.planned_us[task].is_some_and(|planned_us| planned_us <= due_us && planned_us >= now_us) {
            return;
        }
        let due_us = due_us + world.random.random_range(20..300);
        let Some(attempt) = self.running(fence) else { return };
        attempt.planned_us[task] = Some(due_us);
        world.send_to_worker(pid, due_us - now_us, WorkerInput::Step { fence, task });
    }

    fn step(&mut self, fence: Fence, number: usize, world: &mut World) {
        let now_us = world.now_us();
        let records = world.random.random_range(1..6);
        let pause_us = world.scenario.source_pause_us;
        let jitter_us = world.random.random_range(0..pause_us);
        let Some(attempt) = self.running(fence) else { return };
        if attempt.planned_us[number].is_none_or(|planned_us| planned_us > now_us) {
            return;
        }
        attempt.planned_us[number] = None;
        let parallelism = attempt.deployment.parallelism;
        let index = attempt.tasks[number].id().index;
        let result = match &mut attempt.tasks[number] {
            Task::Aggregate(task) => task.step(),
            Task::Source(task) => {
                let is_full = (0..parallelism)
                    .any(|target| world.in_flight.get(&(fence, index, target)).is_some_and(|n| *n >= IN_FLIGHT));
                let may_read = now_us >= attempt.next_read_us[number] && !is_full;
                let reads = !task.has_mail() && task.is_reading();
                if reads {
                    let wait_us = if is_full { 3_000 } else { pause_us / 2 + jitter_us };
                    attempt.next_read_us[number] = attempt.next_read_us[number].max(now_us + wait_us);
                }
                task.step(records, may_read)
            }
        };
        match result {
            Ok(outputs) => {
                for output in outputs {
                    self.output(fence, number, output, world);
                }
                self.plan_step(fence, number, world);
            }
            Err(error) => {
                let task = attempt.tasks[number].id();
                // A task that has failed does nothing more.
                attempt.tasks.clear();
                let reason = error.to_string();
                self.say(WorkerWord::TaskFailed { fence, task, reason, is_fatal: true }, world);
            }
        }
    }

    fn output(&mut self, fence: Fence, number: usize, output: Output, world: &mut World) {
        let Some(attempt) = self.running(fence) else { return };
        let id = attempt.tasks[number].id();
        match output {
            Output::Element { target, element } => {
                let worker = attempt.deployment.slots[target as usize];
                let Some(peer) = attempt.deployment.peers.get(&worker).copied() else { return };
                if matches!(element, StreamElement::Batch(_)) {
                    *world.in_flight.entry((fence, id.index, target)).or_default() += 1;
                }
                let input = WorkerInput::Data { fence, target, channel: id.index, element };
                world.send_data(fence, self.pid, peer, input);
            }
            Output::Taken { channel } => {
                if let Some(count) = world.in_flight.get_mut(&(fence, channel, id.index)) {
                    *count -= 1;
                }
            }
            Output::Cut { barrier, snapshot, keyed, in_flight } => {
                let mut delay_us = world.random.random_range(50..30_000);
                if world.scenario.job.cache_bytes.is_some() {
                    let at_us = (world.now_us() + delay_us).max(attempt.last_write_us[number] + 1);
                    attempt.last_write_us[number] = at_us;
                    delay_us = at_us - world.now_us();
                }
                let checkpoint = barrier.checkpoint;
                let input = WorkerInput::WriteCut { fence, checkpoint, task: number, snapshot, keyed, in_flight };
                world.send_to_worker(self.pid, delay_us, input);
            }
            Output::Prepared { transaction, rows } => {
                let pid = self.pid;
                world.note(|| format!("{pid} {id} prepared {transaction} with {} rows", rows.len()));
                world.external.borrow_mut().prepare(transaction, fence.epoch, rows);
            }
            Output::Commit { permit, transactions } => {
                let thread = self.commits.entry((fence, number)).or_default();
                thread.requests.push_back((permit, transactions.into()));
                if !std::mem::replace(&mut thread.is_busy, true) {
                    self.plan_commit(fence, number, world);
                }
            }
            Output::Declined { checkpoint, reason } => {
                self.say(WorkerWord::Declined { fence, checkpoint, task: id, reason }, world);
            }
            Output::EndOfInput => self.say(WorkerWord::EndOfInput { fence, task: id }, world),
        }
    }

    fn attempt_failed(&mut self, fence: Fence, reason: String, world: &mut World) {
        let Some(attempt) = self.running(fence) else { return };
        if !std::mem::replace(&mut attempt.has_failed, true) {
            self.say(WorkerWord::AttemptFailed { fence, reason }, world);
        }
    }

    // Checkpoints.

    fn write_cut(
        &mut self,
        fence: Fence,
        checkpoint: CheckpointId,
        number: usize,
        (mut snapshot, keyed, in_flight): (TaskSnapshot, Option<StateCut>, Option<SubtaskInFlight>),
        world: &mut World,
    ) {
        let pid = self.pid;
        let storage = world.storage.of(pid);
        let Some(attempt) = self.running(fence) else { return };
        let (outer, worker) = (attempt.standing.outer, attempt.standing.own);
        if attempt.tasks.is_empty() || attempt.given_up.contains(&checkpoint) {
            return;
        }
        let task = attempt.tasks[number].id();
        let object = attempt.objects.entry(checkpoint).or_insert_with(|| {
            let path = worker_object_path(checkpoint, outer, worker.0);
            let (writer, upload) = ObjectWriter::new(folder(&storage), path);
            OpenObject { writer, upload, snapshots: vec![] }
        });
        let mut segments = ObjectSegments(object.writer.clone());
        let written = keyed.map(|cut| cut.write(&mut segments)).transpose().map_err(|error| error.to_string());
        let in_flight = in_flight.map(|in_flight| {
            let encoded = in_flight::encode(&in_flight).map_err(|error| error.to_string())?;
            segments.append(&encoded).map_err(|error| error.to_string())
        });
        match written.and_then(|keyed| Ok((keyed, in_flight.transpose()?))) {
            Ok((keyed, in_flight)) => {
                world.spilled += u64::from(keyed.as_ref().is_some_and(|keyed| keyed.cold.is_some()));
                (snapshot.keyed, snapshot.in_flight) = (keyed, in_flight);
            }
            Err(reason) => return self.say(WorkerWord::Declined { fence, checkpoint, task, reason }, world),
        }
        object.snapshots.push((task, snapshot));
        let is_last = object.snapshots.len() == attempt.tasks.len();
        if !is_last {
            return;
        }
        let Some(OpenObject { writer, upload, snapshots }) = attempt.objects.remove(&checkpoint) else { return };
        // A part of this size goes through the channel at once.
        let length = writer.length();
        let finished = writer.finish();
        let post = world.post(pid);
        if world.bug == Some(Bug::AcknowledgesTooEarly) {
            let object = (length > 0).then(|| ObjectRef {
                path: worker_object_path(checkpoint, outer, worker.0),
                length,
                crc32c: 0,
            });
            self.say(WorkerWord::Acknowledged { fence, checkpoint, object, snapshots }, world);
            world.executor.spawn(pid, async move {
                upload.run().await.ok();
            });
            return;
        }
        world.executor.spawn(pid, async move {
            let uploaded = upload.run().await.map_err(|error| error.to_string());
            let result = finished.map_err(|error| error.to_string()).and(uploaded).map(|object| (object, snapshots));
            post.send(Input::Worker(WorkerInput::Uploaded { fence, checkpoint, result }));
        });
    }

    fn uploaded(
        &mut self,
        fence: Fence,
        checkpoint: CheckpointId,
        result: Result<(Option<ObjectRef>, Snapshots), String>,
        world: &mut World,
    ) {
        let Some(attempt) = self.running(fence) else { return };
        let Some(task) = attempt.tasks.last().map(Task::id) else { return };
        match result {
            Ok((object, snapshots)) => {
                self.say(WorkerWord::Acknowledged { fence, checkpoint, object, snapshots }, world);
            }
            Err(reason) => self.say(WorkerWord::Declined { fence, checkpoint, task, reason }, world),
        }
    }

    fn plan_commit(&self, fence: Fence, task: usize, world: &mut World) {
        let delay_us = match world.random.random_range(0..20) {
            0 => world.random.random_range(10_000..2_000_000),
            _ => world.random.random_range(100..10_000),
        };
        world.send_to_worker(self.pid, delay_us, WorkerInput::CommitNext { fence, task });
    }

    fn commit_next(&mut self, fence: Fence, number: usize, world: &mut World) {
        let Some(thread) = self.commits.get_mut(&(fence, number)) else { return };
        let Some((permit, transactions)) = thread.requests.front_mut() else { return };
        let (permit, pid) = (*permit, self.pid);
        let Some(transaction) = transactions.pop_front() else {
            thread.requests.pop_front();
            thread.is_busy = !thread.requests.is_empty();
            let is_busy = thread.is_busy;
            let task = self.running(fence).and_then(|attempt| attempt.tasks.get_mut(number));
            let task = task.map(|task| {
                if let Task::Aggregate(task) = task {
                    task.committed(permit.checkpoint());
                }
                task.id()
            });
            if let Some(task) = task {
                self.say(WorkerWord::Committed { fence, checkpoint: permit.checkpoint(), task }, world);
            }
            if is_busy {
                self.plan_commit(fence, number, world);
            } else {
                self.end_if_committed(fence, world);
            }
            return;
        };
        world.note(|| format!("{pid} commits {transaction} of checkpoint {}", permit.checkpoint()));
        let committed = world.external.borrow_mut().commit(&transaction, permit);
        match committed {
            Ok(()) => self.plan_commit(fence, number, world),
            Err(reason) => {
                self.commits.remove(&(fence, number));
                let operator = aggregate_uid();
                let index =
                    self.running(fence).and_then(|attempt| attempt.tasks.get(number)).map(|task| task.id().index);
                let task = SubtaskId { operator, index: index.unwrap_or_default() };
                self.say(WorkerWord::TaskFailed { fence, task, reason, is_fatal: true }, world);
                self.end_if_committed(fence, world);
            }
        }
    }
}

fn folder(storage: &crate::storage::SimStorage) -> JobFolder {
    JobFolder::of_job(Arc::new(storage.clone()), JOB_UID).expect("a valid name")
}

/// The way of a task's segments into the checkpoint's object.
struct ObjectSegments(ObjectWriter);

impl SegmentSink for ObjectSegments {
    fn append(&mut self, bytes: &[u8]) -> Result<SegmentRef, StateError> {
        let location = self.0.append(bytes).map_err(|error| StateError::Storage {
            action: "writing to the object of",
            object: "the checkpoint".to_owned(),
            source: std::io::Error::other(error.to_string()),
        })?;
        Ok(SegmentRef {
            object: location.object.as_str().to_owned(),
            offset: location.offset,
            length: location.length,
            crc32c: location.crc32c,
        })
    }
}
