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
    let folder = arguments.to.as_deref().map(absolute).transpose()?;
    let savepoint = request(&job, &SocketRequest::Savepoint { folder, stop: false })?;
    println!("{}", savepoint.unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// The folder as its address: the process that writes it may stand in another directory than this one.
pub(crate) fn absolute(folder: &str) -> Result<String> {
    let path = match folder.strip_prefix("file://") {
        None if folder.contains("://") => return Ok(folder.to_owned()),
        None => folder,
        Some(path) => path,
    };
    let path = std::path::absolute(path).with_context(|| format!("`{folder}` is no folder"))?;
    Ok(format!("file://{}", path.display()))
}

/// Asks the running job.
pub(crate) fn ask_running(job: &Job, request: &SocketRequest) -> Result<SocketAnswer> {
    ask(job, request)
        .with_context(|| format!("`{}` doesn't answer; does it run on this machine, from the same file?", job.name))
}

/// As `ask_running`; the savepoint's address, where one was asked for.
pub(crate) fn request(job: &Job, request: &SocketRequest) -> Result<Option<String>> {
    match ask_running(job, request)? {
        SocketAnswer::Done { savepoint } => Ok(savepoint),
        SocketAnswer::Failed { reason } => bail!(reason),
        SocketAnswer::Rescaled { .. } => bail!("`{}` answered to something else", job.name),
    }
}
