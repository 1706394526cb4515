//! `cargo xtask bench`: Weir's speed beside Apache Flink's.

mod benchmarks;
mod flink;
mod machine;
mod measure;
mod operator;
mod output;
mod process;
mod progress;
mod report;
mod settings;
mod weir;
mod wide;

use anyhow::{Context, Result};
use benchmarks::Bench;
use clap::Parser;
use settings::{Benchmark, Settings};

fn main() -> Result<()> {
    let settings = Settings::parse();
    let mut builder = tempfile::Builder::new();
    builder.prefix("weir-bench-");
    let scratch = match &settings.scratch {
        Some(folder) => builder.tempdir_in(folder),
        None => builder.tempdir(),
    }
    .context("cannot create a folder for the runs")?;
    let benchmarks = settings.benchmarks.clone();
    // It needs neither Flink nor a job's process.
    if benchmarks == [Benchmark::Operator] {
        return operator::run(&settings, scratch.path());
    }
    let bench = Bench::new(settings, scratch.path())?;
    benchmarks.into_iter().try_for_each(|benchmark| bench.run(benchmark))
}
