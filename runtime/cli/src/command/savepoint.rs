use crate::job_file::JobFile;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::control_socket::{SocketAnswer, SocketRequest, ask};
use weir_node::{Job, Registry};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    /// The folder to write to; beside the checkpoints if not given.
    #[arg(long, value_name = "FOLDER")]
    to: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = arguments.job.job(registry)?;
    let savepoint = request(&job, &SocketRequest::Savepoint { folder: arguments.to.clone(), stop: false })?;
    println!("{}", savepoint.unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// Asks the running job; the savepoint's address, where one was asked for.
pub(crate) fn request(job: &Job, request: &SocketRequest) -> Result<Option<String>> {
    let answer = ask(job, request)
        .with_context(|| format!("`{}` doesn't answer; does it run on this machine, from the same file?", job.name))?;
    match answer {
        SocketAnswer::Done { savepoint } => Ok(savepoint),
        SocketAnswer::Failed { reason } => bail!(reason),
    }
}
