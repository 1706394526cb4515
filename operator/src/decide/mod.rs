//! From what there is to the one thing to do next. Pure: no client, no clock, nothing remembered.
//!
//! A decision is right for the observation alone. Whoever makes it again after a crash, from what the crash left, comes
//! to the same end: what must not be done twice is written into the status first ([`Change`]), under an id or a number
//! by which the act itself can tell that it was done.

mod change;
mod ending;
mod rescale;
mod steady;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weir_crds::streamjob::{
    CertificatesStatus, Intention, MAX_UPGRADE_HISTORY, PreflightStatus, RunStatus, SpecVersion, UpgradeRecord,
    UpgradeResult,
};
use weir_crds::{HumanDuration, SavepointTrigger, StreamJobStatus};

use crate::world::{Restore, World};

pub use change::upgrade_savepoint_id;
pub use rescale::RESCALE;

/// One action, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub action: Action,
    /// One word in CamelCase, for events.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing, until something changes.
    Wait,
    AddFinalizer,
    RemoveFinalizer,
    /// Writes it into the status. A run that begins has its spec written into a ConfigMap before.
    Record(Box<Change>),
    /// Services, token, disruption budget and the workers with so many pods.
    ApplyObjects {
        workers: u32,
    },
    DeleteWorkers(Vec<String>),
    /// Takes pods off the API server whose node does not answer, so that others can take their places.
    RemoveLostPods(Vec<String>),
    CreateCoordinator,
    /// Gracefully: it takes a last checkpoint.
    DeleteCoordinator,
    /// At once: there is nothing that a last checkpoint could be taken of.
    HurryCoordinator,
    /// Asks the coordinator for a savepoint with this id and to stop with it. Asked again it is the same savepoint.
    StopWithSavepoint {
        id: String,
    },
    /// Asks the coordinator to end and to remove the job's checkpoints.
    Discard,
    /// Asks the coordinator whether the job could go on with the current spec; the answer is written into the status.
    Preflight,
    /// Asks for another parallelism. Asked again it is the same rescale.
    Rescale {
        parallelism: u32,
    },
    /// Writes new certificates for the job's pods, and until when they are good into the status.
    IssueCertificates,
    /// The resource of an automatic savepoint; one that is there stays as it is.
    CreateSavepoint(NewSavepoint),
    /// Removes automatic savepoints with their data.
    PruneSavepoints(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSavepoint {
    pub name: String,
    pub trigger: SavepointTrigger,
    /// Where it stands already; else it is to be taken.
    pub path: Option<String>,
}

/// What is written into the status before something is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    pub run: Option<RunStatus>,
    /// In the place of the record of the same upgrade, else before all others.
    pub upgrade: Option<UpgradeRecord>,
    /// `Some(None)` takes it away.
    pub intention: Option<Option<Intention>>,
    pub last_good_generation: Option<i64>,
    pub preflight: Option<PreflightStatus>,
    pub certificates: Option<CertificatesStatus>,
    pub last_scheduled_savepoint: Option<Time>,
}

/// The savepoint or the stop that stands in the status as being done.
pub const STOP_WITH_SAVEPOINT: &str = "StopWithSavepoint";

pub fn decide(world: &World) -> Decision {
    // Before all else: whatever waits for a pod to be gone would wait for ever.
    if !world.leaving.lost.is_empty() {
        let text = format!(
            "{} had to go, and the node does not answer; others take their places. What may still run there commits \
             nothing more",
            world.leaving.lost.join(", ")
        );
        return act(Action::RemoveLostPods(world.leaving.lost.clone()), "NodeLost", text);
    }
    if let Some(since) = world.deleted_at {
        return ending::delete(world, since);
    }
    if !world.has_finalizer {
        return act(Action::AddFinalizer, "Adopted", "the job is looked after from now on");
    }
    let Some(run) = world.run() else { return first_run(world) };
    if world.is_suspended {
        return ending::suspend(world, run);
    }
    let is_set_back = world.is_set_back();
    let is_new = world.target.run != run.hash || is_set_back;
    if let Some(upgrade) = world.upgrade().filter(|upgrade| !is_new && upgrade.generation != run.generation) {
        let old = ended(world, upgrade, UpgradeResult::Superseded, Some("the spec is the one that runs again".into()));
        let change = Change { upgrade: Some(old), intention: Some(None), ..Change::default() };
        return act(record(change), "UpgradeSuperseded", "the spec is the one that runs again");
    }
    let may_change = is_new && world.invalid.is_none();
    if let (true, Restore::Missing { reason }) = (is_set_back, &world.restore) {
        return match steady::keep(world, run) {
            Decision { action: Action::Wait, .. } => wait("RestorePointMissing", reason),
            other => other,
        };
    }
    if may_change && !is_set_back && rescale::is_possible(world, run) {
        return rescale::adopt(world, run);
    }
    if may_change && world.gave_up_on_current().is_none_or(|upgrade| change::may_be_tried_again(world, run, upgrade)) {
        return change::roll_out(world, run);
    }
    let is_same_under_another_number = !is_new && world.invalid.is_none() && world.generation != run.generation;
    if is_same_under_another_number && world.upgrade().is_none() {
        let run = RunStatus { generation: world.generation, ..run.clone() };
        let good = run.verified.then_some(world.generation);
        let change = Change { run: Some(run), last_good_generation: good, ..Change::default() };
        return act(record(change), "SpecAdopted", "the change of the spec needs no restart");
    }
    steady::keep(world, run)
}

