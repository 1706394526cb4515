//! From what there is of one Savepoint to what to do next. Pure.
//!
//! That it is about to be taken stands in its status before the coordinator is asked; its id follows from the resource,
//! so that asking again, after whatever was lost, asks for the same savepoint.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use weir_crds::streamjob::DeletionPolicy;
use weir_crds::{ByteSize, HumanDuration, SavepointPhase, SavepointStatus};

use crate::decide::bounded;
use crate::world::{Runtime, SavepointState};

/// How long a deletion waits for a coordinator that removes the data.
const REMOVE_BOUND: Duration = Duration::from_secs(300);

/// One observation of one Savepoint.
#[derive(Clone, Debug)]
pub struct World {
    pub now: Timestamp,
    pub generation: Option<i64>,
    /// Since when the resource is being deleted.
    pub deleted_at: Option<Timestamp>,
    pub has_finalizer: bool,
    pub on_delete: DeletionPolicy,
    /// Its data goes with it: retention has decided so.
    pub is_pruned: bool,
    /// Where it stands already: one that an upgrade has taken.
    pub adopted: Option<String>,
    /// By which the coordinator knows it.
    pub id: String,
    /// Of what the spec says; beside the checkpoints without one.
    pub folder: Option<String>,
    pub job: Job,
    pub status: SavepointStatus,
}

#[derive(Clone, Debug)]
pub enum Job {
    /// There is none of that name.
    Absent,
    /// It cannot be asked: with why.
    Silent {
        why: String,
    },
    Answers {
        storage_id: String,
        generation: Option<i64>,
        runtime: Box<Runtime>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Wait,
    AddFinalizer,
    RemoveFinalizer,
    Record(Box<SavepointStatus>),
    /// Asks the coordinator for it.
    Ask {
        id: String,
        folder: Option<String>,
    },
    /// Asks the coordinator to remove the data, and then lets the resource go.
    Remove {
        path: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub action: Action,
    /// For an event; nothing for what is no news.
    pub reason: Option<&'static str>,
    pub message: String,
}

pub fn decide(world: &World) -> Decision {
    if let Some(since) = world.deleted_at {
        return deleted(world, since);
    }
    if world.on_delete == DeletionPolicy::Delete && !world.has_finalizer {
        return quietly(Action::AddFinalizer);
    }
    if matches!(world.status.phase, Some(SavepointPhase::Completed | SavepointPhase::Failed)) {
        return quietly(Action::Wait);
    }
    if let Some(path) = &world.adopted {
        return completed(world, path, None);
    }
    match &world.job {
        Job::Absent => pending(world, "there is no StreamJob of that name in this namespace"),
        // One that was asked for may be there already: who can say so will be back.
        Job::Silent { .. } if world.status.phase == Some(SavepointPhase::InProgress) => quietly(Action::Wait),
        Job::Silent { why } => pending(world, why),
        Job::Answers { storage_id, generation, runtime } => match runtime.savepoints.get(&world.id) {
            Some(SavepointState::Completed { address, .. }) => {
                completed(world, address, runtime.savepoints.get(&world.id))
            }
            Some(SavepointState::Failed { reason }) => failed(world, reason),
            Some(SavepointState::InProgress) if world.status.phase == Some(SavepointPhase::InProgress) => {
                quietly(Action::Wait)
            }
            _ if !runtime.is_running || runtime.is_ending => match world.status.phase {
                Some(SavepointPhase::InProgress) => quietly(Action::Wait),
                _ => pending(world, "the job does not run at the moment"),
            },
            _ if world.status.phase != Some(SavepointPhase::InProgress) => {
                let status = SavepointStatus {
                    phase: Some(SavepointPhase::InProgress),
                    job_uid: Some(storage_id.clone()),
                    job_generation: *generation,
                    started_at: Some(Time(world.now)),
                    message: None,
                    ..base(world)
                };
                record(status, Some("SavepointStarted"), format!("savepoint {} is about to be taken", world.id))
            }
            _ => {
                let action = Action::Ask { id: world.id.clone(), folder: world.folder.clone() };
                Decision { action, reason: None, message: String::new() }
            }
        },
    }
}

/// Data that is to go is removed by the job's coordinator, within a bound; else it stays, and somebody hears of it.
fn deleted(world: &World, since: Timestamp) -> Decision {
    if !world.has_finalizer {
        return quietly(Action::Wait);
    }
    let goes = world.on_delete == DeletionPolicy::Delete || world.is_pruned;
    let Some(path) = world.status.path.clone().filter(|_| goes) else { return quietly(Action::RemoveFinalizer) };
    let kept = |why: &str| Decision {
        action: Action::RemoveFinalizer,
        reason: Some("DataKept"),
        message: format!("the resource goes, and its data stays in {path}: {why}"),
    };
    match &world.job {
        Job::Absent => kept("there is no such job any more, which could remove it"),
        _ if world.now.duration_since(since).unsigned_abs() > REMOVE_BOUND => {
            kept(&format!("no coordinator removed it within {REMOVE_BOUND:?}"))
        }
        Job::Silent { .. } => quietly(Action::Wait),
        Job::Answers { .. } => {
            let message = format!("{path} is removed");
            Decision { action: Action::Remove { path }, reason: Some("DataRemoved"), message }
        }
    }
}

fn completed(world: &World, address: &str, state: Option<&SavepointState>) -> Decision {
    let (id, size, took) = match state {
        Some(SavepointState::Completed { checkpoint, bytes, took, .. }) => (*checkpoint, *bytes, *took),
        _ => (None, None, None),
    };
    let took = took.and_then(|took| u64::try_from(took.as_millis()).ok()).map(HumanDuration::from_millis);
    let status = SavepointStatus {
        phase: Some(SavepointPhase::Completed),
        id,
        path: Some(address.to_owned()),
        completed_at: Some(Time(world.now)),
        duration: took,
        size,
        display_size: size.map(|bytes| ByteSize::from_bytes(bytes).approximate()),
        message: None,
        ..base(world)
    };
    record(status, Some("SavepointCompleted"), format!("it stands in {address}"))
}

fn failed(world: &World, reason: &str) -> Decision {
    let message = Some(bounded(reason));
    let status = SavepointStatus { phase: Some(SavepointPhase::Failed), message, ..base(world) };
    record(status, Some("SavepointFailed"), reason.to_owned())
}

fn pending(world: &World, why: &str) -> Decision {
    let status = SavepointStatus { phase: Some(SavepointPhase::Pending), message: Some(bounded(why)), ..base(world) };
    match status == world.status {
        true => quietly(Action::Wait),
        false => record(status, None, why.to_owned()),
    }
}

fn base(world: &World) -> SavepointStatus {
    SavepointStatus { observed_generation: world.generation, ..world.status.clone() }
}

fn record(status: SavepointStatus, reason: Option<&'static str>, message: String) -> Decision {
    Decision { action: Action::Record(Box::new(status)), reason, message }
}

fn quietly(action: Action) -> Decision {
    Decision { action, reason: None, message: String::new() }
}
