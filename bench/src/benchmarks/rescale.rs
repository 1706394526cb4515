//! How long a job of two processes is silent while it is rescaled from 2 to 4 and back, what the first checkpoint after
//! that writes, and the same by way of a savepoint.

use super::Bench;
use crate::flink::{FlinkCluster, FlinkInstallation, FlinkJob, FlinkSettings};
use crate::measure::median;
use crate::output::Output;
use crate::report::{Table, bytes};
use crate::settings::{Backend, Benchmark, name};
use crate::weir::WeirRun;
use crate::wide::{self, WideJob};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, Instant};

const WORKERS: u32 = 2;
/// Undisturbed before the first rescale, and after each.
const CALM: Duration = Duration::from_secs(4);

/// One way from one parallelism to another.
struct Way {
    name: String,
    silent_s: Vec<f64>,
    /// From the request until all tasks run.
    asked_s: Vec<f64>,
    /// By the first checkpoint after it.
    written: Vec<f64>,
}

pub fn run(bench: &Bench) -> Result<()> {
    let keys = bench.settings.keys.unwrap_or(wide::KEYS);
    let header =
        ["Case", "Engine", "Rescale", "Checkpoint", "Silent", "Until all tasks run", "Written by the next checkpoint"];
    let mut table = Table::new(&header);
    for backend in &bench.settings.backend {
        let (full, ways) = bench.with_folder(|folder| weir(bench, &job(keys, *backend), folder))?;
        let case = format!("{}, {keys} keys", name(*backend));
        table.rows.extend(ways.iter().map(|way| way.row(&case, "Weir", full)));
    }
    if let Some(flink) = &bench.flink {
        let job = job(keys, bench.settings.flink_wide_backend);
        let (full, ways) = bench.with_folder(|folder| by_flink(bench, flink, &job, folder))?;
        let case = format!("{}, {keys} keys", name(job.backend));
        table.rows.extend(ways.iter().map(|way| way.row(&case, "Flink", full)));
    }
    let notes = vec![
        format!(
            "A count and ten sums by key in {WORKERS} worker processes (TaskManagers). Silent: the longest time between two \
             lines of output, at {} changed keys a second, from the request to {} s after all tasks run again; `none`: \
             the same without a request. A checkpoint each second, to the local disk.",
            wide::CHANGES_PER_SECOND,
            CALM.as_secs()
        ),
        "Checkpoint: what a restore reads, as it is stored. In place: `weir rescale`; Flink's adaptive scheduler, asked by \
         REST, without its pauses between two rescales. By savepoint: the job stops with it (Weir by `weir stop \
         --savepoint`, Flink by REST), and starts from it with the other parallelism: Weir's processes are started, \
         Flink's run, and have the program already. Weir has one format of savepoints, which is canonical."
            .to_owned(),
    ];
    bench.publish(Benchmark::Rescale, table, notes, vec![])
}

fn job(keys: u64, backend: Backend) -> WideJob {
    WideJob { keys, backend, parallelism: 2, local_recovery: false, restarts: false }
}

fn weir(bench: &Bench, job: &WideJob, folder: &Path) -> Result<(f64, Vec<Way>)> {
    let output = Output::default();
    let run = bench.weir.start_workers(&job.yaml(folder), folder, WORKERS, None, &output)?;
    run.wait_for_records(job.keys)?;
    weir_checkpoint_after(&run, Instant::now())?;
    let mut ways = vec![undisturbed(&output)?];
    let full = bench.weir.checkpoints(folder)?.last().map_or(0, |(_, whole)| *whole) as f64;
    let (mut up, mut down) = (Way::new("2 to 4, in place"), Way::new("4 to 2, in place"));
    for _ in 0..bench.settings.repeat {
        for (parallelism, way) in [(4, &mut up), (2, &mut down)] {
            let begin = Instant::now();
            bench.weir.rescale(folder, parallelism)?;
            let done = Instant::now();
            let written = weir_checkpoint_after(&run, done)?;
            std::thread::sleep(CALM);
            way.done("Weir", &output, begin, done, written)?;
        }
    }
    let begin = Instant::now();
    let savepoint = bench.weir.stop_with_savepoint(folder, &folder.join("savepoint"))?;
    eprintln!("bench: Weir, canonical savepoint written in {:.2} s", begin.elapsed().as_secs_f64());
    let job = WideJob { parallelism: 4, ..job.clone() };
    let next = folder.join("next");
    std::fs::create_dir_all(&next)?;
    let started = Instant::now();
    let run = bench.weir.start_workers(&job.yaml(&next), &next, WORKERS, Some(&savepoint), &output)?;
    let done = started + run.until_running()?;
    let written = weir_checkpoint_after(&run, done)?;
    std::thread::sleep(CALM);
    let mut by_savepoint = Way::new("2 to 4, by a canonical savepoint");
    by_savepoint.done("Weir", &output, begin, done, written)?;
    run.kill();
    ways.extend([up, down, by_savepoint]);
    Ok((full, ways))
}

