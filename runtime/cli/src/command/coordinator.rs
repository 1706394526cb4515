use super::run::{drive, start_from, started};
use crate::http::HttpArguments;
use crate::job_file::JobFile;
use crate::security::SecurityArguments;
use anyhow::Result;
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::{CoordinatorOptions, DistributedJob, Registry};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    /// Where to begin, as with `weir run`.
    #[arg(long, value_name = "WHERE")]
    from: Option<String>,
    /// Where workers register.
    #[arg(long, default_value = "127.0.0.1:6123", value_name = "ADDRESS")]
    listen: SocketAddr,
    #[command(flatten)]
    security: SecurityArguments,
    /// How many workers will come, if that is known: worth a short wait for the last of them.
    #[arg(long, default_value_t = 0, value_name = "N")]
    workers: usize,
    #[command(flatten)]
    http: HttpArguments,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = Arc::new(arguments.job.job(registry)?);
    let from = start_from(arguments.from.as_deref())?;
    let security = arguments.security.security(&[("--listen", &arguments.listen.to_string())])?;
    let options = CoordinatorOptions { listen: arguments.listen, workers: arguments.workers, security };
    started(&job, DistributedJob::start(Arc::clone(&job), &from, options), |distributed| {
        let (address, slots) = (distributed.address(), distributed.slots());
        eprintln!("{}: waiting at {address} for workers with {slots} slots", job.name);
        drive(&job, distributed.into_job(), &arguments.http.of_coordinator(), arguments.quiet)
    })
}
