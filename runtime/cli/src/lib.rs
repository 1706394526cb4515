//! The `weir` command, as a library: a binary with operators of one's own calls [`main`] with its registry.

mod children;
mod command;
mod http;
mod job_file;
mod logs;
mod progress;
mod running_job;
mod security;
mod text;
mod top;

use clap::{Parser, Subcommand};
use logs::LogFormat;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::Registry;
use weir_snapshot::storage::StorageProviders;
use weir_storage_hdfs::HdfsProvider;
use weir_storage_object_store::ObjectStoreProvider;
use weir_storage_s3::S3Provider;

/// A stream processor with the fault tolerance of Flink: exactly once, from a YAML file.
#[derive(Parser)]
#[command(name = "weir", version, max_term_width = 100)]
struct Arguments {
    /// How to write the log: for people, or one JSON object a line. Else as WEIR_LOG_FORMAT says.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job to the end of its input, or until it is stopped. Started again it goes on from its last checkpoint.
    Run(command::run::Arguments),
    /// Coordinate a job that worker processes run, on this machine and others.
    Coordinator(command::coordinator::Arguments),
    /// Work for a coordinator until its job is over.
    Worker(command::worker::Arguments),
    /// Tell every mistake in a job file.
    Validate(command::validate::Arguments),
    /// Show what would run: operators, exchanges, state, and what it would start from.
    Plan(command::plan::Arguments),
    /// Show how a running job does.
    Status(command::status::Arguments),
    /// Watch a running job, live.
    Top(command::top::Arguments),
    /// List a job's checkpoints.
    Checkpoints(command::checkpoints::Arguments),
    /// Let a running job write a savepoint.
    Savepoint(command::savepoint::Arguments),
    /// Give a running job another parallelism; its processes stay.
    Rescale(command::rescale::Arguments),
    /// Stop a running job after a last checkpoint, or with a savepoint.
    Stop(command::stop::Arguments),
    /// End a running job now, without another checkpoint.
    Cancel(command::cancel::Arguments),
    /// Show what state a savepoint holds.
    State(command::state::Arguments),
}

/// Runs the command that the process's arguments name.
pub fn main(mut registry: Registry) -> ExitCode {
    // Where two crates of a binary bring a crypto library each, TLS wants to be told which one is meant; whoever set
    // one before keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Arguments { log_format, command } = Arguments::parse();
    if let Err(reason) = logs::start(log_format) {
        eprintln!("error: {reason}");
        return ExitCode::FAILURE;
    }
    registry.storages = storages(registry.storages);
    registry.object_stores.entry("s3".to_owned()).or_insert_with(|| Arc::new(weir_connectors_s3::connect));
    let registry = Arc::new(registry);
    let result = match command {
        Command::Run(arguments) => command::run::run(&arguments, registry),
        Command::Coordinator(arguments) => command::coordinator::run(&arguments, registry),
        Command::Worker(arguments) => command::worker::run(&arguments, &registry),
        Command::Validate(arguments) => command::validate::run(&arguments, registry),
        Command::Plan(arguments) => command::plan::run(&arguments, registry),
        Command::Status(arguments) => command::status::run(&arguments, registry),
        Command::Top(arguments) => command::top::run(&arguments, registry),
        Command::Checkpoints(arguments) => command::checkpoints::run(&arguments, registry),
        Command::Savepoint(arguments) => command::savepoint::run(&arguments, registry),
        Command::Rescale(arguments) => command::rescale::run(&arguments, registry),
        Command::Stop(arguments) => command::stop::run(&arguments, registry),
        Command::Cancel(arguments) => command::cancel::run(&arguments, registry),
        Command::State(arguments) => command::state::run(&arguments, &registry),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every storage that `weir` reaches, beside those of the binary's own.
fn storages(own: StorageProviders) -> StorageProviders {
    own.with(Arc::new(S3Provider)).with(Arc::new(ObjectStoreProvider)).with(Arc::new(HdfsProvider))
}