/// Bytes that it wrote.
fn weir_checkpoint_after(run: &WeirRun, after: Instant) -> Result<f64> {
    // Progress is shown some time after it was made.
    let shown = after + Duration::from_millis(200);
    run.wait_for_checkpoint(|checkpoint| checkpoint.at > shown).map(|checkpoint| checkpoint.written_bytes)
}

fn by_flink(bench: &Bench, installation: &FlinkInstallation, job: &WideJob, folder: &Path) -> Result<(f64, Vec<Way>)> {
    let settings = job.flink_settings(&bench.settings.flink_memory);
    let settings = FlinkSettings { slots: 2, ..settings }
        .with("jobmanager.scheduler", "adaptive")
        .with("jobmanager.adaptive-scheduler.executing.cooldown-after-rescaling", "0s")
        .with("jobmanager.adaptive-scheduler.executing.resource-stabilization-timeout", "0s")
        .with("execution.state-recovery.from-local", true)
        .with("execution.checkpointing.local-backup.enabled", true)
        .with("state.backend.rocksdb.use-ingest-db-restore-mode", true);
    let cluster = FlinkCluster::start(installation, &settings, folder)?;
    let mut running = job.run_on_flink(&cluster, 2, None)?;
    running.until_running()?;
    running.wait_for_records(job.keys)?;
    running.checkpoint_triggered_after(Instant::now())?;
    let mut ways = vec![undisturbed(cluster.output())?];
    let full = running.full_size()?;
    let (mut up, mut down) = (Way::new("2 to 4, in place"), Way::new("4 to 2, in place"));
    for _ in 0..bench.settings.repeat {
        for (parallelism, way) in [(4, &mut up), (2, &mut down)] {
            let begin = Instant::now();
            running.rescale(parallelism)?;
            flink_done(way, &running, &cluster, begin)?;
        }
    }
    ways.extend([up, down]);
    for (parallelism, format, name) in [
        (4, "NATIVE", "2 to 4, by a native savepoint"),
        (2, "NATIVE", "4 to 2, by a native savepoint"),
        (4, "CANONICAL", "2 to 4, by a canonical savepoint"),
    ] {
        let mut way = Way::new(name);
        let begin = Instant::now();
        let savepoint = running.stop_with_savepoint(&format!("file://{}/savepoints", folder.display()), format)?;
        eprintln!("bench: Flink, {format} savepoint written in {:.2} s", begin.elapsed().as_secs_f64());
        running = job.run_on_flink(&cluster, parallelism, Some(&savepoint))?;
        running.until_running()?;
        flink_done(&mut way, &running, &cluster, begin)?;
        ways.push(way);
    }
    Ok((full, ways))
}

/// All tasks of the job run again.
fn flink_done(way: &mut Way, running: &FlinkJob<'_>, cluster: &FlinkCluster, begin: Instant) -> Result<()> {
    let done = Instant::now();
    let written = running.checkpoint_triggered_after(done)?.written_bytes;
    std::thread::sleep(CALM);
    way.done("Flink", cluster.output(), begin, done, written)
}

fn undisturbed(output: &Output) -> Result<Way> {
    let begin = Instant::now();
    std::thread::sleep(CALM);
    let silent_s = output.longest_silence(begin)?.seconds;
    Ok(Way { silent_s: vec![silent_s], ..Way::new("none") })
}

impl Way {
    fn new(name: &str) -> Self {
        Way { name: name.to_owned(), silent_s: vec![], asked_s: vec![], written: vec![] }
    }

    fn done(&mut self, engine: &str, output: &Output, begin: Instant, done: Instant, written: f64) -> Result<()> {
        let silent_s = output.longest_silence(begin).with_context(|| self.name.clone())?.seconds;
        eprintln!("bench: {engine}, {}: silent {silent_s:.2} s, then {}", self.name, bytes(written));
        self.silent_s.push(silent_s);
        self.asked_s.push((done - begin).as_secs_f64());
        self.written.push(written);
        Ok(())
    }

    fn row(&self, case: &str, engine: &str, full: f64) -> Vec<String> {
        let seconds = |all: &[f64]| match all {
            [] => String::new(),
            all => format!("{:.2} s", median(all.iter().copied())),
        };
        let written = if self.written.is_empty() { String::new() } else { bytes(median(self.written.iter().copied())) };
        vec![
            case.to_owned(),
            engine.to_owned(),
            self.name.clone(),
            bytes(full),
            seconds(&self.silent_s),
            seconds(&self.asked_s),
            written,
        ]
    }
}
