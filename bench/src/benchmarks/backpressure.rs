//! Checkpoints of a job whose sink holds everything up.

use super::Bench;
use crate::flink::{FlinkCluster, FlinkInstallation, FlinkSettings};
use crate::measure::{CheckpointSample, median};
use crate::report::{Table, bytes, rate};
use crate::settings::{Benchmark, name};
use crate::weir::WeirJob;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// Of the sink: far below what the source makes, so that all channels are full.
const SINK_ROWS_PER_SECOND: u64 = 20_000;
const INTERVAL: Duration = Duration::from_millis(500);

pub fn run(bench: &Bench) -> Result<()> {
    let header = ["Case", "Engine", "Barriers", "Checkpoints", "Median", "95 %", "Worst", "Written by each", "Records"];
    let mut table = Table::new(&header);
    for backend in &bench.settings.backend {
        for is_unaligned in [false, true] {
            for parallelism in &bench.settings.parallelism {
                // One subtask of everything needs no channel.
                let parallelism = (*parallelism).max(2);
                let job = WeirJob {
                    parallelism,
                    backend: *backend,
                    interval: Some(INTERVAL),
                    sink_rows_per_second: Some(SINK_ROWS_PER_SECOND),
                    is_unaligned,
                    ..bench.job()
                };
                let case = format!("{}, parallelism {parallelism}", name(*backend));
                let barriers = if is_unaligned { "unaligned" } else { "aligned" };
                table.rows.push(row(bench, &case, "Weir", barriers, |folder| weir(bench, &job, folder))?);
                if let Some(installation) = &bench.flink {
                    let run = |folder: &Path| flink(bench, installation, &job, folder);
                    table.rows.push(row(bench, &case, "Flink", barriers, run)?);
                }
            }
        }
    }
    let notes = vec![format!(
        "A count and sum by key whose sink takes {SINK_ROWS_PER_SECOND} rows a second over all subtasks; the source makes \
         as many as it may. A checkpoint every {} ms, or when the one before is complete. From the trigger to the entry \
         in the commit log; of Flink, what it calls the end-to-end duration.",
        INTERVAL.as_millis()
    )];
    bench.publish(Benchmark::Backpressure, table, notes, vec![])
}

/// One run: records per second, and the checkpoints of the measured window.
type Ran = (f64, Vec<CheckpointSample>);

fn row(
    bench: &Bench,
    case: &str,
    engine: &str,
    barriers: &str,
    run: impl Fn(&Path) -> Result<Ran>,
) -> Result<Vec<String>> {
    let (mut durations, mut written, mut rates) = (vec![], vec![], vec![]);
    for _ in 0..bench.settings.repeat {
        let (rate, checkpoints) = bench.with_folder(&run).with_context(|| format!("{engine}, {case}, {barriers}"))?;
        rates.push(rate);
        durations.extend(checkpoints.iter().map(|done| done.duration_ms));
        written.extend(checkpoints.iter().map(|done| done.written_bytes));
    }
    durations.sort_by(f64::total_cmp);
    let (Some(worst), Some(late)) = (durations.last(), durations.get(durations.len() * 95 / 100)) else {
        bail!("{engine}, {case}, {barriers}: no checkpoint completed in the measured window");
    };
    let middle = median(durations.iter().copied());
    eprintln!("bench: {engine}, {case}, {barriers}: median {middle:.0} ms, worst {worst:.0} ms");
    Ok(vec![
        case.to_owned(),
        engine.to_owned(),
        barriers.to_owned(),
        durations.len().to_string(),
        format!("{middle:.0} ms"),
        format!("{late:.0} ms"),
        format!("{worst:.0} ms"),
        bytes(median(written.into_iter())),
        rate(median(rates.into_iter())),
    ])
}

fn weir(bench: &Bench, job: &WeirJob, folder: &Path) -> Result<Ran> {
    let run = bench.weir.start(job, folder)?;
    let begin = Instant::now() + bench.settings.warm_up();
    let rate = run.measure(bench.settings.warm_up(), bench.settings.window())?.records_per_second;
    let within = run.checkpoints().into_iter().filter(|done| done.at >= begin).collect();
    run.kill();
    Ok((rate, within))
}

fn flink(bench: &Bench, installation: &FlinkInstallation, job: &WeirJob, folder: &Path) -> Result<Ran> {
    let settings = FlinkSettings::new(job.parallelism, job.backend, job.interval, &bench.settings.flink_memory)
        .with("execution.checkpointing.unaligned.enabled", job.is_unaligned);
    let cluster = FlinkCluster::start(installation, &settings, folder)?;
    let of_subtask = SINK_ROWS_PER_SECOND / u64::from(job.parallelism);
    let arguments = [job.keys, of_subtask].map(|number| number.to_string());
    let running = cluster.run_jar("SlowSink", &arguments, job.parallelism, None)?;
    running.until_running()?;
    let begin = Instant::now() + bench.settings.flink_warm_up();
    let rate = running.measure(bench.settings.flink_warm_up(), bench.settings.window())?.records_per_second;
    Ok((rate, running.checkpoints_since(begin)?))
}
