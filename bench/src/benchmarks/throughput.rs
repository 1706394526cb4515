//! Records per second, beside Flink and beside itself with other checkpoints.

use super::{Bench, Contender, median_of};
use crate::flink::{FlinkCluster, FlinkInstallation, FlinkSettings, UNBOUNDED};
use crate::measure::Measure;
use crate::report::{Run, Table, bytes, rate};
use crate::settings::{Backend, Benchmark, name};
use crate::weir::{Query, WeirJob};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// No longer does a job see new keys only before it is measured.
const FILLING: Duration = Duration::from_secs(300);

pub(super) const HEADER: [&str; 8] = [
    "Case",
    "Engine",
    "Records",
    "CPU per record",
    "Most memory",
    "Checkpoints",
    "Checkpoint takes",
    "Checkpoint writes",
];

/// Weir and Flink at the same work, for each backend, parallelism and order of keys that was asked for.
pub fn against_flink(bench: &Bench, query: Query) -> Result<()> {
    let benchmark = if query == Query::Keyed { Benchmark::Keyed } else { Benchmark::Sql };
    let mut table = Table::new(&[HEADER.as_slice(), &["Ratio"]].concat());
    let mut all_runs = vec![];
    for job in cases(bench, query) {
        let case = case_name(&job);
        let runs = compare(bench, &job, &case, None)?;
        compared_rows(&mut table, &case, &runs);
        all_runs.extend(runs);
    }
    let keys = bench.job().keys;
    let notes = vec![format!(
        "{keys} keys, count and sum by key, exactly once, a checkpoint each second to the local disk. Ratio: records \
         per second by those of Flink, then CPU time per record of Flink by ours. CPU time is that of all threads of \
         all processes of an engine."
    )];
    bench.publish(benchmark, table, notes, all_runs)
}

/// State of ten times the memory that the RocksDB backends get.
pub fn larger_than_memory(bench: &Bench) -> Result<()> {
    const MEMORY: (&str, &str, u64) = ("64Mi", "64m", 64 << 20);
    // Key, count and sum, 8 bytes each.
    let keys = bench.settings.keys.unwrap_or(10 * MEMORY.2 / 24);
    let mut table = Table::new(&[HEADER.as_slice(), &["Ratio"]].concat());
    let mut all_runs = vec![];
    for order in &bench.settings.order {
        let memory = Some(MEMORY.0.to_owned());
        let job = WeirJob { keys, order: *order, backend: Backend::Rocksdb, memory, ..bench.job() };
        let case = case_name(&job);
        let runs = compare(bench, &job, &case, Some(MEMORY.1))?;
        compared_rows(&mut table, &case, &runs);
        all_runs.extend(runs);
    }
    let notes = vec![format!(
        "{keys} keys of 24 bytes each with count and sum, ten times the {} that either backend gets. Measured from when \
         each key has been seen once, or after {} minutes: who is slower then has less state, and an easier time.",
        MEMORY.0,
        FILLING.as_secs() / 60
    )];
    bench.publish(Benchmark::LargerThanMemory, table, notes, all_runs)
}

/// A checkpoint each second against none. Turns are short and many: what is looked for is small.
pub fn checkpoint_cost(bench: &Bench) -> Result<()> {
    let intervals = [("none", None), ("each second", Some(Duration::from_secs(1)))];
    by_interval(bench, Benchmark::CheckpointCost, &intervals)
}

pub fn checkpoint_interval(bench: &Bench) -> Result<()> {
    let intervals = [("each second", Some(Duration::from_secs(1))), ("every 100 ms", Some(Duration::from_millis(100)))];
    by_interval(bench, Benchmark::CheckpointInterval, &intervals)
}

fn by_interval(bench: &Bench, benchmark: Benchmark, intervals: &[(&str, Option<Duration>)]) -> Result<()> {
    let mut table = Table::new(&[HEADER.as_slice(), &["Against the first"]].concat());
    let mut all_runs = vec![];
    for job in cases(bench, Query::Keyed) {
        let case = case_name(&job);
        let name = |interval: &str| format!("{case}, checkpoint {interval}");
        let contenders: Vec<Contender<'_>> = intervals
            .iter()
            .map(|(interval, every)| {
                let job = WeirJob { interval: *every, ..job.clone() };
                Contender { name: name(interval), run: Box::new(move |folder| bench.run_weir(&job, folder)) }
            })
            .collect();
        let runs = bench.take_turns(&contenders)?;
        let first = median_of(&runs, &contenders[0].name);
        for contender in &contenders {
            let measure = median_of(&runs, &contender.name);
            let against = format!(
                "{:+.1} % records, {:+.1} % CPU",
                (measure.records_per_second / first.records_per_second - 1.0) * 100.0,
                (measure.cpu_ns_per_record / first.cpu_ns_per_record - 1.0) * 100.0
            );
            table.rows.push(row(&contender.name, "Weir", &measure, against));
        }
        all_runs.extend(runs);
    }
    bench.publish(benchmark, table, vec![], all_runs)
}

