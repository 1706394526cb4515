//! The side of a coordinator's process that waits for storage: as the node's storage thread, one request after the
//! other.

use crate::bugs::Bug;
use crate::coordinator::CoordinatorInput;
use crate::external::External;
use crate::job::{JOB_UID, aggregate_uid, shape, sink_uid, source_uid};
use crate::messages::{RestoreFrom, TaskSnapshot};
use crate::scenario::Scenario;
use crate::storage::SimStorage;
use crate::store::SimStore;
use crate::world::{Clock, Input, Post};
use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use weir_coordinator::{Acknowledged, DeployFailure, Inherited, LeftRunning, Outcome, RequestId};
use weir_model::{AttemptNumber, CheckpointId, CommitPermit, Durable, Epoch, Fence, StateSchema, SubtaskId};
use weir_snapshot::log::{Began, CloseReason, Completion, Opened, RestorePoint};
use weir_snapshot::retention::SweepScope;
use weir_snapshot::savepoint::{SavepointManifest, SavepointOperator, SavepointReader, SavepointWriter, state_columns};
use weir_snapshot::{
    CheckpointManifest, CheckpointSizes, CommitLog, JobFolder, JobHistory, LogError, LogOptions, ObjectPath, ObjectRef,
    OpenError, OperatorManifest, Storage, SubtaskManifest, WriterId, read_history,
};
use weir_state::{KeyedStateHandle, MemorySegments, SegmentRef, StateError};

pub(crate) enum KeeperRequest {
    Locate { fence: Fence, parallelism: u32 },
    Settle { fence: Fence },
    Complete { acknowledged: Acknowledged<TaskSnapshot>, objects: Vec<ObjectRef>, protect_from: Option<CheckpointId> },
    Retain,
    Close { outcome: Outcome },
}

/// What keeping the job's storage takes.
#[derive(Clone)]
pub(crate) struct Keeping {
    pub(crate) clock: Clock,
    pub(crate) storage: SimStorage,
    pub(crate) external: Rc<RefCell<External>>,
    pub(crate) scenario: Rc<Scenario>,
    pub(crate) parallelism: u32,
    pub(crate) bug: Option<Bug>,
    pub(crate) post: Post,
}

struct Keeper {
    keeping: Keeping,
    log: CommitLog,
    located: Option<Located>,
}

/// What the attempt that is being started starts from.
struct Located {
    fence: Fence,
    proof: Option<Durable<CheckpointId>>,
    subtasks: Vec<SubtaskManifest>,
}

/// Opens the log, then does what it is asked for. `savepoint`: the user says that the job begins there, unless it has
/// begun there already.
pub(crate) async fn keep(keeping: Keeping, savepoint: Option<String>, mut requests: UnboundedReceiver<KeeperRequest>) {
    let say = |input| keeping.post.send(Input::Coordinator(input));
    let log = match open(&keeping, savepoint).await {
        Ok(log) => log,
        Err(OpenError::Refused(AtItsEnd)) => return say(CoordinatorInput::AlreadyFinished),
        Err(OpenError::Log(error)) => return say(CoordinatorInput::NotOpened { reason: error.to_string() }),
    };
    let inherited = inherited(&log, keeping.parallelism);
    say(CoordinatorInput::Opened { epoch: log.epoch(), next_checkpoint: log.next_checkpoint(), inherited });
    let mut keeper = Keeper { keeping: keeping.clone(), log, located: None };
    while let Some(request) = requests.next().await {
        match request {
            KeeperRequest::Locate { fence, parallelism } => {
                keeper.keeping.parallelism = parallelism;
                let result = keeper.locate(fence).await;
                say(CoordinatorInput::Located { fence, result });
            }
            KeeperRequest::Settle { fence } => {
                let result = keeper.settle(fence).await;
                say(CoordinatorInput::Settled { fence, result });
            }
            KeeperRequest::Complete { acknowledged, objects, protect_from } => {
                let checkpoint = acknowledged.checkpoint;
                say(match keeper.manifest(acknowledged, &objects) {
                    Err(reason) => CoordinatorInput::AppendFailed { checkpoint, reason },
                    Ok(manifest) => keeper.append(manifest, protect_from).await,
                });
            }
            KeeperRequest::Retain => {
                keeper.sweep(SweepScope::Trimmed).await;
                if keeping.bug == Some(Bug::DeletesWhatIsShared) {
                    keeper.delete_older().await;
                }
            }
            KeeperRequest::Close { outcome } => {
                let fenced_by = keeper.close(&outcome).await;
                return say(CoordinatorInput::Closed { fenced_by });
            }
        }
    }
}

