//! The side of the runner that waits for storage: starts attempts from checkpoints, completes checkpoints, removes
//! old ones. One thread, so that what it is asked for happens in order.

use crate::attempt::{DeployError, check_fit, settle_sinks};
use crate::control::{ControlEvent, StartPoint};
use crate::ended_splits::ended_splits;
use crate::failpoint::failpoint;
use crate::job::Job;
use crate::physical::PhysicalPlan;
use crate::restore::{Look, RestoreState, damage, subtask_manifest};
use crate::savepoint;
use crate::sink_commits::of_sinks;
use crate::start::{FallBack, meaning_of_going_back, not_restorable};
use crate::task::{TaskSnapshot, now_us};
use crate::worker::RestoreFrom;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use weir_coordinator::{Acknowledged, ObjectBytes, Outcome};
use weir_crds::streamjob::DeletionPolicy;
use weir_model::{AttemptNumber, CheckpointId, Durable, Fence, KeyGroupRange, StateSchema};
use weir_snapshot::log::{CloseReason, Completion, RestorePoint};
use weir_snapshot::retention::SweepScope;
use weir_snapshot::{
    CheckpointManifest, CheckpointSizes, CommitLog, LogError, ObjectPath, ObjectRef, OperatorManifest, Retention,
};
use weir_state::KeyedStateHandle;

/// Begins under the entry with which the log was opened; those after it have one of their own.
const FIRST_ATTEMPT: AttemptNumber = AttemptNumber(1);

pub(crate) enum StorageRequest {
    /// Find what the attempt starts from.
    Locate {
        fence: Fence,
        /// With the parallelism of the attempt.
        job: Arc<Job>,
        is_rescale: bool,
    },
    /// All that was located could be read: let sinks stand exactly there.
    Settle {
        fence: Fence,
    },
    Complete {
        acknowledged: Acknowledged<TaskSnapshot>,
        /// What the workers wrote for it.
        objects: Vec<ObjectRef>,
        /// The oldest checkpoint that a task may still build on.
        protect_from: Option<CheckpointId>,
    },
    Retain,
    Pin {
        checkpoint: CheckpointId,
        is_pinned: bool,
        answer: tokio::sync::oneshot::Sender<Result<(), LogError>>,
    },
    Close {
        outcome: Outcome,
    },
}

pub(crate) struct StorageThread {
    pub(crate) job: Arc<Job>,
    pub(crate) log: CommitLog,
    pub(crate) retention: Retention,
    pub(crate) fall_back: FallBack,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) events: Sender<ControlEvent>,
    /// What the attempt that is being started starts from.
    pub(crate) located: Option<Located>,
    /// Since the last attempt was started.
    pub(crate) appended: Option<CheckpointId>,
}

pub(crate) struct Located {
    fence: Fence,
    restore: Option<(Durable<CheckpointId>, RestoreState)>,
}

impl StorageThread {
    pub(crate) fn run(mut self, requests: Receiver<StorageRequest>) {
        let epoch = self.log.epoch().0;
        let _around = tracing::error_span!("storage", job = %self.job.name, epoch).entered();
        for request in requests {
            match request {
                StorageRequest::Locate { fence, job, is_rescale } => {
                    self.job = job;
                    // What a rescale starts from was appended a moment ago.
                    let verified = if is_rescale { Ok(()) } else { self.verified() };
                    let result = verified.and_then(|()| self.locate(fence, is_rescale));
                    self.events.send(ControlEvent::Located { fence, result }).ok();
                }
                StorageRequest::Settle { fence } => {
                    let event = self.settle(fence);
                    self.events.send(event).ok();
                }
                StorageRequest::Complete { acknowledged, objects, protect_from } => {
                    failpoint("before-manifest");
                    let checkpoint = acknowledged.checkpoint;
                    let event = match self.manifest(acknowledged, &objects) {
                        Err(reason) => ControlEvent::AppendFailed { checkpoint, reason },
                        Ok(manifest) => self.append(manifest, protect_from),
                    };
                    failpoint("after-manifest");
                    self.events.send(event).ok();
                }
                StorageRequest::Retain => self.retain(),
                StorageRequest::Pin { checkpoint, is_pinned, answer } => {
                    // Who asked may have gone.
                    answer.send(self.pin(checkpoint, is_pinned)).ok();
                }
                StorageRequest::Close { outcome } => {
                    let events = self.events.clone();
                    let fenced_by = self.close(&outcome);
                    events.send(ControlEvent::Closed { fenced_by }).ok();
                    return;
                }
            }
        }
    }