fn cases(bench: &Bench, query: Query) -> Vec<WeirJob> {
    let settings = &bench.settings;
    let mut cases = vec![];
    for backend in &settings.backend {
        for parallelism in &settings.parallelism {
            for order in &settings.order {
                let (backend, parallelism, order) = (*backend, *parallelism, *order);
                cases.push(WeirJob { query, backend, parallelism, order, ..bench.job() });
            }
        }
    }
    cases
}

fn case_name(job: &WeirJob) -> String {
    format!("{}, parallelism {}, keys in {} order", name(job.backend), job.parallelism, name(job.order))
}

fn compare(bench: &Bench, job: &WeirJob, case: &str, managed_memory: Option<&str>) -> Result<Vec<Run>> {
    let fills_memory = managed_memory.is_some();
    let weir = Contender {
        name: format!("Weir, {case}"),
        run: Box::new(move |folder| {
            let run = bench.weir.start(job, folder)?;
            if fills_memory {
                run.wait_for_records_within(FILLING, job.keys)?;
            }
            let measure = run.measure(bench.settings.warm_up(), bench.settings.window())?;
            run.kill();
            Ok(measure)
        }),
    };
    let mut contenders = vec![weir];
    if let Some(flink) = &bench.flink {
        let memory = &bench.settings.flink_memory;
        let settings = FlinkSettings {
            managed_memory: managed_memory.map(str::to_owned),
            ..FlinkSettings::new(job.parallelism, job.backend, job.interval, memory)
        };
        let run = move |folder: &Path| run_flink(bench, flink, &settings, job, fills_memory, folder);
        contenders.push(Contender { name: format!("Flink, {case}"), run: Box::new(run) });
    }
    bench.take_turns(&contenders)
}

fn run_flink(
    bench: &Bench,
    flink: &FlinkInstallation,
    settings: &FlinkSettings,
    job: &WeirJob,
    fills_memory: bool,
    folder: &Path,
) -> Result<Measure> {
    let cluster = FlinkCluster::start(flink, settings, folder)?;
    let running = match job.query {
        Query::Keyed => cluster.run_keyed(job.keys, job.order, UNBOUNDED, None)?,
        Query::Sql => cluster.run_sql(job.keys, job.order)?,
    };
    if fills_memory {
        running.wait_for_records_within(FILLING, job.keys)?;
    }
    running.measure(bench.settings.flink_warm_up(), bench.settings.window())
}

pub(super) fn compared_rows(table: &mut Table, case: &str, runs: &[Run]) {
    let weir = median_of(runs, &format!("Weir, {case}"));
    let flink = median_of(runs, &format!("Flink, {case}"));
    let ratio = match flink.records_per_second {
        0.0 => String::new(),
        _ => format!(
            "**{:.1}** records, {:.1} CPU",
            weir.records_per_second / flink.records_per_second,
            flink.cpu_ns_per_record / weir.cpu_ns_per_record
        ),
    };
    table.rows.push(row(case, "Weir", &weir, ratio));
    if flink.records_per_second > 0.0 {
        table.rows.push(row(case, "Flink", &flink, String::new()));
    }
}

fn row(case: &str, engine: &str, measure: &Measure, last: String) -> Vec<String> {
    let Measure {
        records_per_second,
        cpu_ns_per_record,
        resident_bytes,
        checkpoints_per_second,
        checkpoint_ms,
        checkpoint_bytes,
    } = measure;
    vec![
        case.to_owned(),
        engine.to_owned(),
        rate(*records_per_second),
        format!("{cpu_ns_per_record:.1} ns"),
        bytes(*resident_bytes),
        format!("{checkpoints_per_second:.2}/s"),
        format!("{checkpoint_ms:.0} ms"),
        bytes(*checkpoint_bytes),
        last,
    ]
}
