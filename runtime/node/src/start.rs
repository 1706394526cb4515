//! Taking a job over: its commit log opened, what it starts from decided and written down.

use crate::job::Job;
use crate::preflight;
use crate::run::alignment_mode;
use crate::savepoint::{self, NotOpened};
use crate::storage_thread::now_ms;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use tokio::runtime::Handle;
use weir_coordinator::{CheckpointConfig, CheckpointMode, Config, RestartStrategy};
use weir_crds::streamjob::{
    self as crd, Delivery, EffectiveRestart, IfBroken, IfMissing, RestoreOrigin, StreamJobSpec,
};
use weir_dataflow::alignment::AlignmentMode;
use weir_model::{CheckpointId, Durable};
use weir_snapshot::log::{Began, CloseReason, Mark, Opened as OpenedRecord, RestorePoint};
use weir_snapshot::storage::require_put_if_absent;
use weir_snapshot::{
    CommitLog, JobFolder, JobHistory, LogError, LogOptions, OpenError, Retention, WriterId, read_history,
};

/// The timeout of the final checkpoint of a job that takes no others.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// What `spec.restore` names, as long as the job has nothing of its own to go on with; else the latest checkpoint.
    Spec,
    /// The latest checkpoint; empty if the job never ran.
    Latest,
    /// Empty, whatever there is.
    Nothing,
    Checkpoint(CheckpointId),
    /// A savepoint's address.
    Savepoint(String),
    /// There, whatever the job has of its own: unless the log says that it was begun so under this mark, from which on it
    /// goes on with its latest checkpoint. So whoever starts coordinators anew may always say the same.
    Once {
        mark: Mark,
        from: Box<StartFrom>,
    },
}

