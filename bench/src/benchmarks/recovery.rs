//! From the SIGKILL of a worker to the first checkpoint after it: that is when new records are committed.

use super::Bench;
use crate::measure::median;
use crate::report::{Table, bytes};
use crate::settings::{Benchmark, Order, name};
use crate::weir::{WeirJob, WeirRun};
use anyhow::{Context, Result};
use std::time::Instant;

const WORKERS: u32 = 2;
/// A gigabyte on the heap, in rows of a key, a count and a sum.
const KEYS: u64 = 16_000_000;
/// So that the machine is not at its limit when the worker dies: what is measured is the recovery, not the backlog.
const ROWS_PER_SECOND: u64 = 1_000_000;

pub fn run(bench: &Bench) -> Result<()> {
    let keys = bench.settings.keys.unwrap_or(KEYS);
    let mut table = Table::new(&["Case", "Checkpoint", "Until the first checkpoint after the kill", "Runs"]);
    for backend in &bench.settings.backend {
        for local_recovery in [true, false] {
            let job = WeirJob {
                keys,
                order: Order::Sequence,
                backend: *backend,
                parallelism: WORKERS,
                rows_per_second: Some(ROWS_PER_SECOND),
                workers: Some(WORKERS),
                local_recovery,
                restarts: true,
                ..bench.job()
            };
            let from = if local_recovery { "from local copies" } else { "from storage" };
            let case = format!("{}, {keys} keys, {WORKERS} workers, {from}", name(*backend));
            let (seconds, size) = recoveries(bench, &job)?;
            let runs = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect::<Vec<_>>().join(", ");
            table.rows.push(vec![case, bytes(size), format!("{:.2} s", median(seconds.into_iter())), runs]);
        }
    }
    let notes = vec![
        "A worker process is ended by SIGKILL while the job runs with its default restart strategy, and the command \
         starts another. Checkpoints lie on this machine's disk in both cases; a store over a network is slower."
            .to_owned(),
    ];
    bench.publish(Benchmark::Recovery, table, notes, vec![])
}

/// Seconds of each recovery, and the checkpoint's size.
fn recoveries(bench: &Bench, job: &WeirJob) -> Result<(Vec<f64>, f64)> {
    bench.with_folder(|folder| {
        let run = bench.weir.start(job, folder)?;
        // Every key has come, and stands in a checkpoint.
        run.wait_for_records(job.keys * 5 / 4)?;
        let mut seconds = vec![];
        for turn in 1..=bench.settings.repeat {
            until_next_checkpoint(&run)?;
            let worker = *run.workers()?.first().context("the job has no worker process")?;
            // SAFETY: a signal to a process that the job has started, and that runs.
            unsafe { libc::kill(worker, libc::SIGKILL) };
            let recovery = until_next_checkpoint(&run)?;
            eprintln!("bench: Weir, recovery {turn}: {recovery:.2} s");
            seconds.push(recovery);
        }
        let size = bench.weir.checkpoints(folder)?.last().map_or(0, |(_, whole)| *whole);
        run.kill();
        Ok((seconds, size as f64))
    })
}

/// Seconds from now.
fn until_next_checkpoint(run: &WeirRun) -> Result<f64> {
    let now = Instant::now();
    Ok((run.wait_for_checkpoint(|checkpoint| checkpoint.at > now)?.at - now).as_secs_f64())
}
