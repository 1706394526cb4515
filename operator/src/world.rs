//! What there is, as far as a decision depends on it. Plain values, so that a table of cases can be written down.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use weir_crds::StreamJobStatus;
use weir_crds::streamjob::{
    ApprovalMode, DeletionPolicy, OnUpgradeFailure, RunStatus, UpgradeMode, UpgradeRecord, UpgradeResult,
};

use crate::outcome::Outcome;
use crate::spec_hash::SpecHashes;

/// One observation of one job.
#[derive(Clone, Debug)]
pub struct World {
    pub now: Timestamp,
    pub generation: i64,
    /// Since when the resource is being deleted.
    pub deleted_at: Option<Timestamp>,
    pub has_finalizer: bool,
    pub is_suspended: bool,
    /// What is wrong with the spec, with the field's path and the remedy.
    pub invalid: Option<String>,
    /// Of the current spec.
    pub target: SpecHashes,
    /// The folder of the job's checkpoints.
    pub storage_id: String,
    /// How the ids of the job's savepoints begin: they share a folder with those of every other job on the storage, also
    /// of one that had the same name before.
    pub savepoint_prefix: String,
    /// How the addresses of its copies begin: checkpoints that were not in its log, and with which it began.
    pub copies: String,
    pub policy: Policy,
    /// The spec of the current run, if it can be read.
    pub run_spec: RunSpec,
    pub coordinator: Coordinator,
    pub workers: Workers,
    pub leaving: Leaving,
    /// What the coordinator says of the job; `None` while it can't be asked.
    pub runtime: Option<Runtime>,
    /// The value of the annotation that asks for a restart, where the coordinator's pod has another one.
    pub restart_asked: Option<String>,
    /// The parallelism that the run's spec asks for.
    pub run_parallelism: u32,
    /// The running coordinator can judge the current spec: it runs the same image.
    pub can_preflight: bool,
    pub restore: Restore,
    /// The spec's: another one than the run's sets the job back to the restore point.
    pub restore_nonce: Option<u32>,
    /// Savepoints of this job that are complete, by where they stand: their resources' names.
    pub savepoints: BTreeMap<String, String>,
    /// The schedule asks for a savepoint.
    pub scheduled: Option<ScheduledSavepoint>,
    /// Automatic savepoints that the retention lets go.
    pub surplus_savepoints: Vec<String>,
    /// The CA that this operator would sign the job's certificates with.
    pub authority: String,
    /// How long certificates are good for.
    pub certificate_lifetime: Duration,
    /// As the resource has it.
    pub status: StreamJobStatus,
}

/// What `spec.restore` comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restore {
    /// The coordinator understands it as it stands.
    AsWritten,
    /// The savepoint that it names stands there.
    At { path: String },
    /// It names one of the job's own checkpoints.
    Checkpoint { id: u64 },
    /// There is none, or not yet.
    Missing { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledSavepoint {
    /// The time that the schedule names.
    pub at: Timestamp,
    /// Of its resource.
    pub name: String,
    pub exists: bool,
}

/// What the current spec says of upgrades.
#[derive(Clone, Debug)]
pub struct Policy {
    pub mode: UpgradeMode,
    pub approval: ApprovalMode,
    pub approved: bool,
    pub verify_checkpoints: u32,
    pub verify_deadline: Duration,
    pub on_failure: OnUpgradeFailure,
    pub on_delete: DeletionPolicy,
    pub checkpointing: bool,
    pub checkpoint_interval: Duration,
    pub checkpoint_timeout: Duration,
}

/// Whether the text of the run's spec is at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunSpec {
    /// There is no run yet.
    NoRun,
    Known,
    /// The ConfigMap with it is gone.
    Lost,
}

/// The coordinator's pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Coordinator {
    Absent,
    Present(CoordinatorPod),
}

#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorPod {
    /// The run that it was made for.
    pub run: u64,
    pub is_terminating: bool,
    pub state: PodState,
    /// Starts of the container after the first.
    pub restarts: u32,
    /// How the container ended the last time.
    pub last_crash: Option<String>,
    pub created_at: Option<Timestamp>,
    /// It was told that there is nothing to wait for.
    pub is_hurried: bool,
    /// Its pod is built as this operator builds them: it and the workers understand each other.
    pub is_current: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PodState {
    /// Not scheduled, no image, waiting to be started again: with the kubelet's reason and message.
    Waiting {
        reason: String,
        message: String,
    },
    Running,
    /// For good, as it says itself.
    Ended(Outcome),
    /// Without a word: evicted, or its node is lost.
    Lost {
        message: String,
    },
}

