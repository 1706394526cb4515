//! Deterministic simulation of whole jobs: a coordinator, workers, network, storage and the sink's outside in one thread and
//! in virtual time, under one seed.
//!
//! What runs is the product's own code: `JobControl` with coordinator, rollout and placement; the commit log, its
//! retention and savepoints over a storage that fails; channels, alignment, rows in flight, watermarks and operators;
//! keyed state with its cuts and restores, on the heap and in front of a store. The simulator drives them where the node
//! has threads, sockets and clocks.
//! The loops around them (runner, worker, task, storage) are its own: a mistake in the node's is not found here.
//! Checkers look from outside: the output is the oracle's, the log is one history, nothing that is needed is deleted
//! and nothing that isn't is left, and once faults stop the job comes to its end.

mod bugs;
mod checks;
mod coordinator;
mod executor;
mod external;
mod faults;
mod job;
mod keeper;
mod messages;
mod scenario;
mod search;
mod storage;
mod store;
mod task;
mod worker;
mod world;

pub use bugs::Bug;
pub use search::{Found, report, search};

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run came to that found nothing wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
    pub virtual_ms: u64,
    pub checkpoints: u64,
    /// Coordinators that were started.
    pub coordinators: u64,
    /// Of those, the ones that went on with what ran.
    pub adoptions: u64,
    /// Calls to the storage that failed.
    pub storage_faults: u64,
    /// Rows that the sink made visible.
    pub rows: u64,
    /// Parts of checkpoints whose state had spilled into a store.
    pub spilled: u64,
}

impl Summary {
    /// Over several runs.
    pub fn add(&mut self, other: &Summary) {
        let Summary { events, virtual_ms, checkpoints, coordinators, adoptions, storage_faults, rows, spilled } =
            *other;
        self.events += events;
        self.virtual_ms += virtual_ms;
        self.checkpoints += checkpoints;
        self.coordinators += coordinators;
        self.adoptions += adoptions;
        self.storage_faults += storage_faults;
        self.rows += rows;
        self.spilled += spilled;
    }
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub seed: u64,
    pub reason: String,
    /// What happened, oldest first, if it was asked for.
    pub trace: Vec<String>,
}

/// Runs one seed. The same seed does the same, event by event.
///
/// # Errors
/// What a checker found, or where the product panicked.
pub fn simulate(seed: u64, bug: Option<Bug>, with_trace: bool) -> Result<Summary, Failure> {
    let mut world = world::World::new(scenario::Scenario::of(seed), bug, with_trace);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    let failed = match ran {
        Ok(Ok(())) => return Ok(world.summary()),
        Ok(Err(reason)) => reason,
        Err(panic) => format!("a panic: {}", panic_message(&*panic)),
    };
    Err(Failure { seed, reason: failed, trace: world.trace().to_vec() })
}

/// What a seed does, in words.
pub fn describe(seed: u64) -> String {
    format!("{:#?}", scenario::Scenario::of(seed))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "?".to_owned())
}