/// What the coordinator before this one may have left running.
fn inherited(log: &CommitLog, parallelism: u32) -> Option<Inherited> {
    let found = log.history().left_running()?;
    Some(Inherited {
        left_running: match found.began {
            Began::Under(opening) => LeftRunning::Under(opening),
            Began::As(fence) => LeftRunning::As(fence),
        },
        shape: shape(parallelism),
        stands_on: found.stands_on.and_then(|checkpoint| log.proof(checkpoint)),
        oldest: log.history().checkpoints().next().map(|manifest| manifest.checkpoint),
        opening: log.history().entries.last()?.number,
    })
}

/// The job has finished before.
struct AtItsEnd;

async fn open(keeping: &Keeping, savepoint: Option<String>) -> Result<CommitLog, OpenError<AtItsEnd>> {
    let folder = keeping.folder();
    let choose = |history: &JobHistory| {
        if history.closed().is_some_and(|closed| closed.reason == CloseReason::Finished) {
            return Err(AtItsEnd);
        }
        // A start from a savepoint is asked for once, where the job was stopped with it: what was started from it goes on
        // from what came after.
        let restored_from = match &savepoint {
            Some(uri) if history.closed().is_some_and(|closed| closed.message == *uri) => {
                Some(RestorePoint::Location { uri: uri.clone() })
            }
            _ => history.restore_point(),
        };
        Ok(Opened { restored_from, job_fingerprint: format!("p{}", keeping.parallelism) })
    };
    let options = LogOptions { attempts: 3, backoff_ms: 0, ..LogOptions::default() };
    let owner = WriterId::named(keeping.post.pid.to_string());
    CommitLog::open(folder, owner, options, keeping.clock.now_ms(), choose).await
}

impl Keeping {
    fn folder(&self) -> JobFolder {
        JobFolder::of_job(Arc::new(self.storage.clone()), JOB_UID).expect("a valid name")
    }
}

impl Keeper {
    async fn verified(&mut self) -> Result<(), DeployFailure> {
        if self.keeping.bug == Some(Bug::AbortsNewerEpochs) {
            return Ok(());
        }
        let verified = self.log.verify().await;
        self.owned(verified)
    }

    /// The entry of the log under which the attempt's sinks are settled.
    async fn begin(&mut self, fence: Fence) -> Result<u64, DeployFailure> {
        if self.keeping.bug == Some(Bug::AbortsNewerEpochs) {
            return Ok(0);
        }
        let begun = match fence.attempt {
            AttemptNumber(1) => self.log.begin_first_attempt().await,
            _ => self.log.begin_attempt(self.keeping.clock.now_ms()).await,
        };
        self.owned(begun)
    }

    fn owned<T>(&self, result: Result<T, LogError>) -> Result<T, DeployFailure> {
        result.map_err(|error| {
            if let LogError::Fenced { reason, .. } = &error {
                self.keeping.post.send(Input::Coordinator(CoordinatorInput::Fenced { by: reason.clone() }));
            }
            transient(error.to_string())
        })
    }

    /// Finds what the attempt starts from.
    async fn locate(&mut self, fence: Fence) -> Result<Option<RestoreFrom>, DeployFailure> {
        self.verified().await?;
        self.sweep(SweepScope::Everything).await;
        let (restore, proof, subtasks) = match self.restore_point() {
            None => (None, None, vec![]),
            Some(RestorePoint::Checkpoint { checkpoint }) => {
                let not_there = || fatal(format!("checkpoint {checkpoint} is not in the log"));
                let manifest = self.log.history().checkpoint(checkpoint).ok_or_else(not_there)?.clone();
                let proof = self.log.proof(checkpoint).ok_or_else(not_there)?;
                self.look_for_objects(&manifest).await?;
                let subtasks = subtasks_of(&manifest.operators);
                (Some(RestoreFrom::Checkpoint(Arc::new(manifest))), Some(proof), subtasks)
            }
            Some(RestorePoint::Location { uri }) => {
                let path = ObjectPath::parse(&uri).map_err(|error| fatal(error.to_string()))?;
                let reader = SavepointReader::open(Arc::new(self.keeping.storage.clone()), path).await;
                let reader = reader.map_err(|error| transient(error.to_string()))?;
                let sink = reader.manifest().operators.iter().find(|operator| operator.uid == sink_uid());
                let subtasks = sink.map_or(vec![], |operator| operator.subtasks.clone());
                (Some(RestoreFrom::Savepoint(uri)), Some(reader.proof()), subtasks)
            }
        };
        self.located = Some(Located { fence, proof, subtasks });
        Ok(restore)
    }

