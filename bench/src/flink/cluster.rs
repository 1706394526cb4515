//! One JobManager and one TaskManager, the job that runs on them, and its counters.

use super::rest::Rest;
use super::{FlinkInstallation, VERSION};
use crate::measure::{CheckpointSample, Measure, SLOWEST_RECORDS_PER_SECOND, Sample};
use crate::process::{Process, Usage, output_of};
use crate::settings::{Backend, Order};
use crate::weir::sql_aggregate;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Classes of the JDK that Flink reaches into, as its own start scripts open them.
const OPENED: [&str; 13] = [
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.text=ALL-UNNAMED",
    "--add-opens=java.base/java.time=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
];
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the counters are read: the error at either end of the measured window.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// More numbers than any run reads.
pub const UNBOUNDED: u64 = 1_000_000_000_000_000;

const SQL_SINK: &str = "CREATE TABLE nowhere (k BIGINT, c BIGINT, s BIGINT) WITH ('connector' = 'blackhole')";

#[derive(Clone, Debug)]
pub struct FlinkSettings {
    pub parallelism: u32,
    pub backend: Backend,
    pub interval: Option<Duration>,
    /// Of the TaskManager's process, as Flink writes it: `4g`.
    pub memory: String,
    /// Of that, for RocksDB; by Flink's default four tenths.
    pub managed_memory: Option<String>,
}

/// Both processes. Dropped, they are killed.
pub struct FlinkCluster {
    installation: FlinkInstallation,
    folder: PathBuf,
    rest: Rest,
    job_manager: Process,
    task_manager: Process,
    pub started: Instant,
}

impl FlinkCluster {
    /// Starts both, with their files in `folder`, and waits until the TaskManager offers its slots.
    pub fn start(installation: &FlinkInstallation, settings: &FlinkSettings, folder: &Path) -> Result<Self> {
        let started = Instant::now();
        let rest = Rest { port: free_port()? };
        for name in ["conf", "log", "tmp", "checkpoints"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        std::fs::write(folder.join("conf/config.yaml"), configuration(settings, folder, rest.port)?)?;
        std::fs::write(folder.join("conf/log4j.properties"), LOGGING)?;
        let cluster = Starter { installation, folder };
        let job_manager = cluster.start(
            "jobmanager",
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            &cluster.jvm_parameters("GET_JM_RESOURCE_PARAMS")?,
        )?;
        let task_manager = cluster.start(
            "taskmanager",
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            &cluster.jvm_parameters("GET_TM_RESOURCE_PARAMS")?,
        )?;
        let (installation, folder) = (installation.clone(), folder.to_owned());
        let cluster = FlinkCluster { installation, folder, rest, job_manager, task_manager, started };
        let slots = u64::from(settings.parallelism);
        cluster.wait("its slots", || {
            let overview = cluster.rest.get("/overview").ok()?;
            (overview["slots-available"].as_u64() == Some(slots)).then_some(())
        })?;
        Ok(cluster)
    }

    /// Count and sum by key, as a DataStream job over the numbers up to `last`.
    pub fn run_keyed(&self, keys: u64, order: Order, last: u64, restore: Option<&str>) -> Result<FlinkJob<'_>> {
        let order = crate::settings::name(order);
        self.submit("KeyedAggregate", &[keys.to_string(), order, last.to_string()], restore)
    }

