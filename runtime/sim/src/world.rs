//! The world around the processes: one queue of events in virtual time, the network, the storage, and who is alive.

use crate::Summary;
use crate::bugs::Bug;
use crate::checks::Checks;
use crate::coordinator::{CoordinatorInput, CoordinatorProcess};
use crate::executor::Executor;
use crate::external::External;
use crate::faults::Fault;
use crate::messages::{Message, fence_name};
use crate::scenario::Scenario;
use crate::storage::{Due, SimStorage};
use crate::worker::{WorkerInput, WorkerProcess};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use weir_coordinator::Outcome;
use weir_model::Fence;

/// A process, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pid(pub(crate) u32);

/// A stream between a worker and a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u32);

/// Silence after which one side takes the other for lost; as the node has it.
const HEARTBEAT_TIMEOUT_US: u64 = 10_000_000;
/// More events than any run needs.
const MAX_EVENTS: u64 = 400_000;
/// Lines of a trace that are kept: the last ones.
const MAX_TRACE: usize = 20_000;

pub(crate) enum Event {
    To(Pid, Input),
    Deliver {
        connection: ConnectionId,
        to: Pid,
        message: Message,
    },
    /// The silence of the other side may have lasted too long.
    Silence {
        connection: ConnectionId,
        side: Pid,
        since_us: u64,
    },
    Storage(Due),
    Fault(Fault),
    StartCoordinator,
    StartWorker {
        host: u32,
    },
}

pub(crate) enum Input {
    Coordinator(CoordinatorInput),
    Worker(WorkerInput),
}

enum Process {
    Coordinator(Box<CoordinatorProcess>),
    Worker(Box<WorkerProcess>),
}

struct Slot {
    is_coordinator: bool,
    /// None while it handles an event.
    process: Option<Process>,
    paused_since_us: Option<u64>,
    /// What came while it was paused.
    backlog: Vec<Event>,
}

struct Connection {
    coordinator: Pid,
    worker: Pid,
    is_cut: bool,
    /// When the last message arrives, on either way.
    last_us: [u64; 2],
}

/// Where what runs beside a process's loop puts what it has to say.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) pid: Pid,
    mailbox: Rc<RefCell<Vec<(Pid, Input)>>>,
}

impl Post {
    pub(crate) fn send(&self, input: Input) {
        self.mailbox.borrow_mut().push((self.pid, input));
    }
}

/// The clock of one process.
#[derive(Clone)]
pub(crate) struct Clock {
    now_us: Rc<Cell<u64>>,
    skew_ms: i64,
}

impl Clock {
    /// Milliseconds since the Unix epoch, as this process believes.
    pub(crate) fn now_ms(&self) -> u64 {
        // Far from 0, so that a skew never meets it.
        const START_MS: i64 = 1_700_000_000_000;
        (START_MS + self.skew_ms) as u64 + self.now_us.get() / 1000
    }
}

pub(crate) struct World {
    pub(crate) scenario: Rc<Scenario>,
    pub(crate) bug: Option<Bug>,
    pub(crate) random: ChaCha8Rng,
    pub(crate) storage: SimStorage,
    pub(crate) external: Rc<RefCell<External>>,
    pub(crate) executor: Executor,
    pub(crate) checks: Checks,
    /// Batches on the way between two subtasks.
    pub(crate) in_flight: BTreeMap<(Fence, u32, u32), u32>,
    now_us: Rc<Cell<u64>>,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    processes: BTreeMap<Pid, Slot>,
    next_pid: u32,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u32,
    data_links: BTreeMap<(Pid, Pid), u64>,
    /// Links of which something was lost, by attempt: a stream with a gap is no stream any more.
    broken_links: BTreeSet<(Fence, Pid, Pid)>,
    cut_links: BTreeSet<(Pid, Pid)>,
    mailbox: Rc<RefCell<Vec<(Pid, Input)>>>,
    trace: Option<Vec<String>>,
    /// Where workers find their coordinator.
    address: Option<Pid>,
    pub(crate) hosts: Vec<Option<Pid>>,
    /// What the next start is told: the savepoint that the job was stopped with, its parallelism.
    pub(crate) next_start: NextStart,
    pub(crate) faults_on: bool,
    finished: bool,
    pub(crate) coordinators: u64,
    /// Coordinators that went on with what ran.
    adoptions: u64,
    pub(crate) spilled: u64,
    pub(crate) events: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct NextStart {
    pub(crate) savepoint: Option<String>,
    pub(crate) parallelism: u32,
}

impl World {
    pub(crate) fn new(scenario: Scenario, bug: Option<Bug>, with_trace: bool) -> Self {
        let storage = SimStorage::new(scenario.seed);
        storage.shared().overwrites = bug == Some(Bug::StoreWithoutPutIfAbsent);
        let hosts = vec![None; scenario.workers as usize];
        World {
            random: ChaCha8Rng::seed_from_u64(scenario.seed),
            next_start: NextStart { savepoint: None, parallelism: scenario.parallelism },
            checks: Checks::new(scenario.job.clone()),
            scenario: Rc::new(scenario),
            bug,
            storage,
            external: Rc::default(),
            executor: Executor::default(),
            in_flight: BTreeMap::new(),
            now_us: Rc::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            processes: BTreeMap::new(),
            next_pid: 1,
            connections: BTreeMap::new(),
            next_connection: 1,
            data_links: BTreeMap::new(),
            broken_links: BTreeSet::new(),
            cut_links: BTreeSet::new(),
            mailbox: Rc::default(),
            trace: with_trace.then(Vec::new),
            address: None,
            hosts,
            faults_on: false,
            finished: false,
            coordinators: 0,
            adoptions: 0,
            spilled: 0,
            events: 0,
        }
    }