    /// Lets the sink stand exactly where the attempt starts.
    async fn settle(&mut self, fence: Fence) -> Result<u64, DeployFailure> {
        let located = self.located.take().filter(|located| located.fence == fence);
        let located = located.ok_or_else(|| fatal("nothing is located".to_owned()))?;
        let opening = self.begin(fence).await?;
        self.settle_sink(fence, located.proof.as_ref(), located.subtasks).await?;
        Ok(opening)
    }

    fn restore_point(&self) -> Option<RestorePoint> {
        let point = self.log.history().restore_point();
        if let (Some(Bug::RestoresOneTooOld), Some(RestorePoint::Checkpoint { checkpoint })) =
            (self.keeping.bug, &point)
            && let Some(before) = self.log.history().checkpoint_before(*checkpoint)
        {
            return Some(RestorePoint::Checkpoint { checkpoint: before.checkpoint });
        }
        point
    }

    async fn look_for_objects(&self, manifest: &CheckpointManifest) -> Result<(), DeployFailure> {
        let folder = self.log.folder();
        for object in &manifest.objects {
            match folder.storage().head(&folder.path(&object.path)).await {
                Ok(length) if length == object.length => {}
                Ok(length) => return Err(fatal(format!("`{}` has {length} bytes", object.path))),
                Err(error) if error.is_not_found() => return Err(fatal(format!("`{}` is missing", object.path))),
                Err(error) => return Err(transient(error.to_string())),
            }
        }
        Ok(())
    }

    /// Makes visible what the restored checkpoint completed, and removes what later ones prepared.
    async fn settle_sink(
        &self,
        fence: Fence,
        proof: Option<&Durable<CheckpointId>>,
        subtasks: Vec<SubtaskManifest>,
    ) -> Result<(), DeployFailure> {
        let mut transactions: Vec<String> = vec![];
        for sink in subtasks.into_iter().filter_map(|subtask| subtask.sink) {
            let own: Vec<String> = serde_json::from_value(sink).map_err(|error| fatal(error.to_string()))?;
            transactions.extend(own);
        }
        if let Some(proof) = proof.filter(|_| self.keeping.bug != Some(Bug::NoCommitAtRestore)) {
            let permit = CommitPermit::for_durable(proof, fence);
            for transaction in &transactions {
                self.keeping.storage.pause(1).await;
                self.keeping.external.borrow_mut().commit(transaction, permit).map_err(fatal)?;
            }
        }
        self.keeping.storage.pause(2).await;
        let up_to = match self.keeping.bug {
            Some(Bug::AbortsNewerEpochs) => Epoch(u64::MAX),
            _ => fence.epoch,
        };
        self.keeping.external.borrow_mut().abort_others(&transactions, up_to);
        Ok(())
    }

    async fn append(&mut self, manifest: CheckpointManifest, protect_from: Option<CheckpointId>) -> CoordinatorInput {
        let checkpoint = manifest.checkpoint;
        let (retention, now_ms) = (self.keeping.scenario.retention, self.keeping.clock.now_ms());
        match self.log.complete_for_certain(manifest, &retention, protect_from, now_ms).await {
            Completion::Completed(checkpoint) => CoordinatorInput::Appended { checkpoint },
            Completion::Failed { reason } => CoordinatorInput::AppendFailed { checkpoint, reason },
            Completion::Fenced { by } => CoordinatorInput::Fenced { by },
        }
    }

