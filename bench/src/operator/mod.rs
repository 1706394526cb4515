//! The operator with many jobs: its memory, how soon it acts on a change, and how much it asks while nothing happens.
//!
//! The API server, etcd, the operator and all objects are real. What is played: kubelet and StatefulSet controller, which
//! only make pods that are ready ([`stand_in`]), and the coordinators' REST API, of jobs that run and complete a
//! checkpoint whenever it is time ([`coordinators`]).

mod api_server;
mod coordinators;
mod laid;
mod names;
mod stand_in;

use crate::machine::Machine;
use crate::process::{Process, usage};
use crate::report::{Report, Table, bytes};
use crate::settings::{Benchmark, Settings, name};
use anyhow::{Context, Result, bail};
use api_server::{ApiServer, Requests};
use coordinators::{Coordinators, Counted};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use laid::Layer;
use serde_json::json;
use stand_in::StandIn;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_crds::StreamJob;

/// Where the coordinators are played: all names of services resolve to it, for the operator alone.
pub const ADDRESS: &str = "127.53.0.1";
const NAMESPACES: u32 = 10;
const NAMESPACE_OF_OPERATOR: &str = "weir-bench";
/// Jobs that the operator starts itself.
const STARTED: u32 = 50;
/// Requests at the same time, of whoever applies jobs.
const APPLIED_AT_ONCE: usize = 16;
/// What an operator writes that finds everything older than it may be is over by then.
const SETTLE: Duration = Duration::from_secs(60);
/// The longest time between two statuses of one job: a shorter window would see some and not others.
const REST: Duration = Duration::from_secs(180);
/// Specs that are changed, and how many in a second.
const CHANGES: u32 = 200;
const CHANGES_PER_SECOND: u32 = 5;
const PARALLELISM: u32 = 2;
/// For a machine that does much else.
const START_PATIENCE: Duration = Duration::from_secs(3_600);
const CHANGE_PATIENCE: Duration = Duration::from_secs(120);

struct Figures {
    jobs: u32,
    start_requests: Requests,
    /// From the operator's start until it had asked each job's coordinator.
    looked: Duration,
    rest: Duration,
    rest_requests: Requests,
    rest_asked: Counted,
    rest_cpu: Duration,
    resident: u64,
    peak: u64,
    /// From the answer to a changed spec to what the coordinator is told, sorted.
    actions: Vec<Duration>,
}

pub fn run(settings: &Settings, scratch: &Path) -> Result<()> {
    // The only provider of this process: a second call would find it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut table = Table::new(&[
        "Jobs",
        "Memory",
        "at most",
        "From a changed spec to the act, p50",
        "p99",
        "longest",
        "Asked of the API server, per job and minute",
        "of coordinators",
        "CPU at rest",
        "All jobs looked at after a start",
    ]);
    let mut notes = vec![];
    for jobs in &settings.jobs {
        // One for each: with it end those who play a part, and let go of their addresses.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
        let figures = runtime.block_on(measure(*jobs, &scratch.join(format!("{jobs}-jobs"))))?;
        table.rows.push(figures.row());
        notes.push(figures.note());
    }
    notes.push(format!(
        "API server, etcd, operator and objects are real; pods are made ready by a stand-in, which answers for the \
         coordinators, too. The first {STARTED} jobs are started by the operator, the objects of the others are laid down \
         as it leaves them, and then it is started again. Jobs complete a checkpoint every 10 s, and three are retained. \
         At rest: {} s in which nothing is changed. The change is another parallelism, {CHANGES_PER_SECOND} jobs a second; the act \
         is the request to the coordinator, before which the intention is written down.",
        REST.as_secs()
    ));
    let report = Report {
        benchmark: name(Benchmark::Operator),
        date: chrono::Utc::now().format("%Y-%m-%d %H:%M UTC").to_string(),
        machine: Machine::describe(),
        versions: vec![format!("weir-operator {}", env!("CARGO_PKG_VERSION")), "kube-apiserver 1.34".to_owned()],
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        table,
        notes,
        runs: vec![],
    };
    report.publish(&settings.results)
}

