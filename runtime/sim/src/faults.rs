//! What is done to the job from outside: by the world, and by its user.

use crate::coordinator::CoordinatorInput;
use crate::storage::StorageFaults;
use crate::world::{Event, Pid, World};
use rand::Rng;
use rand::seq::IndexedRandom;

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    KillWorker,
    KillCoordinator,
    PauseWorker,
    PauseCoordinator,
    Resume(Pid),
    CutConnection,
    CutLink,
    HealLinks,
    StorageFails,
    StorageWorks,
    SecondCoordinator,
    Savepoint {
        stop: bool,
    },
    Drain,
    Rescale,
    /// From here on nothing fails any more.
    End,
}

impl World {
    pub(crate) fn plan_faults(&mut self) {
        let scenario = self.scenario.clone();
        self.faults_on = true;
        let mut kinds: Vec<Fault> = vec![];
        let mut may = |is_on: bool, faults: &[Fault]| {
            if is_on {
                kinds.extend_from_slice(faults);
            }
        };
        may(scenario.kills, &[Fault::KillWorker, Fault::KillWorker, Fault::KillCoordinator]);
        may(scenario.pauses, &[Fault::PauseWorker, Fault::PauseCoordinator]);
        may(scenario.cuts, &[Fault::CutConnection, Fault::CutLink]);
        may(scenario.storage_fails, &[Fault::StorageFails]);
        may(scenario.second_coordinators, &[Fault::SecondCoordinator]);
        may(scenario.savepoints, &[Fault::Savepoint { stop: false }]);
        may(scenario.rescales, &[Fault::Rescale]);
        may(scenario.stops, &[Fault::Savepoint { stop: true }, Fault::Drain]);
        let mut at_us = 0;
        while !kinds.is_empty() {
            at_us += self.random.random_range(scenario.fault_gap_us / 4..scenario.fault_gap_us * 2);
            if at_us >= scenario.faults_until_us {
                break;
            }
            if let Some(fault) = kinds.choose(&mut self.random).cloned() {
                self.at(at_us, Event::Fault(fault));
            }
        }
        self.at(scenario.faults_until_us, Event::Fault(Fault::End));
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::KillWorker => {
                if let Some(pid) = self.any_worker() {
                    self.note(|| format!("FAULT: {pid} is killed"));
                    self.kill(pid);
                }
            }
            Fault::KillCoordinator => {
                if let Some(pid) = self.any_coordinator() {
                    self.note(|| format!("FAULT: {pid} is killed"));
                    self.kill(pid);
                }
            }
            Fault::PauseWorker => {
                if let Some(pid) = self.any_worker() {
                    self.pause_for_a_while(pid);
                }
            }
            Fault::PauseCoordinator => {
                if let Some(pid) = self.any_coordinator() {
                    self.pause_for_a_while(pid);
                    // Whoever watches over it starts another.
                    if self.random.random_bool(0.6) {
                        let delay_us = self.random.random_range(0..12_000_000);
                        self.at(delay_us, Event::Fault(Fault::SecondCoordinator));
                    }
                }
            }
            Fault::Resume(pid) => self.resume(pid),
            Fault::CutConnection => {
                let all = self.connections();
                if let Some(connection) = all.choose(&mut self.random) {
                    self.cut(*connection);
                }
            }
            Fault::CutLink => {
                let (a, b) = (self.any_worker(), self.any_worker());
                if let (Some(a), Some(b)) = (a, b)
                    && a != b
                {
                    self.cut_link(a, b);
                    let for_us = self.random.random_range(100_000..15_000_000);
                    self.at(for_us, Event::Fault(Fault::HealLinks));
                }
            }
            Fault::HealLinks => self.heal_links(),
            Fault::StorageFails => {
                let mut rate =
                    |most: f64| if self.random.random_bool(0.5) { self.random.random_range(0.0..most) } else { 0.0 };
                let faults = StorageFaults {
                    fail_before: rate(0.3),
                    lose_response: rate(0.3),
                    late: rate(0.1),
                    slow: rate(0.2),
                };
                self.note(|| format!("FAULT: {faults:?}"));
                self.storage.shared().faults = faults;
                let for_us = self.random.random_range(500_000..8_000_000);
                self.at(for_us, Event::Fault(Fault::StorageWorks));
            }
            Fault::StorageWorks => self.storage.shared().faults = StorageFaults::default(),
            Fault::SecondCoordinator => {
                if self.faults_on && self.coordinators().len() < 3 {
                    self.at(0, Event::StartCoordinator);
                }
            }
            Fault::Savepoint { stop } => self.ask(CoordinatorInput::Savepoint { stop }),
            Fault::Drain => self.ask(CoordinatorInput::Drain),
            Fault::Rescale => {
                let parallelism = self.random.random_range(1..=self.scenario.max_slots());
                self.ask(CoordinatorInput::Rescale { parallelism });
            }
            Fault::End => self.end_of_faults(),
        }
    }

    fn ask(&mut self, input: CoordinatorInput) {
        if let Some(pid) = self.any_coordinator() {
            self.note(|| format!("USER: {input:?} to {pid}"));
            self.send_to_coordinator(pid, 1_000, input);
        }
    }

    fn any_worker(&mut self) -> Option<Pid> {
        let all: Vec<Pid> = self.hosts.iter().flatten().copied().collect();
        all.choose(&mut self.random).copied()
    }

    fn any_coordinator(&mut self) -> Option<Pid> {
        let all = self.coordinators();
        all.choose(&mut self.random).copied()
    }

    fn pause_for_a_while(&mut self, pid: Pid) {
        self.pause(pid);
        let for_us = self.random.random_range(100_000..40_000_000);
        self.at(for_us, Event::Fault(Fault::Resume(pid)));
    }

    fn end_of_faults(&mut self) {
        self.note(|| "no fault from here on".to_owned());
        self.faults_on = false;
        self.storage.shared().faults = StorageFaults::default();
        self.heal_links();
        for pid in self.paused() {
            self.resume(pid);
        }
    }
}
