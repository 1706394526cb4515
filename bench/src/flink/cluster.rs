//! One JobManager and its TaskManagers, as processes.

use super::configuration::{FlinkSettings, LOGGING, configuration, free_port};
use super::job::FlinkJob;
use super::rest::Rest;
use super::{FlinkInstallation, VERSION};
use crate::output::Output;
use crate::process::{Process, Usage, output_of};
use crate::settings::Order;
use crate::weir::sql_aggregate;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
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
pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// More numbers than any run reads.
pub const UNBOUNDED: u64 = 1_000_000_000_000_000;

/// Where the JobManager looks for jars that were uploaded, below the folder of uploads that it is told.
const UPLOADED: &str = "upload/flink-web-upload";
const JAR: &str = "jobs.jar";
const SQL_SINK: &str = "CREATE TABLE nowhere (k BIGINT, c BIGINT, s BIGINT) WITH ('connector' = 'blackhole')";

/// The processes. Dropped, they are killed.
pub struct FlinkCluster {
    installation: FlinkInstallation,
    folder: PathBuf,
    pub(super) rest: Rest,
    job_manager: Process,
    /// By their resource ids.
    task_managers: RefCell<BTreeMap<String, Process>>,
    /// What each TaskManager is started with.
    parameters: Vec<Vec<String>>,
    slots: u32,
    output: Output,
    pub started: Instant,
}

impl FlinkCluster {
    /// Starts all, with their files in `folder`, and waits until the TaskManagers offer their slots.
    pub fn start(installation: &FlinkInstallation, settings: &FlinkSettings, folder: &Path) -> Result<Self> {
        let started = Instant::now();
        let rest = Rest { port: free_port()? };
        for name in ["conf", "log", "tmp", "checkpoints", UPLOADED] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        std::fs::write(folder.join("conf/config.yaml"), configuration(settings, folder, rest.port)?)?;
        std::fs::write(folder.join("conf/log4j.properties"), LOGGING)?;
        std::fs::copy(&installation.jobs, folder.join(UPLOADED).join(JAR)).context("cannot copy the jobs")?;
        let starter = Starter { installation, folder };
        let job_manager = starter.start(
            "jobmanager",
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            &starter.jvm_parameters("GET_JM_RESOURCE_PARAMS")?,
            &[],
            Stdio::null(),
        )?;
        let cluster = FlinkCluster {
            installation: installation.clone(),
            folder: folder.to_owned(),
            rest,
            job_manager,
            task_managers: RefCell::default(),
            parameters: starter.jvm_parameters("GET_TM_RESOURCE_PARAMS")?,
            slots: settings.slots,
            output: Output::default(),
            started,
        };
        for _ in 0..settings.task_managers {
            cluster.start_task_manager()?;
        }
        cluster.wait_for_slots()?;
        Ok(cluster)
    }

    /// Another one, without waiting for it.
    pub fn start_task_manager(&self) -> Result<()> {
        let mut task_managers = self.task_managers.borrow_mut();
        let id = (1..).map(|number| format!("taskmanager-{number}"));
        let id = id.into_iter().find(|id| !self.folder.join("log").join(format!("{id}.out")).exists());
        let id = id.context("there are names enough")?;
        let mut process = Starter { installation: &self.installation, folder: &self.folder }.start(
            &id,
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            &self.parameters,
            &["-D".to_owned(), format!("taskmanager.resource-id={id}")],
            Stdio::piped(),
        )?;
        self.output.listen(process.child().stdout.take().context("Flink has no standard output")?);
        task_managers.insert(id, process);
        Ok(())
    }

    /// By SIGKILL.
    pub fn kill_task_manager(&self, id: &str) -> Result<()> {
        let process = self.task_managers.borrow_mut().remove(id);
        process.with_context(|| format!("there is no TaskManager {id}"))?.kill();
        Ok(())
    }

    /// Until all TaskManagers that were started have registered.
    pub fn wait_for_slots(&self) -> Result<()> {
        let slots = u64::from(self.slots) * self.task_managers.borrow().len() as u64;
        self.wait("its slots", || {
            let overview = self.rest.get("/overview").ok()?;
            (overview["slots-total"].as_u64() == Some(slots)).then_some(())
        })
    }

    /// What the TaskManagers print.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// A job whose program runs in the JobManager: no JVM is started for it.
    pub fn run_jar(
        &self,
        class: &str,
        arguments: &[String],
        parallelism: u32,
        restore: Option<&str>,
    ) -> Result<FlinkJob<'_>> {
        let mut request = json!({"entryClass": class, "programArgsList": arguments, "parallelism": parallelism});
        if let Some(path) = restore {
            request["savepointPath"] = path.into();
        }
        let answer = self.rest.post(&format!("/jars/{JAR}/run"), &request)?;
        let id = answer["jobid"].as_str().context("Flink named no job")?.to_owned();
        Ok(FlinkJob { cluster: self, id, submitted: Instant::now() })
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
        let task_managers = self.task_managers.borrow();
        task_managers.values().try_fold(self.job_manager.usage()?, |sum, process| Ok(sum + process.usage()?))
    }

    pub(super) fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> Result<T> {
        self.wait_long(what, Duration::ZERO, look)
    }

    pub(super) fn wait_long<T>(&self, what: &str, expected: Duration, look: impl Fn() -> Option<T>) -> Result<T> {
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

    pub(super) fn last_log_lines(&self) -> String {
        let last = |path: PathBuf| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n")
        };
        let Ok(logs) = std::fs::read_dir(self.folder.join("log")) else { return String::new() };
        logs.filter_map(|log| Some(last(log.ok()?.path()))).collect::<Vec<_>>().join("\n")
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

    fn start(
        &self,
        name: &str,
        class: &str,
        parameters: &[Vec<String>],
        more: &[String],
        output: Stdio,
    ) -> Result<Process> {
        let mut command = self.java(name);
        command.stdout(output).stderr(File::create(self.folder.join("log").join(format!("{name}.out")))?);
        command.args(&parameters[0]).arg("-XX:+UseG1GC").arg("-cp").arg(self.installation.class_path());
        command.arg(class).arg("--configDir").arg(self.folder.join("conf"));
        command.args(parameters.iter().skip(1).flatten()).args(more);
        Process::start(&mut command)
    }
}
