//! What the coordinator of a job says over its REST API, as a decision needs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use weir_api::view::{
    JobPhase, JobView, PinRequest, PlanView, RescaleRequest, SavepointRequest, SavepointState as ApiSavepointState,
    SavepointView, StateFit, StopRequest,
};
use weir_api::{Address, Client, ClientError, Pem, SavepointId, Trust};

use crate::act::ActError;
use crate::build::token_of;
use crate::certificates::Authority;
use crate::names::{self, HTTPS_PORT};
use crate::world::{CompletedCheckpoint, Runtime, SavepointState};

/// A coordinator that does not answer by then counts as not reached; it is asked again soon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Storage is waited for.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);
/// The planner computes, and storage is read.
const PLAN_TIMEOUT: Duration = Duration::from_secs(30);

/// So many jobs' CAs are remembered, some 3 KB each. With more they are made anew now and then.
const REMEMBERED: usize = 20_000;

/// How each job's coordinator is asked. What it takes to believe it follows from the operator's key and the job's name,
/// and is made once.
pub struct Coordinators {
    key: Vec<u8>,
    known: Mutex<HashMap<(String, String), CoordinatorApi>>,
}

impl Coordinators {
    pub fn of(key: Vec<u8>) -> Self {
        Coordinators { key, known: Mutex::default() }
    }

    pub fn of_job(&self, namespace: &str, job: &str) -> Result<CoordinatorApi, ActError> {
        let name = (namespace.to_owned(), job.to_owned());
        if let Some(known) = self.known().get(&name) {
            return Ok(known.clone());
        }
        let made = CoordinatorApi::of(&self.key, namespace, job).map_err(ActError::Certificates)?;
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(name, made.clone());
        Ok(made)
    }

    /// The job is gone.
    pub fn forget(&self, namespace: &str, job: &str) {
        self.known().remove(&(namespace.to_owned(), job.to_owned()));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, String), CoordinatorApi>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks one job's coordinator.
#[derive(Clone)]
pub struct CoordinatorApi {
    client: Client,
    authority: Arc<str>,
}

impl CoordinatorApi {
    fn of(token_key: &[u8], namespace: &str, job: &str) -> Result<Self, String> {
        let address = format!("{}.{namespace}.svc:{HTTPS_PORT}", names::coordinator(job));
        let authority = Authority::of(token_key, namespace, job)?;
        let (name, identity) = (Arc::from(authority.name()), authority.identity().to_owned());
        // Only a process of the job gets its token. A CA is believed by its name and key, whenever its certificate ends.
        let trust = Trust::new(Pem::Text(authority.certificate(Timestamp::now())?)).with_server_name(identity);
        let client = Client::new(Address::Tls(address)).with_token(token_of(token_key, namespace, job));
        Ok(CoordinatorApi { client: client.with_trust(trust), authority: name })
    }

    /// Tells the job's CA from the one that another key of the operator would make.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// `None` while it can't be asked. `storage_id` tells whether it is this job's at all.
    pub async fn runtime(&self, storage_id: &str) -> Option<Runtime> {
        self.answered(storage_id, async { Ok((self.client.job().await?, vec![])) }).await
    }

    /// The same with the savepoints that it was asked for.
    pub async fn runtime_with_savepoints(&self, storage_id: &str) -> Option<Runtime> {
        let asked = async { Ok((self.client.job().await?, self.client.savepoints().await?.savepoints)) };
        self.answered(storage_id, asked).await
    }

