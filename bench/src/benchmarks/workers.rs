//! One process against two with the same processors, and what the certificates between them cost.

use super::{Bench, Contender, median_of};
use crate::report::{Table, rate};
use crate::settings::{Benchmark, Order, name};
use crate::weir::{WeirJob, WeirRun};
use anyhow::Result;
use std::path::Path;

const WORKERS: u32 = 2;

pub fn run(bench: &Bench) -> Result<()> {
    let header = ["Case", "Processes", "Records", "CPU per record", "Against the first"];
    let mut table = Table::new(&header);
    let mut all_runs = vec![];
    for backend in &bench.settings.backend {
        let job = WeirJob { parallelism: WORKERS, backend: *backend, order: Order::Mixed, ..bench.job() };
        let case = format!("{}, parallelism {WORKERS}", name(*backend));
        let over_workers = WeirJob { workers: Some(WORKERS), ..job.clone() };
        let measure = |run: WeirRun| {
            let measure = run.measure(bench.settings.warm_up(), bench.settings.window())?;
            run.kill();
            Ok(measure)
        };
        let (one, two) = (job.clone(), over_workers);
        let open = |folder: &Path| measure(bench.weir.start_open_workers(&job, folder, WORKERS)?);
        let contenders = [
            Contender { name: format!("{case}, one process"), run: Box::new(|folder| bench.run_weir(&one, folder)) },
            Contender {
                name: format!("{case}, {WORKERS} workers, TLS"),
                run: Box::new(|folder| bench.run_weir(&two, folder)),
            },
            Contender { name: format!("{case}, {WORKERS} workers, no TLS"), run: Box::new(open) },
        ];
        let runs = bench.take_turns(&contenders)?;
        let first = median_of(&runs, &contenders[0].name);
        for contender in &contenders {
            let measure = median_of(&runs, &contender.name);
            let against = format!(
                "{:+.1} % records, {:+.1} % CPU",
                (measure.records_per_second / first.records_per_second - 1.0) * 100.0,
                (measure.cpu_ns_per_record / first.cpu_ns_per_record - 1.0) * 100.0
            );
            let processes = contender.name.trim_start_matches(&case).trim_start_matches(", ").to_owned();
            let cpu = format!("{:.1} ns", measure.cpu_ns_per_record);
            table.rows.push(vec![case.clone(), processes, rate(measure.records_per_second), cpu, against]);
        }
        all_runs.extend(runs);
    }
    let keys = bench.job().keys;
    let notes = vec![format!(
        "{keys} keys, count and sum by key, in mixed order, exactly once, a checkpoint each second to the local disk. Half \
         of all records go to the other worker. CPU time is that of all processes."
    )];
    bench.publish(Benchmark::Workers, table, notes, all_runs)
}
