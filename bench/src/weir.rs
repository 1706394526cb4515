//! Weir under measurement: the real command with a real job file.

use crate::measure::{CheckpointSample, Measure, SLOWEST_RECORDS_PER_SECOND, Sample};
use crate::output::Output;
use crate::process::{Process, output_of};
use crate::progress::{SOURCE, Seen};
use crate::settings::{Backend, Order};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a job may take until it shows what is waited for, beyond what the caller allows for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A job that counts and sums by key.
#[derive(Clone, Debug)]
pub struct WeirJob {
    pub keys: u64,
    pub order: Order,
    pub query: Query,
    pub parallelism: u32,
    pub backend: Backend,
    /// Of the RocksDB backend.
    pub memory: Option<String>,
    /// None: no checkpoint while it runs.
    pub interval: Option<Duration>,
    pub rows_per_second: Option<u64>,
    /// Checkpoints that are kept.
    pub retain: u32,
    /// In so many worker processes. None: in one process.
    pub workers: Option<u32>,
    /// Whether workers keep copies of checkpoints.
    pub local_recovery: bool,
    /// Whether it restarts after a failure, as by default; else the first one ends it.
    pub restarts: bool,
    /// Of the sink, where it is slow.
    pub sink_rows_per_second: Option<u64>,
    /// Barriers overtake records.
    pub is_unaligned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// The source makes keys; the query groups by them.
    Keyed,
    /// The source makes numbers; the query computes keys.
    Sql,
}

impl WeirJob {
    fn yaml(&self, storage: &Path) -> String {
        let keys = self.keys;
        let (columns, rules, sql) = match self.query {
            Query::Keyed => (
                "{name: k, type: BIGINT}, {name: n, type: BIGINT}",
                format!(
                    "{{name: k, sequence: {{cardinality: {keys}, order: {}}}}}, {{name: n, sequence: {{}}}}",
                    match self.order {
                        Order::Sequence => "Sequential",
                        Order::Mixed => "Mixed",
                    }
                ),
                format!("SELECT k, COUNT(*) AS c, SUM(n) AS s FROM {SOURCE} GROUP BY k"),
            ),
            Query::Sql => {
                ("{name: n, type: BIGINT}", "{name: n, sequence: {}}".to_owned(), sql_aggregate(keys, self.order))
            }
        };
        let rate = self.rows_per_second.map_or(String::new(), |rate| format!("rowsPerSecond: {rate}, "));
        let backend = match (self.backend, &self.memory) {
            (Backend::Heap, _) => format!("heap: {{localRecovery: {}}}", self.local_recovery),
            (Backend::Rocksdb, memory) => {
                let memory = memory.as_ref().map_or(String::new(), |memory| format!(", memory: {memory}"));
                format!("rocksdb: {{localRecovery: {}{memory}}}", self.local_recovery)
            }
        };
        let restart = if self.restarts { "exponentialDelay" } else { "none" };
        // Longer than any run: a job without checkpoints would take none at its end either.
        let interval_ms = self.interval.map_or(3_600_000, |interval| interval.as_millis());
        format!(
            "{head}    - name: {SOURCE}
      schema: [{columns}]
      generator: {{{rate}columns: [{rules}]}}
    transforms:
    - name: totals
      sql: {sql}
    sinks:
    - {{name: nowhere, from: totals, blackhole: {{{sink}}}}}
  checkpoint:
    interval: {interval_ms}ms
    mode: ExactlyOnce
    minPause: 0s
    retain: {{count: {retain}}}
    unaligned: {{enabled: {is_unaligned}}}
    storage: {{uri: \"file://{storage}\"}}
  stateBackend: {{{backend}}}
  restart: {{{restart}: {{}}}}
",
            head = job_head("bench", self.parallelism),
            retain = self.retain,
            is_unaligned = self.is_unaligned,
            sink = self.sink_rows_per_second.map_or(String::new(), |rate| format!("rowsPerSecond: {rate}")),
            storage = storage.display(),
        )
    }
}

/// What a job's text begins with; its sources follow.
pub fn job_head(name: &str, parallelism: u32) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {{name: {name}}}
spec:
  parallelism: {parallelism}
  pipeline:
    sources:
"
    )
}

/// The query that both engines run, over a table `numbers` with the column `n`.
pub fn sql_aggregate(keys: u64, order: Order) -> String {
    let key = match order {
        Order::Sequence => format!("MOD(n, {keys})"),
        // A prime that no power of ten has in common: each key once in each round, far from the one before.
        Order::Mixed => format!("MOD(n * 611953, {keys})"),
    };
    format!("SELECT k, COUNT(*) AS c, SUM(n) AS s FROM (SELECT {key} AS k, n FROM numbers) AS keyed GROUP BY k")
}

/// The `weir` of the same build as this program.
#[derive(Clone, Debug)]
pub struct WeirBinary(PathBuf);