    /// Runs to the end of the job.
    ///
    /// # Errors
    /// What a checker found.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.at(0, Event::StartCoordinator);
        for host in 0..self.scenario.workers {
            let delay_us = self.random.random_range(0..200_000);
            self.at(delay_us, Event::StartWorker { host });
        }
        self.plan_faults();
        let deadline_us = self.scenario.deadline_us();
        while !self.finished {
            let Some(((at_us, _), event)) = self.queue.pop_first() else {
                return Err("nothing is left to happen, and the job has not finished".to_owned());
            };
            self.now_us.set(at_us);
            self.events += 1;
            if at_us > deadline_us || self.events > MAX_EVENTS {
                return Err(format!(
                    "no end in sight {} s after the last fault ({} events)",
                    at_us.saturating_sub(self.scenario.faults_until_us) / 1_000_000,
                    self.events
                ));
            }
            self.handle(event)?;
            self.settle_down()?;
        }
        self.checks.at_end(&self.storage, &self.external.borrow())
    }

    pub(crate) fn summary(&self) -> Summary {
        let external = self.external.borrow();
        Summary {
            events: self.events,
            virtual_ms: self.now_us() / 1000,
            checkpoints: self.checks.checkpoints,
            coordinators: self.coordinators,
            adoptions: self.adoptions,
            spilled: self.spilled,
            storage_faults: self.storage.shared().faults_injected,
            rows: external.rows,
        }
    }

    pub(crate) fn worker_of(&self, connection: ConnectionId) -> Option<Pid> {
        self.connections.get(&connection).map(|connection| connection.worker)
    }