/// The workers' StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    /// The services and the StatefulSet are what the run asks for, but for the number of pods.
    pub is_current: bool,
    pub exists: bool,
    /// How many pods it asks for.
    pub replicas: u32,
    /// How many the run needs.
    pub needed: u32,
    pub ready: u32,
    /// Pods there are, whatever they are made from.
    pub pods: u32,
    /// Pods made from an older template.
    pub stale: Vec<String>,
    /// Why a pod does not come up: `ImagePullBackOff: ...`.
    pub trouble: Option<String>,
}

/// The job's pods that were told to go and are still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    pub pods: u32,
    /// Of them those whose node does not answer: nobody would ever say that they are gone.
    pub lost: Vec<String>,
}

/// What the coordinator says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runtime {
    /// All tasks run.
    pub is_running: bool,
    pub is_restarting: bool,
    /// It has decided how the job ends; the pod follows.
    pub is_ending: bool,
    pub epoch: u64,
    pub attempt: u64,
    pub started_at: Option<Timestamp>,
    pub running_since: Option<Timestamp>,
    pub waits_for: Option<String>,
    pub restored_from: Option<String>,
    pub parallelism: u32,
    pub restarts: u64,
    pub last_failure: Option<String>,
    pub last_failure_at: Option<Timestamp>,
    pub completed: u64,
    pub failed_in_a_row: u32,
    pub checkpoint_failure: Option<String>,
    pub last_completed: Option<CompletedCheckpoint>,
    /// The last ones that it was asked for, by their ids.
    pub savepoints: BTreeMap<String, SavepointState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedCheckpoint {
    pub id: u64,
    pub completed_at: Timestamp,
    pub duration: Duration,
    pub new_bytes: u64,
    pub full_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavepointState {
    InProgress,
    Completed { address: String, checkpoint: Option<u64>, bytes: Option<u64>, took: Option<Duration> },
    Failed { reason: String },
}

/// A job that has begun goes back whenever its spec has another nonce than its run.
pub fn is_set_back(nonce: Option<u32>, run: Option<&RunStatus>) -> bool {
    nonce.is_some() && run.is_some_and(|run| run.restore_nonce != nonce)
}

impl World {
    pub fn run(&self) -> Option<&RunStatus> {
        self.status.run.as_ref()
    }

    /// The spec asks for another start from its restore point.
    pub fn is_set_back(&self) -> bool {
        is_set_back(self.restore_nonce, self.run())
    }

    /// The upgrade that is under way.
    pub fn upgrade(&self) -> Option<&UpgradeRecord> {
        self.status.upgrades.first().filter(|upgrade| upgrade.result == UpgradeResult::InProgress)
    }

    /// The latest attempt at the current generation ended, and not by success.
    pub fn gave_up_on_current(&self) -> Option<&UpgradeRecord> {
        let gave_up = |upgrade: &&UpgradeRecord| {
            matches!(upgrade.result, UpgradeResult::RolledBack | UpgradeResult::Held)
                && upgrade.generation == self.generation
        };
        self.status.upgrades.first().filter(gave_up)
    }

    /// Why the state of what runs does not fit the current spec.
    pub fn preflight_refused(&self) -> Option<&str> {
        let is_new = self.run().is_some_and(|run| run.hash != self.target.run);
        let answer = self.status.preflight.as_ref()?;
        let is_about_it = is_new && answer.generation == self.generation && !answer.fits;
        is_about_it.then(|| answer.message.as_deref().unwrap_or_default())
    }

    pub fn coordinator_pod(&self) -> Option<&CoordinatorPod> {
        match &self.coordinator {
            Coordinator::Present(pod) => Some(pod),
            Coordinator::Absent => None,
        }
    }

    /// How the current run's coordinator ended, if it has for good.
    pub fn outcome(&self) -> Option<&Outcome> {
        let run = self.run()?;
        match self.coordinator_pod() {
            Some(CoordinatorPod { run: number, state: PodState::Ended(outcome), .. }) if *number == run.number => {
                Some(outcome)
            }
            _ => None,
        }
    }
}