    async fn answered(
        &self,
        storage_id: &str,
        asked: impl Future<Output = Result<(JobView, Vec<SavepointView>), ClientError>>,
    ) -> Option<Runtime> {
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok((job, savepoints))) if job.uid == storage_id => Some(runtime(job, savepoints)),
            Ok(Ok((job, _))) => {
                tracing::warn!(uid = job.uid, expected = storage_id, "another job answers");
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the coordinator does not answer");
                None
            }
            Err(_) => None,
        }
    }

    /// What the job could be restored from.
    pub async fn restore_points(&self) -> Result<weir_api::view::RestorePointsView, String> {
        self.bounded(self.client.restore_points()).await
    }

    /// The same savepoint, however often it is asked for.
    pub async fn stop_with_savepoint(&self, id: &str) -> Result<(), String> {
        let savepoint = Some(SavepointRequest { id: SavepointId::try_from(id.to_owned())?, folder: None });
        self.bounded(self.client.stop(&StopRequest { savepoint })).await.map(drop)
    }

    pub async fn savepoint(&self, id: &str, folder: Option<String>) -> Result<SavepointView, String> {
        let request = SavepointRequest { id: SavepointId::try_from(id.to_owned())?, folder };
        self.bounded(self.client.trigger_savepoint(&request)).await
    }

    pub async fn remove_savepoint(&self, address: &str) -> Result<(), String> {
        self.within(REMOVAL_TIMEOUT, self.client.remove_savepoint(address)).await.map(drop)
    }

    /// Keeps a checkpoint beyond retention, or no longer.
    pub async fn pin_checkpoint(&self, checkpoint: u64, is_pinned: bool) -> Result<(), String> {
        self.within(REMOVAL_TIMEOUT, self.client.pin_checkpoint(&PinRequest { checkpoint, is_pinned })).await.map(drop)
    }

    pub async fn rescale(&self, parallelism: u32, leaving: Vec<String>) -> Result<(), String> {
        let request = RescaleRequest { parallelism, leaving };
        let asked = async {
            match self.client.rescale(&request).await {
                // Of a version that does not know who leaves: it places where it likes.
                Err(ClientError::Refused(problem)) if problem.status == 400 && !request.leaving.is_empty() => {
                    self.client.rescale(&RescaleRequest { parallelism, leaving: vec![] }).await
                }
                answer => answer,
            }
        };
        self.bounded(asked).await.map(drop)
    }

    /// Whether the job would start with this spec from where it is, and what differs: or why not.
    pub async fn plan(&self, spec: &str) -> Result<(bool, String), String> {
        match tokio::time::timeout(PLAN_TIMEOUT, self.client.plan(spec)).await {
            Ok(Ok(plan)) => Ok((plan.fits, said(&plan))),
            // A version that cannot say it.
            Ok(Err(ClientError::Refused(problem))) if problem.status == 404 => {
                Ok((true, "the version that runs cannot compare".to_owned()))
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PLAN_TIMEOUT.as_secs())),
        }
    }

    pub async fn cancel(&self) -> Result<(), String> {
        self.bounded(self.client.cancel()).await.map(drop)
    }

    async fn bounded<T>(&self, asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
        self.within(ANSWER_TIMEOUT, asked).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
        }
    }
}

/// A plan for people: what is in the way, else what changes.
fn said(plan: &PlanView) -> String {
    let mistakes = plan.mistakes.iter().filter(|mistake| !mistake.is_warning);
    let mut lines: Vec<String> =
        mistakes.map(|mistake| format!("{}: {}; {}", mistake.field_path, mistake.reason, mistake.remedy)).collect();
    lines.extend(plan.refusals.iter().cloned());
    if !lines.is_empty() {
        return lines.join("\n");
    }
    let states = plan.states.iter().filter(|state| state.fit != StateFit::Kept);
    let states: Vec<String> =
        states.map(|state| format!("{}/{}: {}", state.operator, state.state, state.says)).collect();
    let changes = if plan.changes.is_empty() { "nothing".to_owned() } else { plan.changes.join(", ") };
    match states.is_empty() {
        true => format!("{changes} changes, and all state is kept"),
        false => format!("{changes} changes; {}", states.join("; ")),
    }
}

fn runtime(job: JobView, savepoints: Vec<SavepointView>) -> Runtime {
    let last_failed = job.checkpoints.last_failed;
    Runtime {
        is_running: job.phase == JobPhase::Running,
        is_restarting: job.phase == JobPhase::Restarting,
        is_ending: job.phase == JobPhase::Ending || job.phase.is_final(),
        epoch: job.epoch,
        attempt: u64::from(job.attempt),
        started_at: timestamp(job.started_at_ms),
        running_since: job.running_since_ms.and_then(timestamp),
        waits_for: job.waits_for,
        restored_from: job.restored_from,
        parallelism: job.parallelism,
        restarts: job.restarts.count,
        last_failure: job.restarts.last_failure,
        last_failure_at: job.restarts.last_at_ms.and_then(timestamp),
        completed: job.checkpoints.completed,
        failed_in_a_row: job.checkpoints.failed_in_a_row,
        checkpoint_failure: last_failed.and_then(|failed| failed.failure),
        last_completed: job.checkpoints.last_completed.and_then(|last| {
            Some(CompletedCheckpoint {
                id: last.id,
                completed_at: timestamp(last.triggered_at_ms.saturating_add(last.duration_ms))?,
                duration: Duration::from_millis(last.duration_ms),
                new_bytes: last.new_bytes,
                full_bytes: last.full_bytes,
            })
        }),
        savepoints: savepoints.into_iter().map(|view| (view.id.to_string(), savepoint(view))).collect(),
    }
}

fn savepoint(view: SavepointView) -> SavepointState {
    match view.state {
        ApiSavepointState::InProgress => SavepointState::InProgress,
        ApiSavepointState::Completed => SavepointState::Completed {
            address: view.address.unwrap_or_default(),
            checkpoint: view.checkpoint,
            bytes: view.bytes,
            took: view.ended_at_ms.map(|ended| Duration::from_millis(ended.saturating_sub(view.requested_at_ms))),
        },
        ApiSavepointState::Failed => SavepointState::Failed { reason: view.failure.unwrap_or_default() },
    }
}

/// To the second, as Kubernetes writes times.
pub fn timestamp(millis: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(millis / 1_000).ok()?).ok()
}