    /// What an attempt begins with is done by the job's owner only: what the sinks of another coordinator have prepared
    /// meanwhile is not ours to abort.
    fn verified(&mut self) -> Result<(), DeployError> {
        self.runtime.block_on(self.log.verify()).map_err(|error| {
            if let LogError::Fenced { reason, .. } = &error {
                self.events.send(ControlEvent::Fenced { by: reason.clone() }).ok();
            }
            DeployError { reason: error.to_string(), is_fatal: false }
        })
    }

    /// Finds what the attempt starts from.
    fn locate(&mut self, fence: Fence, is_rescale: bool) -> Result<StartPoint, DeployError> {
        // Of a rescale the job is silent: nothing has failed, what aborted checkpoints left is found by a later sweep,
        // and the checkpoint was completed here a moment ago.
        let fresh = self.appended.take().filter(|_| is_rescale);
        if fresh.is_none() {
            // What crashes and aborted checkpoints left behind goes before anything new is written.
            self.sweep(SweepScope::Everything);
        }
        let (start_point, restore) = match self.log.history().restore_point() {
            None => (StartPoint::default(), None),
            Some(RestorePoint::Checkpoint { checkpoint }) => {
                let (checkpoint, because) =
                    if fresh == Some(checkpoint) { (checkpoint, String::new()) } else { self.readable(checkpoint)? };
                let not_there = || fatal(format!("checkpoint {checkpoint} is not in the log"));
                let manifest = self.log.history().checkpoint(checkpoint).ok_or_else(not_there)?;
                let proof = self.log.proof(checkpoint).ok_or_else(not_there)?;
                let restore = RestoreState::of(manifest).map_err(fatal)?;
                let from = RestoreFrom::Checkpoint(Arc::new(manifest.clone()));
                (
                    StartPoint {
                        restore: Some(from),
                        words: Some(format!("checkpoint {checkpoint}{because}")),
                        wanted: self.wanted(&restore),
                    },
                    Some((proof, restore)),
                )
            }
            Some(RestorePoint::Location { uri }) => {
                let (proof, restore, _) =
                    savepoint::open(&self.job, &uri, &self.runtime).map_err(|error| fatal(error.to_string()))?;
                let from = RestoreFrom::Savepoint(uri.clone());
                (StartPoint { restore: Some(from), words: Some(uri), wanted: vec![] }, Some((proof, restore)))
            }
        };
        if let Some((_, restore)) = &restore {
            check_fit(&self.job, restore.max_parallelism, &restore.operators)?;
        }
        self.located = Some(Located { fence, restore });
        Ok(start_point)
    }

    /// By slot: where the state stands that its subtasks start from.
    fn wanted(&self, restore: &RestoreState) -> Vec<ObjectBytes> {
        let graph = &self.job.graph;
        let mut wanted = vec![ObjectBytes::new(); PhysicalPlan::of(graph).slots() as usize];
        for node in &graph.nodes {
            let Some(restored) = restore.operators.get(&node.uid) else { continue };
            for (slot, wanted) in (0..node.parallelism).zip(&mut wanted) {
                let key_groups = KeyGroupRange::of_subtask(slot, node.parallelism, graph.max_parallelism);
                let meets = |handle: &&KeyedStateHandle| handle.key_groups.intersect(&key_groups).is_some();
                for segment in restored.keyed.iter().filter(meets).flat_map(KeyedStateHandle::segments) {
                    *wanted.entry(segment.object.clone()).or_default() += segment.length;
                }
            }
        }
        wanted
    }

    /// Lets sinks stand exactly where the attempt starts; a coordinator that was taken over meanwhile learns of it
    /// before that, and touches nothing of its successor's.
    fn settle(&mut self, fence: Fence) -> ControlEvent {
        let begun = match fence.attempt {
            FIRST_ATTEMPT => self.runtime.block_on(self.log.begin_first_attempt()),
            _ => self.runtime.block_on(self.log.begin_attempt(now_ms())),
        };
        let result = match begun {
            Err(LogError::Fenced { reason, .. }) => return ControlEvent::Fenced { by: reason },
            Err(error) => Err(DeployError { reason: error.to_string(), is_fatal: false }),
            Ok(opening) => self.settle_sinks(fence).map(|()| opening),
        };
        ControlEvent::Settled { fence, result }
    }