    /// The same in SQL.
    pub fn run_sql(&self, keys: u64, order: Order) -> Result<FlinkJob<'_>> {
        // A rate that is never reached: the connector has no "as fast as possible".
        let insert = format!("INSERT INTO nowhere {}", sql_aggregate(keys, order));
        self.submit("SqlAggregate", &[UNBOUNDED.to_string(), SQL_SINK.to_owned(), insert], None)
    }

    /// The same with hardly a row to read.
    pub fn run_idle(&self) -> Result<FlinkJob<'_>> {
        let source = "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '10')";
        let insert = format!("INSERT INTO nowhere {}", sql_aggregate(1_000_000, Order::Sequence));
        self.submit("SqlAggregate", &["0".to_owned(), source.to_owned(), SQL_SINK.to_owned(), insert], None)
    }

    /// The last of them is the job; the others make its tables.
    pub fn run_statements(&self, statements: &[String]) -> Result<FlinkJob<'_>> {
        let arguments: Vec<String> = std::iter::once("0".to_owned()).chain(statements.iter().cloned()).collect();
        self.submit("SqlAggregate", &arguments, None)
    }

    fn submit(&self, class: &str, arguments: &[String], restore: Option<&str>) -> Result<FlinkJob<'_>> {
        let starter = Starter { installation: &self.installation, folder: &self.folder };
        let mut command = starter.java("client");
        command.arg("-Xmx512m").arg("-cp").arg(self.installation.class_path());
        command.args(["org.apache.flink.client.cli.CliFrontend", "run", "--detached", "--class", class]);
        command.args(restore.iter().flat_map(|path| ["--fromSavepoint", path]));
        command.arg(&self.installation.jobs).args(arguments);
        let said = output_of(&mut command)?;
        let id = said.rsplit_once("JobID ").map(|(_, id)| id.trim().to_owned());
        let id = id.with_context(|| format!("Flink's client named no job: {said}"))?;
        Ok(FlinkJob { cluster: self, id, submitted: Instant::now() })
    }

    pub fn usage(&self) -> Result<Usage> {
        Ok(self.job_manager.usage()? + self.task_manager.usage()?)
    }

    fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> Result<T> {
        self.wait_long(what, Duration::ZERO, look)
    }

    fn wait_long<T>(&self, what: &str, expected: Duration, look: impl Fn() -> Option<T>) -> Result<T> {
        let patience = expected + PATIENCE;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("Flink has not come to {what} in {} s; its logs: {}", patience.as_secs(), self.last_log_lines());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn last_log_lines(&self) -> String {
        let last = |name: &str| {
            let text = std::fs::read_to_string(self.folder.join("log").join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n")
        };
        ["jobmanager.log", "jobmanager.out", "taskmanager.log", "taskmanager.out"].map(last).join("\n")
    }
}

/// A job on a cluster.
pub struct FlinkJob<'a> {
    cluster: &'a FlinkCluster,
    id: String,
    submitted: Instant,
}

