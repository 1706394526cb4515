//! How many objects a checkpoint of a job with several stateful operators consists of.

use super::Bench;
use crate::flink::{FlinkCluster, FlinkInstallation, FlinkSettings};
use crate::output::Output;
use crate::report::Table;
use crate::settings::{Backend, Benchmark, name};
use crate::weir::job_head;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

const OPERATORS: u32 = 5;
const PARALLELISM: u32 = 2;
const WORKERS: u32 = 2;
const KEYS: u64 = 200_000;
const ROWS_PER_SECOND: u64 = 50_000;
const INTERVAL: Duration = Duration::from_secs(1);
/// Over which the mean is taken.
const CHECKPOINTS: usize = 10;
/// More than are made: nothing that is counted is removed meanwhile.
const RETAINED: u32 = 1000;

pub fn run(bench: &Bench) -> Result<()> {
    let mut table = Table::new(&["Case", "Engine", "Objects for each checkpoint"]);
    for backend in &bench.settings.backend {
        let case = name(*backend);
        let objects = bench.with_folder(|folder| weir(bench, *backend, folder))?;
        table.rows.push(vec![case.clone(), "Weir".to_owned(), format!("{objects:.1}")]);
        if let Some(flink) = &bench.flink {
            let objects = bench.with_folder(|folder| by_flink(bench, flink, *backend, folder))?;
            table.rows.push(vec![case, "Flink".to_owned(), format!("{objects:.1}")]);
        }
    }
    let notes = vec![format!(
        "{OPERATORS} aggregates of the same source by different keys at parallelism {PARALLELISM}, over {WORKERS} worker \
         processes (TaskManagers), {ROWS_PER_SECOND} rows a second on {KEYS} keys, a checkpoint each second. Files that \
         come into the storage, by checkpoint: the mean over {CHECKPOINTS} of them or more."
    )];
    bench.publish(Benchmark::Objects, table, notes, vec![])
}

fn weir(bench: &Bench, backend: Backend, folder: &Path) -> Result<f64> {
    let run = bench.weir.start_workers(&yaml(backend, folder), folder, WORKERS, None, &Output::default())?;
    let checkpoints = || Ok(run.checkpoints().len());
    let objects = for_each_checkpoint(&folder.join("checkpoints"), checkpoints, |wanted| {
        let made = run.checkpoints().len();
        let mut last = Instant::now();
        for _ in made..wanted {
            last = run.wait_for_checkpoint(|checkpoint| checkpoint.at > last)?.at;
        }
        Ok(())
    })?;
    run.kill();
    Ok(objects)
}

fn by_flink(bench: &Bench, installation: &FlinkInstallation, backend: Backend, folder: &Path) -> Result<f64> {
    let settings = FlinkSettings::new(PARALLELISM, backend, Some(INTERVAL), &bench.settings.flink_memory);
    let settings = FlinkSettings { task_managers: WORKERS, slots: 1, ..settings }
        .with("execution.checkpointing.num-retained", RETAINED);
    let cluster = FlinkCluster::start(installation, &settings, folder)?;
    let arguments = [KEYS, ROWS_PER_SECOND].map(|number| number.to_string());
    let running = cluster.run_jar("FiveAggregates", &arguments, PARALLELISM, None)?;
    running.until_running()?;
    let checkpoints = || Ok(running.completed_checkpoints()? as usize);
    for_each_checkpoint(&folder.join("checkpoints"), checkpoints, |wanted| running.wait_for_checkpoints(wanted as u64))
}

/// The first ones are left out: state is still small, and some systems keep small state in their metadata.
fn for_each_checkpoint(
    storage: &Path,
    completed: impl Fn() -> Result<usize>,
    wait_for: impl Fn(usize) -> Result<()>,
) -> Result<f64> {
    wait_for(CHECKPOINTS)?;
    let (first, files_before) = (completed()?, files(storage)?);
    wait_for(first + CHECKPOINTS)?;
    let (last, files_after) = (completed()?, files(storage)?);
    if last <= first {
        bail!("no checkpoint completed");
    }
    Ok((files_after - files_before) as f64 / (last - first) as f64)
}

fn files(folder: &Path) -> Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

fn yaml(backend: Backend, folder: &Path) -> String {
    let aggregate = |number: u32| {
        let key = format!("MOD(n + {number}, {KEYS})");
        let sql = format!("SELECT {key} AS k, COUNT(*) AS c FROM numbers GROUP BY {key}");
        format!("    - {{name: count{number}, sql: '{sql}'}}\n")
    };
    let sink = |number: u32| format!("    - {{name: nowhere{number}, from: count{number}, blackhole: {{}}}}\n");
    format!(
        "{head}    - name: numbers
      schema: [{{name: n, type: BIGINT}}]
      generator: {{rowsPerSecond: {ROWS_PER_SECOND}, columns: [{{name: n, sequence: {{}}}}]}}
    transforms:
{transforms}    sinks:
{sinks}  checkpoint:
    interval: {interval_ms}ms
    minPause: 0s
    retain: {{count: {RETAINED}}}
    storage: {{uri: \"file://{storage}\"}}
  stateBackend: {{{backend}: {{}}}}
  restart: {{none: {{}}}}
",
        head = job_head("bench", PARALLELISM),
        transforms = (0..OPERATORS).map(aggregate).collect::<String>(),
        sinks = (0..OPERATORS).map(sink).collect::<String>(),
        interval_ms = INTERVAL.as_millis(),
        storage = folder.join("checkpoints").display(),
        backend = name(backend),
    )
}
