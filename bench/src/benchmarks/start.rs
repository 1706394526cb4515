//! A job with next to nothing to do.

use super::Bench;
use crate::flink::{FlinkCluster, FlinkSettings};
use crate::measure::median;
use crate::report::{Table, bytes};
use crate::settings::{Benchmark, name};
use crate::weir::WeirJob;
use anyhow::Result;
use std::time::Duration;

/// After the first checkpoint, until memory is looked at.
const SETTLE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(1);

pub fn run(bench: &Bench) -> Result<()> {
    let mut table = Table::new(&["Case", "Engine", "First checkpoint after", "Memory when idle"]);
    for backend in &bench.settings.backend {
        let case = name(*backend);
        let job = WeirJob { backend: *backend, rows_per_second: Some(10), ..bench.job() };
        let (mut firsts, mut memory) = (vec![], vec![]);
        for _ in 0..bench.settings.repeat {
            let (first, resident) = bench.with_folder(|folder| {
                let run = bench.weir.start(&job, folder)?;
                let first = run.until_checkpoint()?;
                std::thread::sleep(SETTLE);
                Ok((first.as_secs_f64(), run.process().usage()?.resident_bytes as f64))
            })?;
            eprintln!("bench: Weir, first checkpoint after {first:.2} s, {}", bytes(resident));
            firsts.push(first);
            memory.push(resident);
        }
        table.rows.push(row(&case, "Weir", firsts, memory));
        if let Some(flink) = &bench.flink {
            let (mut firsts, mut memory) = (vec![], vec![]);
            for _ in 0..bench.settings.repeat {
                let (first, resident) = bench.with_folder(|folder| {
                    let memory = &bench.settings.flink_memory;
                    let settings = FlinkSettings::new(1, *backend, Some(INTERVAL), memory);
                    let cluster = FlinkCluster::start(flink, &settings, folder)?;
                    let running = cluster.run_idle()?;
                    let first = running.until_checkpoint()?;
                    std::thread::sleep(SETTLE);
                    Ok((first.as_secs_f64(), cluster.usage()?.resident_bytes as f64))
                })?;
                eprintln!("bench: Flink, first checkpoint after {first:.2} s, {}", bytes(resident));
                firsts.push(first);
                memory.push(resident);
            }
            table.rows.push(row(&case, "Flink", firsts, memory));
        }
    }
    let notes = vec![
        "A count and sum by key of 10 rows a second, a checkpoint each second. From the start of the first process; \
         memory of all processes, 10 s after the first checkpoint."
            .to_owned(),
    ];
    bench.publish(Benchmark::Start, table, notes, vec![])
}

fn row(case: &str, engine: &str, firsts: Vec<f64>, memory: Vec<f64>) -> Vec<String> {
    let first = format!("{:.2} s", median(firsts.into_iter()));
    vec![case.to_owned(), engine.to_owned(), first, bytes(median(memory.into_iter()))]
}