async fn measure(jobs: u32, scratch: &Path) -> Result<Figures> {
    std::fs::create_dir_all(scratch).with_context(|| format!("cannot create `{}`", scratch.display()))?;
    let server = ApiServer::start()?;
    let client = server.client().await?;
    server.define()?;
    make_namespaces(&client).await?;
    let coordinators = Arc::new(Coordinators::default());
    let _names = names::serve(ADDRESS).await?;
    let layer = Layer::new(scratch)?;
    let _played = coordinators::serve(ADDRESS, Arc::clone(&coordinators), layer.key().to_vec()).await?;
    let stand_in = StandIn::start(client.clone(), Arc::clone(&coordinators));
    let operator = start_operator(&server, &layer, scratch)?;

    let (before, first) = (server.requests().await?, STARTED.min(jobs));
    apply_jobs(&client, first).await?;
    stand_in.until_ready(first as usize, START_PATIENCE).await?;
    let start_requests = server.requests().await?.since(&before);
    operator.terminate()?;
    let like = Api::<StreamJob>::namespaced(client.clone(), &namespace_of(0)).get(&job_name(0)).await?;
    let others = (first..jobs).map(|job| (namespace_of(job), job_name(job))).collect();
    layer.lay(&client, &like, others).await?;
    stand_in.until_ready(jobs as usize, START_PATIENCE).await?;
    coordinators.until_there(jobs as usize, START_PATIENCE).await?;
    eprintln!("bench: {jobs} jobs are there");
    coordinators.forget_questions();
    let since = Instant::now();
    let operator = start_operator(&server, &layer, scratch)?;
    coordinators.until_all_are_asked(START_PATIENCE).await?;
    let looked = since.elapsed();
    eprintln!("bench: all jobs are looked at {:.0} s after the operator's start", looked.as_secs_f64());

    tokio::time::sleep(SETTLE).await;
    let (requests, asked, used) = (server.requests().await?, coordinators.counted(), operator.usage()?);
    let since = Instant::now();
    tokio::time::sleep(REST).await;
    let rest = since.elapsed();
    let rest_requests = server.requests().await?.since(&requests);
    let rest_asked = coordinators.counted().since(&asked);
    let now = operator.usage()?;
    let rest_cpu = now.cpu.saturating_sub(used.cpu);
    eprintln!("bench: at rest {} requests to the API server", rest_requests.total());

    let actions = change(&client, &coordinators, jobs).await?;
    let peak = peak(operator.id())?;
    let resident = usage(operator.id())?.resident_bytes;
    operator.terminate()?;
    Ok(Figures { jobs, start_requests, looked, rest, rest_requests, rest_asked, rest_cpu, resident, peak, actions })
}

impl Figures {
    fn per_job_and_minute(&self, count: u64) -> f64 {
        count as f64 / f64::from(self.jobs) / (self.rest.as_secs_f64() / 60.0)
    }

    fn row(&self) -> Vec<String> {
        let at = |share: f64| {
            let rank = (self.actions.len() as f64 * share).ceil() as usize;
            let duration = self.actions.get(rank.clamp(1, self.actions.len()) - 1).copied().unwrap_or_default();
            format!("{:.0} ms", duration.as_secs_f64() * 1_000.0)
        };
        vec![
            self.jobs.to_string(),
            bytes(self.resident as f64),
            bytes(self.peak as f64),
            at(0.5),
            at(0.99),
            at(1.0),
            format!("{:.2}", self.per_job_and_minute(self.rest_requests.total())),
            format!("{:.2}", self.per_job_and_minute(self.rest_asked.total())),
            format!("{:.1} %", self.rest_cpu.as_secs_f64() / self.rest.as_secs_f64() * 100.0),
            format!("{:.0} s", self.looked.as_secs_f64()),
        ]
    }

    fn note(&self) -> String {
        let minute = |count: u64| format!("{:.2}", self.per_job_and_minute(count));
        let of = |all: Vec<(String, u64)>| {
            let shown = all.into_iter().map(|(what, count)| format!("{what} {}", minute(count)));
            shown.collect::<Vec<_>>().join(", ")
        };
        format!(
            "{} jobs at rest, per job and minute: {}; of coordinators: {}. A start took {:.1} requests.",
            self.jobs,
            of(self.rest_requests.largest()),
            of(self.rest_asked.all()),
            self.start_requests.total() as f64 / f64::from(STARTED.min(self.jobs))
        )
    }
}

async fn make_namespaces(client: &Client) -> Result<()> {
    use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
    let all = (0..NAMESPACES).map(namespace).chain([NAMESPACE_OF_OPERATOR.to_owned()]);
    for namespace in all {
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        // A controller that does not run here would make it; pods are refused without.
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
        Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &account).await?;
    }
    Ok(())
}

fn namespace(number: u32) -> String {
    format!("bench-{number}")
}

fn namespace_of(job: u32) -> String {
    namespace(job % NAMESPACES)
}

