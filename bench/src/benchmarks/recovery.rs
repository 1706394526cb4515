//! From the SIGKILL of one of two workers to the next record, and to the first checkpoint after it: that is when new
//! records are committed.

use super::Bench;
use crate::flink::{FlinkCluster, FlinkInstallation, FlinkJob, FlinkSettings};
use crate::measure::median;
use crate::output::Output;
use crate::report::{Table, bytes};
use crate::settings::{Backend, Benchmark, name};
use crate::wide::{self, WideJob};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, Instant};

const WORKERS: u32 = 2;
/// From the checkpoint before to the kill: half an interval.
const AFTER_CHECKPOINT: Duration = Duration::from_millis(500);
/// After each recovery, to see whether it lasts.
const CALM: Duration = Duration::from_secs(3);

/// One engine with one kind of settings.
#[derive(Default)]
struct Figures {
    record_s: Vec<f64>,
    checkpoint_s: Vec<f64>,
    restarts: u64,
    checkpoint_bytes: f64,
}

pub fn run(bench: &Bench) -> Result<()> {
    let keys = bench.settings.keys.unwrap_or(wide::KEYS);
    let header = ["Case", "Engine", "Checkpoint", "First record", "First checkpoint", "Of each run", "Restarts"];
    let mut table = Table::new(&header);
    for backend in &bench.settings.backend {
        for local_recovery in [false, true] {
            let job = job(keys, *backend, local_recovery);
            let settings = if local_recovery { "with local copies" } else { "by default" };
            let case = format!("{}, {keys} keys, {settings}", name(*backend));
            let figures = bench.with_folder(|folder| weir(bench, &job, folder)).with_context(|| case.clone())?;
            table.rows.push(figures.row(case, "Weir"));
        }
    }
    if let Some(flink) = &bench.flink {
        let backend = bench.settings.flink_wide_backend;
        let case = |settings: &str| format!("{}, {keys} keys, {settings}", name(backend));
        let job = job(keys, backend, false);
        let (by_default, tuned) = bench.with_folder(|folder| flink_twice(bench, flink, &job, folder))?;
        table.rows.push(by_default.row(case("by default"), "Flink"));
        table.rows.push(tuned.row(case("tuned"), "Flink"));
    }
    let notes = vec![
        format!(
            "A count and ten sums by key, {} changed keys a second, a checkpoint each second to this machine's disk; a \
             store over a network is slower. One of {WORKERS} worker processes (TaskManagers) is ended by SIGKILL half a \
             second after a checkpoint. First record: until the longest silence of what is printed ends. First \
             checkpoint: until one is complete; then what came after the kill is committed. Restarts: of the job, for {} \
             kills, until {} s after the last.",
            wide::CHANGES_PER_SECOND,
            bench.settings.repeat,
            CALM.as_secs()
        ),
        "By default: `weir run` starts another worker, as it does; another TaskManager is started at once, as \
         Kubernetes would. Tuned: heartbeats every 250 ms with a timeout of 1 s, restart without delay, local recovery, \
         and a third TaskManager that stands by."
            .to_owned(),
    ];
    bench.publish(Benchmark::Recovery, table, notes, vec![])
}

fn job(keys: u64, backend: Backend, local_recovery: bool) -> WideJob {
    WideJob { keys, backend, parallelism: WORKERS, local_recovery, restarts: true }
}

fn weir(bench: &Bench, job: &WideJob, folder: &Path) -> Result<Figures> {
    let output = Output::default();
    let run = bench.weir.start_workers(&job.yaml(folder), folder, WORKERS, None, &output)?;
    run.wait_for_records(job.keys)?;
    let mut figures = Figures::default();
    for turn in 1..=bench.settings.repeat {
        let before = Instant::now();
        // The first that is seen may have begun before every key had come.
        let first = run.wait_for_checkpoint(|checkpoint| checkpoint.at > before)?.at;
        run.wait_for_checkpoint(|checkpoint| checkpoint.at > first)?;
        std::thread::sleep(AFTER_CHECKPOINT);
        let worker = *run.workers().first().context("the job has no worker process")?;
        let killed = Instant::now();
        // SAFETY: a signal to a process that the job has started, and that runs.
        unsafe { libc::kill(worker as libc::pid_t, libc::SIGKILL) };
        let checkpoint = run.wait_for_checkpoint(|checkpoint| checkpoint.at > killed)?.at;
        figures.recovered("Weir", turn, &output, killed, checkpoint)?;
    }
    figures.restarts = run.restarts();
    figures.checkpoint_bytes = bench.weir.checkpoints(folder)?.last().map_or(0, |(_, whole)| *whole) as f64;
    run.kill();
    Ok(figures)
}

