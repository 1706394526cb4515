//! The side of the runner that waits for storage: starts attempts from checkpoints, completes checkpoints, removes
//! old ones. One thread, so that what it is asked for happens in order.

use crate::attempt::{DeployError, StateBackends, Surroundings, deploy};
use crate::checkpoint_objects::CheckpointObjects;
use crate::control::ControlEvent;
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::physical::PhysicalPlan;
use crate::restore::{FolderSegments, RestoreState, subtask_manifest};
use crate::savepoint;
use crate::task::{SnapshotHandle, TaskSnapshot, now_us};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;
use weir_coordinator::Outcome;
use weir_crds::streamjob::DeletionPolicy;
use weir_dataflow::alignment::AlignmentMode;
use weir_model::{CheckpointId, CheckpointKind, Fence, StateSchema, SubtaskId};
use weir_snapshot::log::{CloseReason, RestorePoint};
use weir_snapshot::retention::SweepScope;
use weir_snapshot::{
    CheckpointManifest, CheckpointSizes, CommitLog, JobFolder, LogError, ObjectPath, ObjectRef, OperatorManifest,
    Retention,
};
use weir_state::KeyedStateHandle;

/// Tries to learn whether an entry stands in the log, before the job is given up to whoever can.
const APPEND_TRIES: u32 = 10;

pub(crate) enum StorageRequest {
    Deploy {
        fence: Fence,
    },
    Complete {
        fence: Fence,
        checkpoint: CheckpointId,
        kind: CheckpointKind,
        triggered_ms: u64,
        acknowledged: Vec<(SubtaskId, TaskSnapshot)>,
        /// The oldest checkpoint that a task may still build on.
        protect_from: Option<CheckpointId>,
    },
    Retain,
    Close {
        outcome: Outcome,
    },
}

pub(crate) struct StorageThread {
    pub(crate) job: Arc<Job>,
    pub(crate) plan: PhysicalPlan,
    pub(crate) log: CommitLog,
    pub(crate) folder: JobFolder,
    pub(crate) objects: Arc<CheckpointObjects>,
    pub(crate) snapshots: SnapshotHandle,
    pub(crate) backends: Arc<dyn StateBackends>,
    pub(crate) retention: Retention,
    pub(crate) mode: AlignmentMode,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) events: Sender<ControlEvent>,
    /// Objects that retained checkpoints name.
    pub(crate) known_objects: BTreeMap<ObjectPath, ObjectRef>,
}

impl StorageThread {
    pub(crate) fn run(mut self, requests: Receiver<StorageRequest>) {
        for request in requests {
            match request {
                StorageRequest::Deploy { fence } => self.deploy(fence),
                StorageRequest::Complete { fence, checkpoint, kind, triggered_ms, acknowledged, protect_from } => {
                    self.complete(fence, checkpoint, kind, triggered_ms, acknowledged, protect_from);
                }
                StorageRequest::Retain => self.retain(),
                StorageRequest::Close { outcome } => {
                    let events = self.events.clone();
                    self.close(&outcome);
                    events.send(ControlEvent::Closed).ok();
                    return;
                }
            }
        }
    }

    fn deploy(&mut self, fence: Fence) {
        self.objects.give_up_all();
        // What crashes and aborted checkpoints left behind goes before anything new is written.
        self.sweep(SweepScope::Everything);
        let (attempt, restored_from) = match self.restore_state() {
            Err(reason) => (Err(reason), None),
            Ok((restore, restored_from, segments)) => {
                let around = Surroundings {
                    job: &self.job,
                    plan: &self.plan,
                    fence,
                    mode: self.mode,
                    events: self.events.clone(),
                    snapshots: self.snapshots.clone(),
                    segments: &segments,
                    backends: &*self.backends,
                };
                let attempt = deploy(&around, restore.as_ref());
                failpoint("before-restore-done");
                (attempt, restored_from)
            }
        };
        self.events.send(ControlEvent::Deployed { fence, attempt, restored_from }).ok();
    }

    /// What the log says the job starts from now, and in words.
    fn restore_state(&self) -> Result<(Option<RestoreState>, Option<String>, FolderSegments), DeployError> {
        let fatal = |reason: String| DeployError { reason, is_fatal: true };
        let segments = FolderSegments::new(self.folder.clone(), self.runtime.clone());
        match self.log.history().restore_point() {
            None => Ok((None, None, segments)),
            Some(RestorePoint::Checkpoint { checkpoint }) => {
                let manifest = self.log.history().checkpoint(checkpoint);
                let manifest = manifest.ok_or_else(|| fatal(format!("checkpoint {checkpoint} is not in the log")))?;
                let proof = self.log.proof(checkpoint);
                let proof = proof.ok_or_else(|| fatal(format!("checkpoint {checkpoint} is not in the log")))?;
                let restore = RestoreState::of(proof, manifest).map_err(fatal)?;
                Ok((Some(restore), Some(format!("checkpoint {checkpoint}")), segments))
            }
            Some(RestorePoint::Location { uri }) => {
                let (restore, segments) = savepoint::open(&uri, &self.runtime).map_err(fatal)?;
                Ok((Some(restore), Some(uri), segments))
            }
        }
    }

    fn complete(
        &mut self,
        fence: Fence,
        checkpoint: CheckpointId,
        kind: CheckpointKind,
        triggered_ms: u64,
        acknowledged: Vec<(SubtaskId, TaskSnapshot)>,
        protect_from: Option<CheckpointId>,
    ) {
        failpoint("before-manifest");
        let event = match self.manifest(fence, checkpoint, kind, triggered_ms, acknowledged) {
            Err(reason) => ControlEvent::AppendFailed { checkpoint, reason },
            Ok(manifest) => self.append(manifest, protect_from),
        };
        failpoint("after-manifest");
        self.events.send(event).ok();
    }

