//! The `weir` command, as a library: a binary with operators of one's own calls [`main`] with its registry.

mod command;
mod job_file;
mod progress;
mod text;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use weir_node::Registry;

/// A stream processor with the fault tolerance of Flink: exactly once, from a YAML file.
#[derive(Parser)]
#[command(name = "weir", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job to the end of its input, or until it is stopped. Started again it goes on from its last checkpoint.
    Run(command::run::Arguments),
    /// Tell every mistake in a job file.
    Validate(command::validate::Arguments),
    /// Show what would run: operators, exchanges, state, and what it would start from.
    Plan(command::plan::Arguments),
    /// List a job's checkpoints.
    Checkpoints(command::checkpoints::Arguments),
    /// Let a running job write a savepoint.
    Savepoint(command::savepoint::Arguments),
    /// Stop a running job after a last checkpoint, or with a savepoint.
    Stop(command::stop::Arguments),
    /// End a running job now, without another checkpoint.
    Cancel(command::cancel::Arguments),
    /// Show what state a savepoint holds.
    State(command::state::Arguments),
}

/// Runs the command that the process's arguments name.
pub fn main(registry: Registry) -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let registry = Arc::new(registry);
    let result = match command {
        Command::Run(arguments) => command::run::run(&arguments, registry),
        Command::Validate(arguments) => command::validate::run(&arguments, registry),
        Command::Plan(arguments) => command::plan::run(&arguments, registry),
        Command::Checkpoints(arguments) => command::checkpoints::run(&arguments, registry),
        Command::Savepoint(arguments) => command::savepoint::run(&arguments, registry),
        Command::Stop(arguments) => command::stop::run(&arguments, registry),
        Command::Cancel(arguments) => command::cancel::run(&arguments, registry),
        Command::State(arguments) => command::state::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
