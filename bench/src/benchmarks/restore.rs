//! From a checkpoint of ten million keys to running tasks.

use super::Bench;
use crate::flink::{FlinkCluster, FlinkSettings, UNBOUNDED};
use crate::measure::median;
use crate::report::{Table, bytes};
use crate::settings::{Benchmark, Order, name};
use crate::weir::WeirJob;
use anyhow::Result;
use std::time::{Duration, Instant};

pub fn run(bench: &Bench) -> Result<()> {
    let keys = bench.settings.keys.unwrap_or(10_000_000);
    let mut table = Table::new(&["Case", "Engine", "Checkpoint", "Restore", "From process start", "Ratio"]);
    for backend in &bench.settings.backend {
        for parallelism in &bench.settings.parallelism {
            let case = format!("{}, parallelism {parallelism}, {keys} keys", name(*backend));
            let job =
                WeirJob { keys, order: Order::Mixed, backend: *backend, parallelism: *parallelism, ..bench.job() };
            let (restores, starts, size) = weir(bench, &job)?;
            let restore = median(restores.into_iter());
            let ratio = match &bench.flink {
                None => String::new(),
                Some(_) => {
                    let flink = flink(bench, &job)?;
                    let row = vec![
                        case.clone(),
                        "Flink".to_owned(),
                        String::new(),
                        format!("{flink:.2} s"),
                        String::new(),
                        String::new(),
                    ];
                    table.rows.push(row);
                    format!("**{:.1}**", flink / restore)
                }
            };
            let at = table.rows.len() - usize::from(bench.flink.is_some());
            table.rows.insert(
                at,
                vec![
                    case,
                    "Weir".to_owned(),
                    bytes(size),
                    format!("{restore:.2} s"),
                    format!("{:.2} s", median(starts.into_iter())),
                    ratio,
                ],
            );
        }
    }
    let notes = vec![
        "Restore of Weir: from the process's start until all tasks run, less what the same takes without a \
         checkpoint. Of Flink, whose processes run already: from the job's acceptance until all tasks run. Files are \
         in the page cache for both."
            .to_owned(),
    ];
    bench.publish(Benchmark::Restore, table, notes, vec![])
}

/// Seconds for the restore alone and from the process's start, in each run, and the checkpoint's size.
fn weir(bench: &Bench, job: &WeirJob) -> Result<(Vec<f64>, Vec<f64>, f64)> {
    bench.with_folder(|folder| {
        let fill = bench.weir.start(job, folder)?;
        let empty = fill.until_running()?;
        fill.wait_for_records(job.keys * 2)?;
        fill.stop()?;
        let size = bench.weir.checkpoints(folder)?.last().map_or(0, |(_, whole)| *whole);
        let (mut restores, mut starts) = (vec![], vec![]);
        for turn in 1..=bench.settings.repeat {
            let run = bench.weir.start(job, folder)?;
            let started = run.until_running()?;
            run.kill();
            restores.push(started.saturating_sub(empty).as_secs_f64());
            starts.push(started.as_secs_f64());
            eprintln!("bench: Weir, restore {turn}: {:.2} s", started.as_secs_f64());
        }
        Ok((restores, starts, size as f64))
    })
}

/// Seconds, the median.
fn flink(bench: &Bench, job: &WeirJob) -> Result<f64> {
    let Some(installation) = &bench.flink else { return Ok(0.0) };
    bench.with_folder(|folder| {
        let (interval, memory) = (Some(Duration::from_secs(5)), &bench.settings.flink_memory);
        let settings = FlinkSettings::new(job.parallelism, job.backend, interval, memory);
        let cluster = FlinkCluster::start(installation, &settings, folder)?;
        // In sequence every key comes in the first round.
        let mut running = cluster.run_keyed(job.keys, Order::Sequence, UNBOUNDED, None)?;
        running.wait_for_records(job.keys)?;
        let completed = running.completed_checkpoints()?;
        running.wait_for_checkpoints(completed + 2)?;
        let mut restores = vec![];
        for turn in 1..=bench.settings.repeat {
            let checkpoint = running.cancel()?;
            let begin = Instant::now();
            running = cluster.run_keyed(job.keys, Order::Sequence, UNBOUNDED, Some(&checkpoint))?;
            let restore = running.until_running()?.as_secs_f64();
            eprintln!(
                "bench: Flink, restore {turn}: {restore:.2} s, {:.2} s with its client",
                begin.elapsed().as_secs_f64()
            );
            restores.push(restore);
            running.wait_for_checkpoints(1)?;
        }
        Ok(median(restores.into_iter()))
    })
}