    fn append(&mut self, manifest: CheckpointManifest, protect_from: Option<CheckpointId>) -> ControlEvent {
        let checkpoint = manifest.checkpoint;
        let CheckpointSizes { new_bytes, full_bytes } = manifest.sizes;
        let mut pause = Duration::from_millis(100);
        // The same entry each time, so that one of which no answer came is known again.
        let now_ms = now_ms();
        for _ in 0..APPEND_TRIES {
            let appended = self.log.complete(manifest.clone(), &self.retention, protect_from, now_ms);
            match self.runtime.block_on(appended) {
                Ok(checkpoint) => {
                    self.known_objects
                        .extend(manifest.objects.iter().map(|object| (object.path.clone(), object.clone())));
                    return ControlEvent::Appended { checkpoint, new_bytes, full_bytes };
                }
                Err(LogError::Fenced { reason, .. }) => return ControlEvent::Fenced { by: reason },
                Err(LogError::Unknown(error)) => {
                    tracing::warn!(%checkpoint, %error, "the storage gave no answer; asking again");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                Err(error @ (LogError::Storage(_) | LogError::Refused(_) | LogError::Broken(_))) => {
                    return ControlEvent::AppendFailed { checkpoint, reason: error.to_string() };
                }
            }
        }
        // Going on would be guessing: a new start reads the log afresh.
        ControlEvent::Fenced {
            by: format!("the storage doesn't say whether checkpoint {checkpoint} stands in the log"),
        }
    }

    fn manifest(
        &mut self,
        fence: Fence,
        checkpoint: CheckpointId,
        kind: CheckpointKind,
        triggered_ms: u64,
        acknowledged: Vec<(SubtaskId, TaskSnapshot)>,
    ) -> Result<CheckpointManifest, String> {
        let object = self.objects.finish(checkpoint)?;
        let new_bytes = object.as_ref().map_or(0, |object| object.length);
        let mut objects: BTreeMap<ObjectPath, ObjectRef> = BTreeMap::new();
        let mut operators: BTreeMap<_, OperatorManifest> = BTreeMap::new();
        let mut full_bytes = 0;
        for (task, snapshot) in acknowledged {
            for node in snapshot {
                let parallelism = self.job.graph.nodes.iter().find(|candidate| candidate.uid == node.uid);
                let operator = operators.entry(node.uid.clone()).or_insert_with(|| OperatorManifest {
                    uid: node.uid.clone(),
                    parallelism: parallelism.map_or(1, |node| node.parallelism),
                    states: node.keyed.as_ref().map_or(vec![], state_schemas),
                    subtasks: vec![],
                });
                for segment in node.keyed.iter().flat_map(|keyed| keyed.segments()) {
                    full_bytes += segment.length;
                    let path = ObjectPath::parse(&segment.object).map_err(|error| error.to_string())?;
                    let known = object.iter().find(|object| object.path == path).or(self.known_objects.get(&path));
                    let known = known.ok_or_else(|| format!("`{path}` is no object of a retained checkpoint"))?;
                    objects.entry(path).or_insert_with(|| known.clone());
                }
                operator.subtasks.push(subtask_manifest(task.index, node).map_err(|error| error.to_string())?);
            }
        }
        for operator in operators.values_mut() {
            operator.subtasks.sort_by_key(|subtask| subtask.index);
        }
        Ok(CheckpointManifest {
            job_uid: self.job.uid.clone(),
            checkpoint,
            kind,
            epoch: fence.epoch,
            attempt: fence.attempt,
            started_at_ms: triggered_ms,
            completed_at_ms: now_ms(),
            max_parallelism: self.job.graph.max_parallelism,
            operators: operators.into_values().collect(),
            objects: objects.into_values().collect(),
            sizes: CheckpointSizes { new_bytes, full_bytes },
        })
    }

    fn retain(&mut self) {
        failpoint("mid-retention");
        self.sweep(SweepScope::Trimmed);
    }

    fn sweep(&mut self, scope: SweepScope) {
        if let Err(error) = self.runtime.block_on(self.log.collect_garbage(scope)) {
            // What stays is found by the next run of the retention.
            tracing::warn!(%error, "old checkpoints could not be removed");
        }
    }

    fn close(mut self, outcome: &Outcome) {
        let on_delete = self.job.resource.spec.checkpoint.as_ref().map(|policy| policy.on_delete());
        if *outcome == Outcome::Cancelled && on_delete == Some(DeletionPolicy::Delete) {
            if let Err(error) = self.runtime.block_on(self.log.delete_job(now_ms())) {
                tracing::warn!(%error, "the cancelled job's checkpoints could not all be deleted");
            }
            return;
        }
        let (reason, message) = match outcome {
            Outcome::Finished => (CloseReason::Finished, String::new()),
            Outcome::Stopped { savepoint } => (CloseReason::Stopped, savepoint.clone().unwrap_or_default()),
            Outcome::Cancelled => (CloseReason::Cancelled, String::new()),
            Outcome::Failed { reason } => (CloseReason::Failed, reason.clone()),
            Outcome::Fenced { .. } => return,
        };
        if let Err(error) = self.runtime.block_on(self.log.close(reason, message, now_ms())) {
            tracing::warn!(%error, "the end of the job could not be noted in its log");
        }
    }
}

fn state_schemas(keyed: &KeyedStateHandle) -> Vec<StateSchema> {
    keyed.states.iter().map(|state| state.schema.clone()).collect()
}

pub(crate) fn now_ms() -> u64 {
    (now_us() / 1000).max(0) as u64
}
