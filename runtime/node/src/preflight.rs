//! What a job would start from, and whether the state there fits it: said before anything is started or written.

use crate::attempt::check_fit;
use crate::job::Job;
use crate::restore::{OperatorRestore, operator_restore};
use crate::savepoint;
use crate::start::{StartError, StartFrom, job_folder, resolve, restore_point};
use std::collections::BTreeMap;
use tokio::runtime::{Handle, Runtime};
use weir_dataflow::factory::state_schemas;
use weir_model::graph::{NodeKind, StreamSchema};
use weir_model::{OperatorUid, StateSchema};
use weir_snapshot::log::{CloseReason, RestorePoint};
use weir_snapshot::{CheckpointManifest, JobHistory, read_history};
use weir_state::{Verdict, compatibility};

/// What came of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preflight {
    /// In words: `checkpoint 12`, a savepoint's address. None: the job would start empty.
    pub from: Option<String>,
    pub states: Vec<StateFit>,
    /// Why the job would not be started; empty: it would.
    pub refusals: Vec<String>,
}

/// One state of the restore point, or of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFit {
    pub operator: OperatorUid,
    pub state: String,
    pub fit: Fit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The restore point has it, and the job takes it: as it is or migrated.
    Kept(Verdict),
    /// The restore point hasn't: it starts empty.
    New,
    /// The job hasn't, and `allowNonRestoredState` lets it go.
    LetGo,
    /// The job hasn't, and nobody said that it may go.
    Unmatched,
}

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fit::Kept(verdict) => verdict.fmt(f),
            Fit::New => f.write_str("new: starts empty"),
            Fit::LetGo => f.write_str("let go, as upgrade.allowNonRestoredState says"),
            Fit::Unmatched => f.write_str("unmatched: no step of this job takes it"),
        }
    }
}

/// Compares the job with what it would start from. Reads only.
///
/// # Errors
/// What would be started from is not there or cannot be read; the job has finished.
pub fn preflight(job: &Job, from: &StartFrom) -> Result<Preflight, StartError> {
    let runtime = own_runtime()?;
    let history = existing_history(job, runtime.handle())?;
    let is_finished = history.closed().is_some_and(|closed| closed.reason == CloseReason::Finished);
    if is_finished && matches!(from, StartFrom::Latest | StartFrom::Spec) {
        return Err(StartError::AlreadyFinished);
    }
    let from = resolve(job, &history, from)?;
    let point = restore_point(&history, &from)?;
    of_restore_point(job, &history, point.as_ref(), runtime.handle())
}

/// Compares a new version of a job with what the running one would be restored from. Reads only.
pub(crate) fn against_running(new: &Job, running: &Job) -> Result<Preflight, StartError> {
    let runtime = own_runtime()?;
    let history = existing_history(running, runtime.handle())?;
    let point = restore_point(&history, &StartFrom::Latest)?;
    let mut found = of_restore_point(new, &history, point.as_ref(), runtime.handle())?;
    let (was, is) = (running.storage_uri(), new.storage_uri());
    if was != is && found.from.is_some() {
        found.refusals.push(format!(
            "the job's checkpoints stand in `{was}`, and the new spec looks for them in `{is}`: let it write a savepoint, \
             and name that in `restore.from.path`"
        ));
    }
    Ok(found)
}

/// As `preflight`, of a restore point of this log.
pub(crate) fn of_restore_point(
    job: &Job,
    history: &JobHistory,
    point: Option<&RestorePoint>,
    runtime: &Handle,
) -> Result<Preflight, StartError> {
    match point {
        None => Ok(Preflight::default()),
        Some(RestorePoint::Location { uri }) => {
            let (_, restore, _) =
                savepoint::open(job, uri, runtime).map_err(|error| StartError::Refused(error.to_string()))?;
            compare(job, uri.clone(), restore.max_parallelism, &restore.operators)
        }
        Some(RestorePoint::Checkpoint { checkpoint }) => {
            let missing = || StartError::Refused(format!("checkpoint {checkpoint} is not in the log"));
            let manifest = history.checkpoint(*checkpoint).ok_or_else(missing)?;
            compare(job, format!("checkpoint {checkpoint}"), manifest.max_parallelism, &operators(manifest)?)
        }
    }
}

