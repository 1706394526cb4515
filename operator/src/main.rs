//! The operator's process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::events::{Recorder, Reporter};
use prometheus_client::registry::Registry;
use ring::rand::{SecureRandom, SystemRandom};
use tracing_subscriber::EnvFilter;
use weir_crds::HumanDuration;
use weir_operator::job_metrics::JobMetrics;
use weir_operator::lease::Election;
use weir_operator::names::FIELD_MANAGER;
use weir_operator::serve::{Metrics, Shown, serve};
use weir_operator::{Settings, controller};

/// Lists of thousands of objects come and go: the system's allocator keeps what they took.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(target_os = "linux")]
#[allow(non_upper_case_globals)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static malloc_conf: Option<&u8> = Some(&b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0\0"[0]);

/// Looks after the StreamJobs of a cluster.
#[derive(Parser)]
#[command(name = "weir-operator", version, max_term_width = 100)]
struct Arguments {
    /// The image of jobs that name none.
    #[arg(long, env = "WEIR_IMAGE")]
    image: String,
    /// Of the pods of all jobs: Always, IfNotPresent or Never.
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// Look after this namespace alone.
    #[arg(long)]
    namespace: Option<String>,
    /// A file with at least 32 bytes, from which the tokens of coordinators and the CAs of jobs are made. Without it
    /// they are made from the Secret that --key-secret names.
    #[arg(long, value_name = "FILE")]
    token_key_file: Option<PathBuf>,
    /// A Secret of the Lease's namespace that holds the same as `key`; made if it is not there.
    #[arg(long, default_value = "weir-operator-key", value_name = "NAME")]
    key_secret: String,
    /// Where health, readiness and metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// How often a running job is asked how it goes.
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    poll_interval: HumanDuration,
    /// How often a job's progress is written to its status; what changes more than numbers is written at once.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    status_interval: HumanDuration,
    /// How long the certificates of jobs' pods are good for. They are replaced when half of it is over.
    #[arg(long, default_value = "14d", value_name = "DURATION")]
    certificate_lifetime: HumanDuration,
    /// Whoever reaches a job's coordinator may read its metrics, without its token. Of coordinators that start from now
    /// on.
    #[arg(long)]
    open_metrics: bool,
    /// Jobs looked at at the same time.
    #[arg(long, default_value_t = 32)]
    concurrency: u16,
    /// The Lease by which one of several replicas acts.
    #[arg(long, default_value = "weir-operator")]
    lease: String,
    /// The namespace of that Lease: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// This replica's name in the Lease.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// The UID of this replica's pod, whose name is its name in the Lease: where that pod is gone, another replica need
    /// not wait.
    #[arg(long, env = "POD_UID")]
    pod_uid: Option<String>,
}

/// Shorter ones could be guessed.
const KEY_BYTES: usize = 32;
/// In its Secret.
const KEY: &str = "key";
/// A mounted Secret takes a minute or two to reach the pods.
const SHORTEST_CERTIFICATES: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).json().flatten_event(true).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no cluster is known: KUBECONFIG, or a pod's service account")?;
    let token_key = match &arguments.token_key_file {
        Some(file) => std::fs::read(file).with_context(|| format!("--token-key-file {}", file.display()))?,
        None => own_key(&client, &arguments.lease_namespace, &arguments.key_secret).await?,
    };
    if token_key.len() < KEY_BYTES {
        bail!("the operator's key has {} bytes; it needs at least {KEY_BYTES}", token_key.len());
    }
    let settings = Settings {
        image: arguments.image,
        image_pull_policy: arguments.image_pull_policy,
        namespace: arguments.namespace,
        poll_interval: arguments.poll_interval.get().max(Duration::from_millis(100)),
        status_interval: arguments.status_interval.get(),
        open_metrics: arguments.open_metrics,
        concurrency: arguments.concurrency,
        certificate_lifetime: arguments.certificate_lifetime.get().max(SHORTEST_CERTIFICATES),
        token_key,
    };
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let job_metrics = JobMetrics::default();
    registry.register_collector(Box::new(job_metrics.clone()));
    let is_ready = Arc::new(AtomicBool::new(false));
    let shown = Shown { registry: Arc::new(registry), is_ready: Arc::clone(&is_ready) };
    let serving = tokio::spawn(serve(arguments.listen, shown));
    let election = {
        let (namespace, lease) = (&arguments.lease_namespace, &arguments.lease);
        Election::new(client.clone(), namespace, lease, &arguments.identity, arguments.pod_uid.clone())
    };
    let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(arguments.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    // One that waits is ready to take over.
    is_ready.store(true, std::sync::atomic::Ordering::Relaxed);
    tokio::select! {
        () = election.win() => {}
        () = ended() => return Ok(()),
        served = serving_ended(serving) => return served,
    }
    tracing::info!(identity = arguments.identity, "leads");
    metrics.is_leader.set(1);
    tokio::select! {
        () = election.hold() => bail!("the lease is lost; another replica acts"),
        () = controller::run(client, settings, recorder, metrics, job_metrics, is_ready) => bail!("the watches have ended"),
        () = ended() => {
            election.release().await;
            Ok(())
        }
    }
}

/// The key of all replicas. A chart that made it would make another one wherever it is rendered without a cluster to
/// look at, as by Argo CD.
async fn own_key(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Vec<u8>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let read = || async {
        let found =
            secrets.get_opt(name).await.with_context(|| format!("cannot read the Secret {namespace}/{name}"))?;
        let Some(secret) = found else { return Ok(None) };
        let key = secret.data.and_then(|mut data| data.remove(KEY));
        key.map(|key| Some(key.0)).with_context(|| format!("the Secret {namespace}/{name} has no `{KEY}`"))
    };
    if let Some(key) = read().await? {
        return Ok(key);
    }
    let mut key = vec![0; KEY_BYTES * 2];
    SystemRandom::new().fill(&mut key).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    let mut secret = Secret { data: Some([(KEY.to_owned(), ByteString(key))].into()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    match secrets.create(&PostParams::default(), &secret).await {
        // Another replica was quicker: its key counts.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).with_context(|| format!("cannot make the Secret {namespace}/{name}")),
        Ok(_) => tracing::info!(secret = name, "made a key"),
    }
    read().await?.with_context(|| format!("the Secret {namespace}/{name} is gone again"))
}

async fn serving_ended(serving: tokio::task::JoinHandle<std::io::Result<()>>) -> anyhow::Result<()> {
    serving.await.context("the server of health and metrics")?.context("cannot serve health and metrics")
}

/// SIGTERM or SIGINT.
async fn ended() {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let Ok(mut terminate) = terminate else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