/// By its default settings, and tuned, from the checkpoint that the first has left.
fn flink_twice(
    bench: &Bench,
    installation: &FlinkInstallation,
    job: &WideJob,
    folder: &Path,
) -> Result<(Figures, Figures)> {
    let settings = job.flink_settings(&bench.settings.flink_memory);
    let (by_default, checkpoint) = {
        // The default of a job with checkpoints.
        let settings = settings.clone().with("restart-strategy.type", "exponential-delay");
        let cluster = FlinkCluster::start(installation, &settings, &folder.join("default"))?;
        let running = job.run_on_flink(&cluster, WORKERS, None)?;
        running.wait_for_records(job.keys)?;
        let figures = flink(bench, &running, &cluster, "Flink by default", Replacement::StartedAtOnce)?;
        (figures, running.cancel()?)
    };
    let cluster = FlinkCluster::start(installation, &tuned(settings), &folder.join("tuned"))?;
    let running = job.run_on_flink(&cluster, WORKERS, Some(&checkpoint))?;
    let tuned = flink(bench, &running, &cluster, "Flink tuned", Replacement::StandsBy)?;
    Ok((by_default, tuned))
}

fn tuned(settings: FlinkSettings) -> FlinkSettings {
    FlinkSettings { task_managers: WORKERS + 1, ..settings }
        .with("heartbeat.interval", 250)
        .with("heartbeat.timeout", 1000)
        .with("heartbeat.rpc-failure-threshold", 1)
        .with("restart-strategy.type", "fixed-delay")
        .with("restart-strategy.fixed-delay.attempts", 1_000_000)
        .with("restart-strategy.fixed-delay.delay", "0s")
        .with("execution.state-recovery.from-local", true)
        .with("execution.checkpointing.local-backup.enabled", true)
        .with("state.backend.rocksdb.use-ingest-db-restore-mode", true)
}

/// Of the TaskManager that is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replacement {
    StartedAtOnce,
    StandsBy,
}

fn flink(
    bench: &Bench,
    running: &FlinkJob<'_>,
    cluster: &FlinkCluster,
    engine: &str,
    replacement: Replacement,
) -> Result<Figures> {
    let mut figures = Figures::default();
    for turn in 1..=bench.settings.repeat {
        let first = running.checkpoint_triggered_after(Instant::now())?.at;
        running.checkpoint_triggered_after(first)?;
        std::thread::sleep(AFTER_CHECKPOINT);
        let task_manager = running.task_manager()?;
        let killed = Instant::now();
        cluster.kill_task_manager(&task_manager)?;
        if replacement == Replacement::StartedAtOnce {
            cluster.start_task_manager()?;
        }
        let checkpoint = running.checkpoint_triggered_after(killed)?.at;
        figures.recovered(engine, turn, cluster.output(), killed, checkpoint)?;
        if replacement == Replacement::StandsBy {
            cluster.start_task_manager()?;
        }
        cluster.wait_for_slots()?;
    }
    figures.restarts = running.restarts()?;
    figures.checkpoint_bytes = running.full_size()?;
    Ok(figures)
}

impl Figures {
    fn recovered(
        &mut self,
        engine: &str,
        turn: u32,
        output: &Output,
        killed: Instant,
        checkpoint: Instant,
    ) -> Result<()> {
        std::thread::sleep(CALM);
        let record_s = (output.longest_silence(killed)?.end - killed).as_secs_f64();
        let checkpoint_s = (checkpoint - killed).as_secs_f64();
        eprintln!("bench: {engine}, recovery {turn}: record {record_s:.2} s, checkpoint {checkpoint_s:.2} s");
        self.record_s.push(record_s);
        self.checkpoint_s.push(checkpoint_s);
        Ok(())
    }

    fn row(&self, case: String, engine: &str) -> Vec<String> {
        let each: Vec<String> = self.checkpoint_s.iter().map(|seconds| format!("{seconds:.2}")).collect();
        vec![
            case,
            engine.to_owned(),
            bytes(self.checkpoint_bytes),
            format!("{:.2} s", median(self.record_s.iter().copied())),
            format!("{:.2} s", median(self.checkpoint_s.iter().copied())),
            each.join(", "),
            self.restarts.to_string(),
        ]
    }
}