fn operators(manifest: &CheckpointManifest) -> Result<BTreeMap<OperatorUid, OperatorRestore>, StartError> {
    let operators = manifest.operators.iter().map(|operator| {
        let restored = operator_restore(&operator.subtasks).map_err(|error| {
            StartError::Storage(format!("checkpoint {}, operator `{}`: {error}", manifest.checkpoint, operator.uid))
        })?;
        Ok((operator.uid.clone(), restored))
    });
    operators.collect()
}

/// With a thread of its own: what reads a log spawns tasks, which nobody would run while this thread waits for them.
fn own_runtime() -> Result<Runtime, StartError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("preflight").enable_all().build().map_err(StartError::thread)
}

/// The job's log; that of a job that never ran is empty, and nothing is created for it.
fn existing_history(job: &Job, runtime: &Handle) -> Result<JobHistory, StartError> {
    let uri = job.storage_uri();
    if uri.strip_prefix("file://").is_some_and(|path| !std::path::Path::new(path).is_dir()) {
        return Ok(JobHistory::default());
    }
    let folder = runtime.block_on(job_folder(job))?;
    runtime.block_on(read_history(&folder)).map_err(StartError::storage)
}

fn compare(
    job: &Job,
    from: String,
    max_parallelism: u32,
    operators: &BTreeMap<OperatorUid, OperatorRestore>,
) -> Result<Preflight, StartError> {
    let mut found = Preflight { from: Some(from), ..Preflight::default() };
    if let Err(error) = check_fit(job, max_parallelism, operators) {
        found.refusals.push(error.reason);
    }
    let lets_go = job.resource.spec.allow_non_restored_state();
    let mut wanted = wanted_states(job)?;
    for (uid, restored) in operators {
        let wanted = wanted.remove(uid);
        for (old, new) in pairs(restored.schemas(), wanted.clone().unwrap_or_default()) {
            let (name, fit) = match (old, new) {
                (Some(old), Some(new)) => (new.name.clone(), Fit::Kept(compatibility(&old, &new))),
                (Some(old), None) => (old.name, if lets_go { Fit::LetGo } else { Fit::Unmatched }),
                (None, Some(new)) => (new.name, Fit::New),
                (None, None) => continue,
            };
            match &fit {
                Fit::Kept(Verdict::Incompatible { why }) => {
                    found.refusals.push(format!("{uid}: the state `{name}` does not fit: {why}"));
                }
                // Of an operator that is gone as a whole all has been said.
                Fit::Unmatched if wanted.is_some() => found.refusals.push(format!(
                    "{uid}: the restore point holds the state `{name}`, which this version of the step doesn't have; \
                     set `upgrade.allowNonRestoredState: true` to let it go"
                )),
                Fit::Kept(_) | Fit::New | Fit::LetGo | Fit::Unmatched => {}
            }
            found.states.push(StateFit { operator: uid.clone(), state: name, fit });
        }
    }
    for (uid, states) in wanted {
        found.states.extend(states.into_iter().map(|new| StateFit {
            operator: uid.clone(),
            state: new.name,
            fit: Fit::New,
        }));
    }
    Ok(found)
}

/// The states that each operator of the job will register.
fn wanted_states(job: &Job) -> Result<BTreeMap<OperatorUid, Vec<StateSchema>>, StartError> {
    let graph = &job.graph;
    let mut wanted = BTreeMap::new();
    for node in &graph.nodes {
        let NodeKind::Operator(spec) = &node.kind else { continue };
        let inputs: Vec<StreamSchema> = node.inputs.iter().map(|edge| graph.node(edge.from).schema.clone()).collect();
        let states = state_schemas(spec, &inputs, &*job.registry)
            .map_err(|error| StartError::Refused(format!("{}: {error}", node.uid)))?;
        wanted.insert(node.uid.clone(), states);
    }
    Ok(wanted)
}

/// Each old state with the new one of its name.
fn pairs(old: Vec<StateSchema>, new: Vec<StateSchema>) -> Vec<(Option<StateSchema>, Option<StateSchema>)> {
    let is_old = |new: &StateSchema| old.iter().any(|old| old.name == new.name);
    let fresh: Vec<_> = new.iter().filter(|new| !is_old(new)).cloned().map(|new| (None, Some(new))).collect();
    let matched = old.into_iter().map(|old| {
        let new = new.iter().find(|new| new.name == old.name).cloned();
        (Some(old), new)
    });
    matched.chain(fresh).collect()
}