    fn settle_sinks(&mut self, fence: Fence) -> Result<(), DeployError> {
        let located = self.located.take().filter(|located| located.fence == fence);
        let located = located.ok_or_else(|| fatal("sinks are settled before a restore point is located".to_owned()))?;
        failpoint("before-settle");
        settle_sinks(&self.job, fence, located.restore.as_ref())
    }

    /// The checkpoint itself, or, with the user's consent and where it cannot be read, the newest before it that can;
    /// and then why, in words. The log says so before anything is started from there.
    fn readable(&mut self, wanted: CheckpointId) -> Result<(CheckpointId, String), DeployError> {
        let may_fall_back = self.fall_back.is_allowed_from(wanted);
        // With the consent each byte is read twice; without it, what is wrong with one is found by who reads it.
        let look = if may_fall_back { Look::EveryByte } else { Look::Presence };
        let mut checkpoint = wanted;
        let mut found = vec![];
        // Each step is to an older one of those that the log holds.
        while let Some(reason) = self.damage_of(checkpoint, look)? {
            if !may_fall_back {
                return Err(fatal(not_restorable(checkpoint, &reason)));
            }
            found.push(format!("checkpoint {checkpoint} cannot be read: {reason}"));
            let before = self.log.history().checkpoint_before(checkpoint).map(|manifest| manifest.checkpoint);
            checkpoint = before.ok_or_else(|| {
                fatal(format!("{}; and no older checkpoint is retained to go back to", found.join("; ")))
            })?;
        }
        if found.is_empty() {
            return Ok((wanted, String::new()));
        }
        let found = found.join("; ");
        tracing::warn!("{found}. {}", meaning_of_going_back(&self.job.resource.spec, checkpoint));
        self.runtime
            .block_on(self.log.fall_back(checkpoint, now_ms()))
            .map_err(|error| DeployError { reason: error.to_string(), is_fatal: false })?;
        Ok((checkpoint, format!(", because {found}")))
    }

    fn damage_of(&self, checkpoint: CheckpointId, look: Look) -> Result<Option<String>, DeployError> {
        let manifest = self.log.history().checkpoint(checkpoint);
        let manifest = manifest.ok_or_else(|| fatal(format!("checkpoint {checkpoint} is not in the log")))?;
        let transient = |reason: String| DeployError { reason, is_fatal: false };
        damage(manifest, self.log.folder(), look, &self.runtime).map_err(transient)
    }

    fn append(&mut self, manifest: CheckpointManifest, protect_from: Option<CheckpointId>) -> ControlEvent {
        let checkpoint = manifest.checkpoint;
        let CheckpointSizes { new_bytes, full_bytes, in_flight_bytes } = manifest.sizes;
        let objects = manifest.objects.iter().map(|object| object.path.as_str().to_owned()).collect();
        let of_sinks = match of_sinks(&self.job, &manifest) {
            Ok(of_sinks) => of_sinks,
            Err(reason) => return ControlEvent::AppendFailed { checkpoint, reason },
        };
        let ended = match ended_splits(&manifest) {
            Ok(ended) => ended,
            Err(reason) => return ControlEvent::AppendFailed { checkpoint, reason },
        };
        let completion = self.log.complete_for_certain(manifest, &self.retention, protect_from, now_ms());
        match self.runtime.block_on(completion) {
            Completion::Completed(checkpoint) => {
                self.appended = Some(*checkpoint.get());
                ControlEvent::Appended { checkpoint, new_bytes, full_bytes, in_flight_bytes, objects, of_sinks, ended }
            }
            Completion::Failed { reason } => ControlEvent::AppendFailed { checkpoint, reason },
            Completion::Fenced { by } => ControlEvent::Fenced { by },
        }
    }