/// The job has never been started.
fn first_run(world: &World) -> Decision {
    if let Some(invalid) = &world.invalid {
        return wait("InvalidSpec", invalid);
    }
    if world.is_suspended {
        return wait("Suspended", "the job was made suspended, and was never started");
    }
    if let Restore::Missing { reason } = &world.restore {
        return wait("RestorePointMissing", reason);
    }
    let run = new_run(world, 1, world.storage_id.clone());
    act(record(Change { run: Some(run), ..Change::default() }), "Starting", "the job is started for the first time")
}

/// The run of the current spec.
fn new_run(world: &World, number: u64, storage_id: String) -> RunStatus {
    RunStatus {
        number,
        generation: world.generation,
        hash: world.target.run.clone(),
        rescale_hash: world.target.rescale.clone(),
        storage_id,
        since: Time(world.now),
        restore_nonce: world.restore_nonce,
        // Where it was written down and perhaps not done yet. Done, it is not done again.
        beginning: world.run().and_then(|run| run.beginning.clone()),
        verified: false,
        stopped: false,
        fallback: fallback(world.run()),
    }
}

/// What a version that follows this run could return to.
fn fallback(run: Option<&RunStatus>) -> Option<SpecVersion> {
    let run = run?;
    let own =
        || SpecVersion { generation: run.generation, hash: run.hash.clone(), rescale_hash: run.rescale_hash.clone() };
    if run.verified { Some(own()) } else { run.fallback.clone() }
}

impl Change {
    /// Puts it into a status. Bounded: the oldest upgrades fall out.
    pub fn apply(&self, status: &mut StreamJobStatus) {
        let Change { run, upgrade, intention, last_good_generation, preflight, certificates, last_scheduled_savepoint } =
            self.clone();
        if let Some(run) = run {
            status.run = Some(run);
        }
        if let Some(upgrade) = upgrade {
            // The one that began then: written again it is the same.
            let is_same = |first: &&mut UpgradeRecord| {
                (first.generation, &first.started_at) == (upgrade.generation, &upgrade.started_at)
            };
            match status.upgrades.first_mut().filter(is_same) {
                Some(first) => *first = upgrade,
                None => status.upgrades.insert(0, upgrade),
            }
            status.upgrades.truncate(MAX_UPGRADE_HISTORY);
        }
        if let Some(intention) = intention {
            status.intention = intention;
        }
        if last_good_generation.is_some() {
            status.last_good_generation = last_good_generation;
        }
        if preflight.is_some() {
            status.preflight = preflight;
        }
        if certificates.is_some() {
            status.certificates = certificates;
        }
        if last_scheduled_savepoint.is_some() {
            status.last_scheduled_savepoint = last_scheduled_savepoint;
        }
    }
}

/// An upgrade's record at its end.
fn ended(world: &World, upgrade: &UpgradeRecord, result: UpgradeResult, message: Option<String>) -> UpgradeRecord {
    let took = upgrade.started_at.as_ref().and_then(|since| std::time::Duration::try_from(world.now - since.0).ok());
    // To the millisecond: nobody reads more.
    let took = took.map(|took| HumanDuration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
    UpgradeRecord { result, took, message: message.map(|text| bounded(&text)), ..upgrade.clone() }
}

fn act(action: Action, reason: &'static str, message: impl Into<String>) -> Decision {
    Decision { action, reason, message: message.into() }
}

fn wait(reason: &'static str, message: impl Into<String>) -> Decision {
    act(Action::Wait, reason, message)
}

fn record(change: Change) -> Action {
    Action::Record(Box::new(change))
}

/// As long as status allows a message to be.
pub(crate) fn bounded(text: &str) -> String {
    const LIMIT: usize = 1_000;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
