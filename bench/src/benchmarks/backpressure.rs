//! Checkpoints of a job whose sink holds everything up.

use super::Bench;
use crate::measure::median;
use crate::report::{Table, bytes, rate};
use crate::settings::{Benchmark, name};
use crate::weir::WeirJob;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Of the sink: far below what the source makes, so that all channels are full.
const SINK_ROWS_PER_SECOND: u64 = 20_000;
const INTERVAL: Duration = Duration::from_millis(500);

pub fn run(bench: &Bench) -> Result<()> {
    let header = ["Case", "Barriers", "Checkpoints", "Median", "95 %", "Worst", "Written by each", "Records"];
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
                table.rows.push(row(bench, &job, case)?);
            }
        }
    }
    let notes = vec![format!(
        "A count and sum by key whose sink takes {SINK_ROWS_PER_SECOND} rows a second over all subtasks; the source makes \
         as many as it may. A checkpoint every {} ms. From the trigger to the entry in the commit log.",
        INTERVAL.as_millis()
    )];
    bench.publish(Benchmark::Backpressure, table, notes, vec![])
}

fn row(bench: &Bench, job: &WeirJob, case: String) -> Result<Vec<String>> {
    let (mut durations, mut written, mut rates) = (vec![], vec![], vec![]);
    for _ in 0..bench.settings.repeat {
        bench.with_folder(|folder| {
            let run = bench.weir.start(job, folder)?;
            let begin = Instant::now() + bench.settings.warm_up();
            rates.push(run.measure(bench.settings.warm_up(), bench.settings.window())?.records_per_second);
            let within: Vec<_> = run.checkpoints().into_iter().filter(|done| done.at >= begin).collect();
            durations.extend(within.iter().map(|done| done.duration_ms));
            written.extend(within.iter().map(|done| done.written_bytes));
            run.kill();
            Ok(())
        })?;
    }
    durations.sort_by(f64::total_cmp);
    let (Some(worst), Some(late)) = (durations.last(), durations.get(durations.len() * 95 / 100)) else {
        bail!("no checkpoint completed in the measured window");
    };
    let barriers = if job.is_unaligned { "unaligned" } else { "aligned" };
    eprintln!("bench: {case}, {barriers}: median {:.0} ms, worst {worst:.0} ms", median(durations.iter().copied()));
    Ok(vec![
        case,
        barriers.to_owned(),
        durations.len().to_string(),
        format!("{:.0} ms", median(durations.iter().copied())),
        format!("{late:.0} ms"),
        format!("{worst:.0} ms"),
        bytes(median(written.into_iter())),
        rate(median(rates.into_iter())),
    ])
}
