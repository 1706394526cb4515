//! `kubectl weir`: what people do with StreamJobs beside `kubectl apply`. It changes resources, as anybody may who is
//! allowed to, and leaves the rest to the operator; what only a running job knows it asks through the API server.

mod cluster;
mod command;
mod redact;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// With `--watch`.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Looks at StreamJobs and steers them.
#[derive(Parser)]
#[command(name = "kubectl weir", bin_name = "kubectl weir", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Target {
    /// The namespace; the context's own if nothing is said.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The context of the kubeconfig.
    #[arg(long, global = true)]
    context: Option<String>,
}

#[derive(Args)]
struct Job {
    /// The StreamJob's name.
    job: String,
}

#[derive(Subcommand)]
enum Command {
    /// Where a job stands: conditions, checkpoints, restarts, upgrades.
    Status(Job),
    /// What each step of a running job does: rates, how busy it is, backpressure, watermarks.
    Top {
        #[command(flatten)]
        job: Job,
        /// Look again every two seconds.
        #[arg(short, long)]
        watch: bool,
    },
    /// The checkpoints that a job could go on from, as its storage has them now.
    Checkpoints(Job),
    /// Take a savepoint, and wait until it stands.
    Savepoint {
        #[command(flatten)]
        job: Job,
        /// Of the Savepoint; made of the job's name and the time if nothing is said.
        #[arg(long)]
        name: Option<String>,
        /// The URI under which it is written; beside the checkpoints if nothing is said.
        #[arg(long, value_name = "URI")]
        to: Option<String>,
    },
    /// Give a job another parallelism.
    Rescale {
        #[command(flatten)]
        job: Job,
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        parallelism: u32,
    },
    /// Let a job stand still after a last checkpoint.
    Suspend(Job),
    /// Let it go on.
    Resume(Job),
    /// Start a job's processes again from a last checkpoint; a failed job from its latest.
    Restart(Job),
    /// Allow the upgrade to the spec as it is now.
    Approve(Job),
    /// Go back to the spec that was good before the one that runs.
    Rollback(Job),
    /// Set a job back to a savepoint or a checkpoint. What it has done since is not gone on with.
    Restore {
        #[command(flatten)]
        job: Job,
        /// A Savepoint of this namespace, or the URI of one.
        #[arg(required_unless_present = "checkpoint", conflicts_with = "checkpoint")]
        savepoint: Option<String>,
        /// One of the job's own checkpoints, by its number: `kubectl weir checkpoints` lists them.
        #[arg(long, value_name = "ID")]
        checkpoint: Option<u64>,
    },
    /// Show what another spec would mean for the running job. Nothing is changed.
    Plan {
        /// The StreamJob (YAML).
        #[arg(short, long, value_name = "FILE")]
        filename: std::path::PathBuf,
    },
    /// Write what a bug report needs into a file, without credentials.
    Report {
        #[command(flatten)]
        job: Job,
        /// Where to; `weir-report-<job>.txt` if nothing is said.
        #[arg(short, long, value_name = "FILE")]
        output: Option<std::path::PathBuf>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Where two crates bring a crypto library each, TLS wants to be told which one is meant.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { target, command } = arguments;
    let cluster = cluster::Cluster::connect(target.context, target.namespace).await?;
    match command {
        Command::Status(Job { job }) => command::look::status(&cluster, &job).await?,
        Command::Top { job: Job { job }, watch } => {
            command::top::top(&cluster, &job, watch.then_some(LOOK_AGAIN)).await?;
        }
        Command::Checkpoints(Job { job }) => command::look::checkpoints(&cluster, &job).await?,
        Command::Savepoint { job: Job { job }, name, to } => {
            command::change::savepoint(&cluster, &job, name, to).await?;
        }
        Command::Rescale { job: Job { job }, parallelism } => {
            command::change::rescale(&cluster, &job, parallelism).await?;
        }
        Command::Suspend(Job { job }) => command::change::state(&cluster, &job, "Suspended").await?,
        Command::Resume(Job { job }) => command::change::state(&cluster, &job, "Running").await?,
        Command::Restart(Job { job }) => command::change::restart(&cluster, &job).await?,
        Command::Approve(Job { job }) => command::change::approve(&cluster, &job).await?,
        Command::Rollback(Job { job }) => command::change::rollback(&cluster, &job).await?,
        Command::Restore { job: Job { job }, savepoint, checkpoint } => {
            let point = match checkpoint {
                Some(id) => command::change::Point::Checkpoint(id),
                None => command::change::Point::Savepoint(savepoint.unwrap_or_default()),
            };
            command::change::restore(&cluster, &job, &point).await?;
        }
        Command::Plan { filename } => return command::plan::plan(&cluster, &filename).await,
        Command::Report { job: Job { job }, output } => command::report::report(&cluster, &job, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}