impl WeirBinary {
    pub fn find() -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let path = own.with_file_name(format!("weir{}", std::env::consts::EXE_SUFFIX));
        if !path.is_file() {
            bail!("there is no `{}`; run `cargo xtask bench`, which builds it", path.display());
        }
        Ok(WeirBinary(path))
    }

    /// Starts the job, with its file and its checkpoints in `folder`.
    pub fn start(&self, job: &WeirJob, folder: &Path) -> Result<WeirRun> {
        let workers = job.workers.map(|workers| workers.to_string());
        let arguments: Vec<&str> = workers.iter().flat_map(|workers| ["--workers", workers]).collect();
        // Copies of checkpoints lie where the run's other files do, and go with them.
        let temporary = job.local_recovery.then_some(folder);
        self.launch(&job.yaml(&folder.join("checkpoints")), folder, &arguments, Stdio::null(), temporary)
    }

    /// As `start`, a job that the caller has written.
    pub fn start_yaml(&self, yaml: &str, folder: &Path) -> Result<WeirRun> {
        self.launch(yaml, folder, &[], Stdio::null(), None)
    }

    /// A job that ends by itself.
    pub fn run_to_end(&self, yaml: &str, folder: &Path) -> Result<()> {
        let file = folder.join("job.yaml");
        std::fs::write(&file, yaml).context("cannot write the job file")?;
        output_of(Command::new(&self.0).arg("run").arg(&file))?;
        Ok(())
    }

    /// As `start`, over so many worker processes, from a restore point other than the latest if one is given. What they
    /// print is heard by `output`.
    pub fn start_workers(
        &self,
        yaml: &str,
        folder: &Path,
        workers: u32,
        from: Option<&str>,
        output: &Output,
    ) -> Result<WeirRun> {
        let workers = workers.to_string();
        let arguments: Vec<&str> =
            ["--workers", &workers].into_iter().chain(from.iter().flat_map(|from| ["--from", from])).collect();
        let mut run = self.launch(yaml, folder, &arguments, Stdio::piped(), Some(folder))?;
        output.listen(run.process.child().stdout.take().context("weir has no standard output")?);
        Ok(run)
    }

    /// As `start`, as a coordinator and workers that were each started by hand, without certificates.
    pub fn start_open_workers(&self, job: &WeirJob, folder: &Path, workers: u32) -> Result<WeirRun> {
        let (file, storage) = (folder.join("job.yaml"), folder.join("checkpoints"));
        std::fs::write(&file, job.yaml(&storage)).context("cannot write the job file")?;
        let mut coordinator = Command::new(&self.0);
        coordinator.arg("coordinator").arg(&file).args(["--listen", "127.0.0.1:0", "--workers", &workers.to_string()]);
        let mut run = self.follow(coordinator, Stdio::null())?;
        let address = run.wait_for("its address", Duration::ZERO, |seen| seen.address.clone())?;
        for _ in 0..workers {
            let mut worker = Command::new(&self.0);
            worker.args(["worker", "--coordinator", &address]).stdin(Stdio::null()).stdout(Stdio::null());
            run.workers.push(Process::start(worker.stderr(Stdio::null()))?);
        }
        lock(&run.seen).workers = run.workers.iter().map(Process::id).collect();
        Ok(run)
    }

    /// Returns when all tasks of the job in `folder` run with it.
    pub fn rescale(&self, folder: &Path, parallelism: u32) -> Result<()> {
        self.ask("rescale", folder, &["-p", &parallelism.to_string()]).map(|_| ())
    }

    /// Stops the job in `folder`; returns its savepoint.
    pub fn stop_with_savepoint(&self, folder: &Path, to: &Path) -> Result<String> {
        let said = self.ask("stop", folder, &["--savepoint", &to.to_string_lossy()])?;
        Ok(said.trim().to_owned())
    }

    /// Runs a command on the job in `folder`; what it says.
    fn ask(&self, command: &str, folder: &Path, arguments: &[&str]) -> Result<String> {
        let mut asking = Command::new(&self.0);
        // Where the job's socket is, if it was told to put temporary files there.
        asking.arg(command).arg(folder.join("job.yaml")).args(arguments).env("TMPDIR", folder);
        output_of(&mut asking)
    }

    fn launch(
        &self,
        yaml: &str,
        folder: &Path,
        arguments: &[&str],
        output: Stdio,
        temporary: Option<&Path>,
    ) -> Result<WeirRun> {
        let file = folder.join("job.yaml");
        std::fs::write(&file, yaml).context("cannot write the job file")?;
        let mut command = Command::new(&self.0);
        command.arg("run").arg(&file).args(arguments).envs(temporary.map(|folder| ("TMPDIR", folder)));
        self.follow(command, output)
    }

    /// Starts what shows the job's progress, and reads that.
    fn follow(&self, mut command: Command, output: Stdio) -> Result<WeirRun> {
        let started = Instant::now();
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let output = process.child().stderr.take().context("weir has no standard error")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (reader, id) = (Arc::clone(&seen), process.id());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lock(&reader).line(&line, id);
            }
            lock(&reader).ended = true;
        });
        Ok(WeirRun { process, workers: vec![], seen, started })
    }

    /// The job's checkpoints: (state changed and written, all that a restore reads), bytes, oldest first.
    pub fn checkpoints(&self, folder: &Path) -> Result<Vec<(u64, u64)>> {
        let said = self.ask("checkpoints", folder, &["--output", "json"])?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&said).context("not a list in JSON")?;
        let number = |entry: &serde_json::Value, name: &str| entry[name].as_u64().unwrap_or(0);
        Ok(list.iter().map(|entry| (number(entry, "sizeBytes"), number(entry, "fullSizeBytes"))).collect())
    }

    pub fn version(&self) -> String {
        let output = Command::new(&self.0).arg("--version").output();
        output.map_or("weir".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A running job.
pub struct WeirRun {
    process: Process,
    /// Those that it has not started itself.
    workers: Vec<Process>,
    seen: Arc<Mutex<Seen>>,
    pub started: Instant,
}

impl WeirRun {
    /// Lets it run for as long as that, and measures what follows.
    pub fn measure(&self, warm_up: Duration, window: Duration) -> Result<Measure> {
        let begin = Instant::now() + warm_up;
        self.wait_for("the end of the measured window", warm_up + window, |seen| {
            seen.samples.last().is_some_and(|sample| sample.at >= begin + window).then_some(())
        })?;
        let seen = lock(&self.seen);
        if seen.failed_checkpoints > 0 {
            bail!("{} checkpoints failed: {}", seen.failed_checkpoints, seen.last_lines.join("\n"));
        }
        let within: Vec<Sample> = seen.samples.iter().filter(|sample| sample.at >= begin).copied().collect();
        Measure::of(&within, &seen.checkpoints)
    }

    /// From the start of the process until its tasks run.
    pub fn until_running(&self) -> Result<Duration> {
        let at = self.wait_for("the tasks to run", Duration::ZERO, |seen| seen.running_at)?;
        Ok(at - self.started)
    }

    /// From the start of the process until a checkpoint has completed.
    pub fn until_checkpoint(&self) -> Result<Duration> {
        let at = self.wait_for("the first checkpoint", Duration::ZERO, |seen| Some(seen.checkpoints.first()?.at))?;
        Ok(at - self.started)
    }

    /// The first of them that has completed.
    pub fn wait_for_checkpoint(&self, is_it: impl Fn(&CheckpointSample) -> bool) -> Result<CheckpointSample> {
        self.wait_for("a checkpoint", Duration::ZERO, |seen| {
            seen.checkpoints.iter().find(|checkpoint| is_it(checkpoint)).copied()
        })
    }

    /// The worker processes that run now, of those that it has started itself.
    pub fn workers(&self) -> Vec<u32> {
        crate::process::children(self.process.id())
    }

    pub fn wait_for_records(&self, records: u64) -> Result<()> {
        self.wait_for("records", Duration::from_secs(records / SLOWEST_RECORDS_PER_SECOND), |seen| {
            seen.samples.last().is_some_and(|sample| sample.records >= records).then_some(())
        })
    }

    /// As `wait_for_records`, but no longer than so.
    pub fn wait_for_records_within(&self, time: Duration, records: u64) -> Result<()> {
        let began = Instant::now();
        self.wait_for("records", time, |seen| {
            let read = seen.samples.last()?.records;
            if read < records && began.elapsed() > time {
                eprintln!("bench: Weir has read {read} of {records} records in {} s", time.as_secs());
            }
            (read >= records || began.elapsed() > time).then_some(())
        })
    }

    /// Since its start.
    pub fn restarts(&self) -> u64 {
        lock(&self.seen).restarts
    }

    pub fn samples(&self) -> Vec<Sample> {
        lock(&self.seen).samples.clone()
    }

    /// Those that have completed.
    pub fn checkpoints(&self) -> Vec<CheckpointSample> {
        lock(&self.seen).checkpoints.clone()
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// After a last checkpoint.
    pub fn stop(self) -> Result<()> {
        self.process.terminate()
    }

    pub fn kill(self) {
        self.process.kill();
    }

    fn wait_for<T>(&self, what: &str, expected: Duration, look: impl Fn(&Seen) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + expected + PATIENCE;
        loop {
            let seen = lock(&self.seen);
            if let Some(found) = look(&seen) {
                return Ok(found);
            }
            if seen.ended || Instant::now() > deadline {
                let why = if seen.ended { "the job ended" } else { "nothing came" };
                bail!("waiting for {what}: {why}. Its last lines:\n{}", seen.last_lines.join("\n"));
            }
            drop(seen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
