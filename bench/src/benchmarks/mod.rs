//! The benchmarks, a file each.

mod backpressure;
mod bytes;
mod kafka;
mod memory;
mod objects;
mod recovery;
mod rescale;
mod restore;
mod start;
mod throughput;
mod workers;

use crate::flink::{FlinkInstallation, VERSION};
use crate::machine::Machine;
use crate::measure::Measure;
use crate::report::{Report, Run, Table};
use crate::settings::{Backend, Benchmark, Order, Settings, name};
use crate::weir::{Query, WeirBinary, WeirJob};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What every benchmark works with.
pub struct Bench {
    pub settings: Settings,
    pub weir: WeirBinary,
    /// None: without.
    pub flink: Option<FlinkInstallation>,
    scratch: PathBuf,
    runs: std::cell::Cell<u32>,
}

/// Runs one side once.
pub struct Contender<'a> {
    pub name: String,
    pub run: Box<RunOnce<'a>>,
}

/// Runs with its files in the given folder.
type RunOnce<'a> = dyn Fn(&Path) -> Result<Measure> + 'a;

impl Bench {
    pub fn new(settings: Settings, scratch: &Path) -> Result<Self> {
        let flink = match settings.without_flink {
            true => None,
            false => Some(FlinkInstallation::prepare(scratch)?),
        };
        let (weir, scratch) = (WeirBinary::find()?, scratch.to_owned());
        Ok(Bench { settings, weir, flink, scratch, runs: std::cell::Cell::new(0) })
    }

    pub fn run(&self, benchmark: Benchmark) -> Result<()> {
        match benchmark {
            Benchmark::Keyed => throughput::against_flink(self, Query::Keyed),
            Benchmark::Sql => throughput::against_flink(self, Query::Sql),
            Benchmark::CheckpointCost => throughput::checkpoint_cost(self),
            Benchmark::CheckpointInterval => throughput::checkpoint_interval(self),
            Benchmark::CheckpointBytes => bytes::run(self),
            Benchmark::Restore => restore::run(self),
            Benchmark::Rescale => rescale::run(self),
            Benchmark::Recovery => recovery::run(self),
            Benchmark::Workers => workers::run(self),
            Benchmark::Objects => objects::run(self),
            Benchmark::LargerThanMemory => throughput::larger_than_memory(self),
            Benchmark::Memory => memory::run(self),
            Benchmark::Backpressure => backpressure::run(self),
            Benchmark::Start => start::run(self),
            Benchmark::Kafka => kafka::run(self),
            Benchmark::Operator => crate::operator::run(&self.settings, &self.scratch),
            Benchmark::All => {
                use clap::ValueEnum;
                // Those that need nothing but this machine.
                let all = Benchmark::value_variants()
                    .iter()
                    .filter(|other| !matches!(other, Benchmark::All | Benchmark::Kafka | Benchmark::Operator));
                all.into_iter().try_for_each(|benchmark| self.run(*benchmark))
            }
        }
        .with_context(|| format!("benchmark {}", name(benchmark)))
    }

    /// A folder of its own for a run; gone when `use_it` is done.
    pub fn with_folder<T>(&self, use_it: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        self.runs.set(self.runs.get() + 1);
        let folder = self.scratch.join(format!("run-{}", self.runs.get()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let result = use_it(&folder);
        std::fs::remove_dir_all(&folder).ok();
        result
    }

    /// Lets contenders run in turns (A B A B ...), so that what else the machine does meets them alike.
    pub fn take_turns(&self, contenders: &[Contender<'_>]) -> Result<Vec<Run>> {
        let mut runs = vec![];
        for turn in 1..=self.settings.repeat {
            for contender in contenders {
                let measure = self.with_folder(|folder| (contender.run)(folder));
                let measure = measure.with_context(|| contender.name.clone())?;
                eprintln!(
                    "bench: {}, run {turn}: {}, {:.0} ns of CPU per record",
                    contender.name,
                    crate::report::rate(measure.records_per_second),
                    measure.cpu_ns_per_record
                );
                runs.push(Run { contender: contender.name.clone(), measure });
            }
        }
        Ok(runs)
    }

    pub fn publish(&self, benchmark: Benchmark, table: Table, notes: Vec<String>, runs: Vec<Run>) -> Result<()> {
        let mut versions = vec![self.weir.version()];
        versions.extend(self.flink.as_ref().map(|_| format!("Apache Flink {VERSION}")));
        let report = Report {
            benchmark: name(benchmark),
            date: chrono::Utc::now().format("%Y-%m-%d %H:%M UTC").to_string(),
            machine: Machine::describe(),
            versions,
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            table,
            notes,
            runs,
        };
        report.publish(&self.settings.results)
    }

    pub fn job(&self) -> WeirJob {
        WeirJob {
            keys: self.settings.keys.unwrap_or(1_000_000),
            order: Order::Sequence,
            query: Query::Keyed,
            parallelism: 1,
            backend: Backend::Heap,
            memory: None,
            interval: Some(Duration::from_secs(1)),
            rows_per_second: None,
            retain: 3,
            workers: None,
            local_recovery: false,
            restarts: false,
            sink_rows_per_second: None,
            is_unaligned: false,
        }
    }

    pub fn run_weir(&self, job: &WeirJob, folder: &Path) -> Result<Measure> {
        let run = self.weir.start(job, folder)?;
        let measure = run.measure(self.settings.warm_up(), self.settings.window())?;
        run.kill();
        Ok(measure)
    }
}

/// The median of one contender's runs.
pub fn median_of(runs: &[Run], contender: &str) -> Measure {
    let own: Vec<Measure> =
        runs.iter().filter(|run| run.contender == contender).map(|run| run.measure.clone()).collect();
    Measure::median(&own)
}