fn job_name(job: u32) -> String {
    format!("orders-{job:05}")
}

async fn apply_jobs(client: &Client, jobs: u32) -> Result<()> {
    let template: StreamJob = serde_yaml::from_str(JOB).context("the job of the benchmark")?;
    let template = &template;
    let made = stream::iter(0..jobs).map(|number| async move {
        let mut job = template.clone();
        job.metadata.name = Some(job_name(number));
        let api: Api<StreamJob> = Api::namespaced(client.clone(), &namespace_of(number));
        api.create(&PostParams::default(), &job).await.map(drop)
    });
    made.buffer_unordered(APPLIED_AT_ONCE).try_collect::<()>().await.context("a job is refused")
}

/// Changes the parallelism of some jobs at a fixed rate, and waits until each one's coordinator was told.
async fn change(client: &Client, coordinators: &Coordinators, jobs: u32) -> Result<Vec<Duration>> {
    let changes = CHANGES.min(jobs);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
    let mut changed = vec![];
    for nth in 0..changes {
        ticks.tick().await;
        let job = u32::try_from(u64::from(nth) * u64::from(jobs) / u64::from(changes))?;
        let api: Api<StreamJob> = Api::namespaced(client.clone(), &namespace_of(job));
        let patch = Patch::Merge(json!({"spec": {"parallelism": PARALLELISM + 1}}));
        let after = api.patch(&job_name(job), &PatchParams::default(), &patch).await?;
        changed.push((format!("{}/{}", namespace_of(job), after.name_any()), Instant::now()));
    }
    let deadline = Instant::now() + CHANGE_PATIENCE;
    loop {
        let told = coordinators.rescaled();
        let mut took: Vec<Duration> =
            changed.iter().filter_map(|(job, since)| Some(told.get(job)?.saturating_duration_since(*since))).collect();
        if took.len() == changed.len() {
            took.sort();
            return Ok(took);
        }
        if Instant::now() > deadline {
            bail!("of {} changed jobs {} were rescaled within {CHANGE_PATIENCE:?}", changed.len(), took.len());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// In a mount namespace of its own, where names of services resolve to [`ADDRESS`].
fn start_operator(server: &ApiServer, layer: &Layer, scratch: &Path) -> Result<Process> {
    let resolv = scratch.join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {ADDRESS}\n")).context("cannot write a resolv.conf")?;
    let log = std::fs::File::options().create(true).append(true).open(scratch.join("operator.log"));
    let log = log.context("cannot create the operator's log")?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""])
        .arg(&resolv)
        .arg(operator_binary()?)
        .args(["--image", laid::IMAGE, "--identity", "bench", "--lease-namespace", NAMESPACE_OF_OPERATOR])
        .arg("--token-key-file")
        .arg(&layer.key_file)
        .args(["--listen", &format!("{ADDRESS}:8080")])
        .env("KUBECONFIG", server.kubeconfig())
        .env("WEIR_LOG", "warn")
        .stdout(Stdio::null())
        .stderr(log);
    Process::start(&mut command)
}

/// Beside this program.
fn operator_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program has no path")?;
    let path = own.with_file_name("weir-operator");
    match path.exists() {
        true => Ok(path),
        false => bail!("`{}` is not built; `cargo xtask bench operator` builds it", path.display()),
    }
}

/// The most that the process was resident with.
fn peak(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the operator is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM is not a number")?;
    Ok(kib << 10)
}

const JOB: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {name: orders}
spec:
  parallelism: 2
  pipeline:
    sources:
    - name: orders
      kafka: {bootstrapServers: "kafka:9092", topics: [orders], startFrom: Earliest}
      format: {json: {}}
      schema:
      - {name: customer, type: VARCHAR}
      - {name: amount, type: DOUBLE}
      - {name: ordered_at, type: TIMESTAMP}
      watermark: {column: ordered_at, maxOutOfOrderness: 5s}
    transforms:
    - name: per-minute
      sql: |
        SELECT customer, window_start, COUNT(*) AS orders, SUM(amount) AS amount
        FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
        GROUP BY customer, window_start, window_end
    sinks:
    - name: out
      from: per-minute
      delivery: ExactlyOnce
      kafka: {bootstrapServers: "kafka:9092", topic: orders-per-minute, transactionTimeout: 15m}
      format: {json: {}}
  checkpoint:
    interval: 10s
    timeout: 1m
    storage: {uri: "s3://bench/weir"}
  pods:
    workers: {slots: 4}
"#;