    fn manifest(
        &self,
        acknowledged: Acknowledged<TaskSnapshot>,
        written: &[ObjectRef],
    ) -> Result<CheckpointManifest, String> {
        let Acknowledged { fence, checkpoint, kind, is_unaligned, triggered_ms, parts } = acknowledged;
        let new_bytes = written.iter().map(|object| object.length).sum();
        // What it may name: what was written for it, and what retained checkpoints hold.
        let retained = self.log.history().checkpoints().chain(self.log.pinned());
        let known = retained.flat_map(|manifest| &manifest.objects).chain(written);
        let known: BTreeMap<&ObjectPath, &ObjectRef> = known.map(|object| (&object.path, object)).collect();
        let mut objects: BTreeMap<ObjectPath, ObjectRef> = BTreeMap::new();
        let mut operators: BTreeMap<_, OperatorManifest> = BTreeMap::new();
        let (mut full_bytes, mut in_flight_bytes) = (0, 0);
        for (task, snapshot) in parts {
            for node in snapshot {
                let parallelism = self.job.graph.nodes.iter().find(|candidate| candidate.uid == node.uid);
                let operator = operators.entry(node.uid.clone()).or_insert_with(|| OperatorManifest {
                    uid: node.uid.clone(),
                    parallelism: parallelism.map_or(1, |node| node.parallelism),
                    states: node.keyed.as_ref().map_or(vec![], state_schemas),
                    subtasks: vec![],
                });
                let in_flight = node.in_flight.iter().map(|in_flight| &in_flight.segment);
                in_flight_bytes += in_flight.clone().map(|segment| segment.length).sum::<u64>();
                for segment in node.keyed.iter().flat_map(|keyed| keyed.segments()).chain(in_flight) {
                    full_bytes += segment.length;
                    let path = ObjectPath::parse(&segment.object).map_err(|error| error.to_string())?;
                    let object = known.get(&path).copied();
                    let object = object.ok_or_else(|| format!("`{path}` is no object of a retained checkpoint"))?;
                    objects.entry(path).or_insert_with(|| object.clone());
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
            unaligned: is_unaligned,
            epoch: fence.epoch,
            attempt: fence.attempt,
            started_at_ms: triggered_ms,
            completed_at_ms: now_ms(),
            max_parallelism: self.job.graph.max_parallelism,
            operators: operators.into_values().collect(),
            objects: objects.into_values().collect(),
            sizes: CheckpointSizes { new_bytes, full_bytes, in_flight_bytes },
        })
    }

    fn retain(&mut self) {
        failpoint("mid-retention");
        self.sweep(SweepScope::Trimmed);
    }

    fn pin(&mut self, checkpoint: CheckpointId, is_pinned: bool) -> Result<(), LogError> {
        match is_pinned {
            true => self.runtime.block_on(self.log.pin(checkpoint)),
            false => self.runtime.block_on(self.log.unpin(checkpoint)),
        }
    }

    fn sweep(&mut self, scope: SweepScope) {
        if let Err(error) = self.runtime.block_on(self.log.collect_garbage(scope)) {
            // What stays is found by the next run of the retention.
            tracing::warn!(%error, "old checkpoints could not be removed");
        }
    }

    /// Returns what fences this coordinator, where that is found out only now.
    fn close(mut self, outcome: &Outcome) -> Option<String> {
        let on_delete = self.job.resource.spec.checkpoint.as_ref().map(|policy| policy.on_delete());
        if *outcome == Outcome::Cancelled && on_delete == Some(DeletionPolicy::Delete) {
            if let Err(error) = self.runtime.block_on(self.log.delete_job(now_ms())) {
                tracing::warn!(%error, "the cancelled job's checkpoints could not all be deleted");
            }
            return None;
        }
        let (reason, message) = match outcome {
            Outcome::Finished => (CloseReason::Finished, String::new()),
            Outcome::Stopped { savepoint } => (CloseReason::Stopped, savepoint.clone().unwrap_or_default()),
            Outcome::Cancelled => (CloseReason::Cancelled, String::new()),
            Outcome::Failed { reason } => (CloseReason::Failed, reason.clone()),
            Outcome::Fenced { .. } => return None,
        };
        match self.runtime.block_on(self.log.close(reason, message, now_ms())) {
            Ok(_) => None,
            // Whatever came to an end here: the job goes on elsewhere.
            Err(LogError::Fenced { reason, .. }) => Some(reason),
            Err(error) => {
                tracing::warn!(%error, "the end of the job could not be noted in its log");
                None
            }
        }
    }
}

fn fatal(reason: String) -> DeployError {
    DeployError { reason, is_fatal: true }
}

fn state_schemas(keyed: &KeyedStateHandle) -> Vec<StateSchema> {
    keyed.states.iter().map(|state| state.schema.clone()).collect()
}

pub(crate) fn now_ms() -> u64 {
    (now_us() / 1000).max(0) as u64
}