    fn manifest(
        &self,
        acknowledged: Acknowledged<TaskSnapshot>,
        written: &[ObjectRef],
    ) -> Result<CheckpointManifest, String> {
        let Acknowledged { fence, checkpoint, kind, is_unaligned, triggered_ms, parts } = acknowledged;
        let job = &self.keeping.scenario.job;
        let parallelism = self.keeping.parallelism;
        let operator = |uid, states| OperatorManifest { uid, parallelism, states, subtasks: vec![] };
        let mut source = operator(source_uid(), vec![]);
        let mut aggregate = operator(aggregate_uid(), job.state_schemas());
        let mut sink = operator(sink_uid(), vec![]);
        let retained = self.log.history().checkpoints().flat_map(|manifest| &manifest.objects);
        let known: BTreeMap<&ObjectPath, &ObjectRef> =
            retained.chain(written).map(|object| (&object.path, object)).collect();
        let mut objects: BTreeMap<ObjectPath, ObjectRef> = BTreeMap::new();
        for (SubtaskId { index, .. }, snapshot) in parts {
            let TaskSnapshot { splits, watermark, keyed, in_flight, transactions } = snapshot;
            let json = |error: serde_json::Error| error.to_string();
            if let Some(transactions) = transactions {
                let own = Some(serde_json::to_value(transactions).map_err(json)?);
                sink.subtasks.push(SubtaskManifest { index, sink: own, ..SubtaskManifest::default() });
                let mut own = SubtaskManifest { index, ..SubtaskManifest::default() };
                for segment in keyed.iter().flat_map(KeyedStateHandle::segments).chain(&in_flight) {
                    let path = ObjectPath::parse(&segment.object).map_err(|error| error.to_string())?;
                    let object = known.get(&path).copied();
                    let object = object.ok_or_else(|| format!("`{path}` is no object of a retained checkpoint"))?;
                    objects.entry(path).or_insert_with(|| object.clone());
                }
                own.keyed = keyed.map(serde_json::to_value).transpose().map_err(json)?;
                own.in_flight = in_flight.map(serde_json::to_value).transpose().map_err(json)?;
                own.operator = watermark.map(serde_json::to_value).transpose().map_err(json)?;
                aggregate.subtasks.push(own);
            } else {
                let splits = splits.into_iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(json)?;
                let operator = watermark.map(serde_json::to_value).transpose().map_err(json)?;
                source.subtasks.push(SubtaskManifest { index, splits, operator, ..SubtaskManifest::default() });
            }
        }
        Ok(CheckpointManifest {
            job_uid: JOB_UID.to_owned(),
            checkpoint,
            kind,
            unaligned: is_unaligned,
            epoch: fence.epoch,
            attempt: fence.attempt,
            started_at_ms: triggered_ms,
            completed_at_ms: self.keeping.clock.now_ms(),
            max_parallelism: job.max_parallelism,
            operators: vec![source, aggregate, sink],
            objects: objects.into_values().collect(),
            sizes: CheckpointSizes::default(),
        })
    }

    async fn sweep(&mut self, scope: SweepScope) {
        // What stays is found by the next run of the retention.
        self.log.collect_garbage(scope).await.ok();
    }

    /// Planted: whatever was written for a checkpoint that is not retained.
    async fn delete_older(&mut self) {
        let retained: BTreeSet<u64> = self.log.history().checkpoints().map(|manifest| manifest.checkpoint.0).collect();
        let manifests = self.log.history().checkpoints();
        let named: BTreeSet<ObjectPath> =
            manifests.flat_map(|manifest| &manifest.objects).map(|object| object.path.clone()).collect();
        for path in named {
            let folder = path.as_str().strip_prefix("chk-").and_then(|rest| rest.split_once('/'));
            let checkpoint = folder.and_then(|(number, _)| number.parse::<u64>().ok());
            if checkpoint.is_some_and(|checkpoint| !retained.contains(&checkpoint)) {
                self.log.folder().storage().delete(&self.log.folder().path(&path)).await.ok();
            }
        }
    }

    /// Returns what fences this coordinator, where that is found out only now.
    async fn close(&mut self, outcome: &Outcome) -> Option<String> {
        let (reason, message) = match outcome {
            Outcome::Finished => (CloseReason::Finished, String::new()),
            Outcome::Stopped { savepoint } => (CloseReason::Stopped, savepoint.clone().unwrap_or_default()),
            Outcome::Cancelled => (CloseReason::Cancelled, String::new()),
            Outcome::Failed { reason } => (CloseReason::Failed, reason.clone()),
            Outcome::Fenced { .. } => return None,
        };
        match self.log.close(reason, message, self.keeping.clock.now_ms()).await {
            // As in the node: whatever came to an end here, the job goes on elsewhere.
            Err(LogError::Fenced { reason, .. }) => Some(reason),
            // Without the entry the next start finds everything committed, and takes up from there.
            Ok(_) | Err(_) => None,
        }
    }
}

/// Writes a completed checkpoint as a savepoint, while the job goes on.
pub(crate) async fn write_savepoint(keeping: Keeping, request: RequestId, checkpoint: CheckpointId) {
    let folder = format!("savepoints/{}-{}", keeping.post.pid, checkpoint);
    let result = savepoint(&keeping, checkpoint, &folder).await.map(|()| folder);
    keeping.post.send(Input::Coordinator(CoordinatorInput::SavepointWritten { request, result }));
}

