//! What the command line says.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Weir's speed, side by side with Apache Flink: real processes, real jobs, the same work.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench", max_term_width = 100)]
pub struct Settings {
    #[arg(value_enum, required = true)]
    pub benchmarks: Vec<Benchmark>,
    /// Different keys; by default what the benchmark asks for.
    #[arg(long)]
    pub keys: Option<u64>,
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub parallelism: Vec<u32>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "heap")]
    pub backend: Vec<Backend>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sequence,mixed")]
    pub order: Vec<Order>,
    /// How many StreamJobs the operator looks after; one measurement for each number.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    pub jobs: Vec<u32>,
    /// Only Weir.
    #[arg(long)]
    pub without_flink: bool,
    /// Runs of each contender, in turns. The median counts.
    #[arg(long, default_value_t = 3)]
    pub repeat: u32,
    /// Length of the measured window.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Before the window, for Weir.
    #[arg(long, default_value_t = 6)]
    pub warm_up: u64,
    /// Before the window, for Flink: its compiler takes longer to warm up.
    #[arg(long, default_value_t = 20)]
    pub flink_warm_up: u64,
    /// Memory of Flink's TaskManager process.
    #[arg(long, default_value = "4g")]
    pub flink_memory: String,
    /// Where Flink keeps a gigabyte of state. Its checkpoints are incremental with RocksDB only.
    #[arg(long, value_enum, default_value = "rocksdb")]
    pub flink_wide_backend: Backend,
    /// Where results go.
    #[arg(long, default_value = "bench/results")]
    pub results: PathBuf,
    /// Checkpoints and logs of the runs go into a folder made here, and removed at the end.
    #[arg(long)]
    pub scratch: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Benchmark {
    /// Count and sum by key, a checkpoint each second.
    Keyed,
    /// The same with keys that SQL computes; Flink SQL beside it.
    Sql,
    /// A checkpoint each second against none.
    CheckpointCost,
    /// A checkpoint every 100 ms against each second.
    CheckpointInterval,
    /// Bytes that a checkpoint writes against the state that has changed.
    CheckpointBytes,
    /// From the start of a process until 10 million restored keys are at work.
    Restore,
    /// Silence while a job of two processes is rescaled, in place and by savepoints.
    Rescale,
    /// From the kill of one of two workers with a gigabyte of state to the next record and checkpoint.
    Recovery,
    /// One process against two workers with the same processors, with TLS between them and without; Weir alone.
    Workers,
    /// Objects for each checkpoint of a job with five stateful operators.
    Objects,
    /// State ten times the memory given to the backend.
    LargerThanMemory,
    /// Resident memory over time at full load.
    Memory,
    /// Checkpoints while a sink holds everything up, aligned and unaligned.
    Backpressure,
    /// An idle job: its memory, and the time to its first checkpoint.
    Start,
    /// From Kafka to Kafka, exactly once: records per second, and latency. Not in `all`, as it starts a broker.
    Kafka,
    /// The operator with many jobs on a real API server; not in `all`, as it takes root and the cluster's ports.
    Operator,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    Heap,
    Rocksdb,
}

/// In which order keys come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    Sequence,
    Mixed,
}

impl Settings {
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub fn warm_up(&self) -> Duration {
        Duration::from_secs(self.warm_up)
    }

    pub fn flink_warm_up(&self) -> Duration {
        Duration::from_secs(self.flink_warm_up)
    }
}

/// The name that the command line has for it.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}