    pub(crate) fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// Notes a line of the trace, if anybody reads it.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let now_us = self.now_us();
        if let Some(trace) = &mut self.trace {
            if trace.len() >= MAX_TRACE {
                trace.drain(..MAX_TRACE / 2);
            }
            trace.push(format!("{:>12.3} ms  {}", now_us as f64 / 1000.0, line()));
        }
    }

    pub(crate) fn at(&mut self, delay_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now_us() + delay_us, self.sequence), event);
    }

    pub(crate) fn send_to_worker(&mut self, pid: Pid, delay_us: u64, input: WorkerInput) {
        self.at(delay_us, Event::To(pid, Input::Worker(input)));
    }

    pub(crate) fn send_to_coordinator(&mut self, pid: Pid, delay_us: u64, input: CoordinatorInput) {
        self.at(delay_us, Event::To(pid, Input::Coordinator(input)));
    }

    pub(crate) fn post(&self, pid: Pid) -> Post {
        Post { pid, mailbox: Rc::clone(&self.mailbox) }
    }

    pub(crate) fn is_alive(&self, pid: Pid) -> bool {
        self.processes.contains_key(&pid)
    }

    // The network.

    /// A worker reaches for the coordinator. None: nobody is there.
    pub(crate) fn connect(&mut self, worker: Pid) -> Option<ConnectionId> {
        let coordinator = self.address.filter(|pid| self.is_alive(*pid))?;
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let connection = Connection { coordinator, worker, is_cut: false, last_us: [0; 2] };
        self.connections.insert(id, connection);
        // One that is paused answers nothing.
        if self.processes.get(&coordinator).is_some_and(|slot| slot.paused_since_us.is_some()) {
            self.watch(id, worker);
        }
        Some(id)
    }

    /// Sends in order; what is sent on a connection that is cut never arrives.
    pub(crate) fn send(&mut self, id: ConnectionId, from: Pid, message: Message) {
        let latency_us = self.latency_us();
        let now_us = self.now_us();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let way = (from == connection.worker) as usize;
        let to = if way == 1 { connection.coordinator } else { connection.worker };
        if connection.is_cut {
            self.note(|| format!("{from} -> {to}: {message} (lost)"));
            return;
        }
        let arrives_us = (now_us + latency_us).max(connection.last_us[way] + 1);
        connection.last_us[way] = arrives_us;
        if self.faults_on && message.may_come_twice() && self.random.random_bool(self.scenario.duplicates) {
            let late_us = self.random.random_range(1_000..4_000_000);
            self.at(arrives_us - now_us + late_us, Event::Deliver { connection: id, to, message: message.clone() });
        }
        self.at(arrives_us - now_us, Event::Deliver { connection: id, to, message });
    }

    /// Sends an element between workers, in order. What is lost breaks the link for the attempt.
    pub(crate) fn send_data(&mut self, fence: Fence, from: Pid, to: Pid, input: WorkerInput) {
        let latency_us = if from == to { 0 } else { self.latency_us() };
        let is_lost = !self.is_alive(to) || self.cut_links.contains(&(from.min(to), from.max(to)));
        if is_lost && self.broken_links.insert((fence, from, to)) {
            let notice_us = self.random.random_range(1_000..2_000_000);
            self.send_to_worker(from, notice_us, WorkerInput::LinkBroken { fence, peer: to });
        }
        if self.broken_links.contains(&(fence, from, to)) {
            return;
        }
        let now_us = self.now_us();
        let last_us = self.data_links.entry((from, to)).or_default();
        let arrives_us = (now_us + latency_us).max(*last_us + 1);
        *last_us = arrives_us;
        self.send_to_worker(to, arrives_us - now_us, input);
    }

    fn latency_us(&mut self) -> u64 {
        match self.random.random_range(0..100) {
            0..90 => self.random.random_range(100..1_500),
            90..99 => self.random.random_range(1_000..20_000),
            _ if self.faults_on && self.scenario.slow_network => self.random.random_range(20_000..3_000_000),
            _ => self.random.random_range(1_000..40_000),
        }
    }

    fn tell_lost(&mut self, side: Pid, connection: ConnectionId, reason: &'static str, delay_us: u64) {
        let input = match self.processes.get(&side).map(|slot| slot.is_coordinator) {
            None => return,
            Some(true) => Input::Coordinator(CoordinatorInput::ConnectionLost { connection, reason }),
            Some(false) => Input::Worker(WorkerInput::ConnectionLost { connection, reason }),
        };
        self.at(delay_us, Event::To(side, input));
    }

    /// Lets `side` find out that nothing comes any more, if that lasts.
    fn watch(&mut self, connection: ConnectionId, side: Pid) {
        let since_us = self.now_us();
        self.at(HEARTBEAT_TIMEOUT_US, Event::Silence { connection, side, since_us });
    }

    fn silence(&mut self, id: ConnectionId, side: Pid, since_us: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let other = if side == connection.worker { connection.coordinator } else { connection.worker };
        let paused_since = |slot: &Slot| slot.paused_since_us.is_some_and(|paused_us| paused_us <= since_us);
        let is_silent = connection.is_cut || self.processes.get(&other).is_none_or(paused_since);
        if is_silent {
            self.connections.remove(&id);
            self.tell_lost(side, id, "no heartbeat for 10 s", 1);
            self.tell_lost(other, id, "the other side took it for lost", 1_000);
        }
    }

    // Faults, and who starts again what has ended.

    pub(crate) fn cut(&mut self, connection: ConnectionId) {
        let Some(cut) = self.connections.get_mut(&connection) else { return };
        cut.is_cut = true;
        let (coordinator, worker) = (cut.coordinator, cut.worker);
        self.note(|| format!("FAULT: the connection of {worker} and {coordinator} is cut"));
        self.watch(connection, coordinator);
        self.watch(connection, worker);
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionId> {
        self.connections.iter().filter(|(_, connection)| !connection.is_cut).map(|(id, _)| *id).collect()
    }

    pub(crate) fn cut_link(&mut self, a: Pid, b: Pid) {
        self.note(|| format!("FAULT: the link of {a} and {b} is cut"));
        self.cut_links.insert((a.min(b), a.max(b)));
    }

    pub(crate) fn heal_links(&mut self) {
        self.cut_links.clear();
    }

    pub(crate) fn pause(&mut self, pid: Pid) {
        let now_us = self.now_us();
        let Some(slot) = self.processes.get_mut(&pid).filter(|slot| slot.paused_since_us.is_none()) else { return };
        slot.paused_since_us = Some(now_us);
        self.note(|| format!("FAULT: {pid} is paused"));
        let others = self.connections.iter().filter_map(|(id, connection)| match pid {
            pid if pid == connection.worker => Some((*id, connection.coordinator)),
            pid if pid == connection.coordinator => Some((*id, connection.worker)),
            _ => None,
        });
        for (connection, side) in others.collect::<Vec<_>>() {
            self.watch(connection, side);
        }
    }

    pub(crate) fn resume(&mut self, pid: Pid) {
        let Some(slot) = self.processes.get_mut(&pid) else { return };
        if slot.paused_since_us.take().is_none() {
            return;
        }
        for event in std::mem::take(&mut slot.backlog) {
            self.at(0, event);
        }
        self.note(|| format!("{pid} goes on"));
    }

    pub(crate) fn paused(&self) -> Vec<Pid> {
        self.processes.iter().filter(|(_, slot)| slot.paused_since_us.is_some()).map(|(pid, _)| *pid).collect()
    }

    pub(crate) fn coordinators(&self) -> Vec<Pid> {
        self.processes.iter().filter(|(_, slot)| slot.is_coordinator).map(|(pid, _)| *pid).collect()
    }

    /// The process is no more; what it sent and wrote is on its way.
    pub(crate) fn kill(&mut self, pid: Pid) {
        let Some(slot) = self.processes.remove(&pid) else { return };
        let is_coordinator = slot.is_coordinator;
        self.executor.kill(pid);
        let lost = self.connections.iter().filter_map(|(id, connection)| match pid {
            pid if pid == connection.worker => Some((*id, connection.coordinator, connection.is_cut)),
            pid if pid == connection.coordinator => Some((*id, connection.worker, connection.is_cut)),
            _ => None,
        });
        for (id, other, is_cut) in lost.collect::<Vec<_>>() {
            if !is_cut {
                self.connections.remove(&id);
                self.tell_lost(other, id, "the other side has ended", 2_000);
            }
        }
        let delay_us = self.random.random_range(50_000..3_000_000);
        if is_coordinator {
            // One that nobody can find any more does not count.
            if self.address == Some(pid) || self.coordinators().is_empty() {
                self.at(delay_us, Event::StartCoordinator);
            }
        } else if let Some(host) = self.hosts.iter().position(|own| *own == Some(pid)) {
            self.hosts[host] = None;
            self.at(delay_us, Event::StartWorker { host: host as u32 });
        }
    }

    /// A coordinator has come to its end.
    pub(crate) fn coordinator_ended(&mut self, pid: Pid, outcome: Result<Outcome, String>) -> Result<(), String> {
        self.note(|| format!("{pid} ends: {outcome:?}"));
        match outcome {
            Ok(Outcome::Finished) => {
                self.finished = true;
                return Ok(());
            }
            Ok(Outcome::Failed { reason }) => return Err(format!("the job failed: {reason}")),
            Ok(Outcome::Stopped { savepoint }) => {
                let parallelism = self.random.random_range(1..=self.scenario.max_slots());
                self.next_start = NextStart { savepoint, parallelism };
            }
            Ok(Outcome::Cancelled | Outcome::Fenced { .. }) | Err(_) => {}
        }
        self.kill(pid);
        Ok(())
    }

    /// A coordinator goes on with what the one before it left running.
    pub(crate) fn adopted(&mut self, pid: Pid, from: Fence) {
        self.adoptions += 1;
        self.note(|| format!("{pid} goes on with {}", fence_name(from)));
    }

    pub(crate) fn already_finished(&mut self) {
        self.finished = true;
    }

    fn start_coordinator(&mut self) {
        // Another one may have been started on purpose meanwhile.
        let skew_ms = if self.scenario.clock_skew { self.random.random_range(-60_000..60_000) } else { 0 };
        let pid = self.new_pid();
        let clock = Clock { now_us: Rc::clone(&self.now_us), skew_ms };
        self.note(|| format!("{pid} starts as coordinator, its clock {skew_ms} ms off"));
        self.coordinators += 1;
        if self.random.random_bool(0.3) && self.scenario.rescales {
            self.next_start.parallelism = self.random.random_range(1..=self.scenario.max_slots());
        }
        let process = CoordinatorProcess::start(self, pid, clock);
        self.insert(pid, Process::Coordinator(Box::new(process)));
        self.address = Some(pid);
    }

    fn start_worker(&mut self, host: u32) {
        if self.hosts[host as usize].is_some() {
            return;
        }
        let pid = self.new_pid();
        self.note(|| format!("{pid} starts as worker on host {host}"));
        self.hosts[host as usize] = Some(pid);
        let process = WorkerProcess::new(pid, self.scenario.slots_per_worker);
        self.insert(pid, Process::Worker(Box::new(process)));
        self.send_to_worker(pid, 1, WorkerInput::Connect);
    }

    fn new_pid(&mut self) -> Pid {
        self.next_pid += 1;
        Pid(self.next_pid - 1)
    }

    fn insert(&mut self, pid: Pid, process: Process) {
        let is_coordinator = matches!(process, Process::Coordinator(_));
        let slot = Slot { is_coordinator, process: Some(process), paused_since_us: None, backlog: vec![] };
        self.processes.insert(pid, slot);
    }

    // What happens.

    fn handle(&mut self, event: Event) -> Result<(), String> {
        let event = match event {
            Event::Deliver { connection, to, message } => {
                if !self.connections.contains_key(&connection) || !self.is_alive(to) {
                    return Ok(());
                }
                self.note(|| format!("{to} <- {message}"));
                let input = match self.processes[&to].is_coordinator {
                    true => Input::Coordinator(CoordinatorInput::Message { connection, message }),
                    false => Input::Worker(WorkerInput::Message { connection, message }),
                };
                Event::To(to, input)
            }
            other => other,
        };
        match event {
            Event::To(pid, input) => return self.deliver(pid, input),
            Event::Deliver { .. } => unreachable!("made an input above"),
            Event::Silence { connection, side, since_us } => self.silence(connection, side, since_us),
            Event::Storage(due) => self.storage.shared().pass(due),
            Event::Fault(fault) => self.inject(fault),
            Event::StartCoordinator => self.start_coordinator(),
            Event::StartWorker { host } => self.start_worker(host),
        }
        Ok(())
    }

    fn deliver(&mut self, pid: Pid, input: Input) -> Result<(), String> {
        let Some(slot) = self.processes.get_mut(&pid) else { return Ok(()) };
        if slot.paused_since_us.is_some() {
            slot.backlog.push(Event::To(pid, input));
            return Ok(());
        }
        let mut process = slot.process.take().expect("a process handles one event at a time");
        let result = match (&mut process, input) {
            (Process::Coordinator(process), Input::Coordinator(input)) => process.on(input, self),
            (Process::Worker(process), Input::Worker(input)) => process.on(input, self),
            _ => unreachable!("an event for the other kind of process"),
        };
        if let Some(slot) = self.processes.get_mut(&pid) {
            slot.process = Some(process);
        }
        result
    }

    /// Lets what runs beside the loops go on, as far as it can now.
    fn settle_down(&mut self) -> Result<(), String> {
        loop {
            let processes = &self.processes;
            let is_paused = |pid| processes.get(&pid).is_some_and(|slot: &Slot| slot.paused_since_us.is_some());
            self.executor.run(is_paused);
            let due = self.storage.shared().take_due();
            for (delay_us, due) in due {
                self.at(delay_us, Event::Storage(due));
            }
            let effects = self.storage.shared().take_effects();
            for effect in effects {
                self.note(|| effect.to_string());
                self.checks.on_effect(&effect, &self.storage, &mut self.external.borrow_mut())?;
            }
            let posted = std::mem::take(&mut *self.mailbox.borrow_mut());
            if posted.is_empty() {
                break;
            }
            for (pid, input) in posted {
                self.at(0, Event::To(pid, input));
            }
        }
        match self.external.borrow_mut().violation.take() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.0)
    }
}