impl StartFrom {
    /// The spec says where, and not who starts the job.
    fn goes_by_spec(&self) -> bool {
        match self {
            StartFrom::Spec => true,
            StartFrom::Once { from, .. } => **from == StartFrom::Spec,
            _ => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The job ended by itself; there is nothing to go on with.
    #[error("the job has finished")]
    AlreadyFinished,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Storage(String),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl StartError {
    pub(crate) fn thread(error: std::io::Error) -> Self {
        StartError::Thread(error)
    }

    pub(crate) fn storage(error: impl Display) -> Self {
        StartError::Storage(error.to_string())
    }
}

/// A job that this process holds.
pub(crate) struct Opened {
    pub(crate) log: CommitLog,
    pub(crate) folder: JobFolder,
    pub(crate) config: Config,
    pub(crate) retention: Retention,
    pub(crate) mode: AlignmentMode,
    pub(crate) fall_back: FallBack,
    pub(crate) left_running: Option<LeftRunning>,
}

/// An attempt of the coordinator before this one that may still run, and can be gone on with then.
#[derive(Clone, Debug)]
pub(crate) struct LeftRunning {
    pub(crate) began: Began,
    /// The checkpoint that it stands on: its commit may not have been told to everybody.
    pub(crate) stands_on: Option<Durable<CheckpointId>>,
    /// The oldest checkpoint that its tasks may still build on.
    pub(crate) oldest: Option<CheckpointId>,
    /// This coordinator's own entry, under which it is gone on with.
    pub(crate) opening: u64,
}

/// Whether the job may go back to an older checkpoint than the one that it would start from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FallBack {
    /// The user's consent: `spec.restore.ifBroken`.
    is_allowed: bool,
    /// The checkpoint that the user asked for by its number: nothing else is started from in its place.
    named: Option<CheckpointId>,
}

impl FallBack {
    pub(crate) fn is_allowed_from(&self, checkpoint: CheckpointId) -> bool {
        self.is_allowed && self.named != Some(checkpoint)
    }
}

/// The job's folder on its storage.
pub async fn job_folder(job: &Job) -> Result<JobFolder, StartError> {
    let storage = job.open_storage(&job.storage_uri()).await.map_err(StartError::storage)?;
    JobFolder::of_job(storage, &job.uid).map_err(StartError::storage)
}

/// As `job_folder`, for a coordinator: on a store without put-if-absent two of them could each believe that they
/// completed a checkpoint.
pub(crate) async fn own_folder(job: &Job) -> Result<JobFolder, StartError> {
    let folder = job_folder(job).await?;
    require_put_if_absent(&**folder.storage(), folder.folder()).await.map_err(StartError::storage)?;
    Ok(folder)
}

/// Opens the log; whoever ran the job before is fenced from here on.
pub(crate) fn open(job: &Job, from: &StartFrom, folder: JobFolder, runtime: &Handle) -> Result<Opened, StartError> {
    let before = runtime.block_on(read_history(&folder)).map_err(StartError::storage)?;
    let is_finished = before.closed().is_some_and(|closed| closed.reason == CloseReason::Finished);
    let resolved = resolve(job, &before, from)?;
    let goes_on = match from {
        StartFrom::Latest | StartFrom::Spec => true,
        StartFrom::Once { mark, .. } => before.has(mark),
        StartFrom::Nothing | StartFrom::Checkpoint(_) | StartFrom::Savepoint(_) => false,
    };
    if is_finished && goes_on {
        return Err(StartError::AlreadyFinished);
    }
    let mark = if let StartFrom::Once { mark, .. } = from { Some(mark.clone()) } else { None };
    let from = &checked(job, resolved, &before, from.goes_by_spec(), runtime)?;
    // Before the log is opened: a job that does not fit leaves everything as it is.
    let point = restore_point(&before, from)?;
    if let [reason, ..] = &preflight::of_restore_point(job, &before, point.as_ref(), runtime)?.refusals[..] {
        return Err(StartError::Refused(reason.clone()));
    }
    let spec = &job.resource.spec;
    let consents = spec.restore_if_broken() == IfBroken::OlderCheckpoint;
    let named = if let StartFrom::Checkpoint(checkpoint) = from { Some(*checkpoint) } else { None };
    // Who names another place to begin has read that the log is damaged, or needs nothing of it.
    let allow_broken = consents || *from != StartFrom::Latest;
    let fingerprint = fingerprint(spec);
    let choose = |history: &JobHistory| {
        Ok::<_, StartError>(OpenedRecord {
            // Another coordinator may have begun so since it was looked.
            restored_from: match mark.as_ref().is_some_and(|mark| history.has(mark)) {
                true => restore_point(history, &StartFrom::Latest)?,
                false => restore_point(history, from)?,
            },
            job_fingerprint: fingerprint.clone(),
        })
    };
    let options = LogOptions { allow_broken, mark: mark.clone(), ..LogOptions::default() };
    let opened = CommitLog::open(folder.clone(), WriterId::random(), options, now_ms(), choose);
    let log = runtime.block_on(opened).map_err(|error| match error {
        OpenError::Log(error @ LogError::Broken(_)) => StartError::Storage(format!(
            "{error}. The job is not started without it: restore the object from a copy, begin elsewhere with --from, \
             or let the job go on from the newest checkpoint that can be read with `restore.ifBroken: OlderCheckpoint`"
        )),
        OpenError::Log(error) => StartError::storage(error),
        OpenError::Refused(error) => error,
    })?;
    for broken in &log.history().broken {
        tracing::warn!("`{}` is passed over: {}", broken.object, broken.reason);
    }
    if let (false, StartFrom::Latest, Some(RestorePoint::Checkpoint { checkpoint })) =
        (log.history().broken.is_empty(), from, log.history().restore_point())
    {
        tracing::warn!("{}", meaning_of_going_back(spec, checkpoint));
    }
    let (config, mode) = coordinator_config(spec);
    let left_running = if *from == StartFrom::Latest { left_running(&log) } else { None };
    let fall_back = FallBack { is_allowed: consents, named };
    Ok(Opened { log, folder, config, retention: retention(spec), mode, fall_back, left_running })
}

fn left_running(log: &CommitLog) -> Option<LeftRunning> {
    let found = log.history().left_running()?;
    Some(LeftRunning {
        began: found.began,
        stands_on: found.stands_on.and_then(|checkpoint| log.proof(checkpoint)),
        oldest: log.history().checkpoints().next().map(|manifest| manifest.checkpoint),
        opening: log.history().entries.last()?.number,
    })
}

/// What `spec.restore` comes to, given what the job has of its own.
pub(crate) fn resolve(job: &Job, history: &JobHistory, from: &StartFrom) -> Result<StartFrom, StartError> {
    let has_begun =
        history.checkpoints().next().is_some() || history.restore_point().is_some() || !history.broken.is_empty();
    match from {
        StartFrom::Once { mark, .. } if history.has(mark) => Ok(StartFrom::Latest),
        StartFrom::Once { from, .. } if **from == StartFrom::Spec => by_spec(job),
        StartFrom::Once { from, .. } => Ok((**from).clone()),
        StartFrom::Spec if has_begun => Ok(StartFrom::Latest),
        StartFrom::Spec => by_spec(job),
        StartFrom::Latest | StartFrom::Nothing | StartFrom::Checkpoint(_) | StartFrom::Savepoint(_) => Ok(from.clone()),
    }
}

/// What `spec.restore` names.
fn by_spec(job: &Job) -> Result<StartFrom, StartError> {
    Ok(match job.resource.spec.restore_from() {
        RestoreOrigin::Latest => StartFrom::Latest,
        RestoreOrigin::Savepoint(name) => StartFrom::Savepoint(savepoint::target_named(job, name)),
        RestoreOrigin::Path(uri) if uri.contains("://") => StartFrom::Savepoint(uri.to_owned()),
        RestoreOrigin::Path(path) => StartFrom::Savepoint(format!("file://{}", job.folder.join(path).display())),
        RestoreOrigin::LatestOf(other) => {
            return Err(StartError::Refused(format!(
                "spec.restore.from.latest.of: only a cluster knows the savepoints of `{other}`. Name the folder of one in \
                 `restore.from.path`"
            )));
        }
        RestoreOrigin::Checkpoint(name) => {
            return Err(StartError::Refused(format!(
                "spec.restore.from.checkpoint: `{name}` is the name of a Checkpoint resource, which only a cluster \
                 has. Name the folder of a savepoint in `restore.from.path`, or the number of one of this job's \
                 checkpoints with --from"
            )));
        }
    })
}

/// Looks at a savepoint before the log says that the job starts from it: a later start goes by what the log says.
///
/// A checkpoint that is not in the job's log is copied as a savepoint first: another job's, or one that only a pin keeps.
fn checked(
    job: &Job,
    from: StartFrom,
    history: &JobHistory,
    by_spec: bool,
    runtime: &Handle,
) -> Result<StartFrom, StartError> {
    let uri = match from {
        StartFrom::Savepoint(uri) => uri,
        StartFrom::Checkpoint(id) if history.checkpoint(id).is_none() => match savepoint::of_pinned(job, id, runtime) {
            Ok(Some(uri)) => uri,
            // Who looks for it says which there are.
            Ok(None) => return Ok(from),
            Err(reason) => return Err(StartError::Storage(reason)),
        },
        _ => return Ok(from),
    };
    let opened = savepoint::of_address(job, &uri, runtime);
    let opened = opened.and_then(|uri| savepoint::open(job, &uri, runtime).map(|_| uri));
    match opened {
        Ok(uri) => Ok(StartFrom::Savepoint(uri)),
        Err(NotOpened::Missing(reason))
            if by_spec && job.resource.spec.restore_if_missing() == IfMissing::StartEmpty =>
        {
            tracing::warn!("{reason}; the job starts empty, as `restore.ifMissing: StartEmpty` says");
            Ok(StartFrom::Nothing)
        }
        Err(error) if by_spec => Err(StartError::Refused(format!("spec.restore.from: {error}"))),
        Err(error) => Err(StartError::Refused(error.to_string())),
    }
}

pub(crate) fn restore_point(history: &JobHistory, from: &StartFrom) -> Result<Option<RestorePoint>, StartError> {
    match from {
        StartFrom::Spec | StartFrom::Latest => {
            let point = history.restore_point();
            // What cannot be read may have been a newer checkpoint: without one there is nothing to go back to.
            if !history.broken.is_empty() && !matches!(point, Some(RestorePoint::Checkpoint { .. })) {
                return Err(StartError::Storage(format!(
                    "{}; and no checkpoint of the job can be read. Begin elsewhere with --from",
                    LogError::Broken(history.broken.clone())
                )));
            }
            Ok(point)
        }
        StartFrom::Nothing => Ok(None),
        StartFrom::Once { mark, .. } if history.has(mark) => restore_point(history, &StartFrom::Latest),
        StartFrom::Once { from, .. } => restore_point(history, from),
        StartFrom::Savepoint(uri) => Ok(Some(RestorePoint::Location { uri: uri.clone() })),
        StartFrom::Checkpoint(checkpoint) => {
            if history.checkpoint(*checkpoint).is_some() {
                return Ok(Some(RestorePoint::Checkpoint { checkpoint: *checkpoint }));
            }
            let there: Vec<String> = history.checkpoints().map(|manifest| manifest.checkpoint.to_string()).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            Err(StartError::Refused(format!("there is no checkpoint {checkpoint}; retained: {there}")))
        }
    }
}

/// Of a checkpoint that nobody allowed to pass over.
pub(crate) fn not_restorable(checkpoint: CheckpointId, reason: &str) -> String {
    format!(
        "checkpoint {checkpoint} cannot be restored: {reason}. Restore the object from a copy, begin elsewhere with \
         --from, or let the job go back to an older checkpoint, if one is retained, with \
         `restore.ifBroken: OlderCheckpoint`"
    )
}

/// What the user must know about a start from an older checkpoint than the last that completed.
pub(crate) fn meaning_of_going_back(spec: &StreamJobSpec, checkpoint: CheckpointId) -> String {
    let names = |upserts: bool| {
        let sinks = spec.pipeline.sinks.iter().filter(|sink| (sink.delivery() == Delivery::Upsert) == upserts);
        sinks.map(|sink| format!("`{}`", sink.name)).collect::<Vec<_>>().join(", ")
    };
    let mut meaning = format!(
        "The job goes back to checkpoint {checkpoint}, as `restore.ifBroken: OlderCheckpoint` says: state and sources' \
         positions are as they were then"
    );
    let (upsert, append) = (names(true), names(false));
    if !append.is_empty() {
        meaning += &format!(
            "; what was made visible since stays visible and is written once more, so there is no exactly once over \
             this step for {append}"
        );
    }
    if !upsert.is_empty() {
        meaning += &format!("; {upsert} will hold the same rows by key");
    }
    meaning
}

/// Tells versions of the job apart, for people who read the log.
pub(crate) fn fingerprint(spec: &StreamJobSpec) -> String {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(spec).unwrap_or_default().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn retention(spec: &StreamJobSpec) -> Retention {
    let policy = spec.checkpoint.clone().unwrap_or_default();
    Retention { count: policy.retain_count(), max_age_ms: policy.retain_max_age().map(|age| age.as_millis() as u64) }
}

fn coordinator_config(spec: &StreamJobSpec) -> (Config, AlignmentMode) {
    let checkpoints = spec.checkpoint.as_ref().map(|policy| CheckpointConfig {
        interval_ms: policy.interval().as_millis() as u64,
        min_pause_ms: policy.min_pause().as_millis() as u64,
        max_concurrent: policy.max_concurrent(),
        mode: match policy.mode() {
            crd::CheckpointMode::ExactlyOnce => CheckpointMode::ExactlyOnce,
            crd::CheckpointMode::AtLeastOnce => CheckpointMode::AtLeastOnce,
        },
        aligned_timeout_ms: policy.aligned_timeout().map(|timeout| timeout.as_millis() as u64),
    });
    let mode = checkpoints.as_ref().map_or(CheckpointMode::ExactlyOnce, |config| config.mode);
    let timeout = spec.checkpoint.as_ref().map_or(DEFAULT_TIMEOUT, |policy| policy.timeout());
    let config = Config {
        checkpoints,
        timeout_ms: timeout.as_millis() as u64,
        tolerable_failures: spec.checkpoint.as_ref().map_or(0, |policy| policy.tolerable_failures()),
        restart: restart_strategy(spec.restart()),
    };
    (config, alignment_mode(mode))
}

fn restart_strategy(restart: EffectiveRestart) -> RestartStrategy {
    let ms = |duration: Duration| duration.as_millis() as u64;
    match restart {
        EffectiveRestart::ExponentialDelay {
            initial,
            max,
            multiplier,
            jitter,
            reset_after,
            max_attempts,
            max_same_failures,
        } => RestartStrategy::ExponentialDelay {
            initial_ms: ms(initial),
            max_ms: ms(max),
            multiplier,
            jitter,
            reset_after_ms: ms(reset_after),
            max_attempts,
            max_same_failures,
        },
        EffectiveRestart::FixedDelay { attempts, delay } => {
            RestartStrategy::FixedDelay { attempts, delay_ms: ms(delay) }
        }
        EffectiveRestart::FailureRate { max_failures, interval, delay } => {
            RestartStrategy::FailureRate { max_failures, interval_ms: ms(interval), delay_ms: ms(delay) }
        }
        EffectiveRestart::None => RestartStrategy::None,
    }
}