impl FlinkJob<'_> {
    /// Lets it run for as long as that, and measures what follows.
    pub fn measure(&self, warm_up: Duration, window: Duration) -> Result<Measure> {
        self.until_running()?;
        let begin = Instant::now() + warm_up;
        let mut samples = vec![];
        let mut last = 0;
        loop {
            let records = self.records()?;
            let now = Instant::now();
            // Flink brings the counter up to date from time to time: a sample is the moment at which it moved.
            if records != last && now >= begin {
                samples.push(Sample { at: now, records, usage: self.cluster.usage()? });
                if now >= begin + window {
                    break;
                }
            }
            if now > begin + window + PATIENCE {
                bail!("Flink's counters stand still; its logs: {}", self.cluster.last_log_lines());
            }
            last = records;
            std::thread::sleep(LOOK_EVERY);
        }
        let (from, to) = (samples[0].at, Instant::now());
        Measure::of(&samples, &self.checkpoints(from, to)?)
    }

    /// From the job's submission until all its tasks run.
    pub fn until_running(&self) -> Result<Duration> {
        self.cluster.wait("running all tasks", || {
            let job = self.job().ok()?;
            let vertices = job["vertices"].as_array()?;
            let runs = |vertex: &Value| vertex["status"] == "RUNNING" || vertex["status"] == "FINISHED";
            let all_run = !vertices.is_empty() && vertices.iter().all(runs);
            (all_run || job["state"] == "FAILED").then_some(())
        })?;
        self.records()?;
        Ok(self.submitted.elapsed())
    }

    /// From the cluster's start until a checkpoint has completed.
    pub fn until_checkpoint(&self) -> Result<Duration> {
        self.wait_for_checkpoints(1)?;
        Ok(self.cluster.started.elapsed())
    }

    pub fn wait_for_checkpoints(&self, count: u64) -> Result<()> {
        self.cluster.wait("a checkpoint", || (self.completed_checkpoints().ok()? >= count).then_some(()))
    }

    pub fn completed_checkpoints(&self) -> Result<u64> {
        let checkpoints = self.cluster.rest.get(&format!("/jobs/{}/checkpoints", self.id))?;
        checkpoints["counts"]["completed"].as_u64().context("Flink counts no checkpoints")
    }

    /// The first number of records that the aggregate reports to have read; waits for it.
    pub fn wait_for_records(&self, records: u64) -> Result<()> {
        let expected = Duration::from_secs(records / SLOWEST_RECORDS_PER_SECOND);
        self.cluster.wait_long("as many records", expected, || (self.records().ok()? >= records).then_some(()))
    }

    /// As `wait_for_records`, but no longer than so.
    pub fn wait_for_records_within(&self, time: Duration, records: u64) -> Result<()> {
        let began = Instant::now();
        self.cluster.wait_long("records", time, || {
            let seen = self.records().ok()?;
            if seen < records && began.elapsed() > time {
                eprintln!("bench: Flink has read {seen} of {records} records in {} s", time.as_secs());
            }
            (seen >= records || began.elapsed() > time).then_some(())
        })
    }

    /// Ends it, and says where its last checkpoint is.
    pub fn cancel(&self) -> Result<String> {
        let checkpoints = self.cluster.rest.get(&format!("/jobs/{}/checkpoints", self.id))?;
        let path = checkpoints["latest"]["completed"]["external_path"].as_str();
        let path = path.context("Flink has no checkpoint")?.to_owned();
        self.cluster.rest.patch(&format!("/jobs/{}?mode=cancel", self.id))?;
        self.cluster.wait("the end of a cancelled job", || {
            self.job().is_ok_and(|job| job["state"] == "CANCELED").then_some(())
        })?;
        Ok(path)
    }

    /// Records that the aggregate has read.
    fn records(&self) -> Result<u64> {
        let job = self.job()?;
        if job["state"] == "FAILED" {
            let exceptions = self.cluster.rest.get(&format!("/jobs/{}/exceptions", self.id))?;
            bail!("Flink's job failed: {}", exceptions["root-exception"].as_str().unwrap_or("it doesn't say why"));
        }
        let vertices = job["vertices"].as_array().context("a job without vertices")?;
        Ok(vertices.last().and_then(|vertex| vertex["metrics"]["read-records"].as_u64()).unwrap_or(0))
    }

    fn job(&self) -> Result<Value> {
        self.cluster.rest.get(&format!("/jobs/{}", self.id))
    }

    /// Those that completed between the two moments, as far as Flink remembers them.
    fn checkpoints(&self, from: Instant, to: Instant) -> Result<Vec<CheckpointSample>> {
        let checkpoints = self.cluster.rest.get(&format!("/jobs/{}/checkpoints", self.id))?;
        let now_ms = chrono::Utc::now().timestamp_millis();
        let sample = |entry: &Value| {
            let ended_ms = entry["latest_ack_timestamp"].as_i64().filter(|_| entry["status"] == "COMPLETED")?;
            let at = to.checked_sub(Duration::from_millis((now_ms - ended_ms).max(0) as u64))?;
            Some(CheckpointSample {
                at,
                duration_ms: entry["end_to_end_duration"].as_f64()?,
                written_bytes: entry["checkpointed_size"].as_f64()?,
            })
        };
        let history = checkpoints["history"].as_array().cloned().unwrap_or_default();
        Ok(history.iter().filter_map(sample).filter(|checkpoint| checkpoint.at > from).collect())
    }
}

/// Starts Java with what every part of Flink needs.
struct Starter<'a> {
    installation: &'a FlinkInstallation,
    folder: &'a Path,
}

