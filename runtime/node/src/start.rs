//! Taking a job over: its commit log opened, what it starts from decided and written down.

use crate::job::Job;
use crate::run::alignment_mode;
use crate::storage_thread::now_ms;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use weir_coordinator::{CheckpointConfig, CheckpointMode, Config, RestartStrategy};
use weir_crds::streamjob::{self as crd, EffectiveRestart, StreamJobSpec};
use weir_dataflow::alignment::AlignmentMode;
use weir_model::CheckpointId;
use weir_snapshot::log::{CloseReason, Opened as OpenedRecord, RestorePoint};
use weir_snapshot::{
    CommitLog, JobFolder, JobHistory, LogError, LogOptions, OpenError, Retention, Storage, WriterId, open_storage,
    read_history,
};

/// The timeout of the final checkpoint of a job that takes no others.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// The latest checkpoint; empty if the job never ran.
    Latest,
    /// Empty, whatever there is.
    Nothing,
    Checkpoint(CheckpointId),
    /// A savepoint's address.
    Savepoint(String),
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

    fn storage(error: impl Display) -> Self {
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
}

/// The job's folder on its storage.
pub fn job_folder(job: &Job) -> Result<JobFolder, StartError> {
    let uri = job.storage_uri();
    if let Some(path) = uri.strip_prefix("file://") {
        std::fs::create_dir_all(path).map_err(|error| StartError::Storage(format!("`{path}`: {error}")))?;
    }
    let storage: Arc<dyn Storage> = open_storage(&uri).map_err(StartError::storage)?;
    JobFolder::of_job(storage, &job.uid).map_err(StartError::storage)
}

/// Opens the log; whoever ran the job before is fenced from here on.
pub(crate) async fn open(job: &Job, from: &StartFrom) -> Result<Opened, StartError> {
    let folder = job_folder(job)?;
    let before = read_history(&folder).await.map_err(StartError::storage)?;
    let is_finished = before.closed().is_some_and(|closed| closed.reason == CloseReason::Finished);
    if is_finished && *from == StartFrom::Latest {
        return Err(StartError::AlreadyFinished);
    }
    let fingerprint = fingerprint(&job.resource.spec);
    let choose = |history: &JobHistory| {
        Ok::<_, StartError>(OpenedRecord {
            restored_from: restore_point(history, from)?,
            job_fingerprint: fingerprint.clone(),
        })
    };
    let opened = CommitLog::open(folder.clone(), WriterId::random(), LogOptions::default(), now_ms(), choose).await;
    let log = opened.map_err(|error| match error {
        OpenError::Log(error @ LogError::Broken(_)) => StartError::Storage(format!(
            "{error}. The job is not started without it: restore the object from a copy, or begin elsewhere with --from"
        )),
        OpenError::Log(error) => StartError::storage(error),
        OpenError::Refused(error) => error,
    })?;
    let (config, mode) = coordinator_config(&job.resource.spec);
    Ok(Opened { log, folder, config, retention: retention(&job.resource.spec), mode })
}

fn restore_point(history: &JobHistory, from: &StartFrom) -> Result<Option<RestorePoint>, StartError> {
    match from {
        StartFrom::Latest => Ok(history.restore_point()),
        StartFrom::Nothing => Ok(None),
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

/// Tells versions of the job apart, for people who read the log.
fn fingerprint(spec: &StreamJobSpec) -> String {
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
        EffectiveRestart::ExponentialDelay { initial, max, multiplier, jitter, reset_after, max_attempts } => {
            RestartStrategy::ExponentialDelay {
                initial_ms: ms(initial),
                max_ms: ms(max),
                multiplier,
                jitter,
                reset_after_ms: ms(reset_after),
                max_attempts,
            }
        }
        EffectiveRestart::FixedDelay { attempts, delay } => {
            RestartStrategy::FixedDelay { attempts, delay_ms: ms(delay) }
        }
        EffectiveRestart::FailureRate { max_failures, interval, delay } => {
            RestartStrategy::FailureRate { max_failures, interval_ms: ms(interval), delay_ms: ms(delay) }
        }
        EffectiveRestart::None => RestartStrategy::None,
    }
}
