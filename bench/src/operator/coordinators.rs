//! What the coordinators of jobs that run well say over their REST API, and how often they are asked.

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use weir_api::Operation;
use weir_api::view::{
    CheckpointCounts, CheckpointKind, CheckpointState, CheckpointView, JobPhase, JobView, PlanView, RescaleRequest,
    RescaleState, RescaleView, Restarts, RestorePoint, RestorePointsView, SavepointsView,
};
use weir_operator::certificates::Authority;

const PORT: u16 = weir_operator::names::HTTPS_PORT;
const INTERVAL_MS: u64 = 10_000;
const RETAINED: u64 = 3;

/// By `namespace/name`.
#[derive(Default)]
pub struct Coordinators {
    jobs: Mutex<HashMap<String, Coordinator>>,
    counted: Mutex<Counted>,
}

#[derive(Clone, Copy)]
struct Coordinator {
    started_at_ms: u64,
    parallelism: u32,
    rescaled_at: Option<Instant>,
    is_asked: bool,
}

/// Requests by method and path.
#[derive(Clone, Debug, Default)]
pub struct Counted(BTreeMap<String, u64>);

impl Counted {
    pub fn since(&self, before: &Counted) -> Counted {
        let less = |(what, count): (&String, &u64)| {
            let count = count - before.0.get(what).copied().unwrap_or(0);
            (count > 0).then(|| (what.clone(), count))
        };
        Counted(self.0.iter().filter_map(less).collect())
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn all(&self) -> Vec<(String, u64)> {
        self.0.iter().map(|(what, count)| (what.clone(), *count)).collect()
    }
}

impl Coordinators {
    /// Its pod runs from now on.
    pub fn start(&self, job: String) {
        let coordinator = Coordinator {
            started_at_ms: now_ms(),
            parallelism: super::PARALLELISM,
            rescaled_at: None,
            is_asked: false,
        };
        lock(&self.jobs).entry(job).or_insert(coordinator);
    }

    pub fn forget_questions(&self) {
        lock(&self.jobs).values_mut().for_each(|job| job.is_asked = false);
    }

    /// Waits until the pods of so many run.
    pub async fn until_there(&self, jobs: usize, within: Duration) -> Result<()> {
        self.until("are there", within, |all| all.len() >= jobs).await
    }

    pub async fn until_all_are_asked(&self, within: Duration) -> Result<()> {
        self.until("are asked", within, |all| all.values().all(|job| job.is_asked)).await
    }

    async fn until(
        &self,
        what: &str,
        within: Duration,
        is_so: impl Fn(&HashMap<String, Coordinator>) -> bool,
    ) -> Result<()> {
        let since = Instant::now();
        while !is_so(&lock(&self.jobs)) {
            if since.elapsed() > within {
                bail!("not all coordinators {what} within {within:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub fn counted(&self) -> Counted {
        lock(&self.counted).clone()
    }

    /// Jobs that were told another parallelism, and when.
    pub fn rescaled(&self) -> HashMap<String, Instant> {
        lock(&self.jobs).iter().filter_map(|(job, one)| Some((job.clone(), one.rescaled_at?))).collect()
    }
}

/// Serves until it is dropped with the runtime: each job by the certificate that its own CA signs.
pub async fn serve(address: &str, coordinators: Arc<Coordinators>, key: Vec<u8>) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind((address, PORT)).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}:{PORT}"))?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(Certificates::of(key)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let router = Router::new().fallback(answer).with_state(coordinators);
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
            tokio::spawn(async move {
                // Who broke off asks again.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                http1::Builder::new().serve_connection(TokioIo::new(stream), router).await.ok();
            });
        }
        eprintln!("bench: nobody answers for the coordinators any more");
    }))
}

/// By the name that is asked for: made when it is asked for the first time.
struct Certificates {
    key: Vec<u8>,
    made: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    fn of(key: Vec<u8>) -> Self {
        Certificates { key, made: Mutex::default() }
    }

    /// `<job>.<namespace>.streamjobs.weir.internal`
    fn make(&self, name: &str) -> Option<CertifiedKey> {
        let (job, rest) = name.split_once('.')?;
        let authority = Authority::of(&self.key, rest.split('.').next()?, job).ok()?;
        let issued = authority.issue(Timestamp::now(), Duration::from_secs(86_400)).ok()?;
        let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).collect::<Result<_, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).ok()?;
        Some(CertifiedKey::new(chain, any_supported_type(&key).ok()?))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        if let Some(made) = lock(&self.made).get(name) {
            return Some(Arc::clone(made));
        }
        let made = Arc::new(self.make(name)?);
        lock(&self.made).insert(name.to_owned(), Arc::clone(&made));
        Some(made)
    }
}

