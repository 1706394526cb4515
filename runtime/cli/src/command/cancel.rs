use super::savepoint::request;
use crate::job_file::JobFile;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::Registry;
use weir_node::control_socket::SocketRequest;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = arguments.job.job(registry)?;
    request(&job, &SocketRequest::Cancel)?;
    println!("{} is being cancelled", job.name);
    Ok(ExitCode::SUCCESS)
}