async fn savepoint(keeping: &Keeping, checkpoint: CheckpointId, target: &str) -> Result<(), String> {
    let source = keeping.folder();
    let history = read_history(&source).await.map_err(|error| error.to_string())?;
    let manifest = history.checkpoint(checkpoint).ok_or("its checkpoint is not in the log any more")?;
    let target = ObjectPath::parse(target).map_err(|error| error.to_string())?;
    let storage: Arc<dyn Storage> = Arc::new(keeping.storage.clone());
    let begun = SavepointWriter::begin(storage, target, manifest.max_parallelism).await;
    let writer = begun.map_err(|error| error.to_string())?;
    for operator in &manifest.operators {
        for keyed in operator.subtasks.iter().filter_map(|subtask| subtask.keyed.as_ref()) {
            let handle: KeyedStateHandle = serde_json::from_value(keyed.clone()).map_err(|error| error.to_string())?;
            let segments = fetch(&source, [&handle]).await.map_err(|error| error.to_string())?;
            let mut tables: Vec<(StateSchema, Vec<ArrayRef>)> = vec![];
            let keep = |schema: &StateSchema, columns| {
                tables.push((schema.clone(), columns));
                Ok::<_, StateError>(())
            };
            let exported = match &handle.cold {
                None => weir_state::export(&handle, handle.key_groups, &segments, keep),
                Some(_) => SimStore::open(std::slice::from_ref(&handle), handle.key_groups, &segments, None)
                    .and_then(|store| weir_state::export_stored(&handle, handle.key_groups, &store, keep)),
            };
            exported.map_err(|error| error.to_string())?;
            for state in &handle.states {
                let mut state_writer = writer.state(&operator.uid, &state.schema).map_err(|error| error.to_string())?;
                for (schema, columns) in tables.iter().filter(|(schema, _)| schema.name == state.schema.name) {
                    let batch = RecordBatch::try_new(state_columns(schema), columns.clone());
                    let batch = batch.map_err(|error| error.to_string())?;
                    state_writer.write(&batch).await.map_err(|error| error.to_string())?;
                }
                state_writer.finish().await.map_err(|error| error.to_string())?;
            }
        }
    }
    let without_keyed = |subtask: &SubtaskManifest| SubtaskManifest { keyed: None, ..subtask.clone() };
    let operators = manifest.operators.iter().map(|operator| SavepointOperator {
        uid: operator.uid.clone(),
        parallelism: operator.parallelism,
        states: vec![],
        subtasks: operator.subtasks.iter().map(without_keyed).collect(),
    });
    let described = SavepointManifest {
        job_uid: JOB_UID.to_owned(),
        job_name: JOB_UID.to_owned(),
        checkpoint,
        created_at_ms: keeping.clock.now_ms(),
        max_parallelism: manifest.max_parallelism,
        operators: operators.collect(),
    };
    writer.finish(described).await.map(drop).map_err(|error| error.to_string())
}

/// The objects behind these handles.
pub(crate) async fn fetch(
    folder: &JobFolder,
    handles: impl IntoIterator<Item = &KeyedStateHandle>,
) -> Result<MemorySegments, FetchError> {
    fetch_objects(folder, handles.into_iter().flat_map(KeyedStateHandle::segments)).await
}

/// The objects in which these segments stand.
pub(crate) async fn fetch_objects(
    folder: &JobFolder,
    segments: impl IntoIterator<Item = &SegmentRef>,
) -> Result<MemorySegments, FetchError> {
    let names: BTreeSet<&str> = segments.into_iter().map(|segment| segment.object.as_str()).collect();
    let segments = MemorySegments::default();
    for name in names {
        let path =
            ObjectPath::parse(name).map_err(|error| FetchError { reason: error.to_string(), is_transient: false })?;
        let content = folder.storage().get(&folder.path(&path)).await;
        let content =
            content.map_err(|error| FetchError { is_transient: error.is_transient(), reason: error.to_string() })?;
        segments.with_objects(|objects| objects.insert(name.to_owned(), content.to_vec()));
    }
    Ok(segments)
}

#[derive(Debug)]
pub(crate) struct FetchError {
    pub(crate) reason: String,
    pub(crate) is_transient: bool,
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

fn subtasks_of(operators: &[OperatorManifest]) -> Vec<SubtaskManifest> {
    operators.iter().find(|operator| operator.uid == sink_uid()).map_or(vec![], |sink| sink.subtasks.clone())
}

fn fatal(reason: String) -> DeployFailure {
    DeployFailure { reason, is_fatal: true }
}

fn transient(reason: String) -> DeployFailure {
    DeployFailure { reason, is_fatal: false }
}