/// Which job is asked stands in the name by which it was reached: `<job>-coordinator.<namespace>.svc`.
async fn answer(
    State(coordinators): State<Arc<Coordinators>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    *lock(&coordinators.counted).0.entry(format!("{method} {}", uri.path())).or_default() += 1;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Some((name, rest)) = host.split_once("-coordinator.") else { return StatusCode::NOT_FOUND.into_response() };
    let namespace = rest.split('.').next().unwrap_or_default();
    let mut jobs = lock(&coordinators.jobs);
    let Some(job) = jobs.get_mut(&format!("{namespace}/{name}")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    job.is_asked = true;
    let path = uri.path();
    let is = |operation: Operation| operation.path() == path && operation.is_post() == (method == Method::POST);
    if is(Operation::Job) {
        return Json(job.view(namespace, name)).into_response();
    }
    if is(Operation::Savepoints) {
        return Json(SavepointsView::default()).into_response();
    }
    if is(Operation::RestorePoints) {
        return Json(job.restore_points()).into_response();
    }
    if is(Operation::Plan) {
        return Json(PlanView { fits: true, ..PlanView::default() }).into_response();
    }
    if is(Operation::Rescale) {
        let Ok(request) = serde_json::from_slice::<RescaleRequest>(&body) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        job.parallelism = request.parallelism;
        job.rescaled_at.get_or_insert_with(Instant::now);
        let view = RescaleView {
            id: 1,
            parallelism: job.parallelism,
            state: RescaleState::InProgress,
            duration_ms: None,
            failure: None,
        };
        return (StatusCode::ACCEPTED, Json(view)).into_response();
    }
    StatusCode::NOT_FOUND.into_response()
}

impl Coordinator {
    /// Of the newest checkpoint, counted from 1.
    fn completed(&self) -> u64 {
        now_ms().saturating_sub(self.started_at_ms) / INTERVAL_MS
    }

    fn completed_at_ms(&self, id: u64) -> u64 {
        self.started_at_ms + id * INTERVAL_MS
    }

    fn view(&self, namespace: &str, name: &str) -> JobView {
        let completed = self.completed();
        let last_completed = (completed > 0).then(|| CheckpointView {
            id: completed,
            kind: CheckpointKind::Checkpoint,
            state: CheckpointState::Completed,
            triggered_at_ms: self.completed_at_ms(completed) - 80,
            duration_ms: 80,
            new_bytes: 1_258_291,
            full_bytes: 1_181_116_006,
            is_unaligned: false,
            in_flight_bytes: 0,
            failure: None,
        });
        JobView {
            name: name.to_owned(),
            uid: format!("{namespace}.{name}"),
            phase: JobPhase::Running,
            epoch: 1,
            attempt: 1,
            started_at_ms: self.started_at_ms,
            running_since_ms: Some(self.started_at_ms),
            uptime_ms: Some(now_ms() - self.started_at_ms),
            waits_for: None,
            restored_from: None,
            parallelism: self.parallelism,
            max_parallelism: 128,
            restarts: Restarts::default(),
            checkpoints: CheckpointCounts { completed, last_completed, ..CheckpointCounts::default() },
            workers: vec![],
            storage: "s3://bench/weir".to_owned(),
            version: "0.1.0".to_owned(),
            spec_hash: "0000000000000000".to_owned(),
            outcome: None,
        }
    }

    fn restore_points(&self) -> RestorePointsView {
        let completed = self.completed();
        let retained = (completed.saturating_sub(RETAINED) + 1)..=completed;
        let point = |id| RestorePoint {
            id,
            kind: CheckpointKind::Checkpoint,
            completed_at_ms: self.completed_at_ms(id),
            duration_ms: 80,
            new_bytes: 1_258_291,
            full_bytes: 1_181_116_006,
            is_unaligned: false,
            in_flight_bytes: 0,
            is_pinned: false,
            is_restorable: true,
            faults: vec![],
        };
        RestorePointsView {
            next: Some(format!("checkpoint {completed}")),
            checkpoints: retained.map(point).collect(),
            broken: vec![],
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