impl Starter<'_> {
    fn java(&self, log: &str) -> Command {
        let mut command = Command::new("java");
        let logs = self.folder.join("log");
        let class_path = self.installation.libraries();
        command
            .args(OPENED)
            .arg(format!("-Dlog.file={}", logs.join(format!("{log}.log")).display()))
            .arg(format!("-Dlog4j.configurationFile={}", self.folder.join("conf/log4j.properties").display()))
            .env("FLINK_CONF_DIR", self.folder.join("conf"))
            .env("FLINK_LIB_DIR", class_path)
            .stdin(Stdio::null());
        command
    }

    /// Memory settings, as Flink's start scripts compute them. First those of the JVM, then those of the program.
    fn jvm_parameters(&self, command: &str) -> Result<Vec<Vec<String>>> {
        let (lib, bin) = (self.installation.libraries(), self.installation.folder.join("bin"));
        let mut class_path = bin.join("bash-java-utils.jar").into_os_string();
        class_path.push(":");
        class_path.push(lib.join(format!("flink-dist-{VERSION}.jar")));
        class_path.push(":");
        class_path.push(lib.join("*"));
        let mut java = self.java("bash-java-utils");
        java.arg("-cp").arg(class_path).arg("org.apache.flink.runtime.util.bash.BashJavaUtils").arg(command);
        java.arg("--configDir").arg(self.folder.join("conf")).arg("--binDir").arg(bin).arg("--libDir").arg(lib);
        let said = output_of(&mut java)?;
        let results = said.lines().filter_map(|line| line.strip_prefix("BASH_JAVA_UTILS_EXEC_RESULT:"));
        let parameters: Vec<Vec<String>> =
            results.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        if parameters.is_empty() {
            bail!("Flink did not say how much memory its processes get: {said}");
        }
        Ok(parameters)
    }

    fn start(&self, name: &str, class: &str, parameters: &[Vec<String>]) -> Result<Process> {
        let mut command = self.java(name);
        let output = File::create(self.folder.join("log").join(format!("{name}.out")))?;
        command.stdout(output.try_clone()?).stderr(output);
        command.args(&parameters[0]).arg("-XX:+UseG1GC").arg("-cp").arg(self.installation.class_path());
        command.arg(class).arg("--configDir").arg(self.folder.join("conf"));
        command.args(parameters.iter().skip(1).flatten());
        Process::start(&mut command)
    }
}

const LOGGING: &str = "rootLogger.level=INFO
rootLogger.appenderRef.f.ref=F
appender.f.type=File
appender.f.name=F
appender.f.fileName=${sys:log.file}
appender.f.layout.type=PatternLayout
appender.f.layout.pattern=%d %p %c{1} %m%n
";

fn configuration(settings: &FlinkSettings, folder: &Path, rest_port: u16) -> Result<String> {
    let FlinkSettings { parallelism, backend, interval, memory, managed_memory } = settings;
    let backend_type = match backend {
        Backend::Heap => "hashmap",
        Backend::Rocksdb => "rocksdb",
    };
    // What RocksDB doesn't use goes to the heap.
    let managed = match (backend, managed_memory) {
        (Backend::Heap, _) => "taskmanager.memory.managed.size: 0m".to_owned(),
        (Backend::Rocksdb, Some(size)) => format!("taskmanager.memory.managed.size: {size}"),
        (Backend::Rocksdb, None) => "taskmanager.memory.managed.fraction: 0.4".to_owned(),
    };
    let checkpointing = match interval {
        Some(interval) => format!("execution.checkpointing.interval: {}ms", interval.as_millis()),
        None => String::new(),
    };
    Ok(format!(
        "jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 1600m
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: {parallelism}
taskmanager.memory.process.size: {memory}
{managed}
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest_port}
blob.server.port: {blob_port}
parallelism.default: {parallelism}
io.tmp.dirs: {folder}/tmp
metrics.fetcher.update-interval: 100
web.refresh-interval: 100
web.checkpoints.history: 100
restart-strategy.type: none
state.backend.type: {backend_type}
{checkpointing}
execution.checkpointing.mode: EXACTLY_ONCE
execution.checkpointing.incremental: true
execution.checkpointing.dir: file://{folder}/checkpoints
execution.checkpointing.externalized-checkpoint-retention: RETAIN_ON_CANCELLATION
",
        rpc_port = free_port()?,
        blob_port = free_port()?,
        folder = folder.display(),
    ))
}

/// One that nobody listens on now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("there is no free port")?;
    Ok(listener.local_addr()?.port())
}
